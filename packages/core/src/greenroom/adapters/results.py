"""What comes of a tool's call: an answer, or an error that its model can mend."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from greenroom.errors import FileMissing, FileRefused, GreenroomError, InvalidRequest, SandboxLost

T = TypeVar("T")


class ToolAnswer(NamedTuple, Generic[T]):
    """What the model reads of a call, and what the call was about."""

    text: str
    artifact: T
    """For the application."""


RETRYABLE: tuple[type[GreenroomError], ...] = (InvalidRequest, FileMissing, FileRefused, SandboxLost)
"""The errors whose message is a tool's result, marked as a failure; an adapter lets every other one through.

What belongs here is what the model can go on from: other arguments, another file. A lost sandbox does too. Where
an engine ends the whole sandbox for its memory, the model's code is what lost it; the next call finds a new and
empty session, and the message says so. To raise would end the agent's run for it, conversation and all, in a
framework that takes no exception for an answer. No code of a model's can mend a full pool or a missing engine.
"""
