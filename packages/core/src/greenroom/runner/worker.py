"""Runs code in an IPython shell: the process that user code lives in, and may destroy.

It takes orders from the supervisor over a socket and answers on it. What the code writes goes straight to the
process's own standard output and error, which are pipes to the supervisor: so subprocesses, threads and C
code are heard in the order in which they write.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import getpass
import importlib
import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Generator
from types import FrameType, TracebackType
from typing import Any, NoReturn

from .frames import MAX_BODY, Decoder, encode

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Channel:
    """The worker's end of its conversation with the supervisor."""

    def __init__(self, orders: socket.socket, acks: int) -> None:
        self._socket = orders
        self._acks = acks
        self._decoder = Decoder()
        self._pending: list[tuple[dict[str, Any], bytes]] = []
        self._owner = os.getpid()
        self._busy = 0
        self._interrupted = False

    def receive(self) -> tuple[dict[str, Any], bytes]:
        while not self._pending:
            data = self._socket.recv(1 << 16)
            if not data:
                os._exit(0)  # the supervisor is gone, and the sandbox with it
            self._pending = self._decoder.feed(data)
        return self._pending.pop(0)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        self._socket.sendall(encode(header, body))

    def show(self, header: dict[str, Any], body: bytes) -> None:
        """Send a rich output and wait until the supervisor has it.

        Waiting keeps it in order with the text around it, which takes another way. An interrupt waits, too,
        as half a frame would spoil the conversation.
        """
        if os.getpid() != self._owner:
            return  # a fork of the worker has no conversation of its own
        self._busy += 1
        try:
            self.send(header, body)
            os.read(self._acks, 1)
        finally:
            self._busy -= 1
        if self._interrupted and not self._busy:
            self._interrupted = False
            raise KeyboardInterrupt

    def interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle SIGINT while code runs."""
        __tracebackhide__ = True  # IPython's sign: this frame is not the user's concern
        if self._busy:
            self._interrupted = True
        else:
            raise KeyboardInterrupt


def _refuse_input(_prompt: object = "", *_: object, **__: object) -> NoReturn:
    raise EOFError("input() cannot be answered: no person is at this session. Put the value into the code.")


def _json_safe(value: Any) -> Any:
    """A form of a mime bundle's content that JSON can carry: bytes as base64, as in Jupyter's messages."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _bundle(data: object, metadata: object) -> bytes:
    body = json.dumps({"data": _json_safe(data), "metadata": _json_safe(metadata)}).encode("utf-8", "replace")
    if len(body) > MAX_BODY:
        note = f"<an output of {len(body)} bytes, too large to show>"
        body = json.dumps({"data": {"text/plain": note}, "metadata": {}}).encode()
    return body


