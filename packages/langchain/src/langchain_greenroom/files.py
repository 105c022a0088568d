"""The tools for a session's files."""

import base64
import mimetypes
from typing import Any, BinaryIO

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema, ToolException
from pydantic import BaseModel, DirectoryPath, Field

from greenroom import RemoteFile
from greenroom.modeltext import shorten
from langchain_greenroom.sessions import SessionTool, errors_for_the_model

_HOME = "/mnt/data"


class DirectoryInput(BaseModel):
    """What the model passes."""

    directory: str = Field(default=_HOME, description="A directory in /mnt/data.")


class FileInput(BaseModel):
    """What the model passes."""

    path: str = Field(description="A file in /mnt/data, such as report.csv or /mnt/data/report.csv.")


class UploadInput(BaseModel):
    """What the model passes."""

    name: str = Field(description="The name of the file, such as sales.csv.")


class ListFilesTool(SessionTool):
    """Lists a directory of the session; its artifact is the list of `greenroom.RemoteFile`."""

    name: str = "list_files"
    description: str = "List the files in the sandbox where your Python code runs, with their sizes."
    args_schema: ArgsSchema | None = DirectoryInput

    budget: int = 8_000
    """Characters of the list that the model reads, at most."""

    def _run(self, directory: str = _HOME, *, config: RunnableConfig) -> tuple[str, list[RemoteFile]]:
        session = self.session_for(config)
        with errors_for_the_model():
            return self._answer(session.files(directory))

    async def _arun(self, directory: str = _HOME, *, config: RunnableConfig) -> tuple[str, list[RemoteFile]]:
        session = self.session_for(config)
        with errors_for_the_model():
            return self._answer(await session.afiles(directory))

    def _answer(self, files: list[RemoteFile]) -> tuple[str, list[RemoteFile]]:
        lines = [f"{file.path}/" if file.is_directory else f"{file.path} ({file.size} bytes)" for file in files]
        return shorten("\n".join(lines), self.budget) or "There are no files.", files


class ReadFileTool(SessionTool):
    """Reads a text file of the session; its artifact is the `greenroom.RemoteFile`."""

    name: str = "read_file"
    description: str = "Read a text file of the sandbox. If it is long, its middle is left out."
    args_schema: ArgsSchema | None = FileInput

    budget: int = 8_000
    """Characters of the file that the model reads, at most."""
    limit: int = 1 << 20
    """Bytes that the file may have."""

    def _run(self, path: str, config: RunnableConfig) -> tuple[str, RemoteFile]:
        session = self.session_for(config)
        with errors_for_the_model():
            file = _check_size(session.file(path), self.limit)
            return self._answer(file, session.download(path))

    async def _arun(self, path: str, config: RunnableConfig) -> tuple[str, RemoteFile]:
        session = self.session_for(config)
        with errors_for_the_model():
            file = _check_size(await session.afile(path), self.limit)
            return self._answer(file, await session.adownload(path))

    def _answer(self, file: RemoteFile, content: bytes) -> tuple[str, RemoteFile]:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise ToolException(f"{file.path} is not a text file in UTF-8. Read it with Python.") from None
        return shorten(text, self.budget) or "The file is empty.", file


class DownloadFileTool(SessionTool):
    """Takes a file out of the session; its artifact is a standard file block: base64 with its mime type."""

    name: str = "download_file"
    description: str = "Hand a file of the sandbox to the user, such as a report that your code has written."
    args_schema: ArgsSchema | None = FileInput

    limit: int = 20 << 20
    """Bytes that the file may have: it travels with the messages. `Session.download` has no such limit."""

    def _run(self, path: str, config: RunnableConfig) -> tuple[str, dict[str, Any]]:
        session = self.session_for(config)
        with errors_for_the_model():
            file = _check_size(session.file(path), self.limit)
            return self._answer(file, session.download(path))

    async def _arun(self, path: str, config: RunnableConfig) -> tuple[str, dict[str, Any]]:
        session = self.session_for(config)
        with errors_for_the_model():
            file = _check_size(await session.afile(path), self.limit)
            return self._answer(file, await session.adownload(path))

    def _answer(self, file: RemoteFile, content: bytes) -> tuple[str, dict[str, Any]]:
        block = {
            "type": "file",
            "base64": base64.b64encode(content).decode(),
            "mime_type": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
            "extras": {"filename": file.name},
        }
        return f"The user now has {file.path} ({len(content)} bytes).", block


class UploadFileTool(SessionTool):
    """Puts a file of the application into the session; its artifact is the `greenroom.RemoteFile`.

    The model names a regular file in one directory; no other local file is within its reach.
    """

    name: str = "upload_file"
    description: str = "Put a file that the user has provided into the sandbox, to work on it with Python."
    args_schema: ArgsSchema | None = UploadInput

    uploads: DirectoryPath = Field(exclude=True, repr=False)
    """The application's directory."""

    def _run(self, name: str, config: RunnableConfig) -> tuple[str, RemoteFile]:
        session = self.session_for(config)
        with self._open(name) as local, errors_for_the_model():
            return self._answer(session.upload(local, name))

    async def _arun(self, name: str, config: RunnableConfig) -> tuple[str, RemoteFile]:
        session = self.session_for(config)
        with self._open(name) as local, errors_for_the_model():
            return self._answer(await session.aupload(local, name))

    def _open(self, name: str) -> BinaryIO:
        # The name is looked up, never joined to a path.
        files = {file.name: file for file in self.uploads.iterdir() if file.is_file() and not file.is_symlink()}
        if name not in files:
            available = shorten(", ".join(sorted(files)), 2_000) or "none"
            raise ToolException(f"The user has provided no file {name!r:.200}. Available: {available}.")
        return files[name].open("rb")

    def _answer(self, file: RemoteFile) -> tuple[str, RemoteFile]:
        return f"The file is at {file.path} ({file.size} bytes).", file


def _check_size(file: RemoteFile, limit: int) -> RemoteFile:
    if file.size > limit:
        raise ToolException(
            f"{file.path} has {file.size} bytes, and this tool takes {limit} at most. Make a smaller file."
        )
    return file
