"""Malicious callers: their data is counted before it is kept, and the data held for them has a limit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom.errors import InvalidRequest
from greenroom.models import Execution, Output
from greenroom.server.access.origins import host_name
from greenroom.server.budget import Budget, Share
from greenroom.server.run import Server
from greenroom.server.transport.multipart import parse_parameters
from greenroom.server.transport.tls import self_signed
from greenroom.testing import ENDLESS_CODE, ScriptedBackend

from .served import (
    LATEST,
    LEGACY,
    application,
    client_of,
    code_of,
    current,
    eventually,
    inline,
    listening,
    memory_backend,
    query,
    served,
)

_MIB = 1 << 20
TARGET = f"/executions?api-version={LATEST}&identifier=session"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


# Uploads


async def upload(client: httpx.AsyncClient, *parts: bytes) -> httpx.Response:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    return await client.post("/files", params=query(LATEST), content=body, headers=FORM)


def disposition(value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="file"; ' + value + b"\r\n\r\nx"


@pytest.mark.parametrize(
    "part",
    [
        disposition(b'filename="' + b";" * 60_000),
        disposition(b"filename*=punycode''" + b"b" * 200_000),
        disposition(b"filename*=punycode''bbb"),
        disposition(b"filename*=unicode_escape''%5Cud800"),
        disposition(b"filename*=utf-8"),
        b"X: " + b"x" * 5000 + b"\r\n\r\nx",
        b"".join(b"X: " + b"x" * 1000 + b"\r\n" for _ in range(5)) + b"\r\nx",
        b"X" * 20_000_000,
    ],
    ids=["semicolons", "long punycode", "punycode", "escapes", "no quotes", "value", "several", "name"],
)
async def test_the_headers_of_a_part_have_a_limit_and_a_form(part: bytes) -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        response = await upload(client, part)
    assert (response.status_code, code_of(response)) == (400, "SessionRequestValidationFailed")
    assert backend.contents["session"] == {}


async def test_the_headers_of_all_parts_have_a_limit() -> None:
    part = b"Content-Disposition: form-data; name=other; x=" + b"x" * 3500 + b"\r\n\r\nx"
    async with served(ScriptedBackend()) as client:
        response = await upload(client, *([part] * 10), disposition(b"filename=x"))
    assert response.status_code == 400
    assert "together" in response.text


async def test_the_limits_apply_without_those_of_the_multipart_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.server.transport.multipart.MultipartParser", _without_limits())
    for part in (b"X: " + b"x" * 5000 + b"\r\n\r\nx", b"X:\r\n" * 2000 + b"\r\nx"):
        async with served(ScriptedBackend()) as client:
            response = await upload(client, part)
        assert response.status_code == 400
        assert "4096 bytes" in response.text


def _without_limits() -> Any:
    from python_multipart import MultipartParser

    def make(boundary: bytes, callbacks: Any) -> Any:
        return MultipartParser(boundary, callbacks, max_header_count=10**9, max_header_size=10**9)

    return make


@pytest.mark.parametrize("unit", [";", ';"', "\\", '\\"', ";a=b", ';a="', ';a="\\', " ;", "; ", "a", "=", ";a = "])
@pytest.mark.parametrize(
    "start", ["form-data", 'form-data; name="', "form-data; name=", "multipart/form-data; boundary="]
)
def test_the_parameters_of_a_header_are_parsed_in_linear_time(start: str, unit: str) -> None:
    with contextlib.suppress(InvalidRequest):  # quadratic time would take hours
        parse_parameters(start + unit * (_MIB // len(unit)))


@pytest.mark.parametrize(
    ("header", "parameters"),
    [
        ("form-data", {}),
        ("form-data;", {}),
        ("form-data; ; name=a ;", {"name": "a"}),
        ('form-data; NAME = "a;\\"b\\\\" ; x=', {"name": 'a;"b\\', "x": ""}),
        ('form-data; name="C:\\dir\\a"', {"name": "C:\\dir\\a"}),
        ("form-data; name=a b; name=c", {"name": "a b"}),
    ],
)
def test_the_parameters_of_a_header_are_read(header: str, parameters: dict[str, str]) -> None:
    assert parse_parameters(header) == ("form-data", parameters)


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "iso-8859-1", "windows-1252", "gb18030"])
async def test_a_file_name_can_be_in_another_alphabet(charset: str) -> None:
    backend = ScriptedBackend()
    name = "".join(f"%{byte:02x}" for byte in "größe.txt".encode(charset))
    async with served(backend) as client:
        response = await upload(client, disposition(f"filename=plain; filename*={charset}'de'{name}".encode()))
        assert response.status_code == 200, response.text
    assert list(backend.contents["session"]) == ["/mnt/data/größe.txt"]


# JSON


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'"",', b'{"a":1},'])
async def test_the_number_of_values_in_a_request_is_limited(piece: bytes) -> None:
    for size in (20_000, 7 * _MIB // len(piece)):
        async with served(ScriptedBackend()) as client:
            response = await client.post("/executions", params=query(LATEST), content=b"[" + piece * size + b"1]")
        assert response.status_code == 400
        assert "at most 10000 values" in response.text


@pytest.mark.parametrize("depth", [250, 100_000])
async def test_the_depth_of_a_request_is_limited(depth: int) -> None:
    async with served(ScriptedBackend()) as client:
        body = b'{"code": ' + b"[" * depth + b"]" * depth + b"}"
        response = await client.post("/executions", params=query(LATEST), content=body)
    assert response.status_code == 400
    assert "nested" in response.text


async def test_long_code_can_have_every_character() -> None:
    backend = ScriptedBackend()
    code = '[{},"\\' * (_MIB // 2)
    async with served(backend) as client:
        assert (await client.post("/executions", params=query(LATEST), json=current(code))).status_code == 200
    assert backend.codes == [code]


# Requests that two servers may read in two ways


async def exchange(server: Server, request: bytes) -> bytes:
    """All that comes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    try:
        writer.write(request)
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


