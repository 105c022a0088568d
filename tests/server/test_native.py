"""greenroom/1 between our client and our server, at a real socket: nothing is lost, the rules of all routes hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from greenroom import errors, wire
from greenroom.azure.codecs.shared import Call
from greenroom.azure.native import NativePool
from greenroom.backend import Backend, OnEvent, Overrides
from greenroom.config.environment import Environment
from greenroom.connecting import open_backend
from greenroom.errors import AccessDenied, GreenroomError, InvalidRequest, SandboxLost, ServiceFailed
from greenroom.models import Event, Execution, Output, PoolStatus, RemoteFile, SessionInfo, StreamText
from greenroom.server.access.keys import ApiKeys, digest
from greenroom.server.records import ExecutionRecords, Live
from greenroom.server.responses import RequestRefused
from greenroom.server.run import Server
from greenroom.sessions.background import BackgroundLoop
from greenroom.sessions.tools import toolbox_of
from greenroom.telemetry import RequestEnded, TelemetryEvent
from greenroom.testing.backend import BareBackend
from greenroom.testing.scripted import ENDLESS_CODE, ScriptedBackend
from greenroom.tools import ToolAnswer, Toolbox, ToolCall, ToolLimits, ToolParameter, ToolStub

from .served import eventually, listening, memory_backend, served

FIGURE = Output({"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}, {"width": 3}, is_result=True)
MIB = 1 << 20


@contextlib.asynccontextmanager
async def connected(
    backend: Backend | None = None, *, key: str | None = None, **options: Any
) -> AsyncGenerator[tuple[NativePool, Server], None]:
    """A client of a server over a backend."""
    async with listening(backend, **options) as server, client_of(server.url, key) as pool:
        yield pool, server


@contextlib.asynccontextmanager
async def client_of(url: str, key: str | None = None) -> AsyncGenerator[NativePool, None]:
    options: dict[str, Any] = {} if key is None else {"api_key": key}
    pool = await open_backend(url, api_version=wire.VERSION, acquire_timeout=0, **options)
    assert isinstance(pool, NativePool)
    try:
        yield pool
    finally:
        await pool.close()


def run(
    pool: Backend, code: str, timeout: float | None = None, on_event: OnEvent | None = None
) -> asyncio.Task[Execution]:
    return asyncio.create_task(pool.execute("session", code, timeout=timeout, on_event=on_event))


def running(server: Any) -> list[Any]:
    """What runs in its pools."""
    return [record for served in server.application.pools for record in served.records.running]


class Raising(ScriptedBackend):
    """Raises the same error for everything."""

    def __init__(self, error: GreenroomError) -> None:
        super().__init__()
        self._error = error

    async def execute(self, identifier: str, code: str, **options: Any) -> Execution:
        raise self._error

    async def file(self, identifier: str, path: str) -> RemoteFile:
        raise self._error

    async def delete(self, identifier: str) -> None:
        raise self._error

    async def sessions(self) -> list[SessionInfo]:
        raise self._error

    async def status(self) -> PoolStatus:
        raise self._error


def fields(error: GreenroomError) -> dict[str, Any]:
    names = ("args", "errno", "strerror", "filename", "sessions", "retry_after", "azure")
    return {"type": type(error), "str": str(error), **{name: getattr(error, name, None) for name in names}}


ERRORS: list[GreenroomError] = [
    errors.PoolFull("full", sessions=4, retry_after=2.5),
    errors.FileRefused.too_large("/mnt/data/a", 5, option="file_limit"),
    errors.FileRefused(28, "the disk is full", "/mnt/data/a"),
    errors.FileMissing("ended, and began again"),
    *(
        kind("why, ü")
        for kind in (errors.EngineUnavailable, errors.ImageMissing, errors.PoolClosed, errors.SandboxLost)
    ),
    *(
        kind("why")
        for kind in (errors.InvalidRequest, errors.AccessDenied, errors.ServiceFailed, errors.GreenroomError)
    ),
]


async def chunks(*content: bytes) -> AsyncIterator[bytes]:
    for each in content:
        yield each


async def everything(pool: Backend) -> list[GreenroomError]:
    """The errors of each call, also of an upload that is not read and of an execution in the background."""

    async def download() -> None:
        async for _ in pool.download("session", "/mnt/data/a"):
            pass

    calls: list[Callable[[], Any]] = [
        lambda: pool.execute("session", "1", timeout=None, on_event=None),
        lambda: pool.execute("session", "1", timeout=math.inf, on_event=lambda _: None),
        lambda: pool.upload("session", "/mnt/data/a", chunks(b"a")),
        download,
        lambda: pool.file("session", "/mnt/data/a"),
        lambda: pool.delete_file("session", "/mnt/data/a"),
        lambda: pool.delete("session"),
        pool.sessions,
        lambda: pool.session("session"),
        pool.status,
    ]
    found: list[GreenroomError] = []
    for call in calls:
        with pytest.raises(GreenroomError) as caught:
            await call()
        found.append(caught.value)
    return found


async def test_each_call_raises_what_the_pool_raises() -> None:
    for error in ERRORS:
        async with connected(Raising(error)) as (pool, _):
            for caught in await everything(pool):
                assert fields(caught) == fields(error)


async def test_an_error_in_the_middle_of_a_download_is_not_content() -> None:
    class Broken(ScriptedBackend):
        async def download(self, identifier: str, path: str, **options: Any) -> AsyncGenerator[bytes, None]:
            yield bytes(300_000)
            yield b"more"
            raise SandboxLost("lost in the middle")

    received = bytearray()
    async with connected(Broken()) as (pool, _):
        with pytest.raises(SandboxLost, match="lost in the middle"):  # noqa: PT012  what came before is needed
            async for chunk in pool.download("session", "/mnt/data/a"):
                received += chunk
    assert received == bytes(300_000) + b"more"


async def test_a_large_upload_that_is_refused_has_its_own_error() -> None:
    class Full(ScriptedBackend):
        async def upload(self, identifier: str, path: str, chunks: AsyncIterator[bytes], **options: Any) -> RemoteFile:
            await anext(chunks)
            raise errors.FileRefused(28, "the disk is full", path)

    async with connected(Full()) as (pool, _):
        with pytest.raises(errors.FileRefused) as caught:
            await pool.upload("session", "/mnt/data/a", chunks(*[bytes(MIB)] * 40))
    assert (caught.value.errno, caught.value.filename) == (28, "/mnt/data/a")


async def test_files_and_pool_status_have_every_field() -> None:
    class Other(ScriptedBackend):
        async def status(self) -> PoolStatus:
            return PoolStatus(7, 1, 2, 3, 4, 5, 6, 7, 0.1, 0.2, 0.3, 0.4, {"lost": 3})

    backend = Other()
    async with connected(backend) as (pool, _):
        name = "/mnt/data/a b/é?#%&+ü.txt"
        uploaded = await pool.upload("session", name, chunks(bytes(5 * MIB), b"end"))
        assert uploaded == await backend.file("session", name) == await pool.file("session", name)
        assert await pool.files("session", "/mnt/data", recursive=True) == [uploaded]
        assert b"".join([chunk async for chunk in pool.download("session", name)]) == bytes(5 * MIB) + b"end"
        assert await pool.status() == await backend.status()
        assert await pool.session("session") is None
        await pool.delete_file("session", name)
        assert await pool.files("session", "/mnt/data", recursive=False) == []
        for path in ("/etc/passwd", "/mnt/data/../x", "/mnt/data"):
            with pytest.raises(InvalidRequest, match="path must"):
                await pool.file("session", path)


# Executions


@pytest.mark.parametrize("timeout", [None, math.inf], ids=["in the foreground", "in the background"])
async def test_large_outputs_come_whole_also_to_a_slow_consumer(timeout: float | None) -> None:
    backend = ScriptedBackend()
    pictures = tuple(Output({"image/png": "A" * (6 * MIB)}, is_result=number == 4) for number in range(5))
    text = ("x" * 999 + "\n") * 60_000
    backend.answer = Execution("1", "succeeded", stdout=text, stderr="é" * MIB, outputs=pictures, updates=pictures[:1])
    events: list[Event] = []
    async with connected(backend, max_in_flight="16Mi") as (pool, server):
        execution = await run(pool, "big", timeout, events.append)
        app: Any = server.application
        await eventually(lambda: app.budget.used == 0)
    assert (execution.stdout, execution.stderr) == (text, "é" * MIB)
    assert (execution.outputs, execution.updates) == (pictures, pictures[:1])
    assert "".join(event.text for event in events if isinstance(event, StreamText)) == text


async def test_silent_code_is_not_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.server.routes.native._KEEP_ALIVE", 0.05)
    monkeypatch.setattr("greenroom.azure.native._TIMEOUT", 6)
    async with connected(await memory_backend()) as (pool, _):
        execution = await run(pool, "import time\nprint('a')\ntime.sleep(8)\n'end'")
    assert (execution.stdout, execution.result) == ("a\n", "'end'")


async def test_waiting_for_another_process_does_not_count_towards_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("greenroom.server.routes.native._KEEP_ALIVE", 0.05)
    monkeypatch.setattr("greenroom.azure.native.MARGIN", 0.2)
    async with connected(await memory_backend()) as (pool, server), client_of(server.url) as other:
        first = run(pool, "import time\ntime.sleep(8)", 60)
        await eventually(lambda: bool(running(server)))
        assert (await run(other, "6 * 7", 5)).result == "42"
        await first


async def test_an_execution_that_does_not_end_in_time_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.server.routes.native._KEEP_ALIVE", 0.05)
    monkeypatch.setattr("greenroom.azure.native.MARGIN", 0.2)
    backend = ScriptedBackend()
    async with connected(backend) as (pool, _):
        with pytest.raises(ServiceFailed, match="did not end within"):
            await run(pool, ENDLESS_CODE, 0.3)
        await eventually(lambda: backend.interrupted == ["session"])


@pytest.mark.parametrize("timeout", [None, 500, math.inf])
async def test_a_caller_that_leaves_interrupts_the_code_and_keeps_its_output(timeout: float | None) -> None:
    backend = ScriptedBackend()
    events: list[Event] = []
    async with connected(backend) as (pool, _):
        task = run(pool, ENDLESS_CODE, timeout, events.append)
        await eventually(lambda: bool(events))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.interrupted == ["session"]
    assert isinstance(events[-1], Execution)
    assert (events[-1].status, events[-1].stdout) == ("cancelled", "ran\n")


async def test_deleting_a_session_loses_its_running_executions() -> None:
    async with connected(await memory_backend()) as (pool, _):
        events: list[Event] = []
        task = run(pool, "import time\nprint('begun')\ntime.sleep(200)", math.inf, events.append)
        await eventually(lambda: bool(events))
        assert await pool.session("session") is not None
        await pool.delete("session")
        with pytest.raises(SandboxLost, match="session was deleted"):
            await task


async def test_an_execution_cancelled_before_its_arrival_does_not_start() -> None:
    records = ExecutionRecords()
    for number in range(1500):
        records.cancel_one("session", f"x{number}")

    async def work() -> Any:
        pytest.fail("it was cancelled")

    with pytest.raises(RequestRefused, match="cancelled before it started"):
        records.begin("session", None, work, "x1499", live=Live())  # pyright: ignore[reportArgumentType]


# Connections


class Relay:
    """Passes bytes on, until it breaks all connections."""

    def __init__(self, url: str) -> None:
        self._port = urlsplit(url).port
        self._writers: list[asyncio.StreamWriter] = []
        self.closed = False
        self.connections = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[str, None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self.closed = True
            self.break_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        self.connections += 1
        self._writers.append(writer)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        if writer.is_closing():  # broken meanwhile
            far_writer.transport.abort()
            return
        self._writers.append(far_writer)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    target.write(data)
                    await target.drain()

        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    def break_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def test_one_call_after_the_other_uses_the_same_connection() -> None:
    async with listening(ScriptedBackend()) as server:
        relay = Relay(server.url)
        async with relay.running() as url, client_of(url) as pool:
            for timeout in (None, math.inf) * 2:
                await run(pool, "1", timeout)
                await run(pool, "1", timeout, lambda _: None)
                await pool.upload("session", "/mnt/data/a", chunks(b"a"))
                assert [chunk async for chunk in pool.download("session", "/mnt/data/a")] == [b"a"]
            assert relay.connections == 1


async def test_an_execution_in_the_background_survives_lost_connections() -> None:
    async with listening(await memory_backend()) as server:
        relay = Relay(server.url)
        async with relay.running() as url, client_of(url) as pool:
            events: list[Event] = []
            code = "import time\nfor n in range(20):\n    print(n)\n    time.sleep(0.2)\n'end'"
            running = run(pool, code, math.inf, events.append)
            for count in (2, 3):
                await eventually(lambda count=count: len(events) >= count)
                relay.break_all()
                await asyncio.sleep(0.3)
            execution = await running
    assert execution.stdout == "".join(f"{n}\n" for n in range(20))
    assert execution.result == "'end'"
    assert events[-1] == execution
    assert len(events) > 5, "after a lost connection, events come again"


async def test_an_execution_in_the_background_whose_server_is_gone_is_unknown() -> None:
    async with listening(await memory_backend()) as server:
        relay = Relay(server.url)
        async with relay.running() as url, client_of(url) as pool:
            events: list[Event] = []
            task = run(pool, "import time\nprint('begun')\ntime.sleep(200)", math.inf, events.append)
            await eventually(lambda: bool(events))
            relay.closed = True
            relay.break_all()
            with pytest.raises(ServiceFailed, match="was started; its outcome is unknown"):
                await task


async def test_an_execution_in_the_background_that_is_forgotten_is_lost() -> None:
    async with connected(await memory_backend()) as (_, server):
        relay = Relay(server.url)
        async with relay.running() as url, client_of(url) as pool:
            events: list[Event] = []
            task = run(pool, "import time\nprint('begun')\ntime.sleep(10)", math.inf, events.append)
            await eventually(lambda: bool(events))
            app: Any = server.application
            for served in app.pools:
                for record in served.records.of("session"):
                    served.records.forget(record)
            relay.break_all()
            with pytest.raises(SandboxLost, match="no longer known"):
                await task


async def test_a_server_that_breaks_every_connection_is_abandoned_after_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("greenroom.azure.native.MAX_SYNCHRONOUS", 0.1)
    monkeypatch.setattr("greenroom.azure.native.MARGIN", 3)
    asked = ended = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked, ended
        asked += 1
        with contextlib.suppress(OSError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n\n")
            await asyncio.sleep(0.05)
        writer.transport.abort()
        ended += 1

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as pool:
        with pytest.raises(ServiceFailed, match=r"did not end within 3 seconds after its time limit"):
            await asyncio.wait_for(run(pool, "1", 0.2), 60)
    await eventually(lambda: ended == asked)
    assert asked > 1


async def test_a_lost_connection_interrupts_an_execution_in_the_foreground() -> None:
    backend = ScriptedBackend()
    async with listening(backend) as server:
        relay = Relay(server.url)
        async with relay.running() as url, client_of(url) as pool:
            events: list[Event] = []
            running = run(pool, ENDLESS_CODE, None, events.append)
            await eventually(lambda: bool(events))
            relay.break_all()
            with pytest.raises(ServiceFailed, match="It is unknown whether the request was carried out"):
                await running
        await eventually(lambda: backend.interrupted == ["session"])


async def test_events_come_to_the_latest_of_several_clients_and_wait_for_no_other() -> None:
    class Talking(ScriptedBackend):
        said: OnEvent

        async def execute(self, identifier: str, code: str, **options: Any) -> Execution:
            self.said = options["on_event"]
            await asyncio.sleep(30)
            raise AssertionError

    async def attached(pool: NativePool, lines: list[dict[str, Any]]) -> None:
        connection: Any = pool._http  # pyright: ignore[reportPrivateUsage]
        call = Call("GET", "greenroom/1/executions/a1", {"identifier": "session", "stream": "true"})
        async with connection.stream(call, timeout=30) as response:
            lines.append({})  # it has begun
            async for piece in response.chunks:
                lines += [json.loads(line) for line in piece.splitlines() if line]

    backend = Talking()
    async with connected(backend) as (pool, server), client_of(server.url) as other:
        connection: Any = pool._http  # pyright: ignore[reportPrivateUsage]
        order = {"id": "a1", "code": "1", "background": True, "timeout": 300}
        begin = Call("POST", "greenroom/1/executions", {"identifier": "session"}, order)
        async with connection.stream(begin, timeout=30):
            pass
        first: list[dict[str, Any]] = []
        second: list[dict[str, Any]] = []
        early = asyncio.create_task(attached(pool, first))
        await eventually(lambda: bool(first))
        backend.said(StreamText("stdout", "one"))
        await eventually(lambda: len(first) == 2)
        late = asyncio.create_task(attached(other, second))
        await early
        backend.said(StreamText("stdout", "two"))
        await eventually(lambda: len(second) == 2)
        late.cancel()
        await asyncio.wait([late])
    assert first[1]["text"] == "one"
    assert first[2]["type"] == "error"
    assert "a later request now receives it" in first[2]["error"]["message"]
    assert second[1:] == [{"type": "text", "stream": "stdout", "text": "two"}]


async def test_only_a_background_execution_can_be_received_again() -> None:
    backend = ScriptedBackend()
    async with connected(backend) as (pool, server):
        running = run(pool, ENDLESS_CODE)
        await eventually(lambda: bool(backend.runs))
        app: Any = server.application
        (record,) = (record for served in app.pools for record in served.records.of("session"))
        connection: Any = pool._http  # pyright: ignore[reportPrivateUsage]
        call = Call("GET", f"greenroom/1/executions/{record.id}", {"identifier": "session"})
        with pytest.raises(GreenroomError, match="no such execution"):
            await connection.json(call, _as_it_is, timeout=60)
        assert backend.interrupted == []
        running.cancel()
        await asyncio.wait([running])


# Tools of the client


async def doubled(call: ToolCall) -> ToolAnswer:
    return ToolAnswer(b"%d" % (2 * json.loads(call.arguments)["x"]))


def tools_of(answer: Callable[[ToolCall], Awaitable[ToolAnswer]] = doubled, **limits: Any) -> Toolbox:
    return Toolbox((ToolStub("f", "Do it.", (ToolParameter("x", "int"),)),), ToolLimits(**limits), answer)


def run_with(pool: Backend, tools: Toolbox, timeout: float | None = None) -> asyncio.Task[Execution]:
    code = "total = f(1)\nprint(total)\nf(x=total)"
    return asyncio.create_task(pool.execute("session", code, timeout=timeout, on_event=None, tools=tools))


async def test_a_call_is_made_once_over_lost_connections() -> None:
    calls: list[int] = []
    go = asyncio.Event()

    async def answer(call: ToolCall) -> ToolAnswer:
        calls.append(call.number)
        await go.wait()
        return await doubled(call)

    async with listening(await memory_backend()) as server:
        relay = Relay(server.url)
        async with relay.running() as url, client_of(url) as pool:
            running = run_with(pool, tools_of(answer), math.inf)
            await eventually(lambda: calls == [1])
            relay.break_all()
            await asyncio.sleep(0.5)
            go.set()
            execution = await running
    assert (execution.stdout, execution.result, calls) == ("2\n", "4", [1, 2])


async def test_a_lost_answer_is_sent_again() -> None:
    relay: Relay

    async def answer(call: ToolCall) -> ToolAnswer:
        if call.number == 1:
            relay.break_all()
        return await doubled(call)

    async with listening(await memory_backend()) as server:
        relay = Relay(server.url)
        async with relay.running() as url, client_of(url) as pool:
            execution = await run_with(pool, tools_of(answer), math.inf)
    assert (execution.stdout, execution.result) == ("2\n", "4")


async def test_a_client_that_leaves_cancels_its_calls() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(call: ToolCall) -> ToolAnswer:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()
        raise AssertionError

    async with listening(await memory_backend()) as server:
        relay = Relay(server.url)
        async with relay.running() as url, client_of(url) as pool:
            running = run_with(pool, tools_of(answer))
            await asyncio.wait_for(begun.wait(), 60)
            relay.break_all()
            with pytest.raises(ServiceFailed):
                await running
            await asyncio.wait_for(ended.wait(), 60)


async def test_only_the_client_that_receives_an_execution_answers_its_calls() -> None:
    seen: dict[str, Any] = {}

    async with connected(await memory_backend()) as (pool, server):

        async def post(**fields: Any) -> int:
            call = Call(
                "POST",
                f"{wire.VERSION}/executions/{seen['id']}/answers",
                {"identifier": fields.pop("identifier", "session")},
                {"call": 1, "key": "guessed", "content": "MQ==", **fields},
            )
            client: Any = pool
            try:
                await client._http.json(call, str, timeout=60)
            except GreenroomError as error:
                return error.azure.status if error.azure is not None else 400  # of our own
            return 204

        async def answer(call: ToolCall) -> ToolAnswer:
            app: Any = server.application
            (record,) = [record for served in app.pools for record in served.records.of("session")]
            seen["id"], key = record.id, record.live.calls._client.key
            seen["refused"] = [
                await post(),
                await post(key=""),
                await post(key="\ud800"),
                await post(key=key, call=call.number + 1),
                await post(key=key, call=-1),
                await post(key=key, identifier="another"),
                await post(key=key, content="no base64"),
                await post(key=key, call="1"),
            ]
            if call.number == 1:
                seen["first"] = await post(key=key)
                seen["twice"] = await post(key=key)
            return ToolAnswer(b"7")

        execution = await run_with(pool, tools_of(answer))
        assert execution.error is None
        assert execution.stdout == "1\n", "the first answer counts"
        assert seen["refused"] == [409, 409, 409, 409, 409, 404, 400, 400]
        assert (seen["first"], seen["twice"]) == (204, 409)
        assert await post(key="x") == 404, "it has ended"


@pytest.mark.parametrize(
    ("stubs", "limits"),
    [
        ([{"name": "print"}], {}),
        ([{"name": "a b"}], {}),
        ([{"name": "f", "parameters": [{"name": "x", "annotation": "int"}] * 2}], {}),
        ([{"name": "f", "parameters": [{"name": "x"}]}], {}),
        ([{"name": "f"}], {"calls": 0}),
        ([{"name": "f"}], {"calls": "many"}),
        ([{"name": "f"}], {"calls": 10**9}),
        ([{"name": "f"}], {"argument_bytes": 1 << 40}),
        ([{"name": "f"}], None),
        ([], {}),
        ([{"name": "f", "description": "x" * (1 << 20)}], {}),
    ],
)
async def test_tools_that_break_a_rule_are_refused(stubs: list[Any], limits: Any) -> None:
    order = {"id": "1", "code": "1", "tools": stubs, "tool_limits": limits}
    async with connected(await memory_backend()) as (pool, _):
        client: Any = pool
        call = Call("POST", f"{wire.VERSION}/executions", {"identifier": "session"}, order)
        with pytest.raises(InvalidRequest):
            await client._http.json(call, str, timeout=60)


async def test_arguments_count_as_memory_of_the_server() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        return ToolAnswer(b"1")

    async with connected(await memory_backend(), max_body=1 << 19, max_in_flight=1 << 20) as (pool, _):
        code = "print(f(x='x' * 200_000))\nf(x='x' * 300_000)"
        tools = tools_of(answer)
        execution = await pool.execute("session", code, timeout=None, on_event=None, tools=tools)
    assert execution.stdout == "1\n"
    assert execution.error is not None
    assert "the server's memory for requests is full" in execution.error.value


async def test_a_result_that_the_server_does_not_take_is_refused_by_its_size() -> None:
    def large(x: int) -> str:
        return "x" * x

    async with connected(await memory_backend(), max_body=8192) as (pool, _):
        tools = toolbox_of([large], None, BackgroundLoop("unused"), on_callers_loop=True)
        assert tools is not None
        code = "print(len(large(5000)))\nlarge(9000)"
        execution = await pool.execute("session", code, timeout=None, on_event=None, tools=tools)
    assert execution.stdout == "5000\n"
    assert execution.error is not None
    assert "must be at most" in execution.error.value


# The rules of all routes


async def test_keys_the_log_and_the_events_cover_the_routes(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[TelemetryEvent] = []
    guard = ApiKeys({"ci": digest("the-key-of-this-test")})
    with caplog.at_level(logging.INFO, "greenroom.server.access"):
        async with connected(ScriptedBackend(), key="the-key-of-this-test", guard=guard, observer=seen.append) as (
            pool,
            server,
        ):
            await run(pool, "secret_code")
            async with client_of(server.url) as stranger:
                for error in await everything(stranger):
                    assert isinstance(error, AccessDenied)
            await eventually(lambda: len(seen) > 10)
    entry = json.loads(caplog.records[0].getMessage())
    expected = {"method": "POST", "path": "/greenroom/1/executions", "status": 200, "caller": "ci", "pool": "p"}
    assert {**entry, **expected, "identifier": "session", "api_version": wire.VERSION} == entry
    assert "secret_code" not in caplog.text
    first = seen[0]
    assert isinstance(first, RequestEnded)
    assert (first.operation, first.status) == ("POST /greenroom/1/executions", 200)


async def test_a_client_that_does_not_read_its_lines_is_disconnected() -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="x" * (50 * MIB))
    async with listening(backend, client_timeout=0.5) as server:
        app: Any = server.application
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port, limit=1024)
        body = json.dumps({"id": "a1", "code": "x"}).encode()
        head = "POST /greenroom/1/executions?identifier=session HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await eventually(lambda: bool(backend.runs))
        await eventually(lambda: all(not served.in_flight for served in app.pools))
        assert app.budget.used == 0
        writer.close()
        del reader


async def test_an_output_that_no_memory_is_allowed_for_is_an_error_that_names_the_option() -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", outputs=(Output({"text/html": "x" * (3 * MIB)}),))
    async with connected(backend, max_in_flight="2Mi", max_body="1Mi") as (pool, server):
        with pytest.raises(ServiceFailed, match=r"The execution ran, .* max_in_flight is 2097152"):
            await run(pool, "1")
        app: Any = server.application
        await eventually(lambda: app.budget.used == 0)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"id": "a", "code": ""}, "code must not be empty"),
        ({"id": "a"}, "code must not be empty"),
        ({"id": "../x", "code": "1"}, "letters, digits"),
        ({"id": "a", "code": "1", "timeout": 1801}, "at most 1800"),
        ({"id": "a", "code": "1", "timeout": -1}, "positive"),
        ({"id": "a", "code": "1", "timeout": math.inf}, "positive"),
        ({"id": "a", "code": "1", "timeout": math.nan, "background": True}, "positive"),
        ([], "must be an object"),
    ],
)
async def test_an_order_of_another_form_is_refused(order: Any, message: str) -> None:
    async with connected(ScriptedBackend()) as (pool, _):
        connection: Any = pool._http  # pyright: ignore[reportPrivateUsage]
        call = Call("POST", "greenroom/1/executions", {"identifier": "session"}, order)
        with pytest.raises(InvalidRequest, match=message):
            await connection.json(call, _as_it_is, timeout=60)


async def test_a_strict_server_supports_it_too() -> None:
    async with connected(ScriptedBackend(), strict=True) as (pool, _):
        assert (await run(pool, "1")).stdout == "ran\n"


# Settings of one session


class Configured(ScriptedBackend):
    """Notes the settings that each execution has."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[int | None] = []
        self.given: dict[str, Overrides] = {}

    def configure(self, identifier: str, overrides: Overrides) -> None:
        self.given[identifier] = overrides

    async def execute(self, identifier: str, code: str, **options: Any) -> Execution:
        given = self.given.get(identifier)
        self.memory.append(None if given is None else given.memory)
        return await super().execute(identifier, code, **options)


