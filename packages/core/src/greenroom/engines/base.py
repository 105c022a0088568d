"""The interface between pools and engines: an engine starts sandboxes from a specification."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from greenroom import runner
from greenroom.config.containers import CustomContainer
from greenroom.config.values import validate
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.models import ContainerType, PackagesFrom, UsageSource
from greenroom.progress import Report, unread

_log = logging.getLogger(__name__)

RUNNER_SOURCE = Path(runner.__file__).parent
"""The runner's modules, to be shown to sandboxes as `RUNNER_HOME/greenroom_runner`, read-only."""

RUNNER_HOME = "/opt/greenroom"


def runner_command(python: str, *arguments: str) -> list[str]:
    """The command of a sandbox's first process, run by the sandbox's own Python."""
    start = f"import sys; sys.path.insert(0, {RUNNER_HOME!r}); from greenroom_runner.supervisor import main; main()"
    return [python, "-I", "-S", "-c", start, *arguments]  # the runner needs no packages


def template_command(python: str, settings: str) -> list[str]:
    """The command of a template, with the options of Python that a worker has."""
    start = f"import sys; sys.path.insert(0, {RUNNER_HOME!r}); from greenroom_runner.template import main; "
    start += "sys.path.pop(0); main()"
    return [python, "-I", "-B", "-u", "-c", start, settings]


RUNNER_ENVIRONMENT = {
    "HOME": "/tmp/home",  # noqa: S108  a path in the sandbox
    "LANG": "C.UTF-8",
    "MPLCONFIGDIR": "/tmp/home/matplotlib",  # noqa: S108
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "TERM": "dumb",
}
"""The environment of every sandbox, except PATH where its Python is elsewhere."""

_COUNTS_OF_PROCESSORS = (
    "BLIS_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "PYTHON_CPU_COUNT",
    "RAYON_NUM_THREADS",
)

# Installers would retry for ten seconds or more, and then advise what cannot help.
_INSTALLERS_WITHOUT_NETWORK = {
    "CONDA_OFFLINE": "1",
    "NPM_CONFIG_OFFLINE": "true",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INDEX": "1",
    "PIP_RETRIES": "0",
    "UV_OFFLINE": "1",
}


def sandbox_environment(spec: SandboxSpec) -> dict[str, str]:
    """Return the environment variables of a sandbox, PATH included.

    Libraries start as many threads and processes as the sandbox has processors, not as many as the machine has.
    """
    processors = str(math.ceil(spec.limits.cpus))
    heap = spec.limits.memory * 3 // 4 >> 20  # the rest is for what is not in it, such as buffers and code
    return {
        **RUNNER_ENVIRONMENT,
        **({"NODE_OPTIONS": f"--max-old-space-size={heap}"} if spec.container_type is ContainerType.NODE_LTS else {}),
        **dict.fromkeys(_COUNTS_OF_PROCESSORS, processors),
        **({} if spec.limits.network else _INSTALLERS_WITHOUT_NETWORK),
    }


class ControlGroups(StrEnum):
    """The kernel's means of limiting a sandbox's memory, processors and processes."""

    VERSION_1 = "version 1"
    VERSION_2 = "version 2"
    NONE = "none"
    """None: the limits hold for each process, not for the whole sandbox."""
    UNKNOWN = "unknown"


class MemoryFrom(StrEnum):
    """Where the memory of an engine's sandboxes is taken from."""

    THIS_PROCESS = "this process"
    """From what this process may use: the control groups above it count the sandboxes, too."""
    THIS_MACHINE = "this machine"
    """From this machine, outside the control groups of this process."""
    ELSEWHERE = "elsewhere"
    """From another machine, of which nothing is known here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one sandbox, for all of its processes together."""

    memory: int = 2 << 30
    """Bytes of memory, files in `/mnt/data` and `/tmp` included."""
    cpus: float = 1.0
    """Processor time, in processors."""
    pids: int = 256
    """Processes and threads."""
    disk: int = 1 << 30
    """Bytes in `/mnt/data`."""
    network: bool = False
    """Whether the network is reachable."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The specification of a sandbox: a container type with its limits and contents."""

    container_type: ContainerType = ContainerType.PYTHON_LTS
    limits: Limits = field(default_factory=Limits)
    preload: tuple[str, ...] = ()
    """Modules that sessions are likely to import. A hint: the pool has them imported after the start, and an engine
    that starts sandboxes from a template can do so before."""
    variables: frozenset[str] = frozenset()
    """The names of environment variables that the pool sets, by an order to the runner, before modules are imported.
    Their values can be secrets, so that no program is started with them."""
    container: CustomContainer | None = None
    """What a custom container is made from; `None` for other types."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a sandbox has used so far, as counted outside of it."""

    source: UsageSource
    cpu: float
    """Seconds of processors, since its start."""
    memory: int
    """Bytes at this moment."""
    peak: int | None = None
    """The most bytes at any time, if that is known."""


