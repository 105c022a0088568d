"""The function of the caller's that gets the progress: where it is called, how often, and what its errors do."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import greenroom
from greenroom import FileMissing, InvalidRequest, Progress, RemoteFile, Session
from greenroom.azure.bodies import replayable
from greenroom.engines.docker.pull import Layers
from greenroom.progress import Meter
from greenroom.testing import ScriptedBackend, memory_pool, scripted_pool
from greenroom.testing.files import assert_progress

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="")


@given(sizes=st.lists(st.integers(0, 600_000), max_size=5), total=st.one_of(st.none(), st.integers(0, 2_000_000)))
def test_a_meter_never_goes_back_and_ends_with_its_total(sizes: list[int], total: int | None) -> None:
    seen: list[Progress] = []
    meter = Meter(seen.append, "upload", "a", total=total)
    meter.begin()
    for size in sizes:
        meter.advance(size)
    meter.finish()
    counts = [each.done for each in seen]
    assert counts == sorted(counts)
    assert (seen[-1].done, seen[-1].total, seen[-1].fraction) == (sum(sizes), sum(sizes), 1.0)
    assert all(each.total is None or each.done <= each.total for each in seen)


@pytest.fixture(scope="module")
def shared() -> Generator[Session, None, None]:
    with memory_pool(ready_session_instances=0) as pool, pool.session() as session:
        yield session


@given(size=st.integers(0, 1_200_000))
def test_a_file_of_any_size_is_counted_whole(shared: Session, size: int) -> None:
    seen: list[Progress] = []
    shared.upload(io.BytesIO(bytes(size)), "a", on_progress=seen.append)
    assert_progress(seen, "upload", "a", size)
    seen.clear()
    shared.download("a", on_progress=seen.append)
    assert_progress(seen, "download", "a", size)


@given(sizes=st.lists(st.integers(1, 3 << 20), max_size=6))
async def test_an_upload_over_http_counts_the_accepted_bytes(sizes: list[int]) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for size in sizes:
            yield bytes(size)

    sent: list[int] = []
    content = await replayable(chunks(), b"before", b"after", on_sent=sent.append)
    if isinstance(content, bytes):
        assert (len(content), sent) == (sum(sizes) + 11, [])
        return
    received = 0
    async for piece in content:
        assert sum(sent) <= received, "never before it is taken"
        received += len(piece)
    assert (received, sum(sent)) == (sum(sizes) + 11, sum(sizes))


def test_it_is_called_on_the_callers_thread() -> None:
    threads: set[int] = set()
    with memory_pool() as pool, pool.session() as session:
        session.upload(bytes(1 << 20), "a", on_progress=lambda _: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


async def test_it_is_called_in_the_callers_task_and_sees_its_variables() -> None:
    found: set[tuple[Any, str]] = set()
    VARIABLE.set("mine")
    with memory_pool() as pool:
        session = pool.session()
        for transfer in (
            session.aupload(
                bytes(1 << 20), "a", on_progress=lambda _: found.add((asyncio.current_task(), VARIABLE.get()))
            ),
            session.adownload("a", on_progress=lambda _: found.add((asyncio.current_task(), VARIABLE.get()))),
        ):
            await transfer
    assert found == {(asyncio.current_task(), "mine")}


def test_a_slow_function_does_not_delay_the_work_and_gets_the_last_value() -> None:
    backend = ScriptedBackend()
    done = threading.Event()

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            if not content:
                done.set()
            return content

    seen: list[Progress] = []

    def wait(progress: Progress) -> None:
        seen.append(progress)
        assert done.wait(60), "the work has gone on meanwhile"

    with scripted_pool(backend) as pool:
        pool.session("user-0001").upload(Watched(bytes(8 << 20)), "a", on_progress=wait)
    assert_progress(seen, "upload", "a", 8 << 20)
    assert len(seen) <= 3, "the values between are not kept"


class Endless(ScriptedBackend):
    """Has a file without an end, and takes uploads for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    async def upload(
        self,
        identifier: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        on_sent: Callable[[int], None] | None = None,
    ) -> RemoteFile:
        try:
            async for chunk in chunks:
                assert on_sent is not None
                on_sent(len(chunk))
                await asyncio.sleep(0)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)  # its own cleaning up
            self.ended.set()
        raise AssertionError

    async def download(
        self, identifier: str, path: str, *, on_size: Callable[[int], None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(1000)
                await asyncio.sleep(0)
        finally:
            self.ended.set()


def give_up(progress: Progress) -> None:
    if progress.done:
        raise ZeroDivisionError


def test_an_exception_of_the_function_is_raised_when_the_transfer_has_ended(tmp_path: Path) -> None:
    backend = Endless()
    with scripted_pool(backend) as pool:
        session = pool.session("user-0001")
        with pytest.raises(ZeroDivisionError):
            session.upload(bytes(1 << 20), "a", on_progress=give_up)
        assert backend.ended.is_set()
        backend.ended.clear()
        with pytest.raises(ZeroDivisionError):
            session.download("a", tmp_path / "a", on_progress=give_up)
        assert backend.ended.wait(60)
        assert list(tmp_path.iterdir()) == []


async def test_an_exception_of_the_function_is_raised_from_asynchronous_methods(tmp_path: Path) -> None:
    backend = Endless()
    with scripted_pool(backend) as pool:
        session = pool.session("user-0001")
        with pytest.raises(ZeroDivisionError):
            await session.aupload(bytes(1 << 20), "a", on_progress=give_up)
        assert backend.ended.is_set()
        with pytest.raises(ZeroDivisionError):
            await session.adownload("a", tmp_path / "a", on_progress=give_up)
        assert list(tmp_path.iterdir()) == []


async def test_a_followed_transfer_can_be_cancelled() -> None:
    backend, begun = Endless(), asyncio.Event()
    with scripted_pool(backend) as pool:
        task = asyncio.create_task(
            pool.session("user-0001").aupload(bytes(1 << 20), "a", on_progress=lambda _: begun.set())
        )
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(backend.ended.wait, 60)


def test_an_error_of_the_transfer_takes_precedence_over_that_of_the_function() -> None:
    with memory_pool() as pool, pool.session() as session, pytest.raises(FileMissing):
        session.download("missing", on_progress=give_up)


async def _asynchronous(progress: Progress) -> None:
    del progress


@pytest.mark.parametrize(("function", "error"), [(5, "a function, not 5"), (_asynchronous, "not async")])
async def test_an_object_that_cannot_be_called_is_refused(function: Any, error: str) -> None:
    with memory_pool() as pool, pool.session() as session:
        for begin in (session.upload, session.download):
            with pytest.raises(InvalidRequest, match=error):
                begin("a", "b", on_progress=function)
        with pytest.raises(InvalidRequest, match=error):
            await session.aupload(b"", "a", on_progress=function)
    for begin in (greenroom.connect, greenroom.aconnect, greenroom.session):
        with pytest.raises(InvalidRequest, match=error):
            begin("bubblewrap:", on_progress=function)


def test_a_session_that_reports_a_wrong_size_is_counted_as_it_is() -> None:
    class Growing(ScriptedBackend):
        async def download(
            self, identifier: str, path: str, *, on_size: Callable[[int], None] | None = None
        ) -> AsyncGenerator[bytes, None]:
            assert on_size is not None
            on_size(3)
            yield bytes(2)
            yield bytes(5)

    seen: list[Progress] = []
    with scripted_pool(Growing()) as pool:
        assert len(pool.session("user-0001").download("a", on_progress=seen.append)) == 7
    assert (seen[-1].done, seen[-1].total) == (7, 7)


def test_the_layers_of_an_image_add_up() -> None:
    seen: list[Progress] = []
    layers = Layers(Meter(seen.append, "pull", "image:1"))

    def take(layer: Any, status: Any, current: Any = None, total: Any = None) -> tuple[int, int | None]:
        layers.take({"id": layer, "status": status, "progressDetail": {"current": current, "total": total}})
        return seen[-1].done, seen[-1].total

    for layer in ("a", "b", "c"):
        assert take(layer, "Pulling fs layer") == (0, None)
    assert take("a", "Already exists") == (0, None)
    assert take("b", "Downloading", 5, 10) == (5, None)
    assert take("c", "Downloading", 1, 20) == (6, 30)
    assert take("b", "Downloading", 2, 10) == (6, 30)  # tried again
    assert take("b", "Download complete") == (11, 30)
    assert take("c", "Pull complete") == (30, 30)
    hostile: list[tuple[Any, ...]] = [
        ("d", "Downloading", "x", -1),
        (5, "Waiting"),
        ("e", []),
        ("f", "Downloading", True, 1 << 90),
    ]
    for message in hostile:
        take(*message)
    layers.take({"id": "g", "status": "Downloading", "progressDetail": [1]})
    for number in range(5000):
        take(str(number), "Waiting")
    layers.meter.finish()
    assert seen[-1].done == seen[-1].total
    counts = [each.done for each in seen]
    assert counts == sorted(counts)
