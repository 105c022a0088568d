"""The values that sessions and pools return. All are frozen."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeAlias

from greenroom.errors import ExecutionCancelled, ExecutionFailed, ExecutionTimedOut
from greenroom.local_files import check_target, local_path, writing
from greenroom.text import describe
from greenroom.untrusted import brief

Status: TypeAlias = Literal["succeeded", "failed", "timed_out", "cancelled"]

RestartCause: TypeAlias = Literal["cooled_down", "lost", "limit_reached"]
"""Why a session had ended before it was used again: it cooled down, lost its sandbox, or reached its maximum age."""


class ContainerType(StrEnum):
    """The kind of program that runs in the sandboxes of a pool; named as in Azure."""

    PYTHON_LTS = "PythonLTS"
    NODE_LTS = "NodeLTS"
    SHELL = "Shell"
    CUSTOM_CONTAINER = "CustomContainer"


_REPR_LENGTH = 60

DATA_DIR = "/mnt/data"
"""Where a session keeps its files, as in Azure."""

# By MIME type: the extension, and the first bytes of the content. A client that receives a broken picture might reject
# the whole message.
_PICTURES = {
    "image/png": ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    "image/jpeg": ("jpg", re.compile(rb"\xff\xd8\xff")),
    "image/gif": ("gif", re.compile(rb"GIF8[79]a")),
    "image/webp": ("webp", re.compile(rb"RIFF.{4}WEBP", re.DOTALL)),
    "image/svg+xml": ("svg", re.compile(rb"")),
}


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that an execution showed."""

    name: str
    """`figure-1.png`, numbered in display order within its execution."""
    mime: str
    data: bytes = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the picture to a local file; returns its path.

        Raises:
            FileRefused: the local file cannot be written.
        """
        path = local_path(path)
        check_target(path)
        with writing(path):
            path.write_bytes(self.data)
        return path

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        if self.mime == "image/svg+xml":
            return {self.mime: self.data.decode("utf-8", "replace")}
        return {self.mime: base64.b64encode(self.data).decode("ascii")}


@dataclass(frozen=True, slots=True)
class StreamText:
    """A piece of text, in a stream or in `Execution.parts`."""

    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Output:
    """One rich output: the MIME bundle of a `display(...)`, a figure, or a cell's last expression."""

    data: Mapping[str, Any]
    """Keyed by MIME type, as in Jupyter: text as `str`, binary data as base64 `str`, JSON as Python objects."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_result: bool = False
    """Whether this is the value of the last expression."""
    display_id: str | None = None
    """The ID by which later code can replace this output, if it has one (engines on this machine only)."""

    @property
    def text(self) -> str:
        """The plain text form, or an empty string."""
        text = self.data.get("text/plain")
        return text if isinstance(text, str) else ""

    def image(self, name: str = "figure") -> Image | None:
        """Return the picture in this output, if any, in the first available format of png, jpeg, gif, webp and svg.

        Data whose first bytes do not match its image type is ignored.
        """
        for mime, (extension, beginning) in _PICTURES.items():
            content = self.data.get(mime)
            if not isinstance(content, str):
                continue
            try:
                data = content.encode() if mime == "image/svg+xml" else base64.b64decode(content)
            except ValueError:  # hostile input: not a picture
                continue
            if beginning.match(data):
                return Image(f"{name}.{extension}", mime, data)
        return None

    def __repr__(self) -> str:
        # The code made these values, and may have nested or repeated them without limit.
        data, metadata = brief(dict(self.data)), brief(dict(self.metadata))
        return f"Output(data={data}, metadata={metadata}, is_result={self.is_result!r})"

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(self.data), dict(self.metadata)


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """Why an execution did not succeed."""

    name: str
    """The exception's class, such as `NameError`; `TimeoutError`, `CancelledError`, `MemoryError` and
    `WorkerCrashed` stand for code that was ended from outside, `ExitCode` for a shell command that failed."""
    value: str
    traceback: str = ""
    """As IPython prints it, without terminal colours."""
    summary: str = ""
    """A short traceback: the frames of the user's own code, and the exception (engines on this machine only)."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file or directory of a session."""

    path: str
    """Absolute, such as `/mnt/data/sales.csv`."""
    size: int
    """In bytes."""
    modified: datetime
    """In the time zone UTC."""
    is_directory: bool = False

    @property
    def name(self) -> str:
        """The path below `/mnt/data`."""
        return self.path.removeprefix(DATA_DIR).lstrip("/")