SMUGGLED = b"GET /files?identifier=smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"0\r\n\r\n"


@pytest.mark.parametrize("path", [TARGET.encode(), b"/healthz"])
@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 68\r\nTransfer-Encoding: Chunked",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5, 6",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"Content-Length : 5",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\r\n : chunked",
        b"X: y\r\n\r Transfer-Encoding: chunked",
        b"Content-Length: 5\r\nTransfer-Encoding:\r\n chunked",
    ],
)
async def test_a_request_whose_end_is_unclear_is_refused_and_nothing_after_it_is_read(
    framing: bytes, path: bytes
) -> None:
    backend = ScriptedBackend()
    async with listening(backend, client_timeout=2) as server:
        head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n"
        answer = await exchange(server, head + BODY + SMUGGLED)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()


async def test_a_request_of_http_1_0_has_no_transfer_encoding() -> None:
    async with listening(ScriptedBackend(), client_timeout=2) as server:
        head = f"POST {TARGET} HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        answer = await exchange(server, head + BODY + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "body", [b"5\nhello\n0\n\n", b"5\r\nhelloXX0\r\n\r\n", b"-1\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n"]
)
async def test_a_chunk_with_a_wrong_end_closes_the_connection(body: bytes) -> None:
    async with listening(ScriptedBackend(), client_timeout=2) as server:
        head = f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        answer = await exchange(server, head + body + SMUGGLED)
    assert b"200 OK" not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1


async def test_two_credentials_are_refused() -> None:
    async with served(ScriptedBackend()) as client:
        headers = [("Authorization", "Bearer one"), ("Authorization", "Bearer two")]
        response = await client.get("/files", params=query(LATEST), headers=headers)
    assert response.status_code == 400
    assert "Authorization" in response.text


@pytest.mark.parametrize(
    "host",
    [
        "evil\\@127.0.0.1", "evil@127.0.0.1", "evil/@127.0.0.1", "evil#@localhost", "evil?@localhost", "localhost/",
        "localhost\t", "local host", "a,localhost", "[::1", "::1", "[::1]x", "localhost:80:80", "localhost:http", "",
        "%6cocalhost", "[::1%25lo]",
    ],
)  # fmt: skip
async def test_an_invalid_host_name_is_refused(host: str) -> None:
    assert host_name(host) == ""
    async with served(ScriptedBackend()) as client:
        response = await client.get("/files", params=query(LATEST), headers={"Host": host})
    assert response.status_code == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "[::1]:8080", "[::1]", "a.localhost"])
async def test_names_of_this_machine_are_accepted(host: str) -> None:
    async with served(ScriptedBackend()) as client:
        response = await client.get("/files", params=query(LATEST), headers={"Host": host})
    assert response.status_code == 200


# What is held for callers


async def test_unread_responses_are_held_up_to_a_limit() -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="x" * (4 * _MIB))
    async with listening(backend, max_in_flight="16Mi", client_timeout=20) as server:
        budget = server.application.budget
        port = int(server.url.rpartition(":")[2])
        body = json.dumps(current("1")).encode()
        request = f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        slow = [await asyncio.open_connection("127.0.0.1", port, limit=4096) for _ in range(10)]
        for _, writer in slow:
            writer.write(request)
        await eventually(lambda: len(backend.runs) == 10)
        await asyncio.sleep(0.2)
        assert 8 * _MIB < budget.used <= 16 * _MIB
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            refused = await client.post("/executions", params=query(LATEST), json=current("1"))
            assert (refused.status_code, code_of(refused)) == (503, "ServiceUnavailable")
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/files", params=query(LATEST))).status_code == 200  # small ones have room
            for _, writer in slow:
                writer.transport.abort()
            await eventually(lambda: budget.used == 0)
            # It ran once, and its outcome can be retrieved.
            found = await client.get(refused.headers["operation-location"])
            assert found.json()["result"]["stdout"] == "x" * (4 * _MIB)
        assert len(backend.runs) == 11
        await eventually(lambda: budget.used == 0)


