"""The parts that both contracts share: versions, requests to send, paths, headers, JSON values."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast
from urllib.parse import quote

from greenroom.errors import InvalidRequest
from greenroom.models import DATA_DIR

LEGACY_VERSIONS = ("2024-02-02-preview", "2024-08-02-preview")
CURRENT_VERSIONS = ("2024-10-02-preview", "2025-02-02-preview", "2025-10-02-preview")
API_VERSIONS = LEGACY_VERSIONS + CURRENT_VERSIONS
LATEST = CURRENT_VERSIONS[-1]

SHELL_SINCE = "2025-02-02-preview"
"""The first version with shell commands."""

AUDIENCE = "https://dynamicsessions.io"
SCOPE = f"{AUDIENCE}/.default"

MAX_SYNCHRONOUS = 220
"""The time limit of a synchronous execution in Azure, in seconds."""

DEFAULT_OUTPUT_LIMIT = 4096
"""Characters of each stream that 2025-10-02-preview keeps by default (`outputStreamsMaxLength`)."""

MAX_INT32 = (1 << 31) - 1
"""The largest int32: the specification declares all numbers of a request as int32."""

Json: TypeAlias = Any
"""A JSON value, as `json.loads` returns it and `json.dumps` accepts it."""

_MIME_TYPES = mimetypes.MimeTypes()  # Python's own table, not the machine's in /etc, with the types that it lacks
_OFFICE = "application/vnd.openxmlformats-officedocument"
for _suffix, _kind in {
    ".docx": f"{_OFFICE}.wordprocessingml.document",
    ".ipynb": "application/x-ipynb+json",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pptx": f"{_OFFICE}.presentationml.presentation",
    ".xlsx": f"{_OFFICE}.spreadsheetml.sheet",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}.items():
    _MIME_TYPES.add_type(_kind, _suffix)


class Malformed(ValueError):
    """A response does not have the contract's form; the message says what it must be."""


@dataclass(frozen=True, slots=True)
class Call:
    """A data plane request, without the parts that all have: endpoint, identifier, version, credentials."""

    method: str
    path: str
    """Relative to the pool's endpoint, percent-encoded, without a leading slash."""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    """Not yet encoded."""
    body: Json = None
    """Sent as JSON, unless it is `None`."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """A request to execute."""

    code: str
    timeout: float | None = None
    """Seconds; `None` for the pool's own time limit."""
    execution_type: str = "Synchronous"
    """In the client's spelling, which the response repeats."""
    shell: bool = False
    """Whether the code is a shell command (`shellCommand`; current contract only)."""
    arguments: tuple[str, ...] = ()
    """A program and its arguments, in place of a shell command (`execCommandAndArgs`)."""
    stdin: str = ""
    """The standard input of a command."""
    output_limit: int | None = None
    """Characters of each stream in the response (`outputStreamsMaxLength`; 2025-10-02-preview)."""
    jupyter_format: bool = False
    """Whether the result is the text that IPython prints (2025-10-02-preview)."""

    @property
    def asynchronous(self) -> bool:
        return self.execution_type.lower() == "asynchronous"


@dataclass(frozen=True, slots=True)
class Pending:
    """An execution that has not ended."""

    id: str
    running: bool = True
    """Whether it has started."""


RESTARTED_HEADER = "x-greenroom-session-restarted"
"""Why the execution's session started again. Only our server sends this."""


def is_legacy(version: str) -> bool:
    """Whether a version belongs to the legacy contract."""
    return version in LEGACY_VERSIONS


# Paths


def quote_segment(text: str) -> str:
    """Percent-encode a text as one segment of a URL's path or one value of its query.

    Raises:
        InvalidRequest: it cannot be encoded as UTF-8, as can happen with the name of a local file.
    """
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidRequest(f"A name must be encodable as UTF-8, not {text!r:.200}.") from None


def split_path(path: str) -> tuple[str, str]:
    """Split a session's absolute path into the directory below `/mnt/data`, which may be empty, and the name."""
    directory, _, name = path.removeprefix(DATA_DIR).strip("/").rpartition("/")
    return directory, name


