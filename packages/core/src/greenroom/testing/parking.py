"""The conformance suite of executions whose calls wait for someone: parked, resumed, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom.errors import ExecutionCancelled, GreenroomError, InvalidRequest, SandboxLost, ServiceFailed
from greenroom.sessions import ExecutionHandle, Session, SessionPool
from greenroom.testing.suite import Suite
from greenroom.testing.tools import SAFETY, Stuck, echo
from greenroom.tools import CallDeferred, MadeCall, ToolLimits, current_call

GATHERED = (
    "import asyncio\n"
    "async def main():\n"
    "    return await asyncio.gather(*(decide(n) for n in range({count})))\n"
    "print(sum(asyncio.run(main())))"
)


class Decisions:
    """A tool for which a person decides: it defers each call until `decided`."""

    def __init__(self, *, decided: bool = False) -> None:
        self.decided = decided
        self.seen: list[MadeCall] = []
        self._lock = threading.Lock()

    def decide(self, number: int) -> int:
        with self._lock:
            self.seen.append(current_call())
        if not self.decided:
            raise CallDeferred
        return 10 * number

    @property
    def numbers(self) -> list[int]:
        return [call.arguments["number"] for call in self.seen]


def parked(session: Session, code: str, count: int = 1, **options: Any) -> ExecutionHandle:
    """Begin an execution whose calls of `decide` are deferred, and wait until this many wait."""
    tool = Decisions()
    handle = session.submit(code, tools=[tool.decide], **options)
    _until(lambda: handle.status != "running" or len(tool.seen) >= count)
    _until(lambda: sum(call.state == "deferred" for call in handle.calls()) >= count)
    return handle


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SAFETY
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class ParkSuite(Suite):
    """Executions that wait for a person.

    The pool has `ParkSuite.options`.
    """

    options: ClassVar[Mapping[str, Any]] = {"preload": (), "interrupt_grace": 1}

    @pytest.fixture(autouse=True)
    def works_afterwards(self, shared: Session) -> Iterator[None]:
        """Whatever the test did, the session replies, and nothing in it is parked."""
        yield
        if (info := shared.info()) is not None and info.parked_calls:  # the test has failed
            shared.delete()
        assert shared.execute("echo(6) * 7", tools=[echo], timeout=30).result == "42"
        info = shared.info()
        assert info is not None
        assert (info.parked_calls, info.parked_since) == (0, None)

    def test_a_parked_execution_continues_where_it_stopped(self, shared: Session) -> None:
        handle = parked(shared, "x = 5\ny = decide(x) + 1\nprint(x, y)")
        resumed = shared.resume(handle.id, tools=[Decisions(decided=True).decide])
        assert resumed.id == handle.id
        assert resumed.result(SAFETY).stdout == "5 51\n"
        assert shared.execute("y").result == "51"
        assert shared.resume(handle.id).result(SAFETY).stdout == "5 51\n", "it is remembered after its end"

    def test_fifty_parked_calls_appear_in_the_order_in_which_they_were_made(self, shared: Session) -> None:
        handle = parked(shared, GATHERED.format(count=50), 50)
        waiting = handle.calls()
        assert [call.arguments["number"] for call in waiting] == list(range(50))
        assert [call.number for call in waiting] == sorted(call.number for call in waiting)

        class OneByOne(Decisions):
            """Decide the first waiting call, and defer the others."""

            def decide(self, number: int) -> int:
                self.decided = not self.seen
                return super().decide(number)

        for number in range(3):
            tool = OneByOne()
            handle = shared.resume(handle.id, tools=[_in_order(tool.decide)])
            _until(lambda tool=tool, left=50 - number: len(tool.seen) == left)
            assert tool.numbers == list(range(number, 50))
            assert not any(call.delivered_again for call in tool.seen)
            _until(lambda handle=handle, left=49 - number: _deferred(handle) == left)
        last = Decisions(decided=True)
        execution = shared.resume(handle.id, tools=[last.decide]).result(SAFETY)
        assert execution.stdout == f"{10 * sum(range(50))}\n"
        assert sorted(last.numbers) == list(range(3, 50))

    def test_a_call_that_was_answered_is_not_sent_again(self, shared: Session) -> None:
        first, second = Decisions(), Decisions(decided=True)

        def decide(number: int) -> int:
            first.decided = number < 2
            return first.decide(number)

        handle = shared.submit(GATHERED.format(count=4), tools=[_in_order(decide)])
        _until(lambda: [call.state for call in handle.calls()] == ["answered", "answered", "deferred", "deferred"])
        resumed = shared.resume(handle.id, tools=[second.decide])
        assert resumed.result(SAFETY).stdout == "60\n"
        assert sorted(second.numbers) == [2, 3]
        assert [(call.tool, call.state, call.arguments) for call in resumed.calls()] == [
            ("decide", "answered", {"number": number}) for number in range(4)
        ]

    def test_a_call_is_marked_when_it_is_delivered_again(self, shared: Session) -> None:
        stuck = Stuck()

        async def decide(number: int) -> int:
            if number:
                raise CallDeferred
            await stuck.wait()
            return 1

        handle = shared.submit(GATHERED.format(count=2), tools=[decide])
        _until(lambda: stuck.begun == 1 and _deferred(handle) == 1)
        second = Decisions(decided=True)
        assert shared.resume(handle.id, tools=[second.decide]).result(SAFETY).stdout == "10\n"
        assert {call.arguments["number"]: call.delivered_again for call in second.seen} == {0: True, 1: False}
        stuck.check_cancelled()
        with pytest.raises(ServiceFailed, match="instead of this one"):
            handle.result(SAFETY)

    def test_further_calls_go_to_the_caller_that_resumed(self, shared: Session) -> None:
        handle = parked(shared, "print([decide(n) for n in range(5)])")
        tool = Decisions(decided=True)
        assert shared.resume(handle.id, tools=[tool.decide]).result(SAFETY).stdout == "[0, 10, 20, 30, 40]\n"
        assert tool.numbers == list(range(5))

    def test_a_resumed_execution_has_no_other_tools(self, shared: Session) -> None:
        handle = parked(shared, "try:\n    decide(1)\nexcept ToolError as error:\n    print(error)")
        execution = shared.resume(handle.id, tools=[echo]).result(SAFETY)
        assert execution.stdout == "This execution has no tool with that name.\n"

    async def test_the_asynchronous_spellings_park(self, shared: Session) -> None:
        seen: list[MadeCall] = []

        async def decide(number: int) -> int:
            seen.append(current_call())
            if len(seen) == 1:
                raise CallDeferred
            return number

        handle = shared.submit("decide(7)", tools=[decide])
        while [call.state for call in await handle.acalls()] != ["deferred"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        resumed = shared.resume(handle.id, tools=[decide])
        assert (await resumed.aresult()).result == "7"
        assert [call.state for call in await resumed.acalls()] == ["answered"]

    def test_a_stream_with_an_id_can_be_resumed(self, shared: Session) -> None:
        tool, id_ = Decisions(), uuid.uuid4().hex
        events = shared.stream("print('before')\nprint(decide(1))", tools=[tool.decide], id=id_)
        with contextlib.closing(events):
            next(events)
            _until(lambda: len(tool.seen) == 1)
            resumed = shared.resume(id_, tools=[Decisions(decided=True).decide])
            assert resumed.result(SAFETY).stdout == "before\n10\n"
            with contextlib.suppress(ServiceFailed):  # another caller has taken it over
                list(events)

    # How it is displayed, and what it holds

    def test_it_is_shown_and_does_not_cool_down(self, pool: SessionPool) -> None:
        session = pool.session("parked-session", idle_timeout=5)
        handle = parked(session, GATHERED.format(count=3), 3)
        time.sleep(6)
        info, status = session.info(), pool.status()
        assert info is not None
        assert info.parked_since is not None
        assert (info.parked_calls, info.expires) == (3, None)
        assert (status.parked, status.parked_calls) == (1, 3)
        assert status.parked_since == info.parked_since
        assert [each.identifier for each in pool.sessions() if each.parked_calls] == ["parked-session"]
        assert "1 parked in 3 calls" in repr(status)
        handle.cancel()
        assert handle.result(SAFETY).status == "cancelled"
        _until(lambda: session.info() is None)

    def test_parked_time_counts_towards_no_other_limit(self, shared: Session) -> None:
        limits = ToolLimits(timeout=6, total_timeout=6)
        handle = parked(shared, "print(decide(1))", timeout=6, tool_limits=limits)
        time.sleep(7)
        assert handle.status == "running"
        assert shared.resume(handle.id, tools=[Decisions(decided=True).decide]).result(SAFETY).stdout == "10\n"

    def test_parked_calls_have_their_own_time_limit(self, shared: Session) -> None:
        code = "for n in (1, 2):\n    try:\n        decide(n)\n    except ToolError as error:\n        print(error)"
        tool = Decisions()
        # Not `parked`: the calls may have ended before they are checked.
        handle = shared.submit(code, tools=[tool.decide], tool_limits=ToolLimits(parked_timeout=0.5))
        execution = handle.result(SAFETY)
        message = "decide was not answered: no decision was made within 0.5 seconds.\n"
        assert execution.stdout == 2 * message, "both together"

    # How it ends

    @pytest.mark.parametrize("end", ["cancel", "cancel when resumed", "delete"])
    def test_it_ends_with_a_cancellation_and_with_its_session(self, pool: SessionPool, end: str) -> None:
        with pool.session() as session:
            handle = parked(session, "decide(1)")
            if end == "delete":
                session.delete()
                with pytest.raises(SandboxLost):
                    handle.result(SAFETY)
                with pytest.raises(GreenroomError):
                    session.resume(handle.id, tools=[echo]).result(SAFETY)
            else:
                ending = session.resume(handle.id) if "resumed" in end else handle
                ending.cancel()
                with pytest.raises(ExecutionCancelled):
                    ending.result(SAFETY).raise_for_error()
            assert pool.status().parked == 0
            assert session.execute("1 + 1").result == "2"

    def test_without_an_id_nothing_can_be_deferred(self, shared: Session) -> None:
        code = "try:\n    decide(1)\nexcept ToolError as error:\n    print(error)"
        execution = shared.execute(code, tools=[Decisions().decide])
        assert execution.stdout.startswith("decide deferred its call, which needs an execution that can be resumed")

    def test_an_execution_that_is_not_known_cannot_be_resumed(self, pool: SessionPool, shared: Session) -> None:
        handle = shared.submit("1", id="known-1")
        assert handle.result(SAFETY).succeeded
        for session, id_ in ((shared, "another"), (pool.session("another-session"), handle.id)):
            resumed = session.resume(id_, tools=[echo])
            for ask in (resumed.result, resumed.calls):
                with pytest.raises(SandboxLost, match=f"has no execution '{id_}'"):
                    ask()
        with pytest.raises(InvalidRequest, match="must be new in its session, not 'known-1'"):
            shared.submit("2", id="known-1").result(SAFETY)

    @pytest.mark.parametrize("id_", ["", "a b", "x" * 129, "größe", "../x", 3])
    def test_a_bad_id_is_refused(self, shared: Session, id_: Any) -> None:
        for use in (lambda: shared.submit("1", id=id_), lambda: shared.resume(id_)):
            with pytest.raises(InvalidRequest, match="The id of an execution must have"):
                use()

    def test_only_a_tool_has_a_current_call(self) -> None:
        with pytest.raises(InvalidRequest, match="must be called in a tool"):
            current_call()

    # Hostile code

    def test_a_flood_of_calls_next_to_a_parked_one_stays_within_the_limits(self, shared: Session) -> None:
        tool, made = Decisions(), list[int]()

        def note(number: int) -> None:
            made.append(number)

        code = (
            "import asyncio\n"
            "async def main():\n"
            "    first = asyncio.ensure_future(decide(1))\n"
            "    calls, refused = [], 0\n"
            "    for n in range(3_000):\n"
            "        try:\n            calls.append(note(n))\n"
            "        except ToolError:\n            refused += 1\n"
            "    await asyncio.gather(*calls)\n"
            "    print(refused, await first)\n"
            "asyncio.run(main())"
        )
        limits = ToolLimits(calls=500, concurrent=4)
        handle = shared.submit(code, tools=[tool.decide, note], tool_limits=limits)
        # A call whose answer has not arrived would otherwise be made again.
        _until(lambda: sum(call.state == "answered" for call in handle.calls()) == 499)
        resumed = shared.resume(handle.id, tools=[Decisions(decided=True).decide, note])
        assert resumed.result(SAFETY).stdout == "2501 10\n"
        assert len(made) == 499


def _deferred(handle: ExecutionHandle) -> int:
    return sum(call.state == "deferred" for call in handle.calls())


def _in_order(function: Callable[[int], int]) -> Callable[[int], Any]:
    """Return an asynchronous `decide`, whose calls begin in their order; threads begin in any."""

    async def decide(number: int) -> int:
        await asyncio.sleep(0)
        return function(number)

    return decide
