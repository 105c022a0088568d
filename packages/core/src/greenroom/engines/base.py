"""The seam between pools and what isolates: an engine makes sandboxes, a sandbox is two streams of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from greenroom import runner
from greenroom.errors import InvalidRequest

RUNNER_SOURCE = Path(runner.__file__).parent
"""The runner's modules, to be shown to sandboxes as `RUNNER_HOME/greenroom_runner`, read-only."""

RUNNER_HOME = "/opt/greenroom"


def runner_command(python: str, *arguments: str) -> list[str]:
    """What the first process of a sandbox executes, with the sandbox's own Python."""
    start = f"import sys; sys.path.insert(0, {RUNNER_HOME!r}); from greenroom_runner.supervisor import main; main()"
    return [python, "-I", "-c", start, *arguments]


RUNNER_ENVIRONMENT = {
    "HOME": "/tmp/home",  # noqa: S108  a path in the sandbox
    "LANG": "C.UTF-8",
    "MPLCONFIGDIR": "/tmp/home/matplotlib",  # noqa: S108
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "TERM": "dumb",
}
"""The whole environment of a sandbox, but for PATH where its Python is elsewhere."""


class ControlGroups(StrEnum):
    """What the kernel counts a sandbox's memory, processors and processes with."""

    VERSION_1 = "version 1"
    VERSION_2 = "version 2"
    NONE = "none"
    """The limits hold for each process by itself."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use, all of it together."""

    memory: int = 2 << 30
    """Bytes of memory, files in `/mnt/data` and `/tmp` included."""
    cpus: float = 1.0
    """Processors' worth of time."""
    pids: int = 256
    """Processes and threads."""
    disk: int = 1 << 30
    """Bytes in `/mnt/data`."""
    network: bool = False
    """Whether the network is reachable."""


class Sandbox(ABC):
    """One isolated process tree whose first process is the runner's supervisor.

    It ends when the host process does, however that ends: its standard input closes.
    """

    id: str
    """Names it in messages, such as a container's id."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Write to the supervisor's standard input; returns when more may be sent.

        Raises:
            OSError: it has ended.
        """

    @abstractmethod
    async def receive(self) -> bytes:
        """The next bytes of the supervisor's standard output; empty at its end, and then always."""

    @abstractmethod
    async def kill(self) -> None:
        """End every process of it and free all it held. Idempotent, bounded in time, never raises OSError."""

    async def limit_memory(self, memory: int) -> None:
        """From now on, let it use so many bytes, files included.

        Raises:
            InvalidRequest: this engine cannot change that for one sandbox.
        """
        raise InvalidRequest(f"The memory of one session cannot differ here: {memory} bytes were asked for.")

    async def take_full_share(self) -> None:  # noqa: B027  nothing to do where starts do not give way
        """From now on, get as much of busy processors as others; until then, a start may give way to what runs.

        Never raises OSError.
        """

    @abstractmethod
    async def diagnosis(self) -> str:
        """After its end: what the engine knows of the cause, such as "out of memory"; empty if nothing.

        Also after a failed start, with what the first process wrote to its standard error.
        """


class Engine(ABC):
    """Makes sandboxes. One object serves one event loop."""

    name: str
    control_groups: ControlGroups = ControlGroups.UNKNOWN
    """Which ones bound the sandboxes; known after `check`."""

    @property
    def starts_give_way(self) -> bool:
        """Whether a sandbox that starts leaves busy processors to those that run code."""
        return False

    @abstractmethod
    async def check(self) -> None:
        """Find out whether sandboxes can be made here.

        Raises:
            EngineUnavailable: they cannot; the message says what to do.
        """

    @abstractmethod
    async def start(self, limits: Limits) -> Sandbox:
        """Start a sandbox; it may not have said anything yet.

        Cancelling leaves nothing behind.

        Raises:
            EngineUnavailable: the engine does not answer or refuses.
            InvalidRequest: a limit cannot be kept by this engine.
        """

    @abstractmethod
    async def sweep(self) -> int:
        """Remove what dead owners have left behind; returns how many sandboxes that were."""

    @abstractmethod
    async def close(self) -> None:
        """Free the engine's own resources; its sandboxes have been killed before."""
