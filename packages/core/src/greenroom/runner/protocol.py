"""The protocol of a sandbox: its frames, its limits, and every message. `docs/runner-protocol.md` explains it.

Messages travel on two links. On the host link, the host sends orders to the supervisor, which sends events back; on the
worker link, the supervisor sends orders to the worker, which sends events back. An order's header has an `op`, an
event's an `ev`. Each of the four classes below lists the messages of one link in one direction: a function per message,
named after the message, creates its frame.

A frame on the wire is the header's length and the body's length (two 32-bit unsigned integers, big-endian), the header
(a JSON object in UTF-8), and the body (raw bytes). Everything that comes from a sandbox is hostile: the host must check
every field of an event, and so must the supervisor with those of its worker.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from json import JSONEncoder, dumps, loads  # imported by name: code in a worker can replace them in their modules
from typing import Any, Literal, NamedTuple, cast

from .json_weight import weigh_json

VERSION = 5
"""The version of the host link; the supervisor's first event states it."""

MAX_HEADER = 64 << 10
"""Bytes of a header. It is parsed before anything is known about it, so anything that can be large is in the body."""

MAX_BODY = 64 << 20
"""Bytes of a body; the host accepts no more than the replies to its requests can have."""

MAX_LIST = 16 << 20
"""Bytes of a list of files."""

MAX_OUTPUTS = 10_000
"""Rich outputs and displayed errors per execution; the supervisor drops the rest."""

MAX_NAME = 200
"""Characters of a display's name."""

MAX_ENDING = 4 << 20
"""Bytes of the body at the end of an execution: its error and its new files."""

ERROR_LIMITS = {"name": 200, "value": 10_000, "traceback": 50_000, "summary": 10_000}
"""Characters of each part of an error; as JSON, a character takes up to 12 bytes."""

MAX_TOOLS = 1 << 20
"""Bytes of the description of an execution's tools."""

MAX_TOOL_NAME = 100
"""Characters of a tool's name."""

MAX_CALL = 1 << 31
"""The highest number of a call."""

MAX_REFUSAL = 64 << 10
"""Bytes of the error message of a failed call."""

_OUTPUT = 500  # bytes of memory that an output takes in addition to its content

MAX_PIECE = 1 << 20
"""Bytes per piece of a session copy."""

MAX_LEFT_OUT = 500
"""The most parts of a session that a copy lists as left out."""

_FOR_WORKER = ("id", "env", "tools", "call_limit", "call_bytes")  # fields of the host's order to execute

_COMPACT = JSONEncoder(separators=(",", ":")).encode
_LENGTHS = struct.Struct(">II")


class FrameError(Exception):
    """The received bytes violate the protocol."""


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    body: bytes = b""


