"""A backend for Deep Agents: shell commands and files in a session. Needs the extra `deepagents`."""

from collections.abc import Callable
from pathlib import PurePosixPath
from shlex import quote
from typing import TypeVar
from uuid import uuid4

from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse, WriteResult
from deepagents.backends.sandbox import BaseSandbox
from langchain_core.runnables.config import ensure_config

from greenroom import Execution, FileMissing, FileRefused, InvalidRequest, Session, SessionPool
from greenroom.adapters import RETRYABLE
from langchain_greenroom.sessions import SessionSource

T = TypeVar("T")

_HOME = PurePosixPath("/mnt/data")
_TIMED_OUT = 124  # the exit code of timeout(1)
_NOT_RUN = 126  # the exit code of a shell
_IN_ORDER = "exec 2>&1; "  # one stream for both keeps the order of writing

# A session transfers files only to and from /mnt/data; these commands move a file on from there, or copy it there.
_PUT = "[ -d {path} ] && exit 45; mkdir -p {parent} && mv {staged} {path} || exit 46"
_GET = "[ -e {path} ] || exit 44; [ -d {path} ] && exit 45; cp {path} {staged} || exit 46"
_ERRORS = {44: "file_not_found", 45: "is_directory", 46: "permission_denied"}


class GreenroomSandbox(BaseSandbox):
    """Runs a deep agent's shell commands and keeps its files in the session of the conversation.

    With a `pool`, the `thread_id` in the agent's config determines the session; a `session` serves every call. The
    application gets or deletes a conversation's session with `sessions`.
    """

    def __init__(self, pool: SessionPool | None = None, *, session: Session | None = None) -> None:
        """Take either a pool or a session."""
        self.sessions = SessionSource(pool=pool, session=session)

    @property
    def id(self) -> str:
        """The session's identifier."""
        return self._session.identifier

    @property
    def _session(self) -> Session:
        return self.sessions.session_for(ensure_config())  # the config of the agent that is running

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command; its output is stdout and stderr, in the order of writing.

        Args:
            command: for bash, in `/mnt/data`.
            timeout: seconds until it is stopped; by default, and with 0, the pool's limit.

        Raises:
            GreenroomError: an error that another command cannot avoid, such as `PoolFull`.
        """
        session = self._session
        try:
            return _response(session.shell(_IN_ORDER + command, timeout=timeout or None))
        except RETRYABLE as error:
            return ExecuteResponse(str(error), _NOT_RUN)

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """As `execute`. Cancelling it stops the command."""
        session = self._session
        try:
            return _response(await session.ashell(_IN_ORDER + command, timeout=timeout or None))
        except RETRYABLE as error:
            return ExecuteResponse(str(error), _NOT_RUN)

    def write(self, file_path: str, content: str) -> WriteResult:
        """Write a text file. If files cannot be written at the path, the error says where they can."""
        return _with_place(super().write(file_path, content), file_path)

    async def awrite(self, file_path: str, content: str) -> WriteResult:
        """As `write`."""
        return _with_place(await super().awrite(file_path, content), file_path)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files anywhere in the sandbox; missing directories are created."""
        return [FileUploadResponse(path, _outcome(self._upload, path, content)[1]) for path, content in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files from anywhere in the sandbox."""
        return [FileDownloadResponse(path, *_outcome(self._download, path)) for path in paths]

    def _upload(self, path: str, content: bytes) -> None:
        session = self._session
        if PurePosixPath(path).is_relative_to(_HOME):
            session.upload(content, path)
            return
        staged = session.upload(content, f".{uuid4().hex}").path
        try:
            self._move(_PUT, path, staged)
        except BaseException:
            session.delete_file(staged)
            raise

    def _download(self, path: str) -> bytes:
        session = self._session
        if PurePosixPath(path).is_relative_to(_HOME):
            try:
                return session.download(path)
            except FileRefused as error:
                raise FileRefused("is_directory" if session.file(path).is_directory else str(error)) from error
        staged = str(_HOME / f".{uuid4().hex}")
        self._move(_GET, path, staged)
        try:
            return session.download(staged)
        finally:
            session.delete_file(staged)

    def _move(self, script: str, path: str, staged: str) -> None:
        parent = str(PurePosixPath(path).parent)
        response = self.execute(script.format(path=quote(path), parent=quote(parent), staged=quote(staged)))
        if response.exit_code:
            raise FileRefused(_ERRORS.get(response.exit_code, response.output))


def _response(execution: Execution) -> ExecuteResponse:
    truncated = execution.truncated > 0
    if execution.exit_code is not None:
        return ExecuteResponse(execution.stdout, execution.exit_code, truncated)
    exit_code = _TIMED_OUT if execution.status == "timed_out" else _NOT_RUN
    return ExecuteResponse(execution.text_for_model(), exit_code, truncated)


def _with_place(result: WriteResult, path: str) -> WriteResult:
    target = PurePosixPath(path)
    if result.error is None or target.is_relative_to(_HOME):
        return result
    *_, reason = result.error.splitlines() or [""]  # the last line of a traceback
    return WriteResult(error=f"{reason}. Files live in {_HOME}, such as {_HOME / target.name}.")


def _outcome(transfer: Callable[..., T], path: str, *content: bytes) -> tuple[T | None, str | None]:
    """Return the result of a transfer, with Deep Agents' error code if it failed."""
    if not path.startswith("/"):
        return None, "invalid_path"
    try:
        return transfer(path, *content), None
    except InvalidRequest:
        return None, "invalid_path"
    except FileMissing:
        return None, "file_not_found"
    except FileRefused as error:
        return None, str(error)
