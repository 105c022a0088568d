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
"""The runner's modules, mounted read-only in sandboxes as `RUNNER_HOME/greenroom_runner`."""

RUNNER_HOME = "/opt/greenroom"


def runner_command(python: str, *arguments: str) -> list[str]:
    """The command of a sandbox's first process, run by the Python inside the sandbox."""
    start = f"import sys; sys.path.insert(0, {RUNNER_HOME!r}); from greenroom_runner.supervisor import main; main()"
    return [python, "-I", "-S", "-c", start, *arguments]  # the runner needs no packages


def template_command(python: str, settings: str) -> list[str]:
    """The command of a template, with the same Python options as a worker."""
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
"""The environment of every sandbox, except for PATH if its Python is elsewhere."""

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

# Installers would retry for at least ten seconds, and then give advice that does not apply here.
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
    heap = spec.limits.memory * 3 // 4 >> 20  # the rest is for memory outside the heap, such as buffers and code
    return {
        **RUNNER_ENVIRONMENT,
        **({"NODE_OPTIONS": f"--max-old-space-size={heap}"} if spec.container_type is ContainerType.NODE_LTS else {}),
        **dict.fromkeys(_COUNTS_OF_PROCESSORS, processors),
        **({} if spec.limits.network else _INSTALLERS_WITHOUT_NETWORK),
    }


class ControlGroups(StrEnum):
    """The kernel mechanism that limits a sandbox's memory, processors and processes."""

    VERSION_1 = "version 1"
    VERSION_2 = "version 2"
    NONE = "none"
    """None: the limits apply to each process, not to the whole sandbox."""
    UNKNOWN = "unknown"


class MemoryFrom(StrEnum):
    """Where the memory of an engine's sandboxes is taken from."""

    THIS_PROCESS = "this process"
    """Memory that this process may use: the control groups above it also count the sandboxes."""
    THIS_MACHINE = "this machine"
    """Memory of this machine, outside the control groups of this process."""
    ELSEWHERE = "elsewhere"
    """Memory of another machine, about which nothing is known here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one sandbox, for all of its processes together."""

    memory: int = 2 << 30
    """Bytes of memory, including files in `/mnt/data` and `/tmp`."""
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
    """Modules that sessions are likely to import. A hint: the pool imports them after the start, and an engine that
    starts sandboxes from a template can import them earlier."""
    variables: frozenset[str] = frozenset()
    """The names of environment variables that the pool sets through an order to the runner, before modules are
    imported. Their values can be secrets, so they are not part of any program's initial environment."""
    container: CustomContainer | None = None
    """The settings of a custom container; `None` for other types."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a sandbox has used so far, measured from outside."""

    source: UsageSource
    cpu: float
    """Seconds of processor time since its start."""
    memory: int
    """Bytes in use now."""
    peak: int | None = None
    """The peak in bytes, if known."""


class Gauge(Protocol):
    """Reads the usage of a sandbox in microseconds. After the sandbox has ended, it returns `None`."""

    def cpu(self) -> float | None:
        """Return the seconds of processor time so far; `None` if unknown."""
        ...

    def take_peak(self) -> int | None:
        """Return the peak memory in bytes since the last call; `None` if unknown."""
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
        """The shortest interval in seconds at which calling `resources` is worth its cost."""
        return 1.0

    @abstractmethod
    async def kill(self) -> None:
        """End all of its processes and free its resources. Idempotent, bounded in time, never raises OSError."""

    async def resources(self) -> Resources | None:
        """Return what it has used so far (after `kill`, in total); `None` if unknown.

        Bounded in time, never raises OSError.
        """
        return None

    def gauge(self) -> Gauge | None:
        """Return a meter that is fast enough to read around each execution; `None` if there is none."""
        return None

    async def limit_memory(self, memory: int) -> None:
        """Set a new memory limit in bytes, files included.

        Raises:
            InvalidRequest: this engine cannot change the limit of a single sandbox.
        """
        raise InvalidRequest(f"On this engine, the memory of a session cannot differ from its pool's: {memory} bytes.")

    async def take_full_share(self) -> None:  # noqa: B027  nothing to do if starts do not yield
        """Give it the same share of busy processors as the others; until then, its start can yield to running code.

        Never raises OSError.
        """

    async def freeze(self) -> bool:
        """Suspend all of its processes until `thaw`, whatever they do; return whether they are suspended.

        A frozen sandbox still ends with the host process, and `kill` ends it. Bounded in time, never raises
        OSError.
        """
        return False

    async def thaw(self) -> None:  # noqa: B027  nothing to do if none is frozen
        """Resume its processes after `freeze`. Idempotent, bounded in time.

        Raises:
            EngineUnavailable: the engine does not respond.
        """

    @abstractmethod
    async def diagnosis(self) -> str:
        """Return what the engine knows about why it ended, such as "out of memory"; empty if nothing.

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
    """A connection to a port of a sandbox. Each method raises OSError if the connection was reset."""

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes; return when more can be sent."""
        ...

    async def end(self) -> None:
        """Send the end of the stream; reading can continue."""
        ...

    async def close(self) -> None:
        """Close the connection. Idempotent, never raises OSError."""
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
        """Wait until it exits by itself."""

    @abstractmethod
    def output(self) -> str:
        """Return the end of its program's output."""

    @abstractmethod
    def listen(self, on_output: Callable[[str, bytes], None]) -> None:
        """Call a function with `stdout` or `stderr` and the text for everything that the program prints from now on."""


