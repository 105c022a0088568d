"""Uploads: valid and invalid ones."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom.errors import FileRefused, InvalidRequest
from greenroom.models import RemoteFile
from greenroom.server.transport.multipart import file_parts
from greenroom.testing import ScriptedBackend

from .served import LATEST, LEGACY, POOL, code_of, memory_backend, query, served

FORM = "multipart/form-data; boundary=b"


def part(content: bytes, disposition: bytes = b'form-data; name="file"; filename="data.csv"') -> bytes:
    return b"--b\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + content + b"\r\n"


END = b"--b--\r\n"


async def upload(client: httpx.AsyncClient, body: bytes, form: str | None = FORM) -> httpx.Response:
    headers = {} if form is None else {"Content-Type": form}
    return await client.post("/files", params=query(LATEST), content=body, headers=headers)


@pytest.mark.parametrize("form", ["application/json", "multipart/form-data", "text/plain", None])
async def test_a_body_that_is_clearly_multipart_is_read_despite_its_type(form: str | None) -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        assert (await upload(client, part(b"x") + END, form)).status_code == 200
    assert backend.contents["session"] == {"/mnt/data/data.csv": b"x"}
    async with served(ScriptedBackend(), strict=True) as client:
        assert (await upload(client, part(b"x") + END)).status_code == 200
        assert (await upload(client, part(b"x") + END, form)).status_code == 400


@pytest.mark.parametrize(
    ("disposition", "path"),
    [
        (b'form-data; name="file"; filename="/mnt/data/a b.csv"', "a b.csv"),
        (b'form-data; name="file"; filename="sub/dir/x"', "sub/dir/x"),
        (b"form-data; filename=plain; name=file", "plain"),
        ('form-data; name="file"; filename="größe.txt"'.encode(), "größe.txt"),
        (b"form-data; name=\"file\"; filename*=utf-8''gr%C3%B6%C3%9Fe.txt", "größe.txt"),
        (b'FORM-DATA; NAME="file"; FILENAME="x;y\\"z"', 'x;y"z'),
    ],
)
async def test_the_name_of_a_file_is_read_as_clients_write_it(disposition: bytes, path: str) -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        response = await upload(client, part(b"x", disposition) + END)
        assert response.status_code == 200, response.text
    assert backend.contents["session"] == {f"/mnt/data/{path}": b"x"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        END,
        part(b"x"),  # it ends early
        part(b"x")[:30],
        part(b"x", b'form-data; name="other"; filename="x"') + END,
        part(b"x", b'form-data; name="file"') + END,
        part(b"x", b'form-data; name="file"; filename=""') + END,
        part(b"x", b'form-data; name="file"; filename=".."') + END,
        part(b"x", b'form-data; name="file"; filename="../../etc/passwd"') + END,
        part(b"x", b'form-data; name="file"; filename="/mnt/data/"') + END,
        part(b"x", b'form-data; name="file"; filename="a\0b"') + END,
        part(b"x", b"form-data; name=\"file\"; filename*=idna''x") + END,
        part(b"x", b"form-data; name=\"file\"; filename*=undefined''x") + END,
        part(b"x", b"form-data; name=\"file\"; filename*=utf\0-8''x") + END,
        part(b"x", b'form-data; name="file"; filename*' + b"9" * 4180 + b"*=x") + END,
        part(b"x", b'form-data; name="file"; filename="' + b"x" * 100_000 + b'"') + END,
        b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\nx\r\n" + END,
        part(b"x", b"form-data; name=other") * 101 + part(b"x") + END,
        b"--b\r\n" + b"X" * 1_000_000,
    ],
)
async def test_any_other_upload_is_refused(body: bytes) -> None:
    backend = ScriptedBackend()
    async with served(backend) as client:
        response = await upload(client, body)
        assert response.status_code == 400
        assert code_of(response) in {"SessionRequestValidationFailed", "FilePathInvalid"}
    assert backend.contents["session"] == {}


def test_a_malformed_head_writes_nothing_to_stderr() -> None:
    program = f"""
import asyncio
from greenroom.errors import InvalidRequest
from greenroom.server.transport.multipart import file_parts
async def read(body):
    async def chunks():
        yield body
    try:
        async for part in file_parts({FORM!r}, chunks(), strict=True):
            pass
    except InvalidRequest as error:
        print(error)
for body in (b"nonsense", b"--b\\r\\nX\\0: y", b"--b\\r\\nX y\\r\\n\\r\\n", b"--b\\rX"):
    asyncio.run(read(body))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (len(ended.stdout.splitlines()), ended.stderr) == (4, "")


@pytest.mark.parametrize(
    "form", ["multipart/form-data; boundary=", f"multipart/form-data; boundary={'b' * 300}", "\xff;="]
)
async def test_an_invalid_boundary_is_refused(form: str) -> None:
    async with served(ScriptedBackend(), strict=True) as client:
        headers = {b"Content-Type": form.encode("latin-1")}
        response = await client.post("/files", params=query(LATEST), content=part(b"x") + END, headers=headers)
        assert response.status_code == 400