class Gauge(Protocol):
    """Reads the figures of a sandbox in microseconds. After the sandbox's end, it knows none."""

    def cpu(self) -> float | None:
        """Return the seconds of processors so far; `None` if that is not known."""
        ...

    def take_peak(self) -> int | None:
        """Return the most bytes of memory since the last call; `None` if that is not known."""
        ...


class Sandbox(ABC):
    """One isolated process tree.

    It ends with the host process, even if that is killed. A `StreamSandbox` runs code; a custom container is a
    `PortSandbox`.
    """

    id: str
    """The sandbox's name in messages, such as a container's id."""

    @property
    def sampling_interval(self) -> float:
        """The seconds between two calls of `resources` that are not worth their price more often."""
        return 1.0

    @abstractmethod
    async def kill(self) -> None:
        """End all of its processes and free its resources. Idempotent, bounded in time, never raises OSError."""

    async def resources(self) -> Resources | None:
        """Return what it has used so far, after `kill` what it had used; `None` if that is not known.

        Bounded in time, never raises OSError.
        """
        return None

    def gauge(self) -> Gauge | None:
        """Return what reads its figures in microseconds, for each execution; `None` where nothing does."""
        return None

    async def limit_memory(self, memory: int) -> None:
        """Set a new memory limit in bytes, files included.

        Raises:
            InvalidRequest: this engine cannot change that for one sandbox.
        """
        raise InvalidRequest(f"The memory of one session cannot differ from its pool's on this engine: {memory} bytes.")

    async def take_full_share(self) -> None:  # noqa: B027  nothing to do where starts do not yield
        """Give it the same share of busy processors as others; until then, a start can yield to running code.

        Never raises OSError.
        """

    async def freeze(self) -> bool:
        """Stop all of its processes until `thaw`, whatever they do; return whether they are stopped.

        A frozen sandbox ends with the host process like any other, and `kill` ends it. Bounded in time, never raises
        OSError.
        """
        return False

    async def thaw(self) -> None:  # noqa: B027  nothing to do where none is frozen
        """Let its processes go on after `freeze`. Idempotent, bounded in time.

        Raises:
            EngineUnavailable: the engine does not answer.
        """

    @abstractmethod
    async def diagnosis(self) -> str:
        """Return what the engine knows about its end, such as "out of memory"; empty if nothing.

        After a failed start, the text includes the standard error of the first process.
        """


class StreamSandbox(Sandbox):
    """A sandbox whose first process is the runner's supervisor: it ends when its standard input closes."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Write to the supervisor's standard input; return when more can be sent.

        Raises:
            OSError: it has ended.
        """

    @abstractmethod
    async def receive(self) -> bytes:
        """Return the next bytes of the supervisor's standard output; empty at its end, and from then on."""


