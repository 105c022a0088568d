"""The control plane: pools that are created, changed and deleted while the server runs. Private."""