@pytest.mark.parametrize("version", [LEGACY[-1], LATEST])
async def test_an_outcome_that_did_not_fit_can_be_retrieved_later(version: str) -> None:
    backend = ScriptedBackend()
    backend.answer = Execution("1", "succeeded", stdout="\x01" * (8 * _MIB))  # six times as long in JSON
    async with application(backend, max_in_flight="16Mi") as app, client_of(app) as client:
        body = current("1") if version == LATEST else inline("1")
        path = "/executions" if version == LATEST else "/code/execute"
        response = await client.post(path, params=query(version), json=body)
        assert response.status_code == 503
        assert response.headers["operation-id"] in response.text
        backend.answer = Execution("2", "succeeded")
        app.budget.limit = 256 * _MIB
        found = await client.get(f"/executions/{response.headers['operation-id']}", params=query(LATEST))
        assert found.json()["result"]["stdout"] == "\x01" * (8 * _MIB)
        assert app.budget.used == 0


async def test_incomplete_bodies_are_held_up_to_a_limit() -> None:
    async with listening(ScriptedBackend(), max_in_flight="8Mi", client_timeout=20) as server:
        port = int(server.url.rpartition(":")[2])
        head = f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {4 * _MIB}\r\n\r\n".encode()
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        readers: list[asyncio.Task[bytes]] = []
        for reader, writer in connections:
            writer.write(head + b" " * (3 * _MIB))
            readers.append(asyncio.create_task(reader.readuntil(b"\r\n\r\n")))
        await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        done = [task.result() for task in readers if task.done()]
        assert done
        for answer in done:
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"connection: close" in answer.lower()
        for _, writer in connections:
            writer.transport.abort()
        await asyncio.gather(*readers, return_exceptions=True)
        await eventually(lambda: server.application.budget.used == 0)


async def test_the_code_of_executions_in_the_background_is_held_until_they_end() -> None:
    backend = ScriptedBackend()
    async with application(backend, max_in_flight="8Mi") as app, client_of(app) as client:
        code = ENDLESS_CODE
        body = json.dumps(current(code, executionType="Asynchronous")) + " " * (3 * _MIB)
        for number, status in enumerate((202, 202, 503)):
            response = await client.post("/executions", params=query(LATEST, f"session-{number}"), content=body)
            assert response.status_code == status
        assert 6 * _MIB < app.budget.used <= 8 * _MIB
        for number in range(2):
            await client.delete("/session", params=query(LATEST, f"session-{number}"))
        await eventually(lambda: app.budget.used == 0)


async def test_a_file_that_is_sent_in_pieces_counts_for_its_pieces() -> None:
    async with application(await memory_backend(), max_in_flight="8Mi") as app, client_of(app) as client:
        content = bytes(32 * _MIB)
        assert (await client.post("/files", params=query(LATEST), files={"file": ("a", content)})).status_code == 200
        assert (await client.get("/files/a/content", params=query(LATEST))).content == content
        assert app.budget.used == 0


EVENTS = st.lists(
    st.sampled_from(["execute", "background", "upload", "download", "broken", "heavy", "cancel", "gone", "raise"]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=examples(30))
@given(EVENTS, st.sampled_from(["8Mi", "9Mi", "64Mi"]))
async def test_the_budget_is_returned_however_requests_end(events: list[str], limit: str) -> None:
    backend = ScriptedBackend()
    image = Output({"image/png": "x" * (3 * _MIB)})
    backend.answer = Execution("1", "succeeded", stdout="x" * _MIB, outputs=(image,))
    backend.answers["broken"] = RuntimeError("the test's own")
    large = " " * (2 * _MIB)
    async with application(backend, max_in_flight=limit) as app, client_of(app) as _:
        client_ = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://localhost"
        )

        async def body(error: Exception | None = None) -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b" " * 100_000
                await asyncio.sleep(0)
            if error is not None:
                raise error

        async def one(event: str, number: int) -> None:
            params = query(LATEST, f"session-{number}")
            match event:
                case "execute" | "broken":
                    code = json.dumps(current(event)) + large
                    await client_.post("/executions", params=params, content=code)
                case "background":
                    code = json.dumps(current("1", executionType="Asynchronous")) + large
                    await client_.post("/executions", params=params, content=code)
                case "upload":
                    await client_.post("/files", params=params, files={"file": ("a", bytes(_MIB))})
                case "download":
                    backend.contents[f"session-{number}"]["/mnt/data/a"] = bytes(_MIB)
                    await client_.get("/files/a/content", params=params)
                case "heavy":
                    await client_.post("/executions", params=params, content=b"[" + b"{}," * 200_000)
                case "cancel":
                    code = json.dumps(current(ENDLESS_CODE)) + large
                    task = asyncio.create_task(client_.post("/executions", params=params, content=code))
                    await asyncio.sleep(0.02)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                case "gone":
                    await _gone(app, params, current(ENDLESS_CODE), large)
                case _:
                    with contextlib.suppress(ValueError):
                        await client_.post("/executions", params=params, content=body(ValueError()))

        async with asyncio.timeout(30):
            await asyncio.gather(*(one(event, number) for number, event in enumerate(events)))
        await client_.aclose()
        await app.drain(0)
        await eventually(lambda: app.budget.used == 0)


