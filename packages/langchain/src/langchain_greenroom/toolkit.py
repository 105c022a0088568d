"""All tools of a session."""

from typing import Any

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import DirectoryPath, Field

from langchain_greenroom.background import LookTool, ResetTool, StartTool, StopTool
from langchain_greenroom.files import DownloadFileTool, ListFilesTool, ReadFileTool, UploadFileTool
from langchain_greenroom.sessions import SessionSource
from langchain_greenroom.tool import GreenroomTool, OnOutput


class GreenroomToolkit(SessionSource, BaseToolkit):
    """The tool that runs code, and the tools for the files of its session."""

    uploads: DirectoryPath | None = None
    """A directory whose files the model may copy into its session; without it there is no tool for that."""
    background: bool = False
    """Whether the model can start code, look at it while it runs, and stop it."""
    reset: bool = False
    """Whether the model can reset the session, which deletes its variables and files."""
    timeout: float | None = None
    """As in `GreenroomTool`, like the next three fields."""
    budget: int = 8_000
    images: bool = False
    on_output: OnOutput | None = Field(default=None, exclude=True, repr=False)

    def get_tools(self) -> list[BaseTool]:
        """Return `run_python`, `list_files`, `read_file`, `download_file`, and with `uploads` also `upload_file`.

        With `background` there are `start_execution`, `look_at_execution` and `stop_execution`, too, and with `reset`
        `reset_session`.

        The first is `run_javascript` or `run_shell` where the container type is NodeLTS or Shell. With
        `session_per_call` there is no other, as files are not kept.
        """
        source: dict[str, Any] = {"pool": self.pool, "session": self.session}
        code: dict[str, Any] = {"session_per_call": self.session_per_call, "timeout": self.timeout}
        tools: list[BaseTool] = [
            GreenroomTool(**source, **code, budget=self.budget, images=self.images, on_output=self.on_output),
            ListFilesTool(**source, budget=self.budget),
            ReadFileTool(**source, budget=self.budget),
            DownloadFileTool(**source),
            StartTool(**source, background=True, timeout=self.timeout),
            LookTool(**source, background=True, budget=self.budget, images=self.images),
            StopTool(**source, background=True, budget=self.budget, images=self.images),
            ResetTool(**source, reset=True),
        ]
        if self.uploads is not None:
            tools.append(UploadFileTool(**source, uploads=self.uploads, budget=self.budget))
        return [tool for tool in tools if tool.name in self._toolset.names]
