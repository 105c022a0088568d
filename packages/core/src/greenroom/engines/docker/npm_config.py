"""The settings with which npm on this machine reaches packages, for an npm in a build."""

from __future__ import annotations

import os
from pathlib import Path

# Local files; certificates are copied in another way.
_OF_THIS_MACHINE = ("cache", "cafile", "certfile", "keyfile", "prefix", "userconfig", "globalconfig", "init-module")


def npmrc(project: Path) -> bytes:
    """Return the content of an .npmrc file: the settings of the user, the project and the environment.

    Args:
        project: the directory of the lock file, which can have its own settings.
    """
    lines: list[str] = []
    variables = {name.lower(): value for name, value in os.environ.items() if value}  # npm accepts both cases
    user = variables.get("npm_config_userconfig", "~/.npmrc")
    for file in (Path(user).expanduser(), project / ".npmrc"):
        if file.is_file():
            lines += file.read_text(encoding="utf-8", errors="replace").splitlines()
    if registry := variables.get("npm_config_registry"):
        lines.append(f"registry={registry}")
    kept = [line for line in lines if line.partition("=")[0].strip().lower() not in _OF_THIS_MACHINE]
    return "".join(f"{line}\n" for line in kept).encode()