class Worker:
    """An IPython shell whose outputs go to the supervisor."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._error: dict[str, str] | None = None
        self._shell = self._make_shell()

    def serve(self) -> NoReturn:
        """Carry out orders, one after the other, for ever."""
        self._channel.send({"ev": "ready"})
        while True:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            header, body = self._channel.receive()
            match header["op"]:
                case "execute":
                    self._channel.send(self._execute(body.decode()))
                case "preload":
                    self._preload(header["modules"])
                    self._channel.send({"ev": "preloaded"})
                case other:
                    raise ValueError(other)

    def _execute(self, code: str) -> dict[str, Any]:
        self._error = None
        began = time.perf_counter()
        try:
            signal.signal(signal.SIGINT, self._channel.interrupt)
            self._channel.send({"ev": "began"})
            result = self._shell.run_cell(code, store_history=True)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:  # between the code's end and here
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            if not result.success and self._error is None:
                error = result.error_before_exec or result.error_in_exec
                self._record(type(error), error, error.__traceback__ if error else None, [])
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the code may have replaced or closed it
                stream.flush()
        return {"ev": "done", "duration": time.perf_counter() - began, "error": self._error}

    def _preload(self, modules: list[str]) -> None:
        for module in modules:
            with contextlib.suppress(Exception):  # not installed here: then code that wants it says so
                importlib.import_module(module)

    def _make_shell(self) -> Any:
        with _without_jedi():
            from IPython.core.displayhook import DisplayHook
            from IPython.core.displaypub import DisplayPublisher
            from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        worker = self
        channel = self._channel

        class Hook(DisplayHook):
            """Sends the value of a cell's last expression."""

            def write_output_prompt(self) -> None:
                pass

            def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
                channel.show({"ev": "output", "result": True}, _bundle(format_dict, md_dict or {}))

            def finish_displayhook(self) -> None:
                pass

        class Publisher(DisplayPublisher):
            """Sends what `display(...)` shows."""

            def publish(
                self,
                data: dict[str, Any],
                metadata: dict[str, Any] | None = None,
                source: Any = None,
                *,
                transient: dict[str, Any] | None = None,
                update: bool = False,
                **_: object,
            ) -> None:
                header: dict[str, Any] = {"ev": "output", "result": False}
                display_id = (transient or {}).get("display_id")
                if display_id is not None:
                    header |= {"display_id": str(display_id)[:200], "update": update}
                channel.show(header, _bundle(data, metadata or {}))

            def clear_output(self, wait: bool = False) -> None:
                channel.show({"ev": "clear", "wait": bool(wait)}, b"")

        class Shell(InteractiveShell):
            """IPython's shell, without a terminal."""

            displayhook_class: Any = Hook
            display_pub_class: Any = Publisher
            system: Any = InteractiveShell.system_piped

            def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
                worker._record(etype, evalue, sys.exc_info()[2], stb)

            def init_virtualenv(self) -> None:
                pass  # the interpreter that runs this is the one meant

            def enable_gui(self, gui: str | None = None) -> None:
                pass

        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        config.InteractiveShell.autocall = 0
        config.InteractiveShell.banner1 = ""
        shell = Shell.instance(config=config)
        self._extend_namespace(shell)
        return shell

    def _extend_namespace(self, shell: Any) -> None:
        display: Any = importlib.import_module("IPython.display").display
        shell.user_ns["display"] = display
        shell.user_ns_hidden["display"] = display
        builtins.input = _refuse_input
        getpass.getpass = _refuse_input

    def _record(self, kind: Any, error: Any, trace: TracebackType | None, lines: list[str]) -> None:
        """Keep an error of the user's code for the end of the execution."""
        try:
            value = str(error)
        except Exception:  # noqa: BLE001  a hostile __str__
            value = "<unprintable>"
        if error is not None and trace is None:
            trace = error.__traceback__
        self._error = {
            "name": _plain(getattr(kind, "__name__", "Exception"), 200),
            "value": _plain(value, 20_000),
            "traceback": _plain("\n".join(lines), 200_000),
            "summary": _plain(self._summary(kind, error, trace), 20_000),
        }

    def _summary(self, kind: Any, error: Any, trace: TracebackType | None) -> str:
        """The traceback with the user's own frames alone."""
        try:
            frames = [
                f"{self._where(frame)}, in {frame.name}\n    {frame.line}"
                for frame in traceback.extract_tb(trace)
                if self._is_users(frame.filename)
            ]
            if len(frames) > 12:  # a recursion
                frames[4:-4] = [f"… {len(frames) - 8} more frames …"]
            return "\n".join([*frames, "".join(traceback.format_exception_only(kind, error)).strip()])
        except Exception:  # noqa: BLE001  a hostile exception
            return ""

    def _cell_number(self, filename: str) -> int | None:
        return self._shell.compile._filename_map.get(filename)

    def _is_users(self, filename: str) -> bool:
        return self._cell_number(filename) is not None or filename.startswith("/mnt/data/")

    def _where(self, frame: traceback.FrameSummary) -> str:
        cell = self._cell_number(frame.filename)
        return f"{frame.filename if cell is None else f'Cell {cell}'}, line {frame.lineno}"


def _plain(text: str, limit: int) -> str:
    return _ANSI.sub("", text).encode("utf-8", "replace").decode()[:limit]


@contextlib.contextmanager
def _without_jedi() -> Generator[None, None, None]:
    """Completion has no use here; leaving it out saves a session several megabytes and a start a tenth."""
    absent: Any = None
    sys.modules["jedi"] = absent
    try:
        yield
    finally:
        del sys.modules["jedi"]


def main(orders: int, acks: int) -> NoReturn:
    """Serve the supervisor on these two descriptors."""
    with contextlib.suppress(OSError):
        # When memory runs out, this process goes, not the supervisor.
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    os.set_inheritable(orders, False)
    os.set_inheritable(acks, False)
    worker = Worker(Channel(socket.socket(fileno=orders), acks))
    sys.path.insert(0, "")  # after our own imports, as a file of the session may bear any name
    worker.serve()
