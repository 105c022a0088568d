"""Sandboxes by bubblewrap: no daemon and no image."""
