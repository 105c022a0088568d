"""A custom container as an instance that an allocator leases: its probes, its requests, its end."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable

from greenroom.backend import HttpRequest, HttpResponse
from greenroom.config.containers import CustomContainer, Probe
from greenroom.engines.base import Connection, PortSandbox, Resources
from greenroom.errors import EngineUnavailable, GreenroomError, InvalidRequest, SandboxLost, ServiceFailed
from greenroom.local.console import ConsoleLines
from greenroom.local.exchange import ConnectionEnded, exchange
from greenroom.untrusted import without_controls

_IMPLICIT = Probe.model_validate({"period": 0.25, "timeout": 5, "failure_threshold": 240})
_QUICK = 0.02  # seconds between the first attempts
_LINES, _CHARACTERS = 20, 2000
_END_TIMEOUT = 1.0  # between the end of a connection and that of its container
_MOST_REQUESTS = 60
"""At the same time; further ones wait. It reserves some of a sandbox's connections (`relay.MOST_OPEN`) for probes."""


class NotListening(ServiceFailed):
    """Nothing accepts connections on the container's port."""


class ContainerInstance:
    """One custom container, ready after its startup probe.

    Args:
        sandbox: the started sandbox.
        container: its settings.
        on_lost: called once, when it ends by itself or fails its liveness probe.
        node_share: the part of an Azure node that it would take.
        on_line: called with its session (if any), the stream, and each line that it prints.
    """

    def __init__(
        self,
        sandbox: PortSandbox,
        container: CustomContainer,
        on_lost: Callable[[], None],
        node_share: float,
        on_line: Callable[[str | None, str, str], None] | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._container = container
        self._on_lost = on_lost
        self.node_share = node_share
        self._ended = asyncio.create_task(sandbox.ended())
        self._watch: asyncio.Task[None] | None = None
        self._places = asyncio.Semaphore(_MOST_REQUESTS)
        self._reason = ""
        self._memory: int | None = None
        self.used = False
        """Whether it was sent a request."""
        self.identifier: str | None = None
        """Its session."""
        self._lines: ConsoleLines | None = None
        if on_line is not None:
            self._lines = ConsoleLines(lambda stream, line: on_line(self.identifier, stream, line))
            sandbox.listen(self._lines.feed)

    async def ready(self) -> None:
        """Wait until the startup probe succeeds.

        Raises:
            EngineUnavailable: it failed, or the container ended; the message has the last lines that it printed.
        """
        probing = asyncio.create_task(self._start_up(self._container.startup or _IMPLICIT))
        try:
            await asyncio.wait([probing, self._ended], return_when=asyncio.FIRST_COMPLETED)
            if not probing.done():
                raise EngineUnavailable(
                    f"A container of {self._container.image!r} ended before it was ready{await self._how()}."
                    f"{self._last_lines()}"
                )
            failure = probing.result()
        finally:
            probing.cancel()
        if failure:
            raise EngineUnavailable(
                f"A container of {self._container.image!r} did not become ready: {failure}.{self._last_lines()}"
            )
        self._watch = asyncio.create_task(self._live())

    async def take_full_share(self) -> None:
        await self._sandbox.take_full_share()

    @property
    def sampling_interval(self) -> float:
        return self._sandbox.sampling_interval

    async def resources(self) -> Resources | None:
        return await self._sandbox.resources()

    async def warm_up(self) -> None:
        """Do nothing: the startup probe determines when a container is warm."""

    async def freeze(self) -> bool:
        """Do nothing: its program can work between requests."""
        return False

    async def thaw(self) -> None:
        """Do nothing: it is never frozen."""

    async def limit_memory(self, memory: int) -> None:
        if memory != self._memory:
            await self._sandbox.limit_memory(memory)
            self._memory = memory

    async def close(self, reason: str) -> None:
        self._reason = reason
        if self._watch is not None:
            self._watch.cancel()
        self._ended.cancel()
        await self._sandbox.kill()
        if self._lines is not None:
            self._lines.close()

    def give_up(self) -> None:
        """Have it replaced."""
        self._on_lost()

    @contextlib.asynccontextmanager
    async def request(self, request: HttpRequest, timeout: float) -> AsyncGenerator[HttpResponse, None]:
        """Send a request; `timeout` is in seconds until the response begins.

        Raises:
            NotListening: it does not accept the connection, and nothing was sent.
            ServiceFailed: it did not respond in time or with HTTP, or too many other requests were waiting.
            SandboxLost: it ended.
        """
        try:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(None if math.isinf(timeout) else timeout):
                        await stack.enter_async_context(self._places)
                        connection = await self._connect(self._container.target_port)
                        self.used = True
                        response = await stack.enter_async_context(exchange(connection, request))
                except TimeoutError:
                    raise ServiceFailed(
                        f"The container did not respond within {timeout:g} seconds to {request.method} "
                        f"{request.target:.200}."
                    ) from None
                yield response
        except (ConnectionEnded, NotListening) as error:
            await asyncio.wait([self._ended], timeout=_END_TIMEOUT)
            if not self._ended.done():
                raise
            why = f": {self._reason}" if self._reason else await self._how()
            raise SandboxLost(
                f"The session's container has ended{why}. Its state is gone; the next use of the identifier starts a "
                f"new one.{self._last_lines()}"
            ) from error

    async def _connect(self, port: int) -> Connection:
        try:
            return await self._sandbox.connect(port)
        except OSError as error:
            raise NotListening(f"The container does not accept connections on port {port}: {error}.") from error

    async def _live(self) -> None:
        """Report its end, or a failed liveness probe."""
        if self._container.liveness is not None:
            probing = asyncio.create_task(self._liveness(self._container.liveness))
            try:
                await asyncio.wait([probing, self._ended], return_when=asyncio.FIRST_COMPLETED)
            finally:
                probing.cancel()
        else:
            await asyncio.wait([self._ended])
        self._on_lost()

    async def _start_up(self, probe: Probe) -> str:
        """Return why the probe failed; empty if it succeeded."""
        await asyncio.sleep(probe.initial_delay)
        failures = 0
        quick = _QUICK if probe is _IMPLICIT else None
        while True:
            failure = await self._ask(probe)
            if failure is None:
                return ""
            failures += 1
            if failures >= probe.failure_threshold:
                return f"its startup probe ({_name(probe, self._container)}) failed {failures} times, {failure}"
            period = probe.period
            if quick is not None:
                period = quick = min(quick * 1.5, probe.period)
            await asyncio.sleep(period)

    async def _liveness(self, probe: Probe) -> None:
        """Return when it has failed."""
        await asyncio.sleep(probe.initial_delay)
        failures, failure = 0, None
        while failures < probe.failure_threshold:
            await asyncio.sleep(probe.period)
            failure = await self._ask(probe)
            failures = 0 if failure is None else failures + 1
        self._reason = f"its liveness probe ({_name(probe, self._container)}) failed {failures} times, {failure}"

    async def _ask(self, probe: Probe) -> str | None:
        """Return how one attempt failed; `None` if it succeeded."""
        try:
            async with asyncio.timeout(probe.timeout):
                connection = await self._connect(probe.port or self._container.target_port)
                if probe.path is None:
                    await connection.close()
                    return None
                headers = tuple((name.encode(), value.encode()) for name, value in probe.headers.items())
                async with exchange(connection, HttpRequest("GET", probe.path, headers)) as response:
                    return None if 200 <= response.status < 400 else f"the last time with status {response.status}"
        except TimeoutError:
            return f"the last time with no response within {probe.timeout:g} seconds"
        except InvalidRequest:
            raise
        except GreenroomError as error:
            return f"the last time with the error: {str(error).rstrip('.')}"

    async def _how(self) -> str:
        """Return how it ended, as the rest of a sentence."""
        diagnosis = await self._sandbox.diagnosis()
        return f": {diagnosis}" if diagnosis else ""

    def _last_lines(self) -> str:
        lines = without_controls(self._sandbox.output()).strip().splitlines()[-_LINES:]
        text = "\n".join(lines)[-_CHARACTERS:]
        return f" Its last output:\n{text}" if text else " It printed nothing."


def _name(probe: Probe, container: CustomContainer) -> str:
    port = probe.port or container.target_port
    return f"a connection to port {port}" if probe.path is None else f"GET {probe.path} on port {port}"
