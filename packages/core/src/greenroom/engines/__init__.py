"""Engines start isolated sandboxes. They know nothing of pools and sessions."""
