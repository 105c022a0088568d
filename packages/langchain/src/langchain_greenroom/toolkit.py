"""All the tools of a session."""

from typing import Any, Self

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import DirectoryPath, PrivateAttr, model_validator

from greenroom import adapters
from langchain_greenroom.files import DownloadFileTool, ListFilesTool, ReadFileTool, UploadFileTool
from langchain_greenroom.sessions import Budget, SessionSource, Timeout
from langchain_greenroom.tool import GreenroomTool


class GreenroomToolkit(SessionSource, BaseToolkit):
    """The tool that runs Python, and those for the files of its session."""

    uploads: DirectoryPath | None = None
    """A directory whose files the model may put into its session; with none there is no tool for it."""
    timeout: Timeout = None
    """As in `GreenroomTool`, and so are the next two."""
    budget: Budget = 8_000
    images: bool = False

    _offered: tuple[str, ...] = PrivateAttr()

    @model_validator(mode="after")
    def _offer_what_can_work(self) -> Self:
        self._offered = adapters.offered_tools(session_per_call=self.session_per_call, uploads=self.uploads is not None)
        return self

    def get_tools(self) -> list[BaseTool]:
        """`run_python`, `list_files`, `read_file`, `download_file`, and with `uploads` `upload_file` too.

        With `session_per_call` there is only `run_python`, as no file stays.
        """
        source: dict[str, Any] = {"pool": self.pool, "session": self.session, "session_per_call": self.session_per_call}
        tools: list[BaseTool] = [
            GreenroomTool(**source, timeout=self.timeout, budget=self.budget, images=self.images),
            ListFilesTool(**source, budget=self.budget),
            ReadFileTool(**source, budget=self.budget),
            DownloadFileTool(**source),
        ]
        if self.uploads is not None:
            tools.append(UploadFileTool(**source, uploads=self.uploads, budget=self.budget))
        return [tool for tool in tools if tool.name in self._offered]
