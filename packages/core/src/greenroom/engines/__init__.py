"""What isolates: an engine starts sandboxes. Engines know nothing of pools and sessions."""
