"""Where an application's tools run: each execution remembers where it was started."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, TypeAlias

from greenroom.errors import InvalidRequest
from greenroom.sessions.background import BackgroundLoop
from greenroom.sessions.threads import THREADS
from greenroom.telemetry import tracing
from greenroom.tools import CallDeferred, CallLog, ToolAnswer, Toolbox, ToolCall, ToolLimits
from greenroom.tools.definitions import Definition, ToolLike, definitions_of
from greenroom.tools.pending import set_current
from greenroom.tools.schemas import ArgumentsRefused, CheckTooLong, at_most
from greenroom.tools.values import ArgumentsMalformed, ResultRefused, decode_arguments, encode_result
from greenroom.untrusted import brief

_Submit: TypeAlias = Callable[[Coroutine[Any, Any, bytes]], Future[bytes]]

_LARGE = 64 << 10
"""Bytes of arguments from which an event loop does not wait while they are checked."""
_SHORT = 0.05
"""Seconds after which it stops waiting for the check of smaller ones, too."""


_held_up: ContextVar[frozenset[object]] = ContextVar("_held_up", default=frozenset())
"""The sessions whose code waits for the function that is running in this context."""


class _Failed(Exception):
    """A call fails; the message is for the code."""


class _Refused(_Failed):
    """A call fails, and nothing was called."""


def toolbox_of(
    tools: Iterable[ToolLike] | None,
    limits: ToolLimits | None,
    background: BackgroundLoop,
    *,
    on_callers_loop: bool,
    session: object = None,
    log: CallLog | None = None,
) -> Toolbox | None:
    """Return the tools of a new execution; `None` if there are none.

    Synchronous functions run in separate threads. Asynchronous ones run on the caller's event loop if the caller
    does not block it, otherwise on the loop of a thread for tools. Both see the caller's context variables.

    Args:
        tools: functions or `Tool` objects.
        limits: limits for their calls; by default `ToolLimits()`.
        background: the loop of the thread for tools.
        on_callers_loop: whether the caller's event loop, if one runs, stays free for other work.
        session: a key that identifies the session, see `check_not_held_up`.
        log: receives the calls of an execution that can be resumed, which tools can then defer.

    Raises:
        InvalidRequest: one of them cannot be a function in a session.
    """
    if limits is not None and not isinstance(limits, ToolLimits):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The tool_limits must be a greenroom.ToolLimits, not {brief(limits)}.")
    definitions = definitions_of(tools) if tools is not None else {}
    if not definitions:
        return None
    submit: _Submit = partial(background.submit, in_context=True)
    if on_callers_loop:
        with contextlib.suppress(RuntimeError):  # no loop is running
            loop = asyncio.get_running_loop()
            submit = lambda coroutine: _submit_to(loop, coroutine)  # noqa: E731
    limits = limits or ToolLimits()
    application = _Application(definitions, submit, limits.concurrent, session, can_defer=log is not None)
    return Toolbox(tuple(each.stub for each in definitions.values()), limits, application.answer, log)


def check_not_held_up(session: object) -> None:
    """Refuse to wait for new code of a session whose code waits for us: it would also wait for us.

    Raises:
        InvalidRequest: the caller is a function that code of the session calls.
    """
    if session in _held_up.get():
        raise InvalidRequest(
            "Nothing was run: a function that code calls must not wait for other code of the same session, which "
            "cannot start before the function returns. Give the function its own session."
        )


def _submit_to(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, bytes]) -> Future[bytes]:
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise _Refused("The application's event loop is closed.") from None


class _Application:
    """The functions, and how they are called."""

    def __init__(
        self, definitions: dict[str, Definition], submit: _Submit, threads: int, session: object, *, can_defer: bool
    ) -> None:
        self._definitions = definitions
        self._submit = submit
        self._can_defer = can_defer
        self._context = copy_context()
        self._context.run(_held_up.set, _held_up.get() | {session})
        self._threads = asyncio.Semaphore(threads)  # those of functions that never return count until they do

    async def answer(self, call: ToolCall) -> ToolAnswer:
        """Call a function; the answer contains any failure, and nothing about this process except its message."""
        attributes = {"greenroom.tool.name": call.tool, "greenroom.tool.call": call.number}
        span = tracing.start(tracing.CALL_TOOL, attributes)
        try:
            answer = await self._answer(call, span)
        except BaseException as error:
            span.fail_by(error)
            raise
        else:
            if answer.failed:
                span.fail("ToolError")
            span.set({"greenroom.tool.deferred": answer.deferred or None})
            return answer
        finally:
            span.end()

    async def _answer(self, call: ToolCall, span: tracing.Span) -> ToolAnswer:
        definition = self._definitions[call.tool]
        context = self._context.copy()
        context.run(set_current, call)
        span.activate_in(context)
        run = self._call_async if definition.is_async else self._call_in_thread
        try:
            return ToolAnswer(await run(definition, call, context))
        except _Failed as error:
            return ToolAnswer.failure(str(error), refused=isinstance(error, _Refused))
        except CallDeferred:
            if self._can_defer:
                return ToolAnswer(b"", deferred=True)
            return ToolAnswer.failure(
                f"{call.tool} deferred its call, which needs an execution that can be resumed: one with an id, such as "
                "from submit()."
            )

    async def _call_async(self, definition: Definition, call: ToolCall, context: Context) -> bytes:
        async def work() -> bytes:
            if len(call.arguments) > _LARGE:
                bound = await asyncio.to_thread(_bound, definition, call)
            else:
                try:
                    with at_most(_SHORT):
                        bound = _bound(definition, call, quickly=True)
                except CheckTooLong:
                    bound = await asyncio.to_thread(_bound, definition, call)
            with _refusing(definition):
                value = await bound()
            return _encoded(definition, call, value)

        return await self._result_of(definition, context.run(self._submit, work()))

    async def _call_in_thread(self, definition: Definition, call: ToolCall, context: Context) -> bytes:
        loop = asyncio.get_running_loop()
        future: Future[bytes] = Future()

        def work() -> bytes:
            bound = _bound(definition, call)
            with _refusing(definition):
                value = bound()
                if inspect.isawaitable(value):  # from a function that does not look asynchronous
                    value = self._submit(_awaited(value)).result()
            return _encoded(definition, call, value)

        def run() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(context.run(work))
            except BaseException as error:  # noqa: BLE001  such as SystemExit: it must not be lost in this thread
                future.set_exception(error)
            finally:
                THREADS.release()
                with contextlib.suppress(RuntimeError):  # the pool was closed
                    loop.call_soon_threadsafe(self._threads.release)

        await self._threads.acquire()
        try:
            await THREADS.acquire()
        except BaseException:
            self._threads.release()
            raise
        try:
            threading.Thread(target=run, name=f"greenroom tool {call.tool}", daemon=True).start()
        except RuntimeError:
            THREADS.release()
            self._threads.release()
            raise _Refused(f"{call.tool} was not called: the application cannot start a thread.") from None
        return await self._result_of(definition, future)

    async def _result_of(self, definition: Definition, future: Future[bytes]) -> bytes:
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _Failed(f"{definition.stub.name} was cancelled by the application.") from None


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _bound(definition: Definition, call: ToolCall, *, quickly: bool = False) -> Callable[[], Any]:
    name = definition.stub.name
    try:
        return definition.bind(decode_arguments(call.arguments))
    except ArgumentsMalformed as error:
        raise _Refused(f"The arguments of {name} {error}.") from None
    except ArgumentsRefused as error:
        if quickly and isinstance(error, CheckTooLong):
            raise
        raise _Refused(f"The arguments of {name} are not valid: {error}") from None


def _encoded(definition: Definition, call: ToolCall, value: object) -> bytes:
    with _refusing(definition):
        try:
            return encode_result(value, call.most, definition.result)
        except ResultRefused as error:
            raise _Failed(f"The result of {definition.stub.name} {error}.") from None


@contextlib.contextmanager
def _refusing(definition: Definition) -> Generator[None, None, None]:
    """Turn an exception of the application into a failed call with its message."""
    try:
        yield
    except (_Failed, CallDeferred, asyncio.CancelledError):
        raise
    except BaseException as error:  # noqa: BLE001  such as SystemExit, which must not end the application
        raise _Failed(_message(definition.stub.name, error)) from None


def _message(tool: str, error: BaseException) -> str:
    """Return the message of an application's exception, with the class only if the message is uninformative."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  from the application's class
        text = ""
    name = type(error).__name__
    if isinstance(error, KeyError):
        return f"{tool} failed: {name}: {text}"
    return text or f"{tool} failed: {name}"
