"""An engine for tests of the layers above engines: a runner in this process, quick to start and without isolation.

It has no URL, as it runs code without a sandbox; only `greenroom.testing` creates pools with it. It exchanges the
runner's frames over queues and keeps real files in a temporary directory. The code runs in a thread with
its own builtins: `print`, `open` and `time.sleep` are adapted to the sandbox, the rest of Python is not.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import ctypes
import itertools
import json
import linecache
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from greenroom.engines.base import Engine, SandboxSpec, StreamSandbox
from greenroom.models import ContainerType
from greenroom.runner.files import DATA_DIR, FileTree, Transfers
from greenroom.runner.protocol import Decoder, Frame, HostEvent, encode, file_entry
from greenroom.runner.workers.tools import ToolError, Tools
from greenroom.testing.memory_shell import MemoryCommand


class MemorySandbox(StreamSandbox):
    """A thread that runs code, with a directory for its files."""

    def __init__(self, number: int) -> None:
        self.id = f"memory-{number}"
        self._directory = tempfile.mkdtemp(prefix="greenroom-memory-")
        self._tree = FileTree(self._directory)
        self._transfers = Transfers(self._tree)
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()
        self._output: asyncio.Queue[bytes] = asyncio.Queue()
        self._namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": self._builtins()}
        self._count = itertools.count(1)
        self._real_open: Callable[..., Any] = builtins.open
        self._thread: threading.Thread | None = None
        self._command: MemoryCommand | None = None
        self._environment: dict[str, str] = {}  # only for commands, as code shares this process's environment
        self._tools: Tools | None = None
        self._current = 0
        self._running = self._interrupted = False
        self._interrupting = threading.Lock()
        self._ended = False
        self._emit(HostEvent.ready())

    async def send(self, data: bytes) -> None:
        if self._ended:
            raise BrokenPipeError
        for header, body in self._decoder.feed(data):
            match header["op"]:
                case "environment":
                    self._environment = json.loads(body)
                case "execute":
                    self._command = None
                    described = body[header["env"] :][: header["tools"]]
                    code = body[header["env"] + header["tools"] :].decode()
                    self._tools = Tools(header, described, _Link(self)) if described else None
                    self._interrupted = False
                    self._thread = threading.Thread(target=self._execute, args=(header, code), daemon=True)
                    self._thread.start()
                case "answer":
                    if self._tools is not None:
                        self._tools.take(Frame(header, body))
                case "shell":
                    command = self._command = MemoryCommand(header, body, self._environment)
                    arguments = self._directory, self._tree, self._emit
                    self._thread = threading.Thread(target=command.run, args=arguments, daemon=True)
                    self._thread.start()
                case "interrupt":
                    self._interrupt()
                case "preload":
                    self._emit(HostEvent.preloaded())
                case _:
                    self._emit(self._transfers.answer(header, body))

    async def receive(self) -> bytes:
        return b"" if self._ended and self._output.empty() else await self._output.get()

    async def kill(self) -> None:
        if not self._ended:
            self._ended = True
            self._interrupt()
            self._output.put_nowait(b"")
            self._tree.close()
            shutil.rmtree(self._directory, ignore_errors=True)

    async def diagnosis(self) -> str:
        return ""

    def _emit(self, event: Frame) -> None:
        if self._ended:  # slow code can still write, although the host is gone
            return
        frame = encode(*event)
        if threading.current_thread() is self._thread:
            self._loop.call_soon_threadsafe(self._output.put_nowait, frame)
        else:
            self._output.put_nowait(frame)

    def emit_from_any_thread(self, event: Frame) -> None:
        """Send an event, also from a thread that the code has started."""
        if not self._ended:
            self._loop.call_soon_threadsafe(self._output.put_nowait, encode(*event))

    def _interrupt(self) -> None:
        if self._command is not None:
            self._command.interrupt()
        if self._tools is not None:
            self._tools.end()  # no exception reaches a thread that waits for an answer
        with self._interrupting:
            self._interrupted = True
            if self._running and self._thread is not None and self._thread.ident is not None:
                identifier, kind = ctypes.c_ulong(self._thread.ident), ctypes.py_object(KeyboardInterrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(identifier, kind)

    def _execute(self, header: dict[str, Any], code: str) -> None:
        self._current = header["id"]
        before = self._tree.snapshot(1000) or {}
        began = time.perf_counter()
        error: dict[str, str] | None = None
        hidden: dict[str, Any] = {}
        cell = f"<{self.id} cell {next(self._count)}>"
        try:
            try:
                with self._interrupting:
                    self._running = True
                    if self._interrupted:  # it has not begun
                        raise KeyboardInterrupt
                if self._tools is not None:
                    hidden = {name: self._namespace[name] for name in self._tools.functions if name in self._namespace}
                    self._namespace |= {"ToolError": ToolError, **self._tools.functions}
                self._run(code, cell)
                if self._tools is not None:
                    self._tools.settle()
            except BaseException as caught:  # noqa: BLE001  whatever the code raises is its result
                error = _describe(caught, cell)
            finally:
                with self._interrupting:  # no more interrupts arrive after this
                    self._running = False
        except KeyboardInterrupt:  # the interrupt arrived at the last moment
            self._running = False
        if self._tools is not None:
            self._tools.end()
            for name, function in self._tools.functions.items():
                if self._namespace.get(name) is function:
                    del self._namespace[name]
                    self._namespace |= {name: hidden[name]} if name in hidden else {}
        after = self._tree.snapshot(1000) or {}
        changed = [
            file_entry(path, size=mark[0], modified=mark[1], directory=False)
            for path, mark in sorted(after.items())
            if before.get(path) != mark
        ]
        duration = time.perf_counter() - began
        self._emit(HostEvent.done(header["id"], duration=duration, error=error, files=changed))

    def _run(self, code: str, cell: str) -> None:
        linecache.cache[cell] = (len(code), None, code.splitlines(keepends=True), cell)  # for tracebacks
        tree = ast.parse(code, cell)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell, "exec"), self._namespace)  # noqa: S102
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), cell, "eval"), self._namespace)  # noqa: S307
            if value is not None:
                self._namespace["_"] = value
                self._show(value, result=True)

    def _show(self, value: object, *, result: bool) -> None:
        bundle = getattr(value, "_repr_mimebundle_", None)
        data: dict[str, Any] = bundle() if bundle else {"text/plain": repr(value)}
        content = json.dumps({"data": data, "metadata": {}}).encode()
        self._emit(HostEvent.output(self._current, content, result=result, display_id=None, update=False))

    def _builtins(self) -> dict[str, Any]:
        def display(*values: object) -> None:
            for value in values:
                self._show(value, result=False)

        def refuse_input(_prompt: object = "") -> str:
            raise EOFError("input() cannot be answered: this session is not interactive. Put the value into the code.")

        def show_print(*values: object, sep: str = " ", end: str = "\n", file: Any = None, flush: bool = False) -> None:
            del flush
            stream = "stderr" if file is sys.stderr else "stdout"
            text = (sep or " ").join(map(str, values)) + ("\n" if end is None else end)  # pyright: ignore[reportUnnecessaryComparison]
            if text:
                self._emit(HostEvent.text(self._current, stream, text.encode()))

        own: dict[str, Callable[..., Any]] = {
            "open": self._open,
            "print": show_print,
            "input": refuse_input,
            "display": display,
            "__import__": _import,
        }
        return {**vars(builtins), **own}

    def _open(self, file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str):
            absolute = os.path.normpath(os.path.join(DATA_DIR, file))  # noqa: PTH118
            if absolute.startswith(f"{DATA_DIR}/"):
                file = self._directory + absolute.removeprefix(DATA_DIR)
        return self._real_open(file, *arguments, **options)


class _Link:
    """Sends calls from the code; answers come back through `MemorySandbox.send`."""

    def __init__(self, sandbox: MemorySandbox) -> None:
        self._sandbox = sandbox

    def send(self, frame: Frame, *more: Frame) -> None:
        for each in (frame, *more):
            self._sandbox.emit_from_any_thread(each)  # the supervisor's own events look the same

    def read_answers(self, take: Callable[[Frame], None]) -> None:
        del take

    def uninterrupted(self) -> AbstractContextManager[None]:
        return nullcontext()


def _import(name: str, *arguments: Any, **options: Any) -> Any:
    module = __import__(name, *arguments, **options)
    if name.partition(".")[0] == "matplotlib":
        warnings.warn("A pool in memory shows no figures: they need a real engine.", stacklevel=2)
    if name == "time":
        return types.SimpleNamespace(**{**vars(module), "sleep": _sleep})
    return module


def _sleep(seconds: float) -> None:
    """Sleep in pieces, as an exception from another thread waits for Python's next instruction."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.01))


def _describe(error: BaseException, cell: str) -> dict[str, str]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == cell]
    text = "\n".join(
        [f"{cell}, line {frame.lineno}, in {frame.name}\n    {frame.line}" for frame in frames]
        + ["".join(traceback.format_exception_only(error)).strip()]
    )
    return {"name": type(error).__name__, "value": str(error), "traceback": text, "summary": text}


class MemoryEngine(Engine):
    """Starts sandboxes without isolation, for tests."""

    name = "memory"

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        del container_type

    async def start(self, spec: SandboxSpec) -> StreamSandbox:
        del spec
        return MemorySandbox(next(self._numbers))

    async def sweep(self) -> int:
        return 0

    async def close(self) -> None:
        pass
