"""Functions that the server runs in a session: their source is sent there."""