async def _gone(app: Any, params: dict[str, str], body: Any, more: str) -> None:
    """A request whose client goes away while its code runs."""
    content = (json.dumps(body) + more).encode()
    messages = [{"type": "http.request", "body": content, "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        await asyncio.sleep(0.01)
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: Any) -> None:
        del message

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/executions",
        "raw_path": b"/executions", "query_string": str(httpx.QueryParams(params)).encode(), "root_path": "",
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app(scope, receive, send)


@given(st.lists(st.tuples(st.sampled_from(["hold", "add", "hand over", "close"]), st.integers(0, 300_000))))
def test_a_budget_is_never_exceeded_and_is_returned(steps: list[tuple[str, int]]) -> None:
    budget = Budget(500_000)
    shares = [Share(budget)]
    for step, size in steps:
        share = shares[size % len(shares)]
        match step:
            case "hold":
                share.hold(size)
            case "add":
                share.add(size)
            case "hand over":
                shares.append(share.handed_over())
            case _:
                share.close()
        assert 0 <= budget.used <= budget.limit
    for share in shares:
        share.close()
    assert budget.used == 0


async def test_a_limit_below_that_of_a_request_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"max_in_flight must be at least max_body \(8388608\), not 2097152"):
        async with served(ScriptedBackend(), max_in_flight="2Mi"):
            pass


# The machine that it runs on


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o722])
def test_no_key_is_taken_from_a_directory_that_others_can_write_to(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "tls"
    self_signed(directory, ["localhost"])
    directory.chmod(mode)
    with pytest.raises(InvalidRequest, match="that only this user can write to, not one that others can write to"):
        self_signed(directory, ["localhost"])


def test_no_key_is_taken_through_a_link(tmp_path: Path) -> None:
    self_signed(tmp_path / "real", ["localhost"])
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for name in ("link", "nowhere"):
        with pytest.raises(InvalidRequest, match="must be a directory that only this user can write to, not a link"):
            self_signed(tmp_path / name, ["localhost"])
    assert not (tmp_path / "missing").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_no_key_is_taken_from_a_directory_of_another_user(tmp_path: Path) -> None:
    self_signed(tmp_path / "tls", ["localhost"])
    os.chown(tmp_path / "tls", 12345, -1)
    with pytest.raises(InvalidRequest, match="not one of user 12345"):
        self_signed(tmp_path / "tls", ["localhost"])


def test_the_directory_of_a_key_is_private_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files = self_signed(tmp_path / "a" / "b", ["localhost"])
    finally:
        os.umask(before)
    for path, mode in ((tmp_path / "a", 0o700), (tmp_path / "a" / "b", 0o700), (files.key, 0o600)):
        assert path.stat().st_mode & 0o777 == mode


def test_a_key_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    files = self_signed(tmp_path / "tls", ["localhost"])
    old = files.key.read_bytes()
    files.key.chmod(0o644)
    assert self_signed(tmp_path / "tls", ["localhost"]).key.read_bytes() != old
    assert files.key.stat().st_mode & 0o777 == 0o600
    old = files.key.read_bytes()
    files.key.rename(tmp_path / "elsewhere")
    files.key.symlink_to(tmp_path / "elsewhere")
    assert self_signed(tmp_path / "tls", ["localhost"]).key.read_bytes() != old
    assert (tmp_path / "elsewhere").read_bytes() == old


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
@pytest.mark.parametrize("variable", ["GREENROOM_API_KEY", "GREENROOM_MANAGEMENT_KEY"])
def test_a_key_from_the_environment_is_not_shown_by_the_process(variable: str) -> None:
    code = (
        f"import os, pathlib; from greenroom.server import run; take = lambda: run._take_key({variable!r});"
        "print(take(), take(), pathlib.Path('/proc/self/environ').read_bytes())"
    )
    environment = {**os.environ, variable: "the-secret-key-of-a-test"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the-secret-key-of-a-test None ")
    assert done.stdout.count("the-secret-key-of-a-test") == 1