async def test_one_upload_can_have_several_files() -> None:
    backend = ScriptedBackend()
    second = part(b"2", b'form-data; name="file"; filename="second"')
    async with served(backend) as client:
        response = await upload(client, part(b"1") + part(b"ignored", b"form-data; name=comment") + second + END)
        assert [entry["name"] for entry in response.json()["value"]] == ["data.csv", "second"]
    assert backend.contents["session"] == {"/mnt/data/data.csv": b"1", "/mnt/data/second": b"2"}


async def test_an_upload_has_a_size_limit() -> None:
    async with served(await memory_backend(), max_upload="1Mi") as client:
        assert (await upload(client, part(b"x" * (1 << 20)) + END)).status_code == 200
        for size in ((1 << 20) + 1, 3 << 20):
            refused = await upload(client, part(b"x" * size) + END)
            assert refused.status_code == 413
            assert refused.headers["connection"] == "close"  # the rest of it is not read
        (entry,) = (await client.get("/files", params=query(LATEST))).json()["value"]
        assert entry["sizeInBytes"] == 1 << 20  # the old one


async def test_a_pool_can_have_a_lower_file_limit_than_the_server() -> None:
    async with served(await memory_backend(file_limit=1000)) as client:
        refused = await upload(client, part(b"x" * 1001) + END)
        assert (refused.status_code, code_of(refused)) == (413, "FileTooLarge")


async def test_a_claimed_length_over_the_limit_is_refused_immediately() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"--b"

    async with served(ScriptedBackend(), max_upload=1 << 20) as client:
        headers = {"Content-Type": FORM, "Content-Length": str(10 << 30)}
        refused = await client.post("/files", params=query(LATEST), content=body(), headers=headers)
        assert refused.status_code == 413


async def test_a_request_that_is_not_an_upload_has_its_own_limit() -> None:
    async with served(ScriptedBackend(), max_body=2000) as client:
        body = b'{"code": "' + b"x" * 2000 + b'"}'
        refused = await client.post("/executions", params=query(LATEST), content=body)
        assert (refused.status_code, code_of(refused)) == (413, "RequestTooLarge")


async def test_a_refusal_of_the_sessions_file_system_is_returned() -> None:
    class Full(ScriptedBackend):
        async def upload(self, identifier: str, path: str, chunks: AsyncIterator[bytes], **options: Any) -> RemoteFile:
            raise FileRefused(errno.ENOSPC, "The disk is full", path)

    async with served(Full()) as client:
        refused = await upload(client, part(b"x") + END)
        assert (refused.status_code, code_of(refused)) == (400, "FileOperationRefused")


async def test_a_large_file_comes_back_whole() -> None:
    content = bytes(range(256)) * (20 << 12)
    async with served() as client:
        assert (await upload(client, part(content) + END)).status_code == 200
        response = await client.get("/files/data.csv/content", params=query(LATEST))
        assert response.content == content
        assert response.headers["content-type"] == "application/octet-stream"


async def test_an_empty_file_is_uploaded() -> None:
    async with served() as client:
        assert (await upload(client, part(b"") + END)).status_code == 200
        response = await client.get(f"{POOL}/files/content/data.csv", params=query(LEGACY[0]))
        assert (response.status_code, response.content) == (200, b"")


def pieces(content: bytes, sizes: list[int]) -> list[bytes]:
    found: list[bytes] = []
    for size in sizes:
        found.append(content[:size])
        content = content[size:]
    return [*found, content]


async def parts_of(chunks: list[bytes], form: str | None = FORM) -> list[tuple[str, bytes]]:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [
        (found.filename, b"".join([chunk async for chunk in found.content]))
        async for found in file_parts(form, body(), strict=False)
    ]


@settings(max_examples=examples(100))
@given(st.binary(max_size=300), st.lists(st.integers(0, 40), max_size=10), st.sampled_from([FORM, None]))
async def test_a_split_body_has_the_same_file(content: bytes, sizes: list[int], form: str | None) -> None:
    content = content.replace(b"\r\n--b", b"")
    assert await parts_of(pieces(part(content) + END, sizes), form) == [("data.csv", content)]


GRAMMAR = [
    b"--b", b"--", b"\r\n", b"\n", b"\r", b"Content-Disposition", b": ", b"form-data", b';name="file"',
    b";filename*0*=utf-8''x", b';filename="x"', b"\0", b"\xff", b"x" * 300, b'"', b"=", b";", b"b",
]  # fmt: skip


@settings(max_examples=examples(300))
@given(
    st.lists(st.sampled_from(GRAMMAR), max_size=30), st.sampled_from([FORM, None, "text/plain", "multipart/form-data"])
)
async def test_any_body_gives_parts_or_an_error(tokens: list[bytes], form: str | None) -> None:
    for body in (b"".join(tokens), b"--b\r\n" + b"".join(tokens) + b"\r\n--b--\r\n"):
        try:
            await parts_of([body], form)
        except InvalidRequest:
            continue
