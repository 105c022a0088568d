"""The worker of Python sessions: runs code in an IPython shell, in a process that the code can destroy.

Orders come from the supervisor over a socket, and events are sent back over it. Text that the code writes goes directly
to the process's own standard output and error, which are pipes to the supervisor, so that the text of subprocesses,
threads and C code arrives in the order in which it was written.

The code shares this process, so nothing here can rely on the state that it leaves behind. If the code has broken
something that the worker needs, the worker ends, and the supervisor starts another.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import getpass
import importlib
import io
import linecache
import math
import numbers
import os
import pdb  # noqa: T100  to refuse it
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping
from json import loads
from os import getpid  # imported by name: code can replace it in its module
from signal import SIGINT, default_int_handler, signal
from time import perf_counter
from types import CodeType
from typing import Any, NoReturn, cast

from ..protocol import MAX_BODY, MAX_NAME, Frame, WorkerEvent, bundle
from .errors import describe, shorten
from .event_loop import EventLoop
from .kernel import like_ipykernels
from .libraries import adjust_when_imported
from .link import Link, Nowhere, SupervisorLink
from .processors import count_as_given
from .rehearsal import rehearsed
from .session_modules import find_session_modules
from .terminal import without_terminal
from .tools import ToolError, Tools
from .variables import Variables


class Worker:
    """An IPython shell whose outputs go to the supervisor, after `attach`."""

    _supervisor: Link
    _process = 0  # the process in which it is attached

    def __init__(self) -> None:
        self._error: dict[str, str] | None = None
        self._cause: BaseException | None = None  # of `_error`
        self._failed_to_display = False
        self._cell: Any = None  # IPython's result of the cell, once the shell has begun to run its code
        self._code: Any = None  # the part of the cell that is running
        self._result: bytes | None = None  # the cell's result, while nothing follows it: sent with the end
        self._has_tools = False
        self._streams: list[tuple[str, int, int]] = []
        self._variables = Variables()
        self._loop = EventLoop()
        self._shell = self._make_shell()
        self._hooks = self._hooks_of(self._shell)
        builtins.input = getpass.getpass = _refuse_input
        sys.breakpointhook = _refuse_debugging
        pdb.Pdb.set_trace = pdb.Pdb.interaction = _refuse_debugging  # IPython's debugger calls them, too
        self._beginning = dict(self._shell.user_ns), dict(os.environ)  # a copy of the session has them anyway
        self._baseline = [(names, dict(names)) for names in (builtins.__dict__, sys.modules)]
        self._modules = [name.encode().decode() for name in sys.modules]

    def attach(self, supervisor: Link) -> None:
        """Work for a supervisor, in this process."""
        self._supervisor = supervisor
        self._process = getpid()
        self._streams = [(name, number, os.dup(number)) for name, number in (("stdout", 1), ("stderr", 2))]
        self._loop.begin()

    def detach(self) -> None:
        """Close the descriptors that `attach` has created: each fork attaches itself."""
        self._loop.end()
        for _, _, descriptor in self._streams:
            os.close(descriptor)
        self._streams = []

    def serve(self, supervisor: SupervisorLink) -> NoReturn:
        """Carry out orders, one after the other, until the process ends."""
        self.attach(supervisor)
        supervisor.send(WorkerEvent.ready())
        while True:
            signal(SIGINT, self._loop.ignore)
            header, body = supervisor.receive(self._loop.wait_for)
            match header["op"]:
                case "execute":
                    size: int = header["env"]
                    described, code = body[size : size + header["tools"]], body[size + header["tools"] :]
                    tools = Tools(header, described, supervisor) if described else None
                    with self._variables.during(loads(body[:size]) if size else {}):
                        done = self.execute(code.decode(), tools)
                    supervisor.send(*self._take_result(), done)
                case "answer":
                    pass  # the code for which it was meant has ended
                case "save" | "load" as op:
                    self._supervisor.send(self._copy(op, body))
                case "environment":
                    self._variables.set(loads(body))
                case "preload":
                    self.preload(loads(body))
                    self.rehearse()
                    supervisor.send(WorkerEvent.preloaded())
                case other:
                    raise ValueError(other)

    def execute(self, code: str, tools: Tools | None = None) -> Frame:
        """Run code; return the event that reports its end."""
        hidden = self._give(tools) if tools is not None else {}
        self._error = self._cause = self._cell = self._code = None
        self._failed_to_display = False
        self._has_tools = tools is not None
        self._restore_streams()
        began = perf_counter()
        try:
            signal(SIGINT, default_int_handler)
            if self._loop.was_interrupted:  # possibly by a signal that was meant for this code
                self._loop.was_interrupted = False
                self._supervisor.send(WorkerEvent.began())
            result = self._shell.run_cell(code, store_history=True)
            if tools is not None and result.success and getpid() == self._process:
                tools.settle()
            signal(SIGINT, self._loop.ignore)
        except KeyboardInterrupt:  # between the code's end and here
            signal(SIGINT, self._loop.ignore)
        else:
            self._conclude(result)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the code may have replaced or closed it
                stream.flush()
        if getpid() != self._process:
            os._exit(0)  # a fork that has reached the end of the code: only the original process replies
        if tools is not None:
            self._take_back(tools, hidden)
        return WorkerEvent.done(duration=perf_counter() - began, error=self._error)

    def _copy(self, op: str, body: bytes) -> Frame:
        """Save this session, or make it a copy of another."""
        from .copying.orders import carry_out  # few sessions need it
        from .copying.session import Beginning

        self._restore_streams()
        names, environment = self._beginning
        new = environment | dict(self._variables.of_session)
        done = carry_out(op, body, self._supervisor, Beginning(self._shell, names, new))
        signal(SIGINT, self._loop.ignore)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the code may have replaced or closed it
                stream.flush()
        if getpid() != self._process:
            os._exit(0)
        return done

    def _give(self, tools: Tools) -> dict[str, Any]:
        """Provide functions to the code by their names; return the variables that they hide."""
        names = self._shell.user_ns
        hidden = {name: names[name] for name in tools.functions if name in names}
        names.setdefault("ToolError", ToolError)
        names.update(tools.functions)
        return hidden

    def _take_back(self, tools: Tools, hidden: dict[str, Any]) -> None:
        """Remove the functions, unless the code has bound their names to something else."""
        self._supervisor.stop_reading()
        tools.end()
        names = self._shell.user_ns
        for name, function in tools.functions.items():
            if names.get(name) is function:
                del names[name]
                if name in hidden:
                    names[name] = hidden[name]

    def _conclude(self, result: Any) -> None:
        """Record the error of code that failed, and check that the shell can still run code.

        Raises:
            Exception: the shell cannot run code, so this process is useless and must end.
        """
        error = result.error_in_exec if result.error_before_exec is None else result.error_before_exec
        intact = self._has_baseline(thoroughly=error is not None)
        if not intact:
            for now, before in self._baseline:
                now.update({name: value for name, value in before.items() if now.get(name) is None})
        failed_before_cell = self._cell is None and result.error_in_exec is not None
        if failed_before_cell and intact and not isinstance(error, KeyboardInterrupt):  # which can come at any moment
            raise error  # caused by what earlier code did to the shell: all later code would fail, too
        if error is not self._cause and not (error is None and self._failed_to_display):
            # IPython itself has printed any error that is not recorded, such as usage errors.
            self._error = None if error is None else describe(type(error), error, [])
        if error is not None or not intact:
            self._shell.compile.cache(self._shell.transform_cell("0"), 0)
            self._shell.ex("__import__('sys')")

    def _has_baseline(self, *, thoroughly: bool) -> bool:
        """Whether the builtins and the worker's modules exist; if thorough, whether they are also the same modules.

        In a fork, looking at a module copies its page. Looking up our own names does not.
        """
        (builtin, functions), (modules, _) = self._baseline
        if thoroughly:
            return all(before.items() <= now.items() for now, before in self._baseline)
        return functions.items() <= builtin.items() and all(map(modules.__contains__, self._modules))

    def _restore_streams(self) -> None:
        """Restore the standard streams and the event loop, whatever earlier code did to them.

        A replaced `sys.stdout` that can be written to stays, like all of the session's state.
        """
        for name, number, original in self._streams:
            with contextlib.suppress(OSError):
                os.dup2(original, number)
            stream = getattr(sys, name, None)
            if getattr(stream, "closed", False) or not hasattr(stream, "write"):
                raw = io.FileIO(number, "w", closefd=False)
                setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True))
        self._loop.restore()

    def preload(self, modules: list[str]) -> None:
        """Import those of the modules that are installed."""
        with self._shell.builtin_trap:  # with `get_ipython`, as when code imports them
            for module in modules:
                with contextlib.suppress(Exception):  # not installed: code that imports it gets the error
                    importlib.import_module(module)

    def rehearse(self) -> None:
        """Run code that is not part of a session, and leave no trace of it except its imports.

        In a fork, it also copies the pages that the session's first code would have to copy.
        """
        shell = self._shell
        kept: list[dict[Any, Any]] = [
            shell.user_ns,
            shell.user_ns_hidden,
            shell.user_ns["_oh"],
            vars(shell.displayhook),
            vars(shell.InteractiveTB),
            linecache.cache,
        ]
        histories = [getattr(shell.history_manager, name, None) for name in ("output_hist_reprs", "outputs")]
        kept += [history for history in histories if history is not None]  # it depends on IPython's version
        before = [dict(names) for names in kept]
        supervisor, self._supervisor = self._supervisor, Nowhere()
        try:
            for cell in rehearsed():
                with open(os.devnull, "w", encoding="utf-8") as null, contextlib.redirect_stdout(null):
                    shell.run_cell(cell, store_history=False)
        finally:
            self._supervisor = supervisor
        for names, content in zip(kept, before, strict=True):
            names.clear()
            names.update(content)
        shell.last_execution_result, shell.last_execution_succeeded = None, True
        shell.compile._filename_map.clear()  # noqa: SLF001
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)
        self._error = self._cause = self._cell = self._result = None
        self._failed_to_display = False

    def _make_shell(self) -> Any:
        with _without_jedi(), without_terminal():
            from IPython.core.displayhook import DisplayHook
            from IPython.core.displaypub import DisplayPublisher
            from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        worker = self

        class Hook(DisplayHook):
            """Sends the value of a cell's last expression."""

            def quiet(self) -> bool:
                parsed: list[str] = worker._shell.history_manager.input_hist_parsed
                return any(";" in cell for cell in parsed[-1:]) and bool(super().quiet())  # this tokenizes the cell

            def write_output_prompt(self) -> None:
                pass

            def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
                caller = sys._getframe(2)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  for `__call__`
                worker._show_result(_bundle(format_dict, md_dict), caller.f_code)

            def finish_displayhook(self) -> None:
                self._is_active = False

        class Publisher(DisplayPublisher):
            """Sends the outputs of `display(...)`."""

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
                name = (transient or {}).get("display_id")
                display_id = None if name is None else str(name)[:MAX_NAME]
                content = _bundle(data, metadata)
                worker._show(WorkerEvent.output(content, result=False, display_id=display_id, update=update))

            def clear_output(self, wait: bool = False) -> None:
                worker._show(WorkerEvent.clear(wait=bool(wait)))

            @contextlib.contextmanager
            def area(self) -> Generator[None, None, None]:
                """Within it, `clear_output` keeps earlier output."""
                worker._show(WorkerEvent.area(begins=True))
                try:
                    yield
                finally:
                    worker._show(WorkerEvent.area(begins=False))

        class ZMQInteractiveShell(like_ipykernels(InteractiveShell)):  # libraries recognize a notebook by this name
            """IPython's shell, without a terminal."""

            displayhook_class: Any = Hook
            display_pub_class: Any = Publisher
            kernel: Any = None  # pandas takes this for a notebook because of it, and does not fit tables to a terminal

            async def run_code(self, code_obj: Any, result: Any = None, **options: Any) -> bool:
                if worker._cell is None:  # otherwise, code of the cell runs other code
                    worker._cell = result
                    worker._show_error_of_callback()
                if result is worker._cell:
                    worker._code = code_obj
                inherited: Any = super()
                return await inherited.run_code(code_obj, result, **options)

            def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
                worker._show_error(etype, evalue, stb)

            def _get_exc_info(self, exc_tuple: Any = None) -> Any:
                inherited: Any = super()
                found = inherited._get_exc_info(exc_tuple)  # noqa: SLF001
                with contextlib.suppress(Exception):  # code can make them odd
                    shorten(found[1])
                return found

            def init_virtualenv(self) -> None:
                pass  # this interpreter is the right one

            def should_run_async(self, raw_cell: str, *, transformed_cell: str | None = None, **options: Any) -> bool:
                words = ("await", "async")  # without these words, the cell need not be compiled to find out
                inherited: Any = super()
                return any(word in (transformed_cell or raw_cell) for word in words) and inherited.should_run_async(
                    raw_cell, transformed_cell=transformed_cell, **options
                )

            def enable_gui(self, gui: str | None = None) -> None:
                pass

            # For %notebook, IPython would keep a second copy of all printed text and of every traceback.

            def _tee(self, channel: str) -> Any:
                return contextlib.nullcontext()

            def _format_exception_for_storage(self, *_: Any, **__: Any) -> dict[str, Any]:
                return {}

        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        config.InteractiveShell.autocall = 0
        config.InteractiveShell.banner1 = ""
        with _without_jedi():  # some versions import the completer only at this point
            shell: Any = ZMQInteractiveShell.instance(config=config)
        shell.loop_runner = self._loop.run
        warnings.filterwarnings("ignore", "To exit: use ", UserWarning)  # advice for a terminal
        return shell

    def _show(self, frame: Frame) -> None:
        if getpid() == self._process:  # a fork of the worker must not use the link
            for before in self._take_result(last=False):
                self._supervisor.send_and_wait(before)
            self._supervisor.send_and_wait(frame)

    def _show_result(self, content: bytes, shown_by: CodeType) -> None:
        """Send the value of an expression, with the end of the cell if the cell cannot write anything in between.

        Args:
            content: a `bundle`.
            shown_by: the code of the expression.
        """
        shell = self._shell
        if (
            shown_by is self._code
            and not self._loop.is_running  # its tasks may run again
            and shell.ast_node_interactivity in {"last_expr", "last_expr_or_assign"}
            and self._hooks == self._hooks_of(shell)
            and not self._has_tools
        ):
            self._result = content
        else:
            self._show(WorkerEvent.output(content, result=True))

    @staticmethod
    def _hooks_of(shell: Any) -> list[Any]:
        """Return the functions that a shell calls after a cell, such as the one that shows matplotlib's figures."""
        callbacks = shell.events.callbacks
        return [*callbacks["post_execute"], *callbacks["post_run_cell"]]

    def _take_result(self, *, last: bool = True) -> list[Frame]:
        """Return the result that is still to be sent, if there is one."""
        content, self._result = self._result, None
        return [] if content is None else [WorkerEvent.output(content, result=True, last=last)]

    def _show_error(self, kind: Any, error: Any, lines: list[str]) -> None:
        """Send an error that is shown, and store the one that ends the cell for the end of the execution.

        As in Jupyter, a cell also fails if the value of its last expression cannot be displayed.
        """
        described = describe(kind, error, lines)
        displaying = self._shell.displayhook.is_active
        ends = displaying or self._cell is None or self._cell.error_in_exec is error
        if self._cell is None:  # the code cannot run, or the error is a callback's
            self._show_error_of_callback()
        else:
            self._show(WorkerEvent.error(described, ends=ends))
        if ends:
            self._error, self._cause, self._failed_to_display = described, error, displaying

    def _show_error_of_callback(self) -> None:
        """Send an error that came before the code, which still runs."""
        if self._error is not None:
            self._show(WorkerEvent.error(self._error, ends=False))
            self._error = None


