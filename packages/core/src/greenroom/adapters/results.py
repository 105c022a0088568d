"""The result of a tool call: an answer, or an error after which the model can retry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from greenroom.adapters.downloads import Download
from greenroom.errors import FileMissing, FileRefused, GreenroomError, InvalidRequest, SandboxLost
from greenroom.models import Execution, Image, RemoteFile
from greenroom.sessions import ExecutionHandle

Artifact: TypeAlias = Execution | ExecutionHandle | Download | RemoteFile | list[RemoteFile] | GreenroomError | None
"""The result object of a call: the execution of the code tool, or its handle while it runs in the background; the
download of `download_file`; the files of the other tools; or the error, if the call had no result and the model can
retry."""

T_co = TypeVar("T_co", bound=Artifact, covariant=True)


@dataclass(frozen=True, slots=True)
class ToolAnswer(Generic[T_co]):
    """The result of a call, for the model and for the application."""

    text: str
    """The text that the model reads."""
    artifact: T_co
    """The object for the application."""
    figures: tuple[Image, ...] = ()
    """The pictures to send to the model."""

    @property
    def failed(self) -> bool:
        """Whether the framework should mark the result as a failure."""
        if isinstance(self.artifact, Execution):
            return not self.artifact.succeeded
        return isinstance(self.artifact, GreenroomError)


RETRYABLE: tuple[type[GreenroomError], ...] = (InvalidRequest, FileMissing, FileRefused, SandboxLost)
"""The errors that a model can recover from with other arguments or another file; all others are raised. These include a
lost sandbox: if an engine ends the whole sandbox because it ran out of memory, the model's code caused that, and the
next call gets a new, empty session, as the message says. Raising the error would end the agent's run and lose the
conversation in a framework that does not turn exceptions into results. No code can fix a full pool or a missing engine.
"""