async def test_the_settings_of_a_session_reach_the_pool_for_as_long_as_they_are_held() -> None:
    backend = Configured()
    async with connected(backend) as (pool, _):
        overrides = Overrides(memory=512 * MIB)
        pool.configure("session", overrides)
        await run(pool, "1")
        assert backend.memory == [512 * MIB]
        del overrides
        backend.given.clear()
        await run(pool, "1")
        assert backend.memory == [512 * MIB, None]


async def test_variables_that_no_header_can_hold_are_refused_immediately() -> None:
    async with connected(ScriptedBackend()) as (pool, _):
        with pytest.raises(InvalidRequest, match="at most 24 KiB as JSON"):
            pool.configure("session", Overrides(env=Environment({"A": "é" * 6_000})))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"memory": -1}, "must be positive, not -1 bytes"),
        ({"memory": 4 << 30}, "at most its pool's"),
        ({"idle_timeout": math.nan}, "positive and finite"),
        ({"idle_timeout": 0}, "positive and finite"),
        ({"env": {"A": 1}}, "values of type str"),
    ],
)
async def test_settings_that_break_a_rule_are_refused_from_any_client(overrides: dict[str, Any], message: str) -> None:
    async with served(await memory_backend()) as client:
        response = await client.get(
            "/greenroom/1/files",
            params={"identifier": "session"},
            headers={wire.OVERRIDES_HEADER: json.dumps(overrides)},
        )
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


async def test_a_pool_that_cannot_configure_a_session_says_so_on_first_use() -> None:
    class Uniform(ScriptedBackend):
        configure = BareBackend.configure

    async with connected(Uniform()) as (pool, _):
        overrides = Overrides(memory=512 * MIB)
        pool.configure("session", overrides)
        with pytest.raises(InvalidRequest, match="cannot differ from its pool"):
            await run(pool, "1")


def _as_it_is(body: Any) -> Any:
    return body
