"""The driver through which the suite uses an adapter as its framework does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from greenroom.models import Execution
from greenroom.sessions import Session


@dataclass(frozen=True)
class ToolDescription:
    """The description of a tool, as a model reads it."""

    text: str
    parameters: Mapping[str, Mapping[str, Any]]
    """The JSON schema of each parameter, by name."""


@dataclass(frozen=True)
class ToolResult:
    """The result of a call, extracted from the framework's form."""

    text: str
    """The whole text that the model reads."""
    failed: bool | None
    """Whether the framework's result is marked as a failure; `None` if the framework does not have such a mark."""
    figures: tuple[tuple[str, bytes], ...] = ()
    """The pictures that the model sees: mime types and contents."""
    execution: Execution | None = None
    """The execution that the application gets from the tool that runs code."""
    download: tuple[str, bytes] | None = None
    """The file that the application gets from `download_file`: mime type and content."""


class AdapterDriver(ABC):
    """Uses the tools of an adapter as its framework does; a few lines for each framework."""

    shows_figures: ClassVar[bool] = True
    """Whether results of tools can contain pictures in this framework."""
    gives_each_call_a_session: ClassVar[bool] = False
    """Whether each call has its own session if the framework names neither a conversation nor a run."""
    makes_tool_spans: ClassVar[bool] = False
    """Whether the framework creates a span `execute_tool` for each call of a tool."""

    @abstractmethod
    def __init__(self, **options: Any) -> None:
        """Create the tools, with the options that all adapters have: `pool`, `session`, `session_per_call`,
        `uploads`, `timeout`, `budget` and `on_output`. Figures are sent to the model if the framework supports that."""

    @abstractmethod
    def tools(self) -> Mapping[str, ToolDescription]:
        """The descriptions of the tools, by name."""

    @abstractmethod
    async def call(self, conversation: str | None, tool: str, /, **arguments: str) -> ToolResult:
        """Call a tool from a conversation; `None` means a call that does not name its conversation.

        It raises the adapter's errors, without the framework's wrapping.
        """

    @abstractmethod
    def session(self, conversation: str) -> Session:
        """The session of a conversation, from the adapter's method for applications."""

    async def run(self, conversation: str | None, code: str) -> ToolResult:
        """Call `run_python`."""
        return await self.call(conversation, "run_python", code=code)
