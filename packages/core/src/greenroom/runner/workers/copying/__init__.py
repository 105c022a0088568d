"""Copies of a session: its files and variables are written as a stream of bytes in one sandbox, and recreated in
another. Only these two parse the stream; the host passes it on."""
