"""Code whose calls wait for a person: what an attendance returns, and when."""

from __future__ import annotations

import ast
import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from greenroom import CallDeferred, Execution, InvalidRequest, SandboxLost, Session, SessionPool, Tool, current_call
from greenroom.adapters import Attendance
from greenroom.testing import engine_pool, wait_until
from greenroom.tools import PendingCalls, ToolAnswer

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Person:
    """Answers the calls that have been decided, and defers others."""

    def __init__(self) -> None:
        self.decided: set[int] = set()
        self.made: list[int] = []
        self.again: list[int] = []
        """Those that may have been made before, as far as anybody knows."""

    def answer(self, arguments: dict[str, Any]) -> int:
        if current_call().number not in self.decided:
            raise CallDeferred
        if current_call().delivered_again:
            self.again.append(arguments["n"])
        self.made.append(arguments["n"])
        return arguments["n"] * 10

    async def answer_later(self, arguments: dict[str, Any]) -> int:
        await asyncio.sleep(0)
        return self.answer(arguments)


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with engine_pool("bubblewrap:", preload=()) as pool:
        yield pool


@pytest.fixture
def session(pool: SessionPool) -> Iterator[Session]:
    with pool.session() as session:
        yield session


@pytest.fixture
def person() -> Person:
    return Person()


def attendance(session: Session, person: Person, execution: str, *, awaited: bool, turn: str = "1") -> Attendance:
    tool = Tool("decide", "Decide.", SCHEMA, person.answer_later if awaited else person.answer)
    return Attendance(session, execution, [tool], turn=turn, on_output=None)


async def end(attending: Attendance, *, awaited: bool) -> Execution | None:
    return await attending.await_end() if awaited else await asyncio.to_thread(attending.wait)


both = pytest.mark.parametrize("awaited", [True, False], ids=["awaited", "blocking"])


@both
async def test_code_waits_until_each_of_its_calls_has_an_answer(
    session: Session, person: Person, awaited: bool
) -> None:
    execution = uuid4().hex
    code = """
import asyncio
async def call(n):
    try:
        return await decide(n=n)
    except ToolError as error:
        return str(error)[:13]
await asyncio.gather(*map(call, [*range(1, 51), "many"]))
"""
    attending = attendance(session, person, execution, awaited=awaited)
    attending.begin(code, timeout=None, limits=None)
    assert await end(attending, awaited=awaited) is None
    await wait_until(lambda: sum(call.state == "deferred" for call in attending.calls()) == 50)  # the code goes on
    for number in (3, 50):
        person.decided.add(number)
        attending = attendance(session, person, execution, awaited=awaited)
        attending.resume(number)
        assert await end(attending, awaited=awaited) is None
        made = attending.calls()
        assert [call.number for call in made if call.state == "waiting"] == [], "the next attendance could not make it"
    assert person.made == [3, 50]
    person.decided.update(range(51))
    attending = attendance(session, person, execution, awaited=awaited)
    attending.resume()
    done = await end(attending, awaited=awaited)
    assert done is not None
    assert done.result is not None
    assert ast.literal_eval(done.result) == [*range(10, 501, 10), "The arguments"]
    assert sorted(person.made) == [*range(1, 51)]


@both
async def test_a_call_that_is_no_longer_waiting_is_not_awaited(session: Session, person: Person, awaited: bool) -> None:
    execution = uuid4().hex
    attending = attendance(session, person, execution, awaited=awaited)
    attending.begin("decide(n=1)", timeout=None, limits=None)
    assert await end(attending, awaited=awaited) is None
    attending = attendance(session, person, execution, awaited=awaited)
    attending.resume(99)
    attending.expect_nothing()
    assert await end(attending, awaited=awaited) is None


@both
async def test_code_queued_behind_a_waiting_call_is_refused_and_ends_it_in_a_later_turn(
    session: Session, person: Person, awaited: bool
) -> None:
    first = attendance(session, person, uuid4().hex, awaited=awaited)
    first.begin("x = 1\nimport time\ntime.sleep(0.2)\ndecide(n=1)", timeout=None, limits=None)
    queued = attendance(session, person, uuid4().hex, awaited=awaited)
    queued.begin("x", timeout=None, limits=None)
    ended = await asyncio.gather(end(first, awaited=awaited), end(queued, awaited=awaited), return_exceptions=True)
    assert ended[0] is None
    assert isinstance(ended[1], InvalidRequest)
    with pytest.raises(InvalidRequest, match="Nothing was run: a person is being asked"):
        attendance(session, person, uuid4().hex, awaited=awaited).begin("x", timeout=None, limits=None)
    later = attendance(session, person, uuid4().hex, awaited=awaited, turn="2")
    later.begin("x", timeout=None, limits=None)
    done = await end(later, awaited=awaited)
    assert done is not None
    assert done.result == "1"
    assert person.made == []


@both
async def test_the_end_of_its_session_ends_it(pool: SessionPool, person: Person, awaited: bool) -> None:
    session, execution = pool.session(), uuid4().hex
    attending = attendance(session, person, execution, awaited=awaited)
    attending.begin("decide(n=1)", timeout=None, limits=None)
    assert await end(attending, awaited=awaited) is None
    session.delete()
    attending = attendance(session, person, execution, awaited=awaited)
    attending.resume(1)
    with pytest.raises(SandboxLost):
        await attending.acalls()
    with pytest.raises(SandboxLost):
        await end(attending, awaited=awaited)
    session.delete()


async def test_cancelling_ends_the_code(session: Session) -> None:
    runs = asyncio.Event()
    attending = Attendance(session, uuid4().hex, [], turn="1", on_output=lambda _: runs.set())
    attending.begin("kept = 7\nprint(kept, flush=True)\nwhile True: pass", timeout=None, limits=None)
    running = asyncio.create_task(attending.await_end())
    await runs.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await session.aexecute("kept")).result == "7"


async def test_an_exception_of_the_reader_of_the_output_ends_the_code(session: Session, person: Person) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("It broke.")

    for awaited in (True, False):
        attending = Attendance(session, uuid4().hex, [], turn="1", on_output=fail)
        attending.begin("print(1, flush=True)\nwhile True: pass", timeout=None, limits=None)
        with pytest.raises(RuntimeError, match="It broke"):
            await end(attending, awaited=awaited)
    await wait_until(lambda: session.execute("1").result == "1")


@both
async def test_a_call_that_arrives_without_an_attendant_is_made_by_the_next_one(
    session: Session, person: Person, awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attendance can begin before the pool knows that the one before has deferred the call."""
    settle, lost, left = PendingCalls.settle, threading.Event(), threading.Event()

    def late(pending: PendingCalls, number: int, answer: ToolAnswer) -> bool:
        if number == 2 and left.is_set() and not lost.is_set():
            lost.set()
            return False
        return settle(pending, number, answer)

    monkeypatch.setattr(PendingCalls, "settle", late)
    code = """
import asyncio
async def later():
    await asyncio.sleep(0.5)
    return await decide(n=2)
await asyncio.gather(decide(n=1), later())
"""
    execution = uuid4().hex
    attending = attendance(session, person, execution, awaited=awaited)
    attending.begin(code, timeout=None, limits=None)
    assert await end(attending, awaited=awaited) is None
    left.set()
    await wait_until(lambda: lost.is_set() or [call.state for call in attending.calls()] == ["deferred"] * 2)
    person.decided.update((1, 2))
    attending = attendance(session, person, execution, awaited=awaited)
    attending.resume(1)
    done = await end(attending, awaited=awaited)
    assert done is not None
    assert done.result == "[10, 20]"
    assert person.again == []
