"""An execution as JSON."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

import greenroom


class Failure(BaseModel):
    """Why the code did not succeed."""

    name: str
    message: str
    summary: str
    """A short traceback with the user's own lines."""


class Figure(BaseModel):
    """A picture that the code showed."""

    name: str
    mime: str
    base64: str


class File(BaseModel):
    """A file of the session."""

    name: str
    size: int
    """In bytes."""
    modified: datetime

    @classmethod
    def of(cls, file: greenroom.RemoteFile) -> File:
        return cls(name=file.name, size=file.size, modified=file.modified)


class Outcome(BaseModel):
    """The outcome of the code, which can be an error."""

    status: Literal["succeeded", "failed", "timed_out", "cancelled"]
    stdout: str
    stderr: str
    result: str | None
    """The value of the last expression."""
    error: Failure | None
    figures: list[Figure]
    files: list[File]
    """New and changed files."""
    seconds: float
    left_out: int
    """Bytes of output over the limit."""
    began_again: Literal["cooled_down", "lost", "limit_reached"] | None
    """Why the session is new, without the earlier variables and files."""
    variables_lost: bool
    """Whether Python had to start again; files are kept."""

    @classmethod
    def of(cls, execution: greenroom.Execution) -> Outcome:
        error = execution.error
        return cls(
            status=execution.status,
            stdout=execution.stdout,
            stderr=execution.stderr,
            result=execution.result,
            error=None if error is None else Failure(name=error.name, message=error.value, summary=error.summary),
            figures=[
                Figure(name=image.name, mime=image.mime, base64=base64.b64encode(image.data).decode())
                for image in execution.images
            ],
            files=[File.of(file) for file in execution.files],
            seconds=execution.duration,
            left_out=execution.truncated,
            began_again=execution.session_restarted,
            variables_lost=execution.state_lost,
        )
