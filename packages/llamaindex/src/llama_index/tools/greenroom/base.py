"""The tool spec: what a model can do with a session, and which session a conversation has."""

# Without `from __future__ import annotations`: LlamaIndex knows the parameter for its context, which it hides
# from models, by the value of the annotation.

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated, Any, cast

from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.tools.tool_spec.base import SPEC_FUNCTION_TYPE, BaseToolSpec
from llama_index.core.workflow import Context
from workflows.errors import ContextStateError

from greenroom import (
    Execution,
    FileMissing,
    FileRefused,
    InvalidRequest,
    RemoteFile,
    Session,
    SessionPool,
    StreamText,
)
from greenroom.modelcode import strip_fence
from greenroom.modeltext import shorten
from llama_index.tools.greenroom.memory import keep_figures
from llama_index.tools.greenroom.results import (
    CodeOutput,
    Download,
    GreenroomTool,
    ModelBlocks,
    image_blocks,
)
from llama_index.tools.greenroom.sessions import SessionSource

_READ_LIMIT = 1 << 20
_DOWNLOAD_LIMIT = 20 << 20  # it stays in memory with the workflow's events

_Code = Annotated[str, "Python code, as written in a cell of a notebook."]
_FilePath = Annotated[str, "A file in /mnt/data, such as report.csv."]
_LocalName = Annotated[str, "The file's name, such as sales.csv."]
_Ctx = Context[Any]
_NO_CTX = cast("Context[Any]", None)  # LlamaIndex does not know `Context | None`


