"""The tools for a session's files."""

import base64
from typing import Any, ClassVar

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema
from pydantic import BaseModel, DirectoryPath, Field

from greenroom import adapters
from greenroom.adapters import Artifact, Download, ToolAnswer
from langchain_greenroom.sessions import SessionTool


class DirectoryInput(BaseModel):
    """The arguments of `list_files`."""

    directory: str = Field(default=adapters.DATA_DIR, description=adapters.DIRECTORY)


class FileInput(BaseModel):
    """The arguments of `read_file` and `download_file`."""

    path: str = Field(description=adapters.PATH)


class UploadInput(BaseModel):
    """The arguments of `upload_file`."""

    name: str = Field(description=adapters.NAME)


class ListFilesTool(SessionTool):
    """Lists the files of the session; its artifact is the list of `greenroom.RemoteFile`."""

    tool: ClassVar[str] = "list_files"
    name: str = "list_files"
    description: str = adapters.TOOLS["list_files"]
    args_schema: ArgsSchema | None = DirectoryInput

    budget: int = 8_000
    """The maximum number of characters of the list that the model reads."""

    def _run(self, directory: str = adapters.DATA_DIR, *, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(self._call(config, directory=directory))

    async def _arun(self, directory: str = adapters.DATA_DIR, *, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(await self._acall(config, directory=directory))


class ReadFileTool(SessionTool):
    """Reads a text file of the session; its artifact is the `greenroom.RemoteFile`."""

    tool: ClassVar[str] = "read_file"
    name: str = "read_file"
    description: str = adapters.TOOLS["read_file"]
    args_schema: ArgsSchema | None = FileInput

    budget: int = 8_000
    """The maximum number of characters of the file that the model reads."""
    read_limit: int = adapters.READ_LIMIT
    """The maximum size of the file in bytes."""

    def _run(self, path: str, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(self._call(config, path=path))

    async def _arun(self, path: str, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(await self._acall(config, path=path))


class DownloadFileTool(SessionTool):
    """Sends the user a file of the session; its artifact is a standard file block: base64 with its mime type."""

    tool: ClassVar[str] = "download_file"
    name: str = "download_file"
    description: str = adapters.TOOLS["download_file"]
    args_schema: ArgsSchema | None = FileInput

    download_limit: int = adapters.DOWNLOAD_LIMIT
    """The maximum size of the file in bytes, as messages carry it. `Session.download` has no such limit."""

    def _run(self, path: str, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(self._call(config, path=path))

    async def _arun(self, path: str, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(await self._acall(config, path=path))


class UploadFileTool(SessionTool):
    """Copies a file of the application into the session; its artifact is the `greenroom.RemoteFile`.

    The model names a regular file in one directory; it cannot reach any other local file.
    """

    tool: ClassVar[str] = "upload_file"
    name: str = "upload_file"
    description: str = adapters.TOOLS["upload_file"]
    args_schema: ArgsSchema | None = UploadInput

    uploads: DirectoryPath = Field(exclude=True, repr=False)
    """The application's directory."""
    budget: int = 8_000
    """The maximum number of characters of its file names that the model reads."""

    def _run(self, name: str, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(self._call(config, name=name))

    async def _arun(self, name: str, config: RunnableConfig) -> tuple[Any, Any]:
        return _content(await self._acall(config, name=name))


def _content(answer: ToolAnswer[Artifact]) -> tuple[str, Any]:
    """Return the text and the artifact, in the framework's form."""
    if not isinstance(answer.artifact, Download):
        return answer.text, answer.artifact
    download = answer.artifact
    return answer.text, {
        "type": "file",
        "base64": base64.b64encode(download.data).decode(),
        "mime_type": download.mime,
        "extras": {"filename": download.file.name},
    }
