"""The program inside a sandbox: a supervisor (standard library only) and the worker that it starts.

Nothing here imports the rest of Greenroom. The host uses `protocol` and `json_weight`, too.
"""