def _refuse_input(_prompt: object = "", *_: object, **__: object) -> NoReturn:
    raise EOFError("input() cannot be answered: this session is not interactive. Put the value into the code.")


def _refuse_debugging(*_: object, **__: object) -> NoReturn:
    raise EOFError("breakpoint() cannot be used: this session is not interactive. Print the values instead.")


def _json_safe(value: Any) -> Any:
    """Convert the content of a MIME bundle to JSON types, bytes to base64, as in Jupyter's messages."""
    match value:
        case None | bool() | str():
            return value
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            number = float(value)
            return number if math.isfinite(number) else str(number)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(cast("bytes", value)).decode("ascii")
        case dict():
            return {str(key): _json_safe(item) for key, item in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [_json_safe(item) for item in cast("list[Any]", value)]
        case _:
            return str(value)


def _bundle(data: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> bytes:
    """Encode a MIME bundle; one that is too large is replaced by a note."""
    size = sum(len(content) for content in data.values() if isinstance(content, str | bytes))
    if size <= MAX_BODY:  # a second copy of a larger one might not fit into memory
        body = bundle(_json_safe(data), _json_safe(metadata or {}))
        if (size := len(body)) <= MAX_BODY:
            return body
    note = f"<an output of {size} bytes, too large to show>"
    return bundle({"text/plain": note}, {})


@contextlib.contextmanager
def _without_jedi() -> Generator[None, None, None]:
    """Hide jedi from IPython: nothing here completes code, and this saves megabytes and a sixth of the start time."""
    absent: Any = None
    sys.modules["jedi"] = absent
    try:
        yield
    finally:
        del sys.modules["jedi"]


def prepare() -> Worker:
    """Create a worker, and adjust this process to it. Many forks of the process can each serve a supervisor with it."""
    worker = Worker()
    adjust_when_imported()
    count_as_given()
    find_session_modules()  # after our own imports, which a session file could shadow
    return worker


def main(orders: int, acks: int, make: Callable[[], Worker] = prepare) -> NoReturn:
    """Serve the supervisor on these two descriptors."""
    # When memory runs out, the kernel must kill this process and not the supervisor.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    os.set_inheritable(orders, False)
    os.set_inheritable(acks, False)
    try:
        make().serve(SupervisorLink(socket.socket(fileno=orders), acks))
    except BaseException:  # noqa: BLE001  the code has broken something that the worker needs
        traceback.print_exc()
    finally:
        os._exit(1)  # immediately: threads of the code must not delay the end
