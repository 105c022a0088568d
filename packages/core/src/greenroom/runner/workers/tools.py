"""The application's functions, as the code of one execution sees them.

In code run by an event loop, a function returns a `Call`, which can be awaited, gathered, and wrapped in a task. In
all other code, also in threads, it waits for the value: docs/decisions/0018-functions-that-wait-or-are-awaited.md.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import operator
import sys
from _thread import allocate_lock
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from inspect import Parameter, Signature
from json import dumps, loads
from keyword import iskeyword
from numbers import Integral, Real
from os import getpid
from typing import Any, NoReturn, Protocol, cast

from ..protocol import Frame, WorkerEvent

_OTHERS = "other_arguments"  # those whose names cannot be written as Python's keyword arguments

_events: Any = asyncio.events
_running_loop: Callable[[], Any] = _events._get_running_loop  # noqa: SLF001  code can replace that of asyncio


class ToolError(Exception):
    """A call of one of the application's functions failed; the message is the application's."""


ToolError.__module__ = "__main__"  # so that only its name is shown; the code's module has it


class Link(Protocol):
    """Sends calls, from any thread, and receives their answers."""

    def send(self, frame: Frame) -> None:
        """Send an event."""

    def read_answers(self, take: Callable[[Frame], None]) -> None:
        """Pass answers to a function as they arrive, in any thread."""

    def uninterrupted(self) -> AbstractContextManager[None]:
        """Delay an interrupt of this thread until the end of a block."""
        ...


class Tools:
    """The functions that the code of one execution can call, and its calls."""

    def __init__(self, order: Mapping[str, Any], described: bytes, link: Link) -> None:
        """
        Args:
            order: the header of the order to execute.
            described: the functions, as JSON.
            link: the link to the supervisor.
        """
        self._execution: int = order["id"]
        self._calls_left: int = order["call_limit"]
        self._bytes_left: int = order["call_bytes"]
        self._link = link
        self._process = getpid()
        self._lock = allocate_lock()
        self._last = 0
        self._calls: dict[int, Call] | None = {}  # those not yet answered; `None` after the end
        self._limits = f"{self._calls_left:,} calls", f"{self._bytes_left:,} bytes of arguments"
        self.functions: dict[str, Callable[..., Any]] = {
            each["name"]: _function(self, each) for each in loads(described)
        }

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Hold the lock of these calls; an interrupt must not leave it held."""
        with self._link.uninterrupted(), self._lock:
            yield

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Send a call; return its value or, in code run by an event loop, the call.

        Raises:
            TypeError: an argument is not JSON.
            ToolError: the call failed, or cannot be made.
        """
        __tracebackhide__ = True  # by IPython
        self.check_process(tool)
        try:
            body = dumps(arguments, allow_nan=False, default=_plain).encode("utf-8", "replace")
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"The arguments of {tool} must be JSON: {error}") from None
        call = Call(self, tool)
        with self.locked():  # calls must be sent in the order of their numbers
            if self._calls is None:
                raise ToolError(f"{tool} can only be called while the execution that it belongs to is running.")
            if not self._calls_left:
                raise ToolError(f"{tool} was not called: this execution is limited to {self._limits[0]}.")
            if len(body) > self._bytes_left:
                raise ToolError(f"{tool} was not called: this execution is limited to {self._limits[1]}.")
            self._link.read_answers(self.take)
            self._calls_left -= 1
            self._bytes_left -= len(body)
            self._last += 1
            call.number = self._last
            self._calls[call.number] = call
            self._link.send(WorkerEvent.call(self._execution, call.number, tool, body))
        return call.wait() if _running_loop() is None else call

    def check_process(self, tool: str) -> None:
        """Check that this is not a fork, which shares the link but cannot use it.

        Raises:
            ToolError: this is a fork.
        """
        if getpid() != self._process:
            raise ToolError(f"{tool} can only be called in the process that runs the code, not in a child of it.")

    def take(self, answer: Frame) -> None:
        """Take an answer from the host; one that nobody waits for is dropped."""
        header, body = answer
        with self.locked():
            call = (self._calls or {}).pop(header["call"], None) if header["id"] == self._execution else None
        if call is not None:
            if header["failed"]:
                call.end(error=body.decode("utf-8", "replace"))
                return
            try:
                value = loads(body, parse_constant=_refuse)
            except MemoryError:
                call.end(error=f"The result of {call.tool} does not fit into the session's memory.")
            except (ValueError, RecursionError):  # other clients than ours can send anything
                call.end(error=f"The result of {call.tool} is not JSON that Python can read.")
            else:
                call.end(value)

    def withdraw(self, call: Call) -> None:
        """Stop waiting for a call."""
        with self.locked():
            waiting = self._calls is not None and self._calls.pop(call.number, None) is not None
            if waiting and getpid() == self._process:
                self._link.send(WorkerEvent.withdraw(self._execution, call.number))
        if waiting:
            call.end(error=f"The call to {call.tool} was cancelled.")

    def settle(self) -> None:
        """Wait for the calls whose values the code has not used, and write the errors that it has not seen."""
        while unused := [call for call in (self._calls or {}).copy().values() if not call.used]:
            unused[0].settle()

    def end(self) -> None:
        """End all calls; from now on none can be made."""
        with self.locked():
            calls, self._calls = self._calls or {}, None
        for call in calls.values():
            call.end(error=f"The execution ended before {call.tool} returned.")


class Call(Coroutine[Any, Any, Any]):
    """A call that was sent. Awaiting it returns its value; using it as if it were the value waits for the value."""

    __slots__ = ("_coroutine", "_done", "_error", "_tools", "_value", "_wakers", "number", "tool", "used")

    def __init__(self, tools: Tools, tool: str) -> None:
        self._tools = tools
        self._done = False
        self._value: Any = None
        self._error: str | None = None
        self._wakers: list[Callable[[], object]] = []
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self.number = 0
        self.tool = tool
        self.used = False

    def end(self, value: Any = None, *, error: str | None = None) -> None:
        """Set the value or the error, and wake the waiting code."""
        self._value, self._error = value, error
        with self._tools.locked():
            self._done = True
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def wait(self) -> Any:
        """Return the value; block until it arrives."""
        __tracebackhide__ = True
        self._tools.check_process(self.tool)
        self.used = True
        arrived = allocate_lock()
        arrived.acquire()
        if self._wake(arrived.release):
            try:
                arrived.acquire()
            except BaseException:  # an interrupt
                self._tools.withdraw(self)
                raise
        return self._outcome()

    def settle(self) -> None:
        """Wait, and write an error to standard error."""
        try:
            self.wait()
        except ToolError as error:
            print(f"ToolError: {error}", file=sys.stderr)

    def _wake(self, wake: Callable[[], object]) -> bool:
        """Whether the value has not arrived yet; if so, the function is called when it does, in any thread."""
        with self._tools.locked():
            if not self._done:
                self._wakers.append(wake)
            return not self._done

    def _outcome(self) -> Any:
        __tracebackhide__ = True
        if self._error is not None:
            raise ToolError(self._error)
        return self._value

    async def _wait(self) -> Any:
        __tracebackhide__ = True
        self._tools.check_process(self.tool)
        self.used = True
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()

        def set_arrived() -> None:
            if not arrived.done():
                arrived.set_result(None)

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(set_arrived)

        if self._wake(wake):
            try:
                await arrived
            except BaseException:  # its task is cancelled
                self._tools.withdraw(self)
                raise
        return self._outcome()

    # As a coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    def send(self, value: Any) -> Any:
        if self._coroutine is None:
            self._coroutine = self._wait()
        return self._coroutine.send(value)

    def throw(self, kind: Any, *details: Any) -> Any:
        if self._coroutine is None:  # for a task that is cancelled before it begins
            self._tools.withdraw(self)
            self._coroutine = self._wait()
        return self._coroutine.throw(kind, *details)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

    # As its value, in code that forgets to await it

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "cr_", "gi_")):  # attributes that libraries look for in any object
            raise AttributeError(name)
        return getattr(self.wait(), name)

    def __iter__(self) -> Any:
        value = self.wait()
        if isinstance(value, dict):  # pandas, for example, would silently take it for a list of its keys
            raise TypeError(f"{self.tool} returns a dict. Await the call: await {self.tool}(...)")
        return iter(value)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.pretty(self.wait())

    __hash__ = object.__hash__  # gather() requires it


Call.__name__ = Call.__qualname__ = "UnawaitedCall"  # a hint, if a library names the type that it does not accept


def _forward(function: Callable[..., Any]) -> Any:
    def forward(call: Call, *arguments: Any) -> Any:
        return function(call.wait(), *(_value(each) for each in arguments))

    return forward


def _reflect(function: Callable[..., Any]) -> Any:
    def reflect(call: Call, other: Any) -> Any:
        return function(_value(other), call.wait())

    return reflect


def _value(value: Any) -> Any:
    return value.wait() if type(value) is Call else value


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul")
_UNARY = ("neg", "pos", "abs", "invert")
_OTHER = ("eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem", "delitem", "contains")
for _name in (*_BINARY, *_UNARY, *_OTHER):
    setattr(Call, f"__{_name}__", _forward(getattr(operator, f"__{_name}__")))
for _name in _BINARY:
    setattr(Call, f"__r{_name}__", _reflect(getattr(operator, f"__{_name}__")))
for _name, _operation in {
    "str": str,
    "repr": repr,
    "format": format,
    "len": len,
    "bool": bool,
    "int": int,
    "float": float,
    "index": operator.index,
    "round": round,
    "reversed": reversed,
}.items():
    setattr(Call, f"__{_name}__", _forward(_operation))


def _plain(value: Any) -> Any:
    """Convert a value that JSON does not support to one that it does: numbers, arrays, dates, sets."""
    if type(value) is Call:
        return value.wait()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, set | frozenset):
        return list(cast("set[Any]", value))
    for method in ("tolist", "isoformat", "__fspath__"):
        if not isinstance(value, type) and callable(convert := getattr(value, method, None)):
            return convert()
    raise TypeError(f"a value of type {type(value).__name__} is not")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


class _Annotation(str):
    """A type that signatures show without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _function(tools: Tools, described: Mapping[str, Any]) -> Callable[..., Any]:
    """Create a function from its description."""
    name: str = described["name"]
    parameters = [
        Parameter(
            each["name"],
            Parameter.POSITIONAL_OR_KEYWORD,
            default=Parameter.empty if each["required"] else each["default"],
            annotation=_Annotation(each["annotation"]),
        )
        for each in described["parameters"]
        if each["name"].isidentifier() and not iskeyword(each["name"])
    ]
    parameters.sort(key=lambda each: each.default is not Parameter.empty)  # those without a default come first
    if described["takes_others"] or len(parameters) < len(described["parameters"]):  # by name
        parameters.append(Parameter(_OTHERS, Parameter.VAR_KEYWORD))
    signature = Signature(parameters, return_annotation=_Annotation(described["returns"]))

    def function(*arguments: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        try:
            bound = signature.bind(*arguments, **named).arguments
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        others = bound.pop(_OTHERS, {})
        return tools.call(name, {**bound, **others})

    function.__name__ = function.__qualname__ = name
    function.__module__ = "__main__"
    function.__doc__ = described["description"]
    function.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": described["returns"]}
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function