def session_path(directory: str = "", name: str = "") -> str:
    """Join the query's `path` and a name into an absolute path in a session.

    `path` is relative to `/mnt/data`, or begins with it.

    Raises:
        InvalidRequest: the path leads out of `/mnt/data`, or is not a path.
    """
    parts = [part for part in f"{_below(directory)}/{name}".split("/") if part not in {"", "."}]
    path = "/".join((DATA_DIR, *parts))
    if ".." in parts or "\0" in path or len(path.encode("utf-8", "surrogatepass")) > 4096:
        raise InvalidRequest(
            f"A path must be below {DATA_DIR} and have at most 4096 bytes, not {f'{directory}/{name}'!r:.200}."
        )
    return path


def upload_path(filename: str, directory: str = "") -> str:
    """Return the path of an uploaded file: clients send a bare name, a relative path or one below `/mnt/data/`.

    Raises:
        InvalidRequest: the name is empty, or leads out of `/mnt/data`.
    """
    path = session_path(directory, _below(filename))
    if path == session_path(directory):
        raise InvalidRequest(f"The name of an upload must be a file name, not {filename!r:.200}.")
    return path


def _below(path: str) -> str:
    return path.removeprefix(DATA_DIR) if path == DATA_DIR or path.startswith(f"{DATA_DIR}/") else path


def content_type(name: str, *, is_directory: bool = False) -> str:
    """Return the media type for a file name, as Azure writes it."""
    kind = None if is_directory else _MIME_TYPES.guess_type(name, strict=False)[0]
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def multipart_frame(filename: str, boundary: str) -> tuple[bytes, bytes]:
    """Return the bytes before and after the content in the body of an upload with one part, `file`.

    Raises:
        InvalidRequest: the name has control characters, which a header cannot hold, or is not UTF-8.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in filename):
        raise InvalidRequest(f"A file name must not contain control characters, as does {filename!r:.200}.")
    quoted = filename.replace("\\", "\\\\").replace('"', '\\"')
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    try:
        encoded = head.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"A file name must be encodable as UTF-8, not {filename!r:.200}.") from None
    return encoded, f"\r\n--{boundary}--\r\n".encode()


# Headers


def timings(*, duration: float, overall: float, allocation: float = 0.0, session_guid: str) -> dict[str, str]:
    """Return the response headers of an execution; arguments in seconds, headers in milliseconds.

    `overall` is the time from the request to its response, `allocation` the wait for a sandbox.
    """
    code, total, waited = (round(1000 * seconds, 4) for seconds in (duration, overall, allocation))
    return {
        "x-ms-allocation-retries": "0",
        "x-ms-allocation-time": f"{waited:g}",
        "x-ms-container-execution-duration": f"{code:.0f}",
        "x-ms-execution-read-response-time": "0",
        "x-ms-execution-request-time": f"{code:.0f}",
        "x-ms-overall-execution-time": f"{total:.10g}",
        "x-ms-preparation-time": f"{round(max(total - code - waited, 0.0), 4):.10g}",
        "x-ms-session-guid": session_guid,
        "x-ms-total-execution-service-time": f"{total:.10g}",
    }


# JSON values of unknown type


def mapping(value: Json) -> dict[str, Json]:
    """Return the value, which must be an object.

    Raises:
        Malformed: it has another type.
    """
    if not isinstance(value, dict):
        raise Malformed(f"it must have an object, not {type(value).__name__}")
    return cast("dict[str, Json]", value)


def fields_of(value: Json) -> dict[str, Json]:
    """Return the value if it is an object, otherwise an empty one."""
    return cast("dict[str, Json]", value) if isinstance(value, dict) else {}


def sequence(value: Json) -> Sequence[Json]:
    """Return the value, which must be an array.

    Raises:
        Malformed: it has another type.
    """
    if not isinstance(value, list):
        raise Malformed(f"it must have an array, not {type(value).__name__}")
    return cast("list[Json]", value)


def text(value: Json) -> str:
    """Return the value if it is a string, otherwise an empty one."""
    return value if isinstance(value, str) else ""


def number(value: Json) -> float:
    """Return the value if it is a usable number, otherwise 0."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e18 else 0.0


def encode_time(moment: datetime) -> str:
    """Format a time as .NET does, in UTC: `2024-11-11T09:05:02.4865290Z`."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}0Z"


def decode_time(value: Json) -> datetime:
    """Parse a time, into UTC.

    Raises:
        Malformed: it is not a valid timestamp.
    """
    try:
        moment = datetime.fromisoformat(text(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Malformed(f"{value!r:.100} is not a valid timestamp") from None
