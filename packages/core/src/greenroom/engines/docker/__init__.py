"""Sandboxes as containers of a Docker engine, and the image they are made from."""
