"""Session pools in the format of Azure Resource Manager, `Microsoft.App/sessionPools`: a codec without I/O.

The server and clients of the control plane share it.
"""
