"""The exceptions that Greenroom raises.

An error of the user's code is data (an `Execution` with a status and an error); these are ours::

    GreenroomError
    ├── InvalidRequest          a value breaks a rule; also a ValueError
    ├── FileMissing             no such file in the session; also a FileNotFoundError
    ├── FileRefused             the session's file system refused: full, a directory, too large; also an OSError
    ├── EngineUnavailable       nothing on this machine can make a sandbox
    │   └── ImageMissing        Docker answers, but the image is not there
    ├── PoolFull                every session of the pool is taken
    ├── PoolClosed              the pool was closed
    ├── ForkFailed              a session could not be copied; no copy was left
    ├── SandboxLost             the sandbox ended or stopped answering; its session is gone
    ├── AccessDenied            Azure, or a server that speaks its API, does not accept the credentials
    ├── ServiceFailed           it failed, could not be reached, or sent an unreadable response
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
    """Azure's own description of an error, for its support and its logs."""

    status: int
    """Of HTTP."""
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
    """The session's file system refused: it is full, the path is a directory, the file is over the limit.

    Also raised for the local file system, where a download or a picture is written to a file, with that error's
    `errno`.
    """

    @classmethod
    def too_large(cls, path: str, limit: int, *, option: str = "", size: int | None = None) -> Self:
        """Return the error of a file over a limit in bytes; `option` sets the limit, `size` is the file's."""
        file = "The file" if size is None else f"The file of {in_units(size)}"
        source = f" (the option {option})" if option else ""
        return cls(errno.EFBIG, f"{file} is over the limit of {in_units(limit)}{source}", path)


class EngineUnavailable(GreenroomError):
    """No sandbox can be made here; the message lists what was tried and what to install."""


class ImageMissing(EngineUnavailable):
    """Docker answers, but the image is missing or was built for another version of Greenroom."""


class PoolFull(GreenroomError):
    """Every session of the pool is taken, or memory for another one is short, and that did not change in time.

    Attributes:
        sessions: how many sessions the pool can hold; those that start or end take their places too.
        retry_after: seconds until the first of them cools down, if that is known.
        memory: whether memory was short, while the pool had places.
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

    No copy was left, and the session goes on; the message says what happened.
    """


class SandboxLost(GreenroomError):
    """The sandbox ended or stopped answering: its session, variables and files are gone.

    The same identifier works again, with a new and empty session. Whether the code ran to its end is
    unknown, so it is never retried automatically.
    """


class AccessDenied(GreenroomError):
    """Azure, or a server that speaks its API, does not accept the credentials; the message says what to do."""


class ServiceFailed(GreenroomError):
    """Azure, or a server that speaks its API, failed, could not be reached, or sent an unreadable response.

    The message says whether code may have run; it is never retried automatically.
    """


class RequestFailed(GreenroomError):
    """A custom container answered with a status of 400 or more, and the caller asked for an exception.

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
