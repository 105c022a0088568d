"""The outcomes of executions, and their JSON for the state file."""

from __future__ import annotations

from dataclasses import dataclass

from greenroom.azure.codecs.shared import ExecuteRequest
from greenroom.errors import GreenroomError, SandboxLost
from greenroom.models import Execution
from greenroom.wire.problems import decode_error, encode_error
from greenroom.wire.values import decode, dump, encode, parse

_MOST = 1 << 30
"""The maximum memory of a stored value in bytes; the server wrote it itself."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended."""

    execution: Execution
    exit_code: int | None = None
    """The exit code of a shell command; `None` for code."""


INTERRUPTED = SandboxLost(
    "The server ended while the execution was running, and the session ended with it. Whether the code completed is "
    "unknown."
)
"""The outcome of an execution that was running when its server was killed."""


def encode_end(end: Outcome | GreenroomError) -> bytes:
    """Return the outcome of an execution as JSON."""
    if isinstance(end, GreenroomError):
        return dump({"error": encode_error(end)})
    return dump(encode(end))


def decode_end(content: bytes) -> Outcome | GreenroomError:
    """Return the outcome of an execution; the inverse of `encode_end`.

    Raises:
        WireError: it has another form, for example after an upgrade.
    """
    value, _ = parse(content, _MOST)
    return decode_error(value["error"]) if "error" in value else decode(Outcome, value)


def encode_request(request: ExecuteRequest, *, whole: bool) -> bytes:
    """Return a request as JSON, without its code; `whole` says whether the whole execution is kept."""
    return dump({"whole": whole, **encode(request)})


def decode_request(content: bytes) -> tuple[ExecuteRequest, bool]:
    """Return the arguments of `encode_request`.

    Raises:
        WireError: it has another form.
    """
    value, _ = parse(content, _MOST)
    return decode(ExecuteRequest, value), value.get("whole") is True