class HostOrder:
    """Orders from the host to the supervisor. `number` identifies an execution or a request in the answers to it."""

    @staticmethod
    def execute(
        number: int,
        code: str,
        *,
        text_limit: int,
        output_limit: int,
        env: Mapping[str, str] | None = None,
        tools: bytes = b"",
        call_limit: int = 0,
        call_bytes: int = 0,
    ) -> Frame:
        """Run code. Answered by `text`, `output`, `error`, `clear` and `call`, and finally by `done`.

        With `tools`, a description of functions, the code can make up to `call_limit` calls, whose arguments can
        have up to `call_bytes` in total.
        """
        variables = _variables(env)
        header = {"op": "execute", "id": number, "text_limit": text_limit, "output_limit": output_limit}
        header |= {"env": len(variables), "tools": len(tools)}
        if tools:
            header |= {"call_limit": call_limit, "call_bytes": call_bytes}
        return Frame(header, variables + tools + code.encode())

    @staticmethod
    def answer(number: int, call: int, content: bytes, *, failed: bool) -> Frame:
        """Answer a call of an execution: with its result as JSON or, if it `failed`, with a message."""
        return Frame({"op": "answer", "id": number, "call": call, "failed": failed}, content)

    @staticmethod
    def environment(env: Mapping[str, str]) -> Frame:
        """Replace all of the session's environment variables. Not answered."""
        return Frame({"op": "environment"}, dumps(dict(env), ensure_ascii=False).encode())

    @staticmethod
    def shell(
        number: int,
        command: str | Sequence[str],
        *,
        stdin: bytes,
        text_limit: int,
        env: Mapping[str, str] | None = None,
    ) -> Frame:
        """Run a shell command, or a program with arguments. Answered by `text`, and finally by `done`."""
        argv = not isinstance(command, str)
        variables = _variables(env)
        header = {"op": "shell", "id": number, "text_limit": text_limit}
        header |= {"argv": argv, "env": len(variables), "stdin": len(stdin)}
        text = "\0".join(command) if argv else command
        return Frame(header, variables + text.encode() + stdin)

    @staticmethod
    def save(number: int, without: Sequence[str], *, text_limit: int, output_limit: int) -> Frame:
        """Serialize the session's files and variables for `take`, except for some. An execution, like `execute`."""
        header = {"op": "save", "id": number, "text_limit": text_limit, "output_limit": output_limit}
        return Frame(header, dumps(list(without)).encode())

    @staticmethod
    def take(number: int) -> Frame:
        """Take the next piece of a `save`. The reply's body has it; it is empty once the execution has ended."""
        return Frame({"op": "take", "id": number})

    @staticmethod
    def load(number: int, *, text_limit: int, output_limit: int) -> Frame:
        """Recreate files and variables from the pieces of `give`. An execution, like `execute`."""
        return Frame({"op": "load", "id": number, "text_limit": text_limit, "output_limit": output_limit})

    @staticmethod
    def give(number: int, piece: bytes) -> Frame:
        """Give the next piece to a `load`; an empty one is the end. Replied to when the worker takes it."""
        return Frame({"op": "give", "id": number}, piece)

    @staticmethod
    def interrupt(number: int, *, grace: float) -> Frame:
        """Interrupt an execution, and kill it if it is still running `grace` seconds later. Not answered itself."""
        return Frame({"op": "interrupt", "id": number, "grace": grace})

    @staticmethod
    def preload(modules: Sequence[str]) -> Frame:
        """Import those of the modules that are installed. Answered by `preloaded`."""
        return Frame({"op": "preload"}, dumps(modules).encode())

    @staticmethod
    def open(number: int, path: str, mode: Literal["r", "w"]) -> Frame:
        """Open a file to read it, or a new one to replace it. The reply has `file` and, for reading, `entry`."""
        return Frame({"op": "open", "id": number, "path": path, "mode": mode})

    @staticmethod
    def read(number: int, file: int, size: int) -> Frame:
        """Read the next bytes. The reply's body has up to `size` of them, none at the end of the file."""
        return Frame({"op": "read", "id": number, "file": file, "size": size})

    @staticmethod
    def write(number: int, file: int, data: bytes) -> Frame:
        """Write the next bytes."""
        return Frame({"op": "write", "id": number, "file": file}, data)

    @staticmethod
    def finish(number: int, file: int) -> Frame:
        """Give a written file its name. The reply has `entry`."""
        return Frame({"op": "finish", "id": number, "file": file})

    @staticmethod
    def close(number: int, file: int) -> Frame:
        """Close an open file; one that was written but not finished is deleted."""
        return Frame({"op": "close", "id": number, "file": file})

    @staticmethod
    def list(number: int, path: str, *, recursive: bool) -> Frame:
        """List a directory. The reply's body is a JSON array of entries."""
        return Frame({"op": "list", "id": number, "path": path, "recursive": recursive})

    @staticmethod
    def stat(number: int, path: str) -> Frame:
        """Look up one file. The reply has `entry`."""
        return Frame({"op": "stat", "id": number, "path": path})

    @staticmethod
    def delete(number: int, path: str) -> Frame:
        """Delete a file, a link or an empty directory."""
        return Frame({"op": "delete", "id": number, "path": path})


