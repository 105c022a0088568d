"""The pages at `/ui`: pools, saturation, waits, sessions, the life-cycle log and usage, rendered on the server.

Pages need no scripts, no build and no other host. `access` protects everything except the style sheet and the icon.
"""
