"""Decode what a sandbox sends. All of it can be hostile: types are checked before use, sizes before parsing.

Pure functions, except `off_loop`; a violation of the protocol raises `FrameError`, which ends the sandbox.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from greenroom.errors import FileMissing, FileRefused, GreenroomError
from greenroom.models import DATA_DIR, ExecutionError, Output, RemoteFile
from greenroom.runner.json_weight import TooDeep, weigh_json
from greenroom.runner.protocol import ERROR_LIMITS, MAX_NAME, FrameError, output_cost

T = TypeVar("T")

_MAX_FILES = 20_000  # the runner does not list more
_MAX_WEIGHT = 64 << 20  # bytes of memory that a list of files, or the end of an execution, can take
_LARGE = 256 * 1024  # bytes of JSON above which another thread parses it
_MAX_EXIT_CODE = 255
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

_REASONS = {
    errno.ENOSPC: "the session's disk is full",
    errno.EDQUOT: "the session's disk is full",
    errno.EISDIR: "it is a directory",
    errno.ENOTEMPTY: "the directory is not empty",
    errno.ELOOP: "a symbolic link is in the way",
    errno.EINVAL: "it is not a regular file",
    errno.ENXIO: "it is not a regular file",
    errno.ENOTDIR: "a file or a symbolic link is in the way",
    errno.ENAMETOOLONG: "the name is too long",
    errno.E2BIG: "there are too many files to list",
}


def text(value: object, limit: int) -> str:
    return value[:limit].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


async def off_loop(body: bytes, work: Callable[[], T]) -> T:
    """The result of work on a body; done in another thread if it could delay other sessions."""
    return work() if len(body) < _LARGE else await asyncio.to_thread(work)


def output_weight(body: bytes, left: int) -> int:
    try:
        return output_cost(body, left)
    except TooDeep as error:
        raise FrameError(str(error)) from error


def parse_json(body: bytes, most: int) -> object:
    """Parsed JSON, without lone surrogates, which cannot be encoded.

    Raises:
        FrameError: it is not JSON, has more than `most` bytes, or takes too much memory.
    """
    try:
        if len(body) > most or weigh_json(body, _MAX_WEIGHT) > _MAX_WEIGHT:
            raise FrameError("a frame's body is too large")
    except TooDeep as error:
        raise FrameError(str(error)) from error
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():
            content = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame's body is not JSON") from error
    return content


def mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FrameError("a value that must be an object is not one")
    return cast("dict[str, Any]", value)  # JSON has no other keys


def number(mapping: dict[str, Any], key: str) -> float:
    value = mapping.get(key)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e20 else 0.0


def decode_output(header: dict[str, Any], body: bytes) -> Output:
    fields = mapping(parse_json(body, len(body)))
    data, metadata = mapping(fields.get("data")), mapping(fields.get("metadata"))
    display_id = header.get("display_id")
    return Output(
        data,
        metadata,
        is_result=header.get("result") is True,
        display_id=text(display_id, MAX_NAME) if isinstance(display_id, str) else None,
    )


def decode_shown_error(fields: object) -> ExecutionError:
    """An error as the code shows it."""
    error = mapping(fields)
    parts = {name: _ANSI.sub("", text(error.get(name), limit)) for name, limit in ERROR_LIMITS.items()}
    return ExecutionError(**{**parts, "name": parts["name"] or "Exception"})


def decode_error(header: dict[str, Any], fields: dict[str, Any]) -> ExecutionError | None:
    """The error of code that ended by itself."""
    if "crash" in header:
        crash = mapping(header["crash"])
        code = crash.get("code")
        code = code if isinstance(code, int) else 0
        if crash.get("oom") is True:
            return ExecutionError("MemoryError", "The code exceeded the session's memory limit and was killed.")
        how = f"was killed by signal {-code} ({_signal_name(-code)})" if code < 0 else f"exited with code {code}"
        return ExecutionError("WorkerCrashed", f"The process that ran the code {how}.")
    return None if fields.get("error") is None else decode_shown_error(fields["error"])


def decode_timeout(header: dict[str, Any], fields: dict[str, Any], timeout: float) -> ExecutionError:
    """The error of code that was stopped at its time limit."""
    how = "killed, because it did not respond to the interrupt" if "crash" in header else "interrupted"
    error = None if "crash" in header else decode_error(header, fields)
    return ExecutionError(
        "TimeoutError",
        f"The code ran for longer than {timeout:g} s and was {how}.",
        traceback=error.traceback if error else "",
        summary=error.summary if error else "",
    )


def decode_exit_code(header: dict[str, Any]) -> int:
    """The exit code of a shell command."""
    code = header.get("exit_code")
    if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= _MAX_EXIT_CODE:
        raise FrameError("a command ended without an exit code")
    return code


def decode_command_end(header: dict[str, Any], timeout: float | None) -> ExecutionError | None:
    """The error of a shell command; if a time limit is given, the command was stopped."""
    if timeout is not None:
        how = "killed, because it did not respond to SIGTERM" if header.get("killed") is True else "stopped"
        return ExecutionError("TimeoutError", f"The command ran for longer than {timeout:g} seconds and was {how}.")
    code = decode_exit_code(header)
    if code == 0:
        return None
    if header.get("oom") is True:
        reason = "The command exceeded the session's memory limit, and one of its processes was killed."
        return ExecutionError("MemoryError", reason)
    return ExecutionError("ExitCode", f"The command failed with exit code {code}.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def decode_file(entry: object) -> RemoteFile:
    fields = mapping(entry)
    path = text(fields.get("path"), 8192)
    if not path.startswith(f"{DATA_DIR}/") or ".." in path.split("/"):
        raise FrameError("a file's entry has no valid session path")
    seconds = min(number(fields, "modified") / 1e9, 253402300799)
    return RemoteFile(
        path=path,
        size=int(number(fields, "size")),
        modified=datetime.fromtimestamp(seconds, UTC),
        is_directory=fields.get("directory") is True,
    )


def decode_files(entries: object) -> list[RemoteFile]:
    if not isinstance(entries, list):
        raise FrameError("a list of files is not a list")
    if len(cast("list[object]", entries)) > _MAX_FILES:
        raise FrameError("a list of files is too long")
    return [decode_file(entry) for entry in cast("list[object]", entries)]


def file_error(code: object, path: str) -> GreenroomError:
    number = code if isinstance(code, int) and 0 < code < 4096 else errno.EIO
    if number == errno.ENOENT:
        return FileMissing(number, "The session has no such file", path)
    reason = _REASONS.get(number) or os.strerror(number).lower()
    return FileRefused(number, f"The session's file system refused the operation: {reason}", path)