class HostEvent:
    """Events from the supervisor for the host. `number` is that of the order to which an event belongs."""

    @staticmethod
    def ready() -> Frame:
        """The first event: the supervisor accepts orders."""
        return Frame({"ev": "ready", "version": VERSION})

    @staticmethod
    def preloaded() -> Frame:
        """A `preload` is complete."""
        return Frame({"ev": "preloaded"})

    @staticmethod
    def text(number: int, stream: str, data: bytes) -> Frame:
        """Bytes that the code wrote to `stdout` or `stderr`."""
        return Frame({"ev": "text", "id": number, "stream": stream}, data)

    @staticmethod
    def output(number: int, content: bytes, *, result: bool, display_id: str | None, update: bool) -> Frame:
        """A rich output; `content` is a `bundle`."""
        header = {"ev": "output", "id": number, "result": result}
        return Frame(header | _display(display_id, update=update), content)

    @staticmethod
    def error(number: int, error: Mapping[str, str], *, ends: bool) -> Frame:
        """An error, at the point where the code shows it. If it `ends` the code, it is repeated with `done`."""
        return Frame({"ev": "error", "id": number, "ends": ends}, dumps(error).encode())

    @staticmethod
    def clear(number: int, *, wait: bool) -> Frame:
        """Discard the output so far: immediately, or if `wait`, when the next output arrives."""
        return Frame({"ev": "clear", "id": number, "wait": wait})

    @staticmethod
    def area(number: int, *, begins: bool) -> Frame:
        """Until the area ends, `clear` discards only output since its beginning."""
        return Frame({"ev": "area", "id": number, "begins": begins})

    @staticmethod
    def call(number: int, call: int, tool: str, arguments: bytes) -> Frame:
        """A call of one of the execution's tools; its arguments are a JSON object. Answered by `answer`."""
        return Frame({"ev": "call", "id": number, "call": call, "tool": tool}, arguments)

    @staticmethod
    def withdraw(number: int, call: int) -> Frame:
        """The code no longer waits for the answer to a call."""
        return Frame({"ev": "withdraw", "id": number, "call": call})

    @staticmethod
    def done(
        number: int,
        *,
        duration: float,
        truncated: int = 0,
        state_lost: bool = False,
        crash: Mapping[str, Any] | None = None,
        error: Mapping[str, str] | None = None,
        files: Sequence[Mapping[str, Any]] = (),
        files_omitted: int = 0,
        exit_code: int | None = None,
        killed: bool = False,
        out_of_memory: bool = False,
    ) -> Frame:
        """The end of an execution: its last event, whatever ended it. The last three fields are for shell commands."""
        header: dict[str, Any] = {
            "ev": "done",
            "id": number,
            "duration": duration,
            "truncated": truncated,
            "state_lost": state_lost,
            "files_omitted": files_omitted,
        }
        if crash is not None:
            header["crash"] = crash
        if exit_code is not None:
            header |= {"exit_code": exit_code, "killed": killed, "oom": out_of_memory}
        return Frame(header, dumps({"error": error, "files": files}).encode())

    @staticmethod
    def reply(
        number: int,
        body: bytes = b"",
        *,
        file: int | None = None,
        entry: Mapping[str, Any] | None = None,
        errno: int | None = None,
    ) -> Frame:
        """The answer to a request about files; `errno` means that it was refused, and why."""
        fields = {"file": file, "entry": entry, "errno": errno}
        header = {"ev": "reply", "id": number}
        return Frame(header | {name: value for name, value in fields.items() if value is not None}, body)


class WorkerOrder:
    """Orders from the supervisor to the worker, one at a time except `answer`. The bodies are those of the host's."""

    @staticmethod
    def execute(order: Mapping[str, Any], body: bytes) -> Frame:
        """Run the code after the variables and tools. Answered by `began`, then the code's output, and `done`."""
        fields = {"env": 0, "tools": 0} | {name: order[name] for name in _FOR_WORKER if name in order}
        return Frame({"op": "execute", **fields}, body)

    @staticmethod
    def answer(number: int, call: int, content: bytes, *, failed: bool) -> Frame:
        """Answer a call of the running execution."""
        return Frame({"op": "answer", "id": number, "call": call, "failed": failed}, content)

    @staticmethod
    def save(without: bytes) -> Frame:
        """Save the session, `piece` after `piece`. Answered by `began`, its result, and `done`."""
        return Frame({"op": "save"}, without)

    @staticmethod
    def load() -> Frame:
        """Load a session. Answered by `began`, any number of `more`, its result, and `done`."""
        return Frame({"op": "load"})

    @staticmethod
    def piece(content: bytes) -> Frame:
        """The next piece of the session to load, after a `more`."""
        return Frame({"op": "piece"}, content)

    @staticmethod
    def environment(env: bytes) -> Frame:
        """Replace all of the session's environment variables. Not answered."""
        return Frame({"op": "environment"}, env)

    @staticmethod
    def preload(modules: bytes) -> Frame:
        """Import those of the modules that are installed. Answered by `preloaded`."""
        return Frame({"op": "preload"}, modules)