def _short(text: str) -> str:
    """The beginning of a text, for a `repr`."""
    return repr(text if len(text) <= _REPR_LENGTH else f"{text[: _REPR_LENGTH - 1]}…")


@dataclass(frozen=True, slots=True)
class Place:
    """The position of an output or an error in the text: how many characters of each stream precede it."""

    stdout: int
    stderr: int
    output: int | None = None
    """The output's index in `Execution.outputs`."""
    error: ExecutionError | None = None
    repeated: int = 0
    """How many of the next characters of `stderr` repeat the error."""


PackagesFrom: TypeAlias = Literal["option", "image"]
"""How packages can be added to a pool."""


class UsageSource(StrEnum):
    """Where the figures for processor time and memory come from."""

    CONTROL_GROUPS = "control_groups"
    """The kernel's own count of all processes of a sandbox."""
    DOCKER = "docker"
    """The same, as Docker reports it."""
    PROCESSES = "processes"
    """An estimate from the running processes; processes that ended between two samples may be missing."""
    NONE = "none"
    """There are no figures: `cpu` and `memory_time` are `None`."""


@dataclass(frozen=True, slots=True)
class NotCarried:
    """A part of a session that was not copied to its fork."""

    name: str
    """The name of a variable, an entry such as `Out[3]`, the path of a file, or a description."""
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Execution:
    """One run of code, with everything that it produced."""

    id: str
    status: Status
    stdout: str = ""
    stderr: str = ""
    result: str | None = None
    """The last expression's value as IPython prints it; `None` if there was none."""
    outputs: tuple[Output, ...] = ()
    """Rich outputs in display order, including the result."""
    error: ExecutionError | None = None
    """Set unless the status is `succeeded`."""
    duration: float = 0.0
    """How long it ran in the sandbox, in seconds."""
    files: tuple[RemoteFile, ...] = ()
    """New and changed files below `/mnt/data` (engines on this machine only): at most 100, beginning with those that
    have the fewest similar files."""
    files_omitted: int = 0
    """How many more files are new or changed."""
    state_lost: bool = False
    """Whether the session's variables are lost because its worker was replaced. Files remain unless
    `session_restarted` is set."""
    session_restarted: RestartCause | None = None
    """Why the session started again without its variables and files. Set for the first execution after a session ended
    without being deleted; always `None` where this is unknown, as with a pool in Azure."""
    truncated: int = 0
    """How many bytes of output were dropped because they exceeded the pool's limits."""
    exit_code: int | None = None
    """The exit code of a shell command that ended by itself; 128 plus the signal's number if a signal ended it."""
    updates: tuple[Output, ...] = ()
    """New contents for outputs of earlier executions (engines on this machine only)."""
    places: tuple[Place, ...] = ()
    """The positions of the outputs and errors in the text, in order (engines on this machine only)."""
    usage_source: UsageSource = UsageSource.NONE
    """Where `cpu` and `peak_memory` come from."""
    cpu: float | None = None
    """The processor time in seconds that the session's processes used during this execution, including background
    processes; `None` where it cannot be read quickly enough."""
    peak_memory: int | None = None
    """The session's peak memory in bytes, during this execution or since the previous one."""
    packages_from: PackagesFrom | None = None
    """How packages can be added to its pool: with the option `packages`, or in the image; `None` if unknown."""
    not_carried: tuple[NotCarried, ...] = ()
    """What was not copied, if the session is a fork; set for its first execution."""

    def __repr__(self) -> str:
        parts = [self.status]
        if self.error is not None:
            parts.append(f"{self.error.name:.40}: {_short(self.error.value)}")
        if self.result is not None:
            parts.append(f"result={_short(self.result)}")
        parts += [f"{name}={_short(text)}" for name in ("stdout", "stderr") if (text := getattr(self, name))]
        parts += [
            f"{len(found)} {name if len(found) > 1 else name.removesuffix('s')}"
            for name in ("outputs", "files")
            if (found := getattr(self, name))
        ]
        return f"<Execution {', '.join(parts)}, {self.duration:.3f} s>"

    @property
    def succeeded(self) -> bool:
        """Whether the status is `succeeded`."""
        return self.status == "succeeded"

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures in the outputs and updates, in display order. Identical pictures, such as a figure that was both
        returned and shown, appear once."""
        found: dict[bytes, Image] = {}
        for output in (*self.outputs, *self.updates):
            if (image := output.image(f"figure-{len(found) + 1}")) is not None:
                found.setdefault(image.data, image)
        return tuple(found.values())

    @property
    def parts(self) -> tuple[StreamText | Output | ExecutionError, ...]:
        """Text, outputs and errors in the order in which a notebook shows them.

        Between two outputs or errors, the text of each stream is one piece. An error that the code showed and handled
        is an error here, and text in `stderr`. Without `places`, all text comes first, and the error last.
        """
        texts: dict[Literal["stdout", "stderr"], list[str]] = {"stdout": [], "stderr": []}
        parts: list[StreamText | Output | ExecutionError] = []

        def add_text() -> None:
            for stream, pieces in texts.items():
                if text := "".join(pieces):
                    parts.append(StreamText(stream, text))
                pieces.clear()

        end = len(self.stdout), len(self.stderr)
        unordered = *(Place(*end, output=index) for index in range(len(self.outputs))), Place(*end, error=self.error)
        out = err = 0
        for place in (*(self.places or unordered), Place(*end)):
            texts["stdout"].append(self.stdout[out : place.stdout])
            texts["stderr"].append(self.stderr[err : place.stderr])
            out, err = place.stdout, place.stderr + place.repeated
            shown: Output | ExecutionError | None = place.error
            if place.output is not None and 0 <= place.output < len(self.outputs):
                shown = self.outputs[place.output]
            if shown is not None:
                add_text()
                parts.append(shown)
        add_text()
        return tuple(parts)

    def raise_for_error(self) -> Execution:
        """Return this execution if it succeeded.

        Raises:
            ExecutionFailed: it did not succeed; the subclasses `ExecutionTimedOut` and `ExecutionCancelled` are for
                the status `timed_out` and `cancelled`.
        """
        match self.status:
            case "succeeded":
                return self
            case "timed_out":
                raise ExecutionTimedOut(self)
            case "cancelled":
                raise ExecutionCancelled(self)
            case "failed":
                raise ExecutionFailed(self)

    def text_for_model(self, budget: int = 8_000) -> str:
        """Describe this execution for a language model, in at most `budget` characters of plain text.

        If it did not succeed, the status comes first. Then follow stdout, stderr, the result, displayed outputs, the
        error with the frames of the user's own code, new files, and the names of figures. Rich outputs become text:
        tables as cells, charts as library and title. Long parts are cut in the middle, with the number of characters
        left out; repeated lines appear once, with a count. The text never contains control characters or base64 images.

        Raises:
            InvalidRequest: the budget is not a whole number of at least 200.
        """
        return describe(self, budget)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session that holds a sandbox. Times are in the time zone UTC."""

    identifier: str
    created: datetime
    last_used: datetime
    expires: datetime | None = None
    """When it ends if it is not used again; `None` while code runs, or if sessions do not expire."""
    parked_calls: int = 0
    """The number of calls to the application's tools that its code is waiting for."""
    parked_since: datetime | None = None
    """Since when its code has been waiting for at least one of them."""


