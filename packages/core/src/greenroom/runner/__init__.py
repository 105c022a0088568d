"""The program inside a sandbox: a supervisor (standard library only) and an IPython worker.

Nothing here imports the rest of Greenroom. The host uses `frames` to talk to it.
"""
