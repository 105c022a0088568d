"""The exceptions that Greenroom raises.

Errors in the user's code are data (an `Execution` with a status and an error), not exceptions. The hierarchy::

    GreenroomError
    ├── InvalidRequest          a value breaks a rule; also a ValueError
    ├── FileMissing             no such file in the session; also a FileNotFoundError
    ├── FileRefused             the session's file system refused: full, a directory, too large; also an OSError
    ├── EngineUnavailable       no engine on this machine can create a sandbox
    │   └── ImageMissing        Docker responds, but the image is missing
    ├── PoolFull                all sessions of the pool are taken, or memory is short
    ├── PoolClosed              the pool was closed
    ├── ForkFailed              a session could not be copied; no copy remains
    ├── SandboxLost             the sandbox ended or stopped responding; its session is gone
    ├── AccessDenied            Azure, or a server with its API, does not accept the credentials
    ├── ServiceFailed           Azure, or such a server, failed, is unreachable, or sent an unreadable response
    ├── RequestFailed           only from `Response.raise_for_status()`
    └── ExecutionFailed         only from `Execution.raise_for_error()`
        ├── ExecutionTimedOut
        └── ExecutionCancelled
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from greenroom.models import Execution


@dataclass(frozen=True, slots=True)
class AzureDetails:
    """Azure's own description of an error, for requests to its support and for searching its logs."""

    status: int
    """The status code of the HTTP response."""
    code: str
    message: str
    trace_id: str | None = None
    request_id: str | None = None


def in_units(size: int) -> str:
    """Return a number of bytes as people write it: `128 MiB`, or `1,000 bytes`."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift:,} {unit}"
    return f"{size:,} byte{'' if size == 1 else 's'}"


class GreenroomError(Exception):
    """The base class of Greenroom's exceptions.

    Attributes:
        azure: Azure's own description, if the error comes from Azure.
    """

    azure: AzureDetails | None = None


class InvalidRequest(GreenroomError, ValueError):
    """A value breaks a rule; the message names both, and nothing was done."""


class FileMissing(GreenroomError, FileNotFoundError):
    """The session has no such file."""


class FileRefused(GreenroomError, OSError):
    """The session's file system refused: it is full, the path is a directory, or the file exceeds the limit.

    Also raised if a download or a picture cannot be written to a local file, with the `errno` of that error.
    """

    @classmethod
    def too_large(cls, path: str, limit: int, *, option: str = "", size: int | None = None) -> Self:
        """Return the error for a file that exceeds a limit in bytes.

        Args:
            option: the option that sets the limit.
            size: the size of the file in bytes, if known.
        """
        file = "The file" if size is None else f"The file of {in_units(size)}"
        source = f" (the option {option})" if option else ""
        return cls(errno.EFBIG, f"{file} is over the limit of {in_units(limit)}{source}", path)


class EngineUnavailable(GreenroomError):
    """No sandbox can be created here; the message lists what was tried and what to install."""


class ImageMissing(EngineUnavailable):
    """Docker responds, but the image is missing or was built for another version of Greenroom."""


class PoolFull(GreenroomError):
    """All sessions of the pool are taken, or there is too little memory for another, and this did not change in time.

    Attributes:
        sessions: the maximum number of sessions; those that are starting or ending count.
        retry_after: seconds until the first of them cools down, if known.
        memory: whether the pool had room for the session, but the machine did not have enough memory.
    """

    def __init__(self, message: str, *, sessions: int, retry_after: float | None = None, memory: bool = False) -> None:
        super().__init__(message)
        self.sessions = sessions
        self.retry_after = retry_after
        self.memory = memory


class PoolClosed(GreenroomError):
    """The pool was closed."""


class ForkFailed(GreenroomError):
    """A session could not be copied: its variables and files are too large, or the copy took too long.

    No copy remains, and the session continues; the message says what happened.
    """


class SandboxLost(GreenroomError):
    """The sandbox ended or stopped responding: its session, variables and files are gone.

    The next use of the identifier starts a new, empty session. It is unknown whether the code finished, so it is never
    retried automatically.
    """


class AccessDenied(GreenroomError):
    """Azure, or a server with its API, does not accept the credentials; the message says what to do."""


class ServiceFailed(GreenroomError):
    """Azure, or a server with its API, failed, could not be reached, or sent an unreadable response.

    The message says whether the code may have run; such code is never retried automatically.
    """


class RequestFailed(GreenroomError):
    """A custom container responded with a status of 400 or higher, and the caller asked for an exception.

    Attributes:
        response: the response; a `StreamedResponse` can still be read while its context lasts.
    """

    def __init__(self, message: str, response: Any) -> None:
        super().__init__(message)
        self.response = response


class ExecutionFailed(GreenroomError):
    """The user's code failed, and the caller asked for an exception.

    Attributes:
        execution: the execution, with everything that it printed before it failed.
    """

    def __init__(self, execution: Execution) -> None:
        error = execution.error
        super().__init__(f"{error.name}: {error.value}" if error else execution.status)
        self.execution = execution


class ExecutionTimedOut(ExecutionFailed):
    """The user's code exceeded its time limit."""


class ExecutionCancelled(ExecutionFailed):
    """The execution was cancelled."""
