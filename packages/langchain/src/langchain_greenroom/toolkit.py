"""All the tools of a session."""

from typing import Any

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import DirectoryPath

from langchain_greenroom.files import DownloadFileTool, ListFilesTool, ReadFileTool, UploadFileTool
from langchain_greenroom.sessions import SessionSource
from langchain_greenroom.tool import GreenroomTool


class GreenroomToolkit(SessionSource, BaseToolkit):
    """The tool that runs Python, and those for the files of its session."""

    uploads: DirectoryPath | None = None
    """A directory whose files the model may put into its session; with none there is no tool for it."""
    timeout: float | None = None
    """As in `GreenroomTool`, and so are the next two."""
    budget: int = 8_000
    images: bool = True

    def get_tools(self) -> list[BaseTool]:
        """`python`, `list_files`, `read_file`, `download_file`, and with `uploads` `upload_file` too."""
        source: dict[str, Any] = {"pool": self.pool, "session": self.session}
        tools: list[BaseTool] = [
            GreenroomTool(**source, timeout=self.timeout, budget=self.budget, images=self.images),
            ListFilesTool(**source, budget=self.budget),
            ReadFileTool(**source, budget=self.budget),
            DownloadFileTool(**source),
        ]
        if self.uploads is not None:
            tools.append(UploadFileTool(**source, uploads=self.uploads))
        return tools
