"""A function that the server runs in a session: its source is sent there."""