def refuse_unfiltered(reason: str | None, *, allowed: bool) -> None:
    """Refuse an engine that cannot filter the system calls of its sandboxes.

    Raises:
        EngineUnavailable: system calls cannot be filtered, and the option does not allow that.
    """
    if reason is None:
        return
    if not allowed:
        raise EngineUnavailable(
            f"Sandboxes would run without a system call filter: {reason}. If you trust the code, set "
            "allow_unfiltered=True."
        )
    _log.warning("Sandboxes run without a system call filter: %s.", reason)


class Engine(ABC):
    """Starts sandboxes. Each object belongs to one event loop."""

    name: str
    container_types: frozenset[ContainerType] = frozenset({ContainerType.PYTHON_LTS, ContainerType.SHELL})
    """The container types that it can start."""
    packages_from: PackagesFrom | None = None
    """How packages can be added to its sandboxes."""
    copies_sessions: bool = False
    """Whether a session can be copied from one of its sandboxes to another, which requires the same system files and
    Greenroom's runner in both."""
    control_groups: ControlGroups = ControlGroups.UNKNOWN
    """The control groups that limit the sandboxes; set by `check`."""
    _report: Report | None = None

    @property
    def report(self) -> Report:
        """Receives the progress of long steps in `check` and `check_container`, such as pulling an image.

        The pool sets it while it opens. A `Meter` counts and reports.
        """
        return self._report or unread

    @report.setter
    def report(self, report: Report) -> None:
        self._report = report

    @property
    def starts_give_way(self) -> bool:
        """Whether a starting sandbox yields busy processors to sandboxes that run code."""
        return False

    @property
    def freezes(self) -> bool:
        """Whether its sandboxes can be frozen; set by `check`."""
        return False

    @property
    def memory_from(self) -> MemoryFrom:
        """Where the memory of its sandboxes is taken from; set by `check`."""
        return MemoryFrom.THIS_PROCESS

    @abstractmethod
    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        """Check that sandboxes of a container type can be started here.

        Raises:
            EngineUnavailable: they cannot; the message says what to do.
        """

    @abstractmethod
    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Start a sandbox; it may return before the sandbox is ready.

        If it is cancelled, nothing is left behind.

        Raises:
            EngineUnavailable: the engine does not respond, or refuses.
            InvalidRequest: this engine cannot enforce a limit.
        """

    async def check_container(self, container: CustomContainer) -> None:
        """Like `check`, for custom containers of this kind; a missing image is pulled."""
        raise EngineUnavailable(f"The engine {self.name} cannot run custom containers, such as {container.image!r}.")

    async def start_container(self, spec: SandboxSpec) -> PortSandbox:
        """Like `start`, for a specification with a `container`."""
        raise EngineUnavailable(f"The engine {self.name} cannot run custom containers.")

    @abstractmethod
    async def sweep(self) -> int:
        """Remove sandboxes left behind by dead owners; return their number."""

    @abstractmethod
    async def close(self) -> None:
        """Free the engine's own resources; its sandboxes must have been killed already."""


class EngineOptions(BaseModel):
    """The base class of an engine's own options; the names must differ from those of `PoolSettings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IsolationOptions(EngineOptions):
    """The options of an engine that runs the runner's supervisor."""

    allow_unfiltered: bool = False
    """Whether sandboxes may run without the runner's system call filter if the kernel or the processor does not support
    it. The whole kernel is then exposed to their code."""


OptionsT = TypeVar("OptionsT", bound=EngineOptions)


@dataclass(frozen=True, slots=True)
class EnginePlugin(Generic[OptionsT]):
    """An engine that `connect` can open by its scheme.

    Another package can provide one with an entry point in the group `greenroom.engines`, named after the scheme.
    """

    options: type[OptionsT]
    make: Callable[[OptionsT], Engine]
    """Creates the engine; raises `EngineUnavailable`, with the command that installs it, if a package is missing."""

    def engine(self, options: Mapping[str, Any]) -> Engine:
        """Create the engine from options of any source.

        Raises:
            InvalidRequest: an option is unknown or breaks a rule.
            EngineUnavailable: something that the engine needs is not installed.
        """
        return self.make(validate(self.options, options))
