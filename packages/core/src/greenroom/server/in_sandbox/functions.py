"""A function whose source is sent to a sandbox and runs there. It imports only the standard library, itself.

Its result returns through `call` and is untrusted, like everything from a sandbox.
"""

from __future__ import annotations

from typing import Any

# ruff: noqa: PLC0415  they run elsewhere


def take_inventory() -> dict[str, Any]:
    """The interpreter's version, its packages' versions by name, and IPython's."""
    import importlib.metadata
    import platform

    packages = {
        str(found.metadata["Name"]): str(found.version)
        for found in importlib.metadata.distributions()
        if found.metadata["Name"]
    }
    return {
        "python": platform.python_version(),
        "ipython": packages.get("ipython", ""),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }
