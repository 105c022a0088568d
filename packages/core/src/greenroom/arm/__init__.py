"""Azure Resource Manager's form of session pools, `Microsoft.App/sessionPools`: a codec without I/O.

The server and clients of the control plane share it.
"""