class GreenroomToolSpec(SessionSource, BaseToolSpec):
    """Lets agents run Python in a session that lasts as long as the conversation, and use its files.

    With a pool, each conversation has a session of its own. The conversation is the workflow's `Context`:
    pass the same one to each run, `agent.run(user_msg=…, ctx=ctx)`. Outside of a workflow there is none, and
    the tools raise, as any guess could bring two users together. Give the spec a session there, which all
    who use it share, or `session_per_call`.

    What a model can mend, such as code that fails or a file that is not there, is an output with `is_error`.
    The rest, such as `PoolFull` or `EngineUnavailable`, is raised. LlamaIndex's agents tell that to the
    model, too; the application finds it as the output's `exception`.
    """

    spec_functions: list[SPEC_FUNCTION_TYPE]

    def __init__(
        self,
        pool: SessionPool | None = None,
        *,
        session: Session | None = None,
        session_per_call: bool = False,
        uploads: str | os.PathLike[str] | None = None,
        images: bool = True,
        budget: int = 8_000,
        timeout: float | None = None,
    ) -> None:
        """Give either `pool` or `session`.

        Args:
            pool: gives each conversation its session.
            session: serves all conversations.
            session_per_call: whether each call gets a new session of the pool, deleted after it. Then
                `run_python` is the only tool, as no file stays.
            uploads: a directory; a model may copy the files that lie directly in it into its session. Without
                one there is no tool `upload_file`.
            images: whether models are sent the figures; the text names them, and the application gets them,
                either way. ReActAgent, CodeActAgent and some integrations of models pass on the text alone.
            budget: the most characters that a model reads of one result.
            timeout: seconds that code may run; by default the pool's own limit.

        Raises:
            InvalidRequest: the options do not go together, or `uploads` is no directory.
        """
        super().__init__(pool, session, session_per_call)
        if session_per_call and uploads is not None:
            raise InvalidRequest("session_per_call=True goes without uploads: no file would stay.")
        if uploads is not None and not Path(uploads).is_dir():
            raise InvalidRequest(f"The uploads {os.fspath(uploads)!r} are not valid: they are no directory.")
        self._uploads = None if uploads is None else Path(uploads)
        self._images = images
        self._budget = budget
        self._timeout = timeout
        names = ["run_python"]
        if not session_per_call:
            names += ["list_files", "read_file", "download_file"]
        if uploads is not None:
            names += ["upload_file"]
        self.spec_functions = [(name, f"a{name}") for name in names]

    # For the application

    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """The tools for `FunctionAgent(tools=…)` and the others; the arguments are those of `BaseToolSpec`.

        The `raw_output` of each is a `ModelBlocks`, and `execution_of` finds the execution in an event.
        """
        given = func_to_metadata_mapping or {}
        return [
            GreenroomTool.from_defaults(
                getattr(self, name),
                async_fn=getattr(self, async_name, None),
                description=self._description(name),
                tool_metadata=given.get(name) or given.get(async_name),
            )
            for name, async_name in (
                names if isinstance(names, tuple) else (names, f"a{names}")
                for names in spec_functions or self.spec_functions
            )
        ]

    def _description(self, name: str) -> str:
        description = inspect.getdoc(getattr(self, name)) or ""
        if name != "run_python":
            return description
        if self._pool_per_call is None:
            return f"{description} Variables, imports and files are kept from call to call."
        return f"{description} Each call starts afresh: no variable, import or file is kept for the next."

    def to_code_execute_fn(self) -> Callable[..., Coroutine[Any, Any, ModelBlocks]]:
        """The function for `CodeActAgent(code_execute_fn=…)`."""
        return self.arun_python

    # For models: the docstrings of the blocking spellings are what they read

    def run_python(self, code: _Code, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Run Python code in an isolated sandbox, as a cell of a notebook.

        You get back what the code prints, the value of its last expression, its figures, and its error if it
        fails. Keep files in /mnt/data. There may be no network.
        """
        if self._pool_per_call is None:
            return self._run(self.session_for(ctx), code)
        with self._pool_per_call.session() as session:
            return self._run(session, code)

    async def arun_python(self, code: _Code, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `run_python`, with a `CodeOutput` on the workflow's event stream for each piece of output.

        Cancelling it interrupts the code in the sandbox.
        """
        if self._pool_per_call is None:
            return await self._arun(await self.asession_for(ctx), code, ctx)
        async with self._pool_per_call.session() as session:
            return await self._arun(session, code, ctx)

    def list_files(self, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """List the files in /mnt/data, with their sizes."""
        return self._list(self.session_for(ctx).files(recursive=True))

    async def alist_files(self, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `list_files`."""
        return self._list(await (await self.asession_for(ctx)).afiles(recursive=True))

    def read_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Read a text file. Of a long one the middle is left out: use Python for that."""
        session = self.session_for(ctx)
        file = _within(_READ_LIMIT, session.file(path))
        return self._text(file, session.download(path))

    async def aread_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `read_file`."""
        session = await self.asession_for(ctx)
        file = _within(_READ_LIMIT, await session.afile(path))
        return self._text(file, await session.adownload(path))

    def download_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Hand a file to the user, such as a report or a chart that you have saved."""
        session = self.session_for(ctx)
        file = _within(_DOWNLOAD_LIMIT, session.file(path))
        return _handed_over(Download(file, session.download(path)))

    async def adownload_file(self, path: _FilePath, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `download_file`."""
        session = await self.asession_for(ctx)
        file = _within(_DOWNLOAD_LIMIT, await session.afile(path))
        return _handed_over(Download(file, await session.adownload(path)))

    def upload_file(self, name: _LocalName, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """Put a file that the user provided into /mnt/data."""
        return _put(self.session_for(ctx).upload(self._provided(name), name))

    async def aupload_file(self, name: _LocalName, ctx: _Ctx = _NO_CTX) -> ModelBlocks:
        """As `upload_file`."""
        session = await self.asession_for(ctx)
        local = await asyncio.to_thread(self._provided, name)
        return _put(await session.aupload(local, name))

    # What both spellings have in common

    def _run(self, session: Session, code: str) -> ModelBlocks:
        return self._blocks(session.execute(strip_fence(code), timeout=self._timeout))

    async def _arun(self, session: Session, code: str, ctx: _Ctx | None) -> ModelBlocks:
        async with aclosing(session.astream(strip_fence(code), timeout=self._timeout)) as events:
            async for event in events:
                if isinstance(event, Execution):
                    blocks = self._blocks(event)
                    if ctx is not None and len(blocks) > 1:
                        await keep_figures(ctx)
                    return blocks
                if isinstance(event, StreamText) and ctx is not None:
                    with suppress(ContextStateError):  # outside of a run there is no stream of events
                        ctx.write_event_to_stream(CodeOutput(stream=event.stream, text=event.text))
        raise AssertionError("a stream ends with its execution")

    def _blocks(self, execution: Execution) -> ModelBlocks:
        images = image_blocks(execution) if self._images else ()
        return ModelBlocks(execution.text_for_model(self._budget), execution, images)

    def _list(self, found: list[RemoteFile]) -> ModelBlocks:
        files = [file for file in found if not file.is_directory]
        text = "\n".join(map(_line, files)) or "There are no files."
        return ModelBlocks(shorten(text, self._budget), files)

    def _text(self, file: RemoteFile, content: bytes) -> ModelBlocks:
        try:
            text = content.decode() or "The file is empty."
        except UnicodeDecodeError:
            raise FileRefused(f"{_line(file)} is not a text file in UTF-8. Read it with Python.") from None
        return ModelBlocks(shorten(text, self._budget), file)

    def _provided(self, name: str) -> Path:
        # A model's name is looked up here and never becomes a path, so none leads out of the directory.
        files = {file.name: file for file in _files(self._uploads)}
        if name not in files:
            names = ", ".join(sorted(files)) or "none"
            message = f"The user has provided no file {name!r:.200}. There are: {names}."
            raise FileMissing(shorten(message, self._budget))
        return files[name]


def _files(directory: Path | None) -> list[Path]:
    paths = [] if directory is None else list(directory.iterdir())
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _within(limit: int, file: RemoteFile) -> RemoteFile:
    if file.size > limit:
        raise FileRefused(f"{_line(file)} is over the limit of {limit} bytes. Use a part of it, with Python.")
    return file


def _handed_over(download: Download) -> ModelBlocks:
    return ModelBlocks(f"The user has {_line(download.file)}.", download)


def _put(file: RemoteFile) -> ModelBlocks:
    return ModelBlocks(f"The file is at {_line(file)}.", file)


def _line(file: RemoteFile) -> str:
    return f"{file.path} ({file.size} bytes)"