class ReadyReason(StrEnum):
    """Why a pool keeps its present number of sandboxes ready."""

    FIXED = "fixed"
    """`ready_session_instances` is a number."""
    FLOOR = "floor"
    """Demand requires no more than `min_ready_session_instances`."""
    DEMAND = "demand"
    """This number keeps waits within `ready_wait_target`."""
    CEILING = "ceiling"
    """Demand requires more than `max_ready_session_instances`."""
    SHRINKING = "shrinking"
    """Demand has fallen, and the surplus sandboxes are ended gradually."""
    QUICK = "quick"
    """None: sandboxes start quickly, and `ready_session_instances` was not set."""
    MEMORY = "memory"
    """Memory is short on the machine, or in the container in which the pool runs."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool's state at one moment, and its statistics so far. Times are in seconds."""

    limit: int | None
    """The maximum number of sandboxes at the same time; `None` where the pool does not report it, as in Azure."""
    ready: int = 0
    """Warm sandboxes that no session uses yet."""
    starting: int = 0
    executing: int = 0
    """Sessions with a running call."""
    idle: int = 0
    """Sessions without a running call."""
    waiting: int = 0
    """Identifiers in the queue for a sandbox."""
    allocations_warm: int = 0
    """Sessions that found a warm sandbox."""
    allocations_cold: int = 0
    """Sessions that had to wait for a sandbox."""
    wait_median: float = 0.0
    """The median wait of the last 1,000 allocations."""
    wait_max: float = 0.0
    start_median: float = 0.0
    """The median time from requesting a sandbox until it accepts code, over the last 1,000 starts."""
    start_max: float = 0.0
    evictions: Mapping[str, int] = field(default_factory=dict[str, int])
    """Sandboxes that have ended, by cause."""
    parked: int = 0
    """Executions that wait for answers to calls of the application's tools, such as a person's approval."""
    parked_calls: int = 0
    """The number of calls that they wait for."""
    parked_since: datetime | None = None
    """Since when the first of these executions has been waiting."""
    wait_p95: float = 0.0
    """The 95th percentile of the waits of the last 1,000 allocations."""
    ready_target: int | None = None
    """How many warm sandboxes the pool aims to keep; `None` where the pool does not report it."""
    ready_reason: ReadyReason | None = None
    """Why the target has this value."""
    frozen: int = 0
    """Idle sessions whose processes are stopped until their next use."""

    def __repr__(self) -> str:
        sessions = self.executing + self.idle
        wanted = "" if self.ready_target is None else f" of {self.ready_target}"
        wanted += "" if self.ready_reason is None else f" ({self.ready_reason})"
        frozen = f", {self.frozen} frozen" if self.frozen else ""
        parked = f", {self.parked} parked in {self.parked_calls} calls" if self.parked else ""
        return (
            f"<PoolStatus {sessions} of {self.limit or '?'} sessions ({self.executing} executing{frozen}), "
            f"{self.ready}{wanted} ready, {self.starting} starting, {self.waiting} waiting{parked}; "
            f"allocated {self.allocations_warm} warm and {self.allocations_cold} cold, "
            f"median wait {self.wait_median * 1000:.1f} ms>"
        )


