"""Many clients at once over real sockets, and clients that leave."""

from __future__ import annotations

import asyncio
import json

import httpx
from tests.server.served import eventually, listening, memory_backend

from greenroom.testing import ENDLESS_CODE, ScriptedBackend

from .wire import BOTH, call, events_of, headers_of, post, request

CLIENTS = 50


async def test_clients_at_the_same_time_are_not_mixed() -> None:
    """Each has the same ids for its requests, and progress of its own."""
    backend = ScriptedBackend()
    async with listening(backend) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        together = asyncio.Barrier(CLIENTS)

        async def converse(number: int) -> tuple[str, str]:
            begun = await post(http, request("initialize", protocolVersion="2025-11-25"))
            peer = {"mcp_session_id": begun.headers["mcp-session-id"], "mcp_protocol_version": "2025-11-25"}
            await together.wait()
            session = None
            for _ in range(3):
                arguments = {"code": f"print({number})", **({"session_id": session} if session else {})}
                meta = {"progressToken": number}
                message = request("tools/call", 1, name="run_python", arguments=arguments, _meta=meta)
                *notes, answer = events_of(await post(http, message, **peer))
                tokens = {note["params"].get("progressToken", number) for note in notes}
                assert tokens == {number}
                session = answer["result"]["structuredContent"]["session_id"]
            return peer["mcp_session_id"], str(session)

        async with asyncio.timeout(60):
            ended = await asyncio.gather(*(converse(number) for number in range(CLIENTS)))
        assert len(set(ended)) == len({session for _, session in ended}) == CLIENTS
    by_session: dict[str, set[str]] = {}
    for run in backend.runs:
        by_session.setdefault(run.identifier, set()).add(run.code)
    assert len(by_session) == CLIENTS
    assert all(len(codes) == 1 for codes in by_session.values())
    assert len(backend.runs) == 3 * CLIENTS


async def test_a_client_that_leaves_interrupts_its_code() -> None:
    backend = ScriptedBackend()
    async with listening(backend) as server:
        host, port = server.url.removeprefix("http://").split(":")
        message = call("run_python", code=ENDLESS_CODE)
        body = json.dumps(message).encode()
        fields = {**BOTH, **headers_of(message), "host": "localhost", "content-length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        await eventually(lambda: len(backend.runs) == 1)
        writer.transport.abort()  # as if it was killed
        await eventually(lambda: len(backend.interrupted) == 1)
        await eventually(lambda: backend.deleted == backend.identifiers)


async def test_a_client_that_reads_nothing_is_disconnected() -> None:
    backend = await memory_backend()
    async with listening(backend, client_timeout=0.5) as server:
        host, port = server.url.removeprefix("http://").split(":")
        code = "import time\nwhile True: print('x' * 10_000, flush=True); time.sleep(0.001)"
        message = call("run_python", meta={"io.modelcontextprotocol/logLevel": "info"}, code=code)
        body = json.dumps(message).encode()
        fields = {**BOTH, **headers_of(message), "host": "localhost", "content-length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        writer.write(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        del reader
        async with asyncio.timeout(60):
            while not await backend.sessions():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while await backend.sessions():  # noqa: ASYNC110  nobody knows its handle, so it ends
                await asyncio.sleep(0.02)
        writer.transport.abort()