class Connection(Protocol):
    """A connection to a port of a sandbox. Each method raises OSError when it was reset."""

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes; return when more can be sent."""
        ...

    async def end(self) -> None:
        """Send the end of the bytes; reading goes on."""
        ...

    async def close(self) -> None:
        """Give the connection up. Idempotent, never raises OSError."""
        ...


class PortSandbox(Sandbox):
    """A sandbox whose program serves connections, such as a custom container. Only this process can reach it."""

    @abstractmethod
    async def connect(self, port: int) -> Connection:
        """Open a connection to a port.

        Raises:
            OSError: nothing listens there, or the sandbox has ended.
        """

    @abstractmethod
    async def ended(self) -> None:
        """Wait until it ends by itself."""

    @abstractmethod
    def output(self) -> str:
        """Return the last of what its program printed."""

    @abstractmethod
    def listen(self, on_output: Callable[[str, bytes], None]) -> None:
        """Call a function with `stdout` or `stderr` and what the program prints from now on."""


def refuse_unfiltered(reason: str | None, *, allowed: bool) -> None:
    """Refuse an engine that cannot filter the system calls of its sandboxes.

    Raises:
        EngineUnavailable: there is a reason, and the option does not allow it.
    """
    if reason is None:
        return
    if not allowed:
        raise EngineUnavailable(
            f"Sandboxes would have no filter of system calls here: {reason}. To run code that you trust, allow it "
            "with allow_unfiltered=True."
        )
    _log.warning("Sandboxes have no filter of system calls: %s.", reason)


class Engine(ABC):
    """Starts sandboxes. One object serves one event loop."""

    name: str
    container_types: frozenset[ContainerType] = frozenset({ContainerType.PYTHON_LTS, ContainerType.SHELL})
    """The container types that it can start."""
    packages_from: PackagesFrom | None = None
    """How its sandboxes can be given packages."""
    copies_sessions: bool = False
    """Whether a copy of a session in one of its sandboxes can be made in another: both have the same files of the
    system, and our runner."""
    control_groups: ControlGroups = ControlGroups.UNKNOWN
    """The control groups that limit the sandboxes; known after `check`."""
    _report: Report | None = None

    @property
    def report(self) -> Report:
        """Takes the progress of long work of `check` and `check_container`, such as an image that is pulled.

        The pool sets it while it opens. A `Meter` counts and reports.
        """
        return self._report or unread

    @report.setter
    def report(self, report: Report) -> None:
        self._report = report

    @property
    def starts_give_way(self) -> bool:
        """Whether a sandbox that starts leaves busy processors to those that run code."""
        return False

    @property
    def freezes(self) -> bool:
        """Whether its sandboxes can be frozen; known after `check`."""
        return False

    @property
    def memory_from(self) -> MemoryFrom:
        """Where the memory of its sandboxes is taken from; known after `check`."""
        return MemoryFrom.THIS_PROCESS

    @abstractmethod
    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        """Find out whether sandboxes of a container type can be made here.

        Raises:
            EngineUnavailable: they cannot; the message says what to do.
        """

    @abstractmethod
    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Start a sandbox; it need not be ready yet.

        Cancelling leaves nothing behind.

        Raises:
            EngineUnavailable: the engine does not answer or refuses.
            InvalidRequest: this engine cannot enforce a limit.
        """

    async def check_container(self, container: CustomContainer) -> None:
        """As `check`, for custom containers of this kind; an image that is missing is pulled."""
        raise EngineUnavailable(f"The engine {self.name} cannot run custom containers, such as {container.image!r}.")

    async def start_container(self, spec: SandboxSpec) -> PortSandbox:
        """As `start`, for a specification with a `container`."""
        raise EngineUnavailable(f"The engine {self.name} cannot run custom containers.")

    @abstractmethod
    async def sweep(self) -> int:
        """Remove what dead owners have left behind; return the number of sandboxes."""

    @abstractmethod
    async def close(self) -> None:
        """Free the engine's own resources; its sandboxes have been killed before."""


class EngineOptions(BaseModel):
    """The base class of an engine's own options; the names must differ from those of `PoolSettings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IsolationOptions(EngineOptions):
    """The options of an engine that runs the runner's supervisor."""

    allow_unfiltered: bool = False
    """Whether sandboxes may run without the runner's filter of system calls, where the kernel or the processor does not
    support it. All of the kernel is then exposed to their code."""


OptionsT = TypeVar("OptionsT", bound=EngineOptions)


@dataclass(frozen=True, slots=True)
class EnginePlugin(Generic[OptionsT]):
    """An engine that `connect` can open by its scheme.

    Another package offers one with an entry point in the group `greenroom.engines`, whose name is the scheme.
    """

    options: type[OptionsT]
    make: Callable[[OptionsT], Engine]
    """Makes the engine; raises `EngineUnavailable` with the command that installs it, if a package is missing."""

    def engine(self, options: Mapping[str, Any]) -> Engine:
        """Return the engine with options from any source.

        Raises:
            InvalidRequest: an option is unknown or breaks a rule.
            EngineUnavailable: something that the engine needs is not installed.
        """
        return self.make(validate(self.options, options))
