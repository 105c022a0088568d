"""The conformance suite of tools: functions of the application that code in a session calls."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from greenroom.sessions import Session
from greenroom.testing.suite import Suite
from greenroom.tools import Tool, ToolLimits

SAFETY = 60.0
"""Seconds within which calls that wait for each other must have met."""

who = contextvars.ContextVar("who", default="nobody")


class Order(BaseModel):
    """What a customer has bought."""

    id: int
    total: float


@dataclasses.dataclass
class Place:
    city: str
    since: date


def get_orders(customer: int, limit: int = 2) -> list[Order]:
    """Return the orders of a customer.

    Args:
        customer: the customer's number.
        limit: how many.
    """
    if customer < 0:
        raise LookupError(f"There is no customer {customer}.")
    return [Order(id=10 * customer + number, total=1.5) for number in range(limit)]


def echo(value: Any) -> Any:
    """Return the value."""
    return value


class Meeting:
    """A tool whose calls return when so many of them run at the same time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.inside = 0
        self._everybody = asyncio.Event()

    async def meet(self, number: int) -> int:
        self.inside += 1
        if self.inside == self._count:
            self._everybody.set()
        async with asyncio.timeout(SAFETY):
            await self._everybody.wait()
        return number


class Stuck:
    """A tool that waits, and notes when it is cancelled."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0

    def check_cancelled(self) -> None:
        """Check that each call was cancelled, which can happen shortly after the end of the code."""
        deadline = time.monotonic() + SAFETY
        while self.cancelled < self.begun:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    async def wait(self) -> None:
        self.begun += 1
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def _hanging(release: threading.Event) -> Callable[[], None]:
    def hang() -> None:
        release.wait(SAFETY)

    return hang


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class ToolSuite(Suite):
    """Calls from code to the application: results, failures, limits, and the end.

    The pool has `ToolSuite.options`.
    """

    options: ClassVar[Mapping[str, Any]] = {"preload": (), "interrupt_grace": 1}

    @pytest.fixture(autouse=True)
    def works_afterwards(self, shared: Session) -> Iterator[None]:
        """Whatever the test did, the session replies."""
        yield
        assert shared.execute("echo(6) * 7", tools=[echo], timeout=30).result == "42"

    @pytest.fixture
    def release(self) -> Iterator[threading.Event]:
        """An event that ends the threads of a test."""
        event = threading.Event()
        yield event
        event.set()

    # Calls

    def test_a_function_returns_its_value(self, shared: Session) -> None:
        code = "x = get_orders(customer=4)\nprint(x, get_orders(1, 1), type(x))"
        execution = shared.execute(code, tools=[get_orders]).raise_for_error()
        orders = [{"id": 40, "total": 1.5}, {"id": 41, "total": 1.5}], [{"id": 10, "total": 1.5}]
        assert execution.stdout == f"{orders[0]} {orders[1]} <class 'list'>\n"

    def test_a_call_can_be_awaited_at_the_top(self, shared: Session) -> None:
        assert shared.execute("x = await get_orders(customer=1)\nx[1]['id']", tools=[get_orders]).result == "11"

    def test_fifty_gathered_calls_run_at_the_same_time(self, shared: Session) -> None:
        meeting = Meeting(50)
        code = (
            "import asyncio\n"
            "async def main():\n"
            "    return await asyncio.gather(*(meet(number=n) for n in range(50)))\n"
            "asyncio.run(main()) == list(range(50))"
        )
        assert shared.execute(code, tools=[meeting.meet]).raise_for_error().result == "True"

    def test_fifty_gathered_calls_at_the_top(self, shared: Session) -> None:
        meeting = Meeting(50)
        code = "import asyncio\nsum(await asyncio.gather(*(meet(n) for n in range(50))))"
        assert shared.execute(code, tools=[meeting.meet]).raise_for_error().result == str(sum(range(50)))

    def test_threads_call_at_the_same_time(self, shared: Session) -> None:
        barrier = threading.Barrier(8)

        def meet(number: int) -> int:
            barrier.wait(SAFETY)
            return number

        code = (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "with ThreadPoolExecutor(8) as threads:\n    print(list(threads.map(meet, range(8))))"
        )
        assert shared.execute(code, tools=[meet]).stdout == f"{list(range(8))}\n"

    def test_calls_are_tasks_and_can_be_cancelled(self, shared: Session) -> None:
        stuck = Stuck()
        code = (
            "import asyncio\n"
            "async def main():\n"
            "    task = asyncio.create_task(get_orders(1, limit=1))\n"
            "    asyncio.create_task(wait()).cancel()\n"
            "    try:\n        await asyncio.wait_for(wait(), 0.2)\n"
            "    except TimeoutError:\n        print('given up')\n"
            "    print(await task, await asyncio.to_thread(get_orders, 2, limit=0))\n"
            "asyncio.run(main())"
        )
        execution = shared.execute(code, tools=[get_orders, stuck.wait]).raise_for_error()
        assert execution.stdout == "given up\n[{'id': 10, 'total': 1.5}] []\n"
        stuck.check_cancelled()

    def test_a_value_that_is_not_awaited_can_be_used(self, shared: Session) -> None:
        code = (
            "import asyncio\n"
            "async def main():\n"
            "    await asyncio.sleep(0)\n"
            "    x, n, s = echo([3, 1]), echo(2), echo('text')\n"
            "    print(len(x), x[0], sorted(x), [*x], n + 1, 1 + n, n == 2, s.upper(), f'{s}!', bool(echo(0)))\n"
            "    print(echo({'a': 1})['a'], 'a' in echo({'a': 1}), list(echo({'a': 1}).items()), echo(echo(5)) * 2)\n"
            "    try:\n        list(echo({'a': 1}))\n"
            "    except TypeError as error:\n        print(error)\n"
            "asyncio.run(main())"
        )
        execution = shared.execute(code, tools=[echo]).raise_for_error()
        assert execution.stdout == (
            "2 3 [1, 3] [3, 1] 3 3 True TEXT text! False\n1 True [('a', 1)] 10\n"
            "echo returns a dict. Await the call: await echo(...)\n"
        )

    def test_a_call_whose_value_is_not_used_is_made(self, shared: Session) -> None:
        sent: list[str] = []

        async def send(text: str) -> None:
            await asyncio.sleep(0.1)
            if text == "bad":
                raise ValueError("This was not sent.")
            sent.append(text)

        code = "import asyncio\nasync def main():\n    send('a')\n    send('bad')\nasyncio.run(main())"
        execution = shared.execute(code, tools=[send])
        assert (execution.status, sent) == ("succeeded", ["a"])

    def test_state_persists_across_calls_and_executions(self, shared: Session) -> None:
        shared.execute(
            "orders = get_orders(1)\ndef total(n):\n    return len(get_orders(n)) + len(orders)", tools=[get_orders]
        )
        assert shared.execute("total(3)", tools=[get_orders]).result == "4"
        assert shared.execute("len(orders)").result == "2"

    def test_functions_have_types_and_a_docstring(self, shared: Session) -> None:
        code = "import inspect\nprint(inspect.signature(get_orders))\nprint(get_orders.__doc__.splitlines()[0])"
        execution = shared.execute(code, tools=[get_orders])
        assert execution.stdout == (
            "(customer: int, limit: int = 2) -> list[dict[str, Any]]\nReturn the orders of a customer.\n"
        )

    def test_a_tool_can_be_a_schema(self, shared: Session) -> None:
        calls: list[Any] = []

        def handle(arguments: dict[str, Any]) -> str:
            calls.append(arguments)
            return "found"

        schema = {
            "type": "object",
            "properties": {"query": {"type": "string"}, "max-count": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
            "required": ["query"],
            "additionalProperties": False,
        }
        tool = Tool("search", "Search.", schema, handle, returns={"type": "string"})
        code = "import inspect\nprint(search('x', **{'max-count': 3}), inspect.signature(search))"
        execution = shared.execute(code, tools=[tool]).raise_for_error()
        assert execution.stdout == "found (query: str, kind: Literal['a', 'b'] = None, **other_arguments) -> str\n"
        assert calls == [{"query": "x", "max-count": 3}]
        refused = shared.execute("search('x', kind='c')", tools=[tool])
        assert refused.error is not None
        assert "'c' is not one of ['a', 'b']" in refused.error.value
        assert len(calls) == 1

    # Values

    def test_arguments_and_results_are_converted(self, shared: Session) -> None:
        received: list[Any] = []

        def note(day: date, tags: set[str], order: Order, place: Place | None = None) -> Any:
            received.extend([day, tags, order, place])
            return {
                "day": day,
                "tags": tags,
                "order": order,
                "place": Place("Oslo", day),
                "at": datetime(2026, 1, 2, tzinfo=UTC),
            }

        code = (
            "import datetime\n"
            "note(datetime.date(2026, 1, 2), {'a'}, {'id': 1, 'total': '2.5'},\n"
            "     place={'city': 'Rome', 'since': '2025-01-01'})"
        )
        execution = shared.execute(code, tools=[note]).raise_for_error()
        day = date(2026, 1, 2)
        assert received == [day, {"a"}, Order(id=1, total=2.5), Place("Rome", date(2025, 1, 1))]
        assert eval(execution.result or "") == {  # noqa: S307  from our own tool
            "day": "2026-01-02",
            "tags": ["a"],
            "order": {"id": 1, "total": 2.5},
            "place": {"city": "Oslo", "since": "2026-01-02"},
            "at": "2026-01-02T00:00:00Z",
        }

    def test_values_keep_every_character(self, shared: Session) -> None:
        values = ["naïve Ω 漢字 🦊 \u202e \0 \\ \" '", {"": [None, True, -1.5, 2**70]}, "x" * 300_000]
        code = f"print([echo(each) == each for each in ({', '.join(map(repr, values))})])"
        assert shared.execute(code, tools=[echo]).stdout == "[True, True, True]\n"

    @pytest.mark.parametrize(
        "code",
        [
            *("echo(float('nan'))", "echo(b'x')", "echo(object())", "echo(x)", "echo(echo)"),
            *("echo({(1, 2): 3})", "echo({1: 2, 'a': float('inf')})", "echo(10 ** 5000)"),
        ],
    )
    def test_arguments_that_are_not_json_are_refused_in_the_code(self, shared: Session, code: str) -> None:
        execution = shared.execute(f"x = []\nx.append(x)\n{code}", tools=[echo])
        assert execution.error is not None
        assert execution.error.name == "TypeError"
        assert "The arguments of echo must be JSON" in execution.error.value

    def test_arguments_that_break_the_schema_call_nothing(self, shared: Session) -> None:
        calls: list[int] = []

        def note(number: int) -> None:
            calls.append(number)

        code = (
            "for arguments in ({'number': 'x'}, {'number': None}, {'number': [1]}, {}, {'number': 1, 'other': 2}):\n"
            "    try:\n        note(**arguments)\n"
            "    except (ToolError, TypeError) as error:\n        print(type(error).__name__, error)"
        )
        lines = shared.execute(code, tools=[note]).raise_for_error().stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["ToolError"] * 3 + ["TypeError"] * 2
        assert "number" in lines[0]
        assert "not 'x'" in lines[0]
        assert calls == []

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: [1.0, float("nan")], "must be JSON, which has no nan"),
            (lambda: {"a": float("-inf")}, "must be JSON, which has no -inf"),
            (lambda: b"bytes", "has no bytes"),
            (lambda: {"rows": [bytearray(3)]}, "has no bytes"),
            (lambda: {(1, 2): 3}, "whose keys are strings"),
            (object, "not of type object"),
            (lambda: 10**5000, "must be JSON"),
            (_cycle, "must be nested at most 200 levels deep"),
            (lambda: "x" * (1 << 30), "must be at most 1 MiB"),
            (lambda: ["x" * 100] * 20_000, "must be at most 1 MiB"),
        ],
        ids=["nan", "infinity", "bytes", "nested", "key", "object", "integer", "cycle", "1 GiB", "many"],
    )
    def test_a_bad_result_fails_the_call(self, shared: Session, make: Callable[[], Any], message: str) -> None:
        def give() -> Any:
            return make()

        execution = shared.execute("give()", tools=[give], tool_limits=ToolLimits(result_bytes=1 << 20))
        assert execution.error is not None
        assert execution.error.name == "ToolError"
        assert f"The result of give {message}" in execution.error.value or message in execution.error.value

    def test_values_keep_their_shape(self, shared: Session) -> None:
        received: list[Any] = []

        def note(value: Any) -> None:
            received.append(value)

        values: list[Any] = [[], {}, "", 0, None, [[[]]], {"a": {"b": [1, "2", None]}}]
        shared.execute(
            f"import json\nfor each in json.loads({json.dumps(json.dumps(values))}):\n    note(each)", tools=[note]
        )
        assert received == values

    # Failures

    def test_an_exception_arrives_with_only_its_message(self, shared: Session) -> None:
        execution = shared.execute("get_orders(-7)", tools=[get_orders])
        assert execution.error is not None
        assert (execution.error.name, execution.error.value) == ("ToolError", "There is no customer -7.")
        assert Path(__file__).name not in execution.error.traceback.replace("workers/tools.py", "")
        assert "LookupError" not in execution.text_for_model()
        caught = "try:\n    get_orders(-7)\nexcept ToolError as error:\n    print('caught', error)"
        assert shared.execute(caught, tools=[get_orders]).stdout == "caught There is no customer -7.\n"

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), KeyError("id"), AssertionError()])
    def test_any_exception_fails_only_the_call(self, shared: Session, error: BaseException) -> None:
        async def fail_later() -> None:
            await asyncio.sleep(0)
            raise RuntimeError(str(error)) from error

        def fail() -> None:
            raise error

        code = (
            "for each in (fail, fail_later):\n    try:\n        each()\n"
            "    except ToolError as error:\n        print(error)"
        )
        execution = shared.execute(code, tools=[fail, fail_later]).raise_for_error()
        assert type(error).__name__ in execution.stdout or str(error) in execution.stdout

    def test_a_tool_that_never_returns_fails_in_time(self, shared: Session, release: threading.Event) -> None:
        stuck = Stuck()
        code = (
            "for each in (hang, wait):\n    try:\n        each()\n    except ToolError as error:\n        print(error)"
        )
        limits = ToolLimits(timeout=0.3)
        execution = shared.execute(code, tools=[_hanging(release), stuck.wait], tool_limits=limits)
        assert execution.stdout == (
            "hang did not return within 0.3 seconds.\nwait did not return within 0.3 seconds.\n"
        )
        stuck.check_cancelled()
