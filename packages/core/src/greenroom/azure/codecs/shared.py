"""What both contracts share."""

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

AUDIENCE = "https://dynamicsessions.io"
SCOPE = f"{AUDIENCE}/.default"

MAX_SYNCHRONOUS = 220
"""Seconds that Azure lets a synchronous execution run."""

DEFAULT_OUTPUT_LIMIT = 4096
"""Characters of each stream that 2025-10-02-preview keeps if `outputStreamsMaxLength` does not say."""

Json: TypeAlias = Any
"""What `json.loads` returns and `json.dumps` takes."""

_MIME_TYPES = mimetypes.MimeTypes()  # Python's own table, whatever the machine has in /etc


class Malformed(ValueError):
    """A response is not of the contract's form."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of the data plane, but for what every request has: endpoint, identifier, version, credentials."""

    method: str
    path: str
    """Below the pool's endpoint, percent-encoded, without a slash in front."""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    """Not encoded yet."""
    body: Json = None
    """Sent as JSON, if there is one."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """An execution that is asked for."""

    code: str
    timeout: float | None = None
    """Seconds; `None` leaves it to the pool."""
    execution_type: str = "Synchronous"
    """As it was written: the answer repeats it."""
    shell: bool = False
    """Whether the code is a shell command (`shellCommand`; current contract only)."""
    output_limit: int | None = None
    """Characters of each stream in the answer (`outputStreamsMaxLength`; 2025-10-02-preview)."""
    jupyter_format: bool = False
    """Whether the result is to be the text that IPython prints (2025-10-02-preview)."""

    @property
    def asynchronous(self) -> bool:
        return self.execution_type.lower() == "asynchronous"


@dataclass(frozen=True, slots=True)
class Pending:
    """An execution that has not ended."""

    id: str
    running: bool = True
    """Whether it has begun."""


def is_legacy(version: str) -> bool:
    """Whether a version is of the legacy contract."""
    return version in LEGACY_VERSIONS


# Paths


def quote_segment(text: str) -> str:
    """A text as one segment of a URL's path, or one value of its query.

    Raises:
        InvalidRequest: it has what UTF-8 cannot hold, such as the name of a local file may have.
    """
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidRequest(f"The name {text!r:.200} is not valid: it cannot be encoded as UTF-8.") from None


def split_path(path: str) -> tuple[str, str]:
    """A session's absolute path as the directory below `/mnt/data`, empty for itself, and the name."""
    directory, _, name = path.removeprefix(DATA_DIR).strip("/").rpartition("/")
    return directory, name


def session_path(directory: str = "", name: str = "") -> str:
    """The absolute path in a session of a name and of the query's `path`.

    `path` counts from `/mnt/data`, which may be written or not.

    Raises:
        InvalidRequest: it leads out of `/mnt/data`, or is no path.
    """
    parts = [part for part in f"{_below(directory)}/{name}".split("/") if part not in {"", "."}]
    path = "/".join((DATA_DIR, *parts))
    if ".." in parts or "\0" in path or len(path.encode("utf-8", "surrogatepass")) > 4096:
        raise InvalidRequest(
            f"The path {f'{directory}/{name}'!r:.200} is not valid: a session's files are below {DATA_DIR}."
        )
    return path


def upload_path(filename: str, directory: str = "") -> str:
    """Where an upload goes: clients send a bare name, a relative path or one that begins with `/mnt/data/`.

    Raises:
        InvalidRequest: there is no name, or it leads out of `/mnt/data`.
    """
    path = session_path(directory, _below(filename))
    if path == session_path(directory):
        raise InvalidRequest(f"The file name {filename!r:.200} is not valid: it names no file.")
    return path


def _below(path: str) -> str:
    return path.removeprefix(DATA_DIR) if path == DATA_DIR or path.startswith(f"{DATA_DIR}/") else path


def content_type(name: str, *, is_directory: bool = False) -> str:
    """The type of a file by its name, as Azure writes it."""
    kind = None if is_directory else _MIME_TYPES.guess_type(name, strict=False)[0]
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def multipart_frame(filename: str, boundary: str) -> tuple[bytes, bytes]:
    """What stands before and after the content in the body of an upload with one part, `file`.

    Raises:
        InvalidRequest: the name has control characters, which no header can hold, or is no UTF-8.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in filename):
        raise InvalidRequest(f"The file name {filename!r:.200} is not valid: it has control characters.")
    quoted = filename.replace("\\", "\\\\").replace('"', '\\"')
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    try:
        encoded = head.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"The file name {filename!r:.200} is not valid: it cannot be encoded as UTF-8.") from None
    return encoded, f"\r\n--{boundary}--\r\n".encode()


# Headers


def timings(*, duration: float, overall: float, allocation: float = 0.0, session_guid: str) -> dict[str, str]:
    """The response headers of an execution; arguments in seconds, headers in milliseconds.

    `overall` is the time from the request to its answer, `allocation` the wait for a sandbox.
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


# Values of JSON that may be anything


def mapping(value: Json) -> dict[str, Json]:
    """The value, an object.

    Raises:
        Malformed: it is something else.
    """
    if not isinstance(value, dict):
        raise Malformed(f"an object is missing; {type(value).__name__} is in its place")
    return cast("dict[str, Json]", value)


def fields_of(value: Json) -> dict[str, Json]:
    """The value, or an empty object in place of what is none."""
    return cast("dict[str, Json]", value) if isinstance(value, dict) else {}


def sequence(value: Json) -> Sequence[Json]:
    """The value, an array.

    Raises:
        Malformed: it is something else.
    """
    if not isinstance(value, list):
        raise Malformed(f"an array is missing; {type(value).__name__} is in its place")
    return cast("list[Json]", value)


def text(value: Json) -> str:
    """The value, or nothing in place of what is no text."""
    return value if isinstance(value, str) else ""


def number(value: Json) -> float:
    """The value, or 0 in place of what is no usable number."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e18 else 0.0


def encode_time(moment: datetime) -> str:
    """As .NET writes it, in UTC: `2024-11-11T09:05:02.4865290Z`."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}0Z"


def decode_time(value: Json) -> datetime:
    """The moment, in UTC.

    Raises:
        Malformed: it is no time.
    """
    try:
        moment = datetime.fromisoformat(text(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Malformed(f"{value!r:.100} is no time") from None
