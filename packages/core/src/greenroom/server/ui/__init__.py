"""The page `/ui`: pools, saturation, waits, sessions, the life-cycle log and usage, as HTML of the server.

Pages need no script, no build and no other host. Everything but style sheet and icon is behind `access`.
"""
