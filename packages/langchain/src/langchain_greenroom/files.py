"""The tools for a session's files."""

import base64
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema
from pydantic import BaseModel, DirectoryPath, Field

from greenroom import RemoteFile, adapters
from greenroom.adapters import Download, ToolAnswer
from langchain_greenroom.sessions import Budget, SessionTool


class DirectoryInput(BaseModel):
    """What the model passes."""

    directory: str = Field(default=adapters.DATA_DIR, description=adapters.DIRECTORY)


class FileInput(BaseModel):
    """What the model passes."""

    path: str = Field(description=adapters.PATH)


class UploadInput(BaseModel):
    """What the model passes."""

    name: str = Field(description=adapters.NAME)


class ListFilesTool(SessionTool):
    """Lists the files of the session; its artifact is the list of `greenroom.RemoteFile`."""

    name: str = "list_files"
    description: str = adapters.TOOLS["list_files"]
    args_schema: ArgsSchema | None = DirectoryInput

    budget: Budget = 8_000
    """Characters of the list that the model reads, at most."""

    def _run(self, directory: str = adapters.DATA_DIR, *, config: RunnableConfig) -> ToolAnswer[list[RemoteFile]]:
        with self._working_in(config) as session:
            return adapters.list_files(session, directory, budget=self.budget)

    async def _arun(
        self, directory: str = adapters.DATA_DIR, *, config: RunnableConfig
    ) -> ToolAnswer[list[RemoteFile]]:
        with self._working_in(config) as session:
            return await adapters.alist_files(session, directory, budget=self.budget)


class ReadFileTool(SessionTool):
    """Reads a text file of the session; its artifact is the `greenroom.RemoteFile`."""

    name: str = "read_file"
    description: str = adapters.TOOLS["read_file"]
    args_schema: ArgsSchema | None = FileInput

    budget: Budget = 8_000
    """Characters of the file that the model reads, at most."""
    limit: int = adapters.READ_LIMIT
    """Bytes that the file may have."""

    def _run(self, path: str, config: RunnableConfig) -> ToolAnswer[RemoteFile]:
        with self._working_in(config) as session:
            return adapters.read_file(session, path, budget=self.budget, limit=self.limit)

    async def _arun(self, path: str, config: RunnableConfig) -> ToolAnswer[RemoteFile]:
        with self._working_in(config) as session:
            return await adapters.aread_file(session, path, budget=self.budget, limit=self.limit)


class DownloadFileTool(SessionTool):
    """Takes a file out of the session; its artifact is a standard file block: base64 with its mime type."""

    name: str = "download_file"
    description: str = adapters.TOOLS["download_file"]
    args_schema: ArgsSchema | None = FileInput

    limit: int = adapters.DOWNLOAD_LIMIT
    """Bytes that the file may have: it travels with the messages. `Session.download` has no such limit."""

    def _run(self, path: str, config: RunnableConfig) -> tuple[str, dict[str, Any]]:
        with self._working_in(config) as session:
            return _with_block(adapters.download_file(session, path, limit=self.limit))

    async def _arun(self, path: str, config: RunnableConfig) -> tuple[str, dict[str, Any]]:
        with self._working_in(config) as session:
            return _with_block(await adapters.adownload_file(session, path, limit=self.limit))


class UploadFileTool(SessionTool):
    """Puts a file of the application into the session; its artifact is the `greenroom.RemoteFile`.

    The model names a regular file in one directory; no other local file is within its reach.
    """

    name: str = "upload_file"
    description: str = adapters.TOOLS["upload_file"]
    args_schema: ArgsSchema | None = UploadInput

    uploads: DirectoryPath = Field(exclude=True, repr=False)
    """The application's directory."""
    budget: Budget = 8_000
    """Characters that the model reads of the names in it, at most."""

    def _run(self, name: str, config: RunnableConfig) -> ToolAnswer[RemoteFile]:
        with self._working_in(config) as session:
            return adapters.upload_file(session, self.uploads, name, budget=self.budget)

    async def _arun(self, name: str, config: RunnableConfig) -> ToolAnswer[RemoteFile]:
        with self._working_in(config) as session:
            return await adapters.aupload_file(session, self.uploads, name, budget=self.budget)


def _with_block(answer: ToolAnswer[Download]) -> tuple[str, dict[str, Any]]:
    download = answer.artifact
    return answer.text, {
        "type": "file",
        "base64": base64.b64encode(download.data).decode(),
        "mime_type": download.mime,
        "extras": {"filename": download.file.name},
    }
