"""Engines start isolated sandboxes. They know nothing about pools or sessions."""
