"""The host's end of the communication with a sandbox's runner.

All received data can come from hostile code: the type of every field is checked, every amount is counted before it is
stored, every wait has a time limit, and a violation ends the sandbox without any effect on others. An honest runner
applies the same limits itself, and reports how much it has left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from greenroom.backend import NO_VARIABLES, OnEvent, ShellCommand
from greenroom.config.environment import Environment
from greenroom.engines.base import Gauge, Resources, StreamSandbox
from greenroom.errors import SandboxLost
from greenroom.local.collecting import Collector, ExecutionLimits
from greenroom.local.deadline import Deadline
from greenroom.local.decoding import file_error
from greenroom.local.file_requests import FileRequests
from greenroom.models import Execution, NotCarried, RestartCause, UsageSource
from greenroom.runner.protocol import MAX_ENDING, MAX_PIECE, VERSION, Decoder, Frame, FrameError, HostOrder, encode
from greenroom.tools import RunningCalls, ToolAnswer, Toolbox
from greenroom.tools.stubs import described
from greenroom.untrusted import without_controls

_PIECE = 16 * 1024  # bytes of received data that are decoded together
_TURN = 0.002  # seconds after which other sessions get their turn
_SEND_TIMEOUT = 20.0  # until a runner reads what it is sent; an honest one does so even while its code is busy
_REPLY_TIMEOUT = 60.0  # for one file operation, which the runner answers immediately
_PRELOAD_TIMEOUT = 120.0
_STOP_MARGIN = 10.0  # after the grace period, until a runner is considered dead


@dataclass(slots=True)
class _Request:
    """An order to the runner, and the maximum size of its reply in bytes."""

    reply: asyncio.Future[Frame]
    most: int


class Channel(FileRequests):
    """The connection to one sandbox's runner.

    `on_lost` is called once, when the sandbox has ended or violated the protocol; from then on every call raises
    `SandboxLost`.
    """

    def __init__(
        self,
        sandbox: StreamSandbox,
        on_lost: Callable[[], None],
        *,
        preload: tuple[str, ...] = (),
        env: Environment = NO_VARIABLES,
    ) -> None:
        super().__init__()
        self._sandbox = sandbox
        self._modules = preload
        self._memory: int | None = None
        self.environment = env
        """The session's variables; the runner receives changes before the next execution."""
        self._environment: Environment = NO_VARIABLES
        self._on_lost = on_lost
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._preloaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests: dict[int, _Request] = {}
        """Requests whose replies are still to come; their callers may have been cancelled."""
        self._gauge: Gauge | None = None
        self._running: tuple[int, Collector] | None = None
        self._calls: RunningCalls | None = None
        """The calls of the running execution, if it has tools."""
        self.not_carried: tuple[NotCarried, ...] = ()
        """What the session lacks because it is a copy; its first execution reports it."""
        self.state_was_lost = False
        """The session's variables were found to be lost when it was copied; its next execution reports it."""
        self._turn = asyncio.Lock()
        self._lost: SandboxLost | None = None
        self._stops: set[asyncio.Task[Any]] = set()
        self._reader = asyncio.create_task(self._read())

    @property
    def lost(self) -> bool:
        return self._lost is not None

    async def ready(self) -> None:
        """Wait until the runner accepts code.

        Raises:
            SandboxLost: the sandbox ended first; the message has its last output.
        """
        await asyncio.shield(self._ready)
        if self._lost is not None:  # lost after it was ready
            raise self._lost

    async def warm_up(self) -> None:
        """Import those of the modules that are installed; code can be sent meanwhile. Never raises."""
        if self._modules:
            with contextlib.suppress(SandboxLost, TimeoutError):
                await self._set_environment()
                await self._send(HostOrder.preload(self._modules))
                async with asyncio.timeout(_PRELOAD_TIMEOUT):
                    await asyncio.shield(self._preloaded)
        self._gauge = self._gauge or self._sandbox.gauge()

    async def limit_memory(self, memory: int) -> None:
        """Set the sandbox's memory limit in bytes."""
        if memory != self._memory:
            await self._sandbox.limit_memory(memory)
            self._memory = memory

    async def _set_environment(self) -> None:
        if self.environment != self._environment:
            self._environment = self.environment
            await self._send(HostOrder.environment(self._environment))

    async def take_full_share(self) -> None:
        await self._sandbox.take_full_share()

    async def freeze(self) -> bool:
        if self._lost is not None or self._turn.locked() or self._requests or self._stops:
            return False
        return await self._sandbox.freeze()

    async def thaw(self) -> None:
        await self._sandbox.thaw()

    @property
    def sampling_interval(self) -> float:
        return self._sandbox.sampling_interval

    @property
    def node_share(self) -> None:
        """This is not a custom container."""

    async def resources(self) -> Resources | None:
        return await self._sandbox.resources()

    async def close(self, reason: str) -> None:
        """End the sandbox; pending calls fail with the reason."""
        self._fail(reason)
        for task in (self._reader, *self._stops):
            task.cancel()
        await self._sandbox.kill()
        await asyncio.gather(self._reader, *self._stops, return_exceptions=True)

    # Execution

    async def execute(
        self,
        code: str,
        limits: ExecutionLimits,
        on_event: OnEvent | None,
        restarted: Callable[[], RestartCause | None] = lambda: None,
        env: Environment = NO_VARIABLES,
        *,
        tools: Toolbox | None = None,
    ) -> Execution:
        """Run code after the previous executions. Then `restarted` says whether the session had ended before.

        Cancelling interrupts the code; the next execution waits until it has ended.
        """
        calling: dict[str, Any] = {}
        if tools is not None:
            calling["tools"] = described(tools.stubs)
            calling |= {"call_limit": tools.limits.calls, "call_bytes": tools.limits.argument_bytes}

        def order(number: int) -> Frame:
            limited = {"text_limit": limits.text, "output_limit": limits.display}
            return HostOrder.execute(number, code, env=env, **limited, **calling)

        return await self._run(order, lambda: Collector(limits, on_event, restarted()), tools)

    async def shell(
        self,
        command: ShellCommand,
        limits: ExecutionLimits,
        on_event: OnEvent | None,
        restarted: Callable[[], RestartCause | None] = lambda: None,
    ) -> Execution:
        """Like `execute`, for a shell command."""

        def order(number: int) -> Frame:
            return HostOrder.shell(
                number, command.command, stdin=command.stdin, text_limit=limits.text, env=command.env
            )

        return await self._run(order, lambda: Collector(limits, on_event, restarted(), command=True))

    # Copies

    async def save(
        self,
        limits: ExecutionLimits,
        on_event: OnEvent,
        without: Sequence[str],
        *,
        prepare: Callable[[], Awaitable[None]],
        begun: Callable[[], None],
    ) -> Execution:
        """Serialize the session's files and variables for `take`, after the previous executions.

        Args:
            limits: for the code that runs in the sandbox meanwhile.
            on_event: receives its events.
            without: what to leave out.
            prepare: called when it is this operation's turn; no other execution comes in between.
            begun: called once `take` can be called.
        """

        def order(number: int) -> Frame:
            return HostOrder.save(number, without, text_limit=limits.text, output_limit=limits.display)

        execution = await self._run(order, lambda: Collector(limits, on_event), prepare=prepare, begun=begun)
        self.state_was_lost |= execution.state_lost
        return execution

    async def take(self, timeout: float) -> bytes:
        """Return the next piece of a `save`; it is empty when that has ended.

        A runner that has not replied after `timeout` seconds is considered lost.
        """
        order = HostOrder.take(next(self._numbers))
        _, piece = await self._request(None, order, most=MAX_PIECE, timeout=timeout)
        return piece

    async def load(self, limits: ExecutionLimits, on_event: OnEvent, begun: Callable[[], None]) -> Execution:
        """Recreate files and variables from the pieces of `give`. The arguments are those of `save`."""

        def order(number: int) -> Frame:
            return HostOrder.load(number, text_limit=limits.text, output_limit=limits.display)

        return await self._run(order, lambda: Collector(limits, on_event), begun=begun)

    async def give(self, piece: bytes, timeout: float) -> None:
        """Give the next piece to `load`, and wait until it is taken, or `load` has ended. An empty piece is the end.

        A runner that has not replied after `timeout` seconds is considered lost.
        """
        await self._request(None, HostOrder.give(next(self._numbers), piece), timeout=timeout)

    async def _run(
        self,
        order: Callable[[int], Frame],
        collector: Callable[[], Collector],
        tools: Toolbox | None = None,
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
        begun: Callable[[], None] | None = None,
    ) -> Execution:
        await self._turn.acquire()
        if prepare is not None:
            try:
                await prepare()
            except BaseException:
                self._turn.release()
                raise
        running = collector()
        if begun is not None:
            return await self._run_now(order, running, tools, begun)
        running.not_carried, running.state_was_lost = self.not_carried, self.state_was_lost
        execution = await self._run_now(order, running, tools, lambda: None)
        self.not_carried, self.state_was_lost = (), False
        return execution

    async def _run_now(
        self, order: Callable[[int], Frame], running: Collector, tools: Toolbox | None, begun: Callable[[], None]
    ) -> Execution:
        number = next(self._numbers)
        deadline = Deadline(running.limits.timeout, waits=tools.limits.total_timeout if tools is not None else 0)
        ordered = False
        try:
            self._running, self._calls = (number, running), None
            if tools is not None:
                answer = partial(self._answer, number)
                self._calls = RunningCalls(tools, answer, deadline.set_waiting, deadline.set_parked)
            await self._set_environment()
            self._gauge = self._gauge or self._sandbox.gauge()
            before = self._gauge.cpu() if self._gauge is not None else None
            ordered = True
            await self._send(order(number))
            begun()
            await asyncio.wait([running.done, deadline.passed], return_when=asyncio.FIRST_COMPLETED)
            timed_out = not running.done.done()
            self._end_calls()
            if timed_out:
                await asyncio.wait([self._in_background(self._stop(number, running))])
            running.used = self._used_since(before)
            try:
                execution = await running.finish(timed_out=timed_out)
            except FrameError as error:
                raise self._fail(str(error)) from error
        except asyncio.CancelledError:
            if self._lost is None and ordered:  # a runner that was not sent the code does not answer
                self._in_background(self._stop(number, running)).add_done_callback(lambda _: self._turn.release())
            else:
                self._turn.release()
            if self._lost is None:
                running.cancelled()
            raise
        except BaseException:
            self._turn.release()
            raise
        finally:
            self._end_calls()
            deadline.end()
        self._running = self._calls = None
        self._turn.release()
        return execution

    def _used_since(self, before: float | None) -> dict[str, Any]:
        """Return what an execution has used, if control groups count it."""
        if self._gauge is None or before is None or (now := self._gauge.cpu()) is None:
            return {}
        peak = self._gauge.take_peak()
        return {"usage_source": UsageSource.CONTROL_GROUPS, "cpu": max(0.0, now - before), "peak_memory": peak}

    async def _answer(self, number: int, call: int, answer: ToolAnswer) -> None:
        """Send the answer to a call of an execution that is still running."""
        if self._running is not None and self._running[0] == number:
            await self._send(HostOrder.answer(number, call, answer.content, failed=answer.failed))

    def _end_calls(self) -> None:
        if self._calls is not None:
            self._calls.end()

    @property
    def calls(self) -> RunningCalls | None:
        """The calls of the running execution, if it has tools."""
        return self._calls

    async def _stop(self, number: int, running: Collector) -> None:
        """Interrupt an execution and wait until it ends; if the runner does not stop it, the sandbox is lost."""
        with contextlib.suppress(SandboxLost):
            if not running.done.done():
                await self._send(HostOrder.interrupt(number, grace=running.limits.grace))
                if not await _within(running.done, running.limits.grace + _STOP_MARGIN):
                    self._fail("it did not stop the code after an interrupt")
        if running.done.done() and running.done.exception() is not None:
            return
        self._running = self._calls = None

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)
        return task

    # Frames

    async def _request(self, path: str | None, order: Frame, *, most: int = 0, timeout: float | None = None) -> Frame:
        """Send an order and return the runner's reply, with a body of at most `most` bytes.

        Only an order about a file, which has a `path`, can be answered with an error.
        """
        number: int = order.header["id"]
        request = self._requests[number] = _Request(asyncio.get_running_loop().create_future(), most)
        try:
            await self._send(order)
            async with asyncio.timeout(_REPLY_TIMEOUT if timeout is None else timeout):
                reply, content = await request.reply
        except TimeoutError:
            raise self._fail("it did not respond") from None
        code = reply.get("errno")
        if code is not None and path is None:
            raise self._fail("it violated the protocol: an error for a file that was not requested")
        if code is not None and path is not None:
            raise file_error(code, path)
        return Frame(reply, content)

    async def _send(self, order: Frame) -> None:
        if self._lost is not None:
            raise self._lost
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                await self._sandbox.send(encode(*order))
        except TimeoutError:
            raise self._fail("it does not read its input") from None
        except OSError:
            raise self._fail("it has ended") from None

    async def _read(self) -> None:
        decoder = Decoder()
        clock = time.monotonic
        turn_ends = clock() + _TURN
        try:
            while data := await self._sandbox.receive():
                view = memoryview(data)
                for start in range(0, len(data), _PIECE):
                    decoder.max_body = self._most()
                    for header, body in decoder.feed(view[start : start + _PIECE]):
                        await self._handle_event(header, body)
                    if clock() >= turn_ends:  # a flood of frames must not make other sessions wait
                        await asyncio.sleep(0)
                        turn_ends = clock() + _TURN
            diagnosis = await self._sandbox.diagnosis()
            self._fail(diagnosis or "it has ended")
        except FrameError as error:
            self._fail(f"it violated the protocol: {error}")
        except OSError as error:
            self._fail(f"the connection to it was lost: {error}")

    def _most(self) -> int:
        """The maximum size of a frame's body in bytes, given the requests that are pending."""
        most = max((request.most for request in self._requests.values()), default=0)
        if self._running is not None:
            _, running = self._running
            most = max(most, running.text_left, running.display_left, MAX_ENDING)
        if self._calls is not None:
            most = max(most, self._calls.arguments_left)
        return most

    async def _handle_event(self, header: dict[str, Any], body: bytes) -> None:
        event, number = header.get("ev"), header.get("id")
        if self._running is not None and self._running[0] == number and event != "reply":
            await self._handle_execution_event(self._running[1], header, body)
        elif event == "reply" and isinstance(number, int) and number in self._requests:
            request = self._requests.pop(number)
            if len(body) > request.most:
                raise FrameError("a reply that is too long")
            if not request.reply.done():  # its caller was not cancelled
                request.reply.set_result(Frame(header, body))
        elif event == "ready" and not self._ready.done():
            if header.get("version") != VERSION:
                raise FrameError(f"the runner speaks version {header.get('version')!r:.20}, not {VERSION}")
            self._ready.set_result(None)
        elif event == "preloaded" and not self._preloaded.done():
            self._preloaded.set_result(None)
        else:
            raise FrameError("a frame that was not requested")

    async def _handle_execution_event(self, running: Collector, header: dict[str, Any], body: bytes) -> None:
        if running.done.done():
            raise FrameError("a frame after the end of its execution")
        match header.get("ev"):
            case "text":
                stream = header.get("stream")
                if stream not in ("stdout", "stderr"):  # not a set: the value may not be hashable
                    raise FrameError("text on an unknown stream")
                running.add_text(stream, body)
            case "output":
                await running.add_output(header, body)
            case "error":
                await running.add_error(header, body)
            case "area":
                running.area(begins=header.get("begins") is True)
            case "clear":
                running.clear(wait=header.get("wait") is True)
            case "call" if self._calls is not None:
                self._calls.take(header.get("call"), header.get("tool"), body)
            case "withdraw" if self._calls is not None:
                self._calls.withdraw(header.get("call"))
            case "done":
                running.done.set_result(Frame(header, body))
            case _:
                raise FrameError("a frame of an unknown kind")

    def _fail(self, reason: str) -> SandboxLost:
        """Mark the sandbox as lost, for this reason; return the error that callers get."""
        if self._lost is None:
            reason = without_controls(reason)  # it can be text that the sandbox wrote
            self._lost = SandboxLost(
                f"The sandbox {self._sandbox.id} was lost: {reason}. Its session's variables and files are gone; "
                "the next use of the identifier starts a new session."
            )
            waiting: list[asyncio.Future[Any]] = [self._ready, self._preloaded]
            waiting += [request.reply for request in self._requests.values()]
            if self._running is not None:
                waiting.append(self._running[1].done)
            for future in waiting:
                if not future.done():
                    future.set_exception(self._lost)
                    future.exception()  # mark it as retrieved: not every future is awaited
            self._on_lost()
        return self._lost


async def _within(future: asyncio.Future[Any], seconds: float) -> bool:
    """Return whether the future is done in time; raise its exception if it has one."""
    done, _ = await asyncio.wait([future], timeout=seconds)
    if done:
        future.result()
    return bool(done)
