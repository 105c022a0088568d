"""The packages of a pool's sandboxes: installed once on this machine, and mounted read-only in each sandbox."""

from __future__ import annotations

from pathlib import Path

from greenroom.engines.base import RUNNER_HOME
from greenroom.engines.packages import Packages
from greenroom.engines.packages.node import prepare as prepare_node
from greenroom.engines.packages.python import prepare as prepare_python
from greenroom.errors import InvalidRequest
from greenroom.models import ContainerType
from greenroom.progress import Report

_PYTHON = f"{RUNNER_HOME}/packages"
_NODE = "/node_modules"
"""The directory that `require` and `import` search last, from anywhere."""


class ProvidedPackages:
    """What sandboxes have in addition to the packages of their interpreter.

    Args:
        packages: the requested packages; may be empty.
        python: the interpreter.
    """

    def __init__(self, packages: Packages, python: str) -> None:
        self._packages = packages
        self._base = python
        self._made: Path | None = None

    async def prepare(self, container_type: ContainerType, node: Path | None, report: Report) -> None:
        """Install them, unless another process has done so before.

        Raises:
            InvalidRequest: a package cannot be used, or is for another container type; the message names it.
            EngineUnavailable: they cannot be installed here.
        """
        if not self._packages:
            return
        is_node = container_type is ContainerType.NODE_LTS
        if is_node is not self._is_node:
            kind = "the path of a package-lock.json" if is_node else "Python packages, not a lock of Node packages,"
            raise InvalidRequest(f"The option packages must be {kind} for the container type {container_type}.")
        if self._is_node:
            assert node is not None  # noqa: S101  the engine has found it
            self._made = await prepare_node(self._packages, node, report)
        else:
            self._made = await prepare_python(self._packages, self._base, _PYTHON, report)

    @property
    def shown(self) -> dict[str, Path]:
        """Directories on this machine, by their paths in a sandbox."""
        return {} if self._made is None else {_NODE if self._is_node else _PYTHON: self._made}

    @property
    def python(self) -> str:
        """The path of the interpreter in sandboxes."""
        return self._base if self._made is None or self._is_node else f"{_PYTHON}/bin/python"

    @property
    def programs(self) -> list[str]:
        """The directories of their programs in sandboxes."""
        if self._made is None:
            return []
        return [f"{_NODE}/.bin" if self._is_node else f"{_PYTHON}/bin"]

    @property
    def _is_node(self) -> bool:
        return self._packages.node_lock is not None