@dataclass(frozen=True, slots=True)
class SessionUsage:
    """What a session has used since its allocation, including the start and preparation of its sandbox.

    Times are in seconds, sizes in bytes.
    """

    wall: float = 0.0
    """How long the session has held its sandbox."""
    executions: int = 0
    uploaded: int = 0
    downloaded: int = 0
    source: UsageSource = UsageSource.NONE
    """Where `cpu`, `memory_time` and `peak_memory` come from."""
    cpu: float | None = None
    """Processor time."""
    memory_time: float | None = None
    """Memory use over time in byte-seconds, from samples."""
    peak_memory: int | None = None
    session_hours: int = 0
    """The hours that Azure would bill for a session that runs code, each started hour in full."""
    node_hours: float = 0.0
    """The hours of Azure's nodes that a custom container would use."""


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """What a pool's sandboxes have used since it was opened, including those of present sessions.

    Times are in seconds, sizes in bytes. Unless a field says otherwise, it is the sum over all sessions.
    """

    sessions: int = 0
    wall: float = 0.0
    """How long sessions have held their sandboxes."""
    executions: int = 0
    uploaded: int = 0
    downloaded: int = 0
    source: UsageSource = UsageSource.NONE
    """Where the figures for processor time and memory come from."""
    cpu: float = 0.0
    """Processor time."""
    memory_time: float = 0.0
    """Memory use over time in byte-seconds, from samples."""
    peak_memory: int = 0
    """The highest peak of a single session."""
    spare_cpu: float = 0.0
    """The processor time of sandboxes that served no session; not part of `cpu`."""
    spare_memory_time: float = 0.0
    """The byte-seconds of sandboxes that served no session; not part of `memory_time`."""
    memory: int = 0
    """The memory of all sandboxes together, as last sampled."""
    unmeasured: int = 0
    """Sessions whose processor time and memory are unknown and therefore not included."""
    session_hours: int = 0
    """The hours that Azure would bill for sessions that run code, each started hour in full."""
    node_hours: float = 0.0
    """The hours of Azure's nodes that custom containers would use."""


Event: TypeAlias = StreamText | Output | Execution
"""An event of a stream: text and rich outputs as they arrive, then the complete execution."""
