"""Engines make sandboxes: bubblewrap and Docker; in tests, one in memory."""
