"""Copies of a session: its files and variables become a stream of bytes in one sandbox, and again files and variables
in another. Only these two read it; the host passes it on."""