class WorkerEvent:
    """Events from the worker for the supervisor. Each event with output is acknowledged with one byte."""

    @staticmethod
    def ready() -> Frame:
        """The first event: the worker accepts orders."""
        return Frame({"ev": "ready"})

    @staticmethod
    def preloaded() -> Frame:
        """A `preload` is complete."""
        return Frame({"ev": "preloaded"})

    @staticmethod
    def began() -> Frame:
        """From here on, SIGINT interrupts the code. Not needed if no SIGINT was ignored since the last code's end."""
        return Frame({"ev": "began"})

    @staticmethod
    def output(
        content: bytes, *, result: bool, display_id: str | None = None, update: bool = False, last: bool = False
    ) -> Frame:
        """A rich output; `content` is a `bundle`. The `last` one is followed by `done`, and not acknowledged."""
        header = {"ev": "output", "result": result} | _display(display_id, update=update)
        return Frame(header | {"last": True} if last else header, content)

    @staticmethod
    def error(error: Mapping[str, str], *, ends: bool) -> Frame:
        """An error that the code shows. One that appears to end the code is repeated with `done`."""
        return Frame({"ev": "error", "ends": ends}, dumps(error).encode())

    @staticmethod
    def clear(*, wait: bool) -> Frame:
        """Discard the output so far: immediately, or if `wait`, when the next output arrives."""
        return Frame({"ev": "clear", "wait": wait})

    @staticmethod
    def area(*, begins: bool) -> Frame:
        """Until the area ends, `clear` discards only output since its beginning. Areas can be nested."""
        return Frame({"ev": "area", "begins": begins})

    @staticmethod
    def call(number: int, call: int, tool: str, arguments: bytes) -> Frame:
        """A call of one of the execution's tools; `call` increases with each. Not acknowledged."""
        return Frame({"ev": "call", "id": number, "call": call, "tool": tool}, arguments)

    @staticmethod
    def withdraw(number: int, call: int) -> Frame:
        """The code no longer waits for the answer to a call. Not acknowledged."""
        return Frame({"ev": "withdraw", "id": number, "call": call})

    @staticmethod
    def piece(content: bytes) -> Frame:
        """The next piece of the session to save. Acknowledged when the host has taken it."""
        return Frame({"ev": "piece"}, content)

    @staticmethod
    def more() -> Frame:
        """Ask for the next piece of the session to load."""
        return Frame({"ev": "more"})

    @staticmethod
    def done(*, duration: float, error: Mapping[str, str] | None) -> Frame:
        """The end of the code, with its error if it failed."""
        return Frame({"ev": "done", "duration": duration}, dumps(error).encode())


def bundle(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> bytes:
    """The body of a rich output: its content and its metadata by media type, as in Jupyter's messages."""
    return dumps({"data": data, "metadata": metadata}, ensure_ascii=False).encode("utf-8", "replace")


def file_entry(path: str, *, size: int, modified: int, directory: bool) -> dict[str, Any]:
    """A file or directory in lists and replies; `modified` is in nanoseconds since 1970."""
    return {"path": path, "size": size, "modified": modified, "directory": directory}


def crash(code: int, *, killed: bool, out_of_memory: bool) -> dict[str, Any]:
    """How a worker that ran code ended: its exit code or minus its signal; killed by the supervisor; out of memory."""
    return {"code": code, "killed": killed, "oom": out_of_memory}


def output_cost(body: bytes, limit: int) -> int:
    """Return what an output counts toward its execution's limit: the memory that it takes where it is kept.

    Raises:
        TooDeep: its JSON is nested too deeply.
    """
    return _OUTPUT + weigh_json(body, limit - _OUTPUT)


def encode(header: dict[str, Any], body: bytes = b"") -> bytes:
    """Return the bytes of one frame.

    Raises:
        FrameError: the frame exceeds a limit.
    """
    text = _COMPACT(header).encode()
    if len(text) > MAX_HEADER or len(body) > MAX_BODY:
        raise FrameError(f"a frame of {len(text)} + {len(body)} bytes is over the limit")
    return _LENGTHS.pack(len(text), len(body)) + text + body


class Decoder:
    """Splits a stream of bytes into frames."""

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        self._buffer = bytearray()
        self.max_body = max_body
        """The maximum size in bytes of the body of each further frame."""

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Return the frames that these bytes complete.

        Raises:
            FrameError: the stream violates the protocol, and cannot be read any further.
        """
        self._buffer += data
        frames: list[Frame] = []
        position = 0
        while len(self._buffer) - position >= _LENGTHS.size:
            header_size, body_size = _LENGTHS.unpack_from(self._buffer, position)
            if header_size > MAX_HEADER or body_size > self.max_body:
                raise FrameError(f"a frame of {header_size} + {body_size} bytes is over the limit")
            start = position + _LENGTHS.size
            end = start + header_size + body_size
            if len(self._buffer) < end:
                break
            try:
                header: Any = loads(self._buffer[start : start + header_size].decode())
            except (ValueError, RecursionError) as error:
                raise FrameError("a frame's header is not JSON") from error
            if not isinstance(header, dict):
                raise FrameError("a frame's header is not an object")
            with memoryview(self._buffer) as view:
                body = bytes(view[start + header_size : end])
            frames.append(Frame(cast("dict[str, Any]", header), body))
            position = end
        del self._buffer[:position]
        return frames


def _variables(env: Mapping[str, str] | None) -> bytes:
    """Environment variables at the beginning of a body; empty if there are none."""
    return dumps(dict(env), ensure_ascii=False).encode() if env else b""


def _display(name: str | None, *, update: bool) -> dict[str, Any]:
    """The fields of an output with a name, by which a later output can replace it."""
    return {} if name is None else {"display_id": name, "update": update}
