"""Whatever a caller passes, a public call raises one of Greenroom's errors or a TypeError."""

from __future__ import annotations

import asyncio
import io
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.effort import examples

import greenroom
from greenroom import Execution, GreenroomError, Image, Output, SessionPool
from greenroom import adapters as tools
from greenroom.connecting import is_local
from greenroom.local import PoolSettings
from greenroom.notebook import run_notebook
from greenroom.testing import memory_pool

from .plugins import IN_MEMORY, only_engines


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


DEEP = object()
"""Stands for a list that is nested so deep that a failed test could not show it."""


class Hollow:
    """Has what is looked for, and nothing in it."""

    name = read = None


class Text:
    """An open file that is not binary."""

    name = "text"

    def read(self, _size: int) -> str:
        return "text"


SPECIAL: list[object] = [
    None, True, False, 0, -1, 1, 5, 10**5000, -(10**400), 2**63, 0.0, -0.0, 1e-300, 1e300,
    float("nan"), float("inf"), -float("inf"), 1j, Decimal(1), Decimal("NaN"), Fraction(1, 3),
    "", " ", "a", "\0", "\ud800", "a\udcff", ".", "..", "../a", "/etc/passwd", "/mnt/data", "a/b", "x" * 5000,
    "😀" * 63, "1", "512Mi", "1e9", "nan", "memory:", "https://", "http://[", "docker:?" + "a=1&" * 500, "9" * 400,
    "a\n\x1b]0;",
    b"", b"\xff", bytearray(b"x"), memoryview(b"x"), [], [None], (), {}, {"a": 1}, {1: 2}, set[int](), range(3),
    DEEP,
    object(), object, len, Hollow(), Text(), Path(), Path("none"), Path("a\0b"), io.BytesIO(b"x"), io.StringIO("x"),
    Ellipsis, NotImplemented, ValueError("x"), {"cells": [], "metadata": {}, "nbformat": 4}, {"nbformat": 10**400},
]  # fmt: skip

anything = st.sampled_from(SPECIAL) | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9)
WRITERS = {"download", "download to", "adownload", "save"}
"""Of local files: these get no names that lead out of the working directory."""

Call = Callable[[SessionPool, Any, Any, Any], object]

CALLS: dict[str, Call] = {
    "session": lambda pool, a, b, c: pool.session(a, timeout=b, memory=c),
    "a session's memory": lambda pool, a, b, _: pool.session("fixed", timeout=a, memory=b).execute("1"),
    "execute": lambda pool, a, b, _: pool.session().execute(a, timeout=b),
    "execute for a while": lambda pool, a, _b, _c: pool.session().execute("1", timeout=a),
    "stream": lambda pool, a, b, _: list(pool.session().stream(a, timeout=b)),
    "submit": lambda pool, a, b, _: pool.session().submit(a, timeout=b).result(60),
    "submit for a while": lambda pool, a, _b, _c: pool.session().submit("1", timeout=a).result(60),
    "result": lambda pool, a, _b, _c: pool.session().submit("1").result(a),
    "upload": lambda pool, a, b, _: pool.session().upload(a, b),
    "upload from": lambda pool, a, _b, _c: pool.session().upload(a, "name"),
    "download": lambda pool, a, b, c: pool.session().download(a, b, limit=c),
    "download to": lambda pool, a, b, _: pool.session().download("none", a, limit=b),
    "files": lambda pool, a, b, _: pool.session().files(a, recursive=b),
    "file": lambda pool, a, _b, _c: pool.session().file(a),
    "delete_file": lambda pool, a, _b, _c: pool.session().delete_file(a),
    "aexecute": lambda pool, a, b, _: asyncio.run(pool.session().aexecute(a, timeout=b)),
    "astream": lambda pool, a, b, _: asyncio.run(anext(pool.session().astream(a, timeout=b), None)),
    "aupload": lambda pool, a, b, _: asyncio.run(pool.session().aupload(a, b)),
    "adownload": lambda pool, a, b, c: asyncio.run(pool.session().adownload(a, b, limit=c)),
    "afiles": lambda pool, a, b, _: asyncio.run(pool.session().afiles(a, recursive=b)),
    "text_for_model": lambda _p, a, b, _c: showing(b).text_for_model(a),
    "image": lambda _p, a, b, _c: repr(Output({"image/png": a, "text/plain": b}, {"b": b})),
    "save": lambda _p, a, _b, _c: Image("figure.png", "image/png", b"x").save(a),
    "run_code": lambda pool, a, b, c: tools.run_code(pool.session(), a, budget=b, timeout=c),
    "shell": lambda pool, a, b, c: pool.session().shell(a, timeout=b, stdin=c),
    "env": lambda pool, a, b, c: pool.session(env=a, idle_timeout=b).execute("1", env=c),
    "list_files": lambda pool, a, b, _: tools.list_files(pool.session(), a, budget=b),
    "read_file": lambda pool, a, b, c: tools.read_file(pool.session(), a, budget=b, limit=c),
    "download_file": lambda pool, a, b, _: tools.download_file(pool.session(), a, limit=b),
    "upload_file": lambda pool, a, b, _: tools.upload_file(pool.session(), a, uploads=Path(), budget=b),
    "conversation_identifier": lambda _p, a, b, _c: tools.conversation_identifier(a, b),
    "conversation": lambda pool, a, _b, _c: tools.SessionRouter("langchain", "", pool=pool).for_conversation(a),
    "budget": lambda _p, a, _b, _c: tools.check_budget(a),
    "uploads": lambda _p, a, _b, _c: tools.check_uploads(a),
    "notebook": lambda pool, a, b, c: run_notebook(a, pool.session(), timeout=b, idle_timeout=c),
    "connect": lambda _p, a, b, _c: greenroom.connect(a, config=b).close(),
    "is_local": lambda _p, a, _b, _c: is_local(a),
}  # fmt: skip


def showing(value: Any) -> Execution:
    return Execution("1", "failed", outputs=(Output({"text/plain": value}),))


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with memory_pool(ready_session_instances=0) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    only_engines(monkeypatch, memory=IN_MEMORY)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=anything, second=anything, third=anything)
def test_only_errors_of_greenroom_and_type_errors_leave(
    pool: SessionPool, name: str, first: Any, second: Any, third: Any
) -> None:
    first, second, third = (nested(5_000) if each is DEEP else each for each in (first, second, third))
    assume(name not in WRITERS or not any("/" in str(each) for each in (first, second) if isinstance(each, str | Path)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = CALLS[name](pool, first, second, third)
        except (GreenroomError, TypeError, CancelledError) as error:
            message = str(error)
        except TimeoutError:
            assert name == "result"
            message = ""
        else:
            assert not isinstance(made, Coroutine)
            message = ""
    assert len(message) < 20_000
    for info in pool.sessions():
        pool.session(info.identifier).delete()


@settings(max_examples=examples(60))
@given(option=st.sampled_from(sorted(PoolSettings.model_fields.keys() - {"log"})), value=anything)
def test_an_option_of_a_pool_is_taken_or_refused(option: str, value: object) -> None:
    value = nested(5_000) if value is DEEP else value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pool = memory_pool(**{"ready_session_instances": 0, option: value})
        except (GreenroomError, TypeError):
            return
        with pool, pool.session("any one".replace(" ", "-")) as session:
            try:
                session.execute("1")
                session.info()
                pool.sessions()
                pool.status()
            except GreenroomError:
                pass
