"""The conformance suites of what ends calls: limits, the end of their execution, and hostile code."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom.errors import InvalidRequest, SandboxLost
from greenroom.models import Execution, StreamText
from greenroom.sessions import Session
from greenroom.testing.scripted import wait_until
from greenroom.testing.suite import Suite
from greenroom.testing.tools import SAFETY, Stuck, echo, get_orders, who
from greenroom.tools import CallDeferred, MadeCall, Tool, ToolLimits, current_call


class ToolLimitSuite(Suite):
    """Limits of calls, and their end.

    The pool has `ToolLimitSuite.options`.
    """

    options: ClassVar[Mapping[str, Any]] = {"preload": (), "interrupt_grace": 1}

    @pytest.fixture(autouse=True)
    def works_afterwards(self, shared: Session) -> Iterator[None]:
        """Whatever the test did, the session replies."""
        yield
        assert shared.execute("echo(6) * 7", tools=[echo], timeout=30).result == "42"

    # Limits

    def test_the_deadline_stands_still_while_a_call_waits(self, shared: Session) -> None:
        async def take_time() -> str:
            await asyncio.sleep(7)
            return "done"

        assert shared.execute("take_time()", tools=[take_time], timeout=6).result == "'done'"
        execution = shared.execute("take_time()\nwhile True: pass", tools=[take_time], timeout=0.5)
        assert execution.status == "timed_out"

    def test_the_wait_has_its_own_limit(self, shared: Session) -> None:
        stuck = Stuck()
        limits = ToolLimits(total_timeout=0.3)
        execution = shared.execute("wait()", tools=[stuck.wait], timeout=0.3, tool_limits=limits)
        assert (execution.status, stuck.begun) == ("timed_out", 1)

    def test_calls_over_a_limit_are_refused(self, shared: Session) -> None:
        calls: list[int] = []

        def note(number: int, text: str = "") -> str:
            calls.append(number)
            return text

        code = (
            "failed = []\nfor n in range(10_000):\n    try:\n        note(n)\n"
            "    except ToolError as error:\n        failed.append(error)\nprint(len(failed), failed[0])"
        )
        execution = shared.execute(code, tools=[note], tool_limits=ToolLimits(calls=50))
        assert execution.stdout == "9950 note was not called: this execution is limited to 50 calls.\n"
        assert calls == list(range(50))
        large = "note(1, 'x' * 600)\nnote(2, 'x' * 600)"
        sent = shared.execute(large, tools=[note], tool_limits=ToolLimits(argument_bytes=1000))
        assert "this execution is limited to 1,000 bytes of arguments" in (sent.error.value if sent.error else "")
        received = shared.execute(large, tools=[note], tool_limits=ToolLimits(result_bytes=1000))
        assert "must be at most 398 bytes as JSON" in (received.error.value if received.error else "")

    def test_calls_wait_for_their_turn(self, shared: Session) -> None:
        running: list[int] = []
        most: list[int] = []

        async def work(number: int) -> int:
            running.append(number)
            most.append(len(running))
            await asyncio.sleep(0.01)
            running.remove(number)
            return number

        code = (
            "import asyncio\nasync def main():\n    return sum(await asyncio.gather(*map(work, range(20))))\n"
            "asyncio.run(main())"
        )
        execution = shared.execute(code, tools=[work], tool_limits=ToolLimits(concurrent=3))
        assert execution.result == str(sum(range(20)))
        assert max(most) <= 3

    # The end

    def test_functions_are_there_only_while_their_execution_runs(self, shared: Session) -> None:
        shared.execute("get_orders = 'mine'")
        shared.execute("kept = get_orders\nget_orders(1)", tools=[get_orders]).raise_for_error()
        assert shared.execute("get_orders").result == "'mine'"
        late = shared.execute("kept(1)")
        assert late.error is not None
        assert "can only be called while the execution that it belongs to" in late.error.value
        other = shared.execute("kept(1)", tools=[get_orders])
        assert other.error is not None, "that of another execution"

    def test_code_can_redefine_a_function(self, shared: Session) -> None:
        code = "def echo(value):\n    return 'mine'\necho(1)"
        assert shared.execute(code, tools=[echo]).result == "'mine'"
        assert shared.execute("echo(1)").result == "'mine'"
        assert shared.execute("echo(1)", tools=[echo]).result == "1"
        shared.execute("del ToolError, echo", tools=[echo])

    async def test_cancelling_an_execution_cancels_its_calls(self, shared: Session) -> None:
        stuck = Stuck()
        task = asyncio.create_task(shared.aexecute("wait()", tools=[stuck.wait]))
        await wait_until(lambda: stuck.begun == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: stuck.cancelled == 1)

    def test_an_execution_in_the_background_calls_and_can_be_cancelled(self, shared: Session) -> None:
        assert shared.submit("get_orders(2, 0)", tools=[get_orders]).result(SAFETY).result == "[]"
        stuck = Stuck()
        handle = shared.submit("wait()", tools=[stuck.wait])
        deadline = time.monotonic() + SAFETY
        while not stuck.begun and time.monotonic() < deadline:
            time.sleep(0.01)
        handle.cancel()
        assert handle.result(SAFETY).status == "cancelled"

    def test_a_stream_has_its_text_before_a_call_ends(self, shared: Session) -> None:
        go = threading.Event()

        def proceed() -> bool:
            return go.wait(SAFETY)

        seen: list[str] = []
        for event in shared.stream("print('before')\nprint(proceed())", tools=[proceed]):
            if isinstance(event, StreamText):
                seen.append(event.text)
                go.set()
            elif isinstance(event, Execution):
                assert event.stdout == "before\nTrue\n"
        assert seen[0].startswith("before")

    async def test_the_asynchronous_spellings_call_on_the_callers_loop(self, shared: Session) -> None:
        loops: list[Any] = []
        who.set("somebody")

        async def where() -> str:
            loops.append(asyncio.get_running_loop())
            return who.get()

        def thread() -> str:
            loops.append(threading.current_thread())
            return who.get()

        execution = await shared.aexecute("[where(), thread()]", tools=[where, thread])
        assert execution.result == "['somebody', 'somebody']"
        assert loops[0] is asyncio.get_running_loop()
        assert loops[1] is not threading.current_thread()
        events = [event async for event in shared.astream("where()", tools=[where])]
        assert isinstance(events[-1], Execution)
        assert events[-1].result == "'somebody'"

    def test_a_caller_that_blocks_passes_on_its_context(self, shared: Session) -> None:
        who.set("somebody else")

        async def awaited() -> str:
            return who.get()

        execution = shared.execute(
            "[awaited(), thread()]", tools=[awaited, Tool("thread", "", {}, lambda _: who.get())]
        )
        assert execution.result == "['somebody else', 'somebody else']"

    async def test_a_function_cannot_wait_for_the_session_whose_code_waits_for_it(self, shared: Session) -> None:
        later: list[Any] = []

        async def awaited() -> str | None:
            return (await shared.aexecute("1")).result

        def blocking() -> str | None:
            return next(iter(shared.stream("1"))).text  # type: ignore[union-attr]

        def submitting() -> None:
            later.append(shared.submit("'later'"))

        code = """
submitting()
for call in (awaited, blocking):
    try:
        call()
    except ToolError as error:
        print(str(error)[:67])
"""
        execution = await shared.aexecute(code, tools=[awaited, blocking, submitting])
        assert execution.stdout == "Nothing was run: a function that code calls must not wait for other\n" * 2
        assert (await later[0].aresult()).result == "'later'"

    async def test_an_application_that_blocks_its_loop_delays_only_its_own_calls(self, shared: Session) -> None:
        came = threading.Event()

        async def answer() -> str:
            return "late"

        def come() -> None:
            came.set()

        code = "try:\n    answer()\nexcept ToolError as error:\n    print(error)\ncome()\nprint('came')"
        limits = ToolLimits(timeout=5)
        task = asyncio.create_task(shared.aexecute(code, tools=[answer, come], tool_limits=limits))
        await asyncio.sleep(0)  # it is submitted
        assert came.wait(SAFETY), "while the loop is blocked"
        execution = await task
        assert execution.stdout == "answer did not return within 5 seconds.\ncame\n"

    # Bad input

    @pytest.mark.parametrize(
        "name", ["print", "class", "a b", "", "_x", "get_ipython", "größe", "ToolError", "x" * 101, None, 3]
    )
    def test_a_bad_name_is_refused_before_anything_runs(self, shared: Session, name: Any) -> None:
        with pytest.raises(InvalidRequest, match="The name of a tool"):
            shared.execute("1", tools=[Tool(name, "", {"type": "object"}, echo)])

    def test_an_object_that_is_not_a_tool_is_refused(self, shared: Session) -> None:
        def variable(*values: int) -> None:
            del values

        def unknown(value: threading.Event) -> None:
            del value

        not_tools: list[Any] = [3, "text", [3], [int], [lambda: 1], [variable], [unknown], [echo, echo], {"a": echo}]
        not_tools += [[Tool("t", "", {"type": "no type"}, echo)], [Tool("t", "", 3, echo)]]  # type: ignore[arg-type]
        for tools in not_tools:
            with pytest.raises(InvalidRequest, match=r"[Tt]ool"):
                shared.execute("1", tools=tools)
        bad: list[tuple[str, Any]] = [("calls", 0), ("timeout", -1), ("timeout", float("nan")), ("concurrent", 1.5)]
        for name, value in [*bad, ("calls", True)]:
            with pytest.raises(InvalidRequest, match="must be a positive"):
                ToolLimits(**{name: value})
        untyped: Any = {"calls": 3}
        with pytest.raises(InvalidRequest, match=r"greenroom\.ToolLimits"):
            shared.execute("1", tools=[echo], tool_limits=untyped)
        assert shared.execute("1", tools=[]).result == "1"


_FORGING = (
    "import json, os, socket, struct\n"
    "cells = [cell.cell_contents for cell in echo.__closure__]\n"
    "id = next(each._execution for each in cells if hasattr(each, '_execution'))\n"
    "def frame(header, body=b''):\n"
    "    text = json.dumps(header).encode()\n"
    "    return struct.pack('>II', len(text), len(body)) + text + body\n"
    "def call(number, id=id, tool='echo', body=b'{\"value\": 1}'):\n"
    "    return frame({'ev': 'call', 'id': id, 'call': number, 'tool': tool}, body)\n"
    "link = socket.socket(fileno=os.dup(3))\n"
)
"""Code that bypasses its functions and communicates directly with its supervisor."""


class HostileToolSuite(Suite):
    """Code that misuses the protocol of calls. It harms only its own session.

    The pool has `HostileToolSuite.options`.
    """

    options: ClassVar[Mapping[str, Any]] = {"preload": (), "interrupt_grace": 1}

    def test_a_forked_process_cannot_call_and_does_no_harm(self, shared: Session) -> None:
        code = (
            "import os, warnings\nwarnings.simplefilter('ignore')\n"
            "echo(0)\n"
            "reading, writing = os.pipe()\n"
            "if os.fork() == 0:\n"
            "    try:\n        echo('child')\n        message = 'called'\n"
            "    except ToolError as error:\n        message = str(error)\n"
            "    os.write(writing, message.encode())\n    os._exit(0)\n"
            "values = [echo(n) for n in range(20)]\nos.wait()\n"
            "print(os.read(reading, 1000).decode(), values == list(range(20)))"
        )
        execution = shared.execute(code, tools=[echo]).raise_for_error()
        assert execution.stdout == (
            "echo can only be called in the process that runs the code, not in a child of it. True\n"
        )

    def test_a_thread_that_outlives_its_execution_cannot_call(self, shared: Session) -> None:
        code = (
            "import threading, time\nseen = []\ngo = threading.Event()\n"
            "def late():\n    go.wait(60)\n    try:\n        seen.append(function(1))\n"
            "    except ToolError as error:\n        seen.append(str(error))\n"
            "function = echo\nthread = threading.Thread(target=late)\nthread.start()"
        )
        shared.execute(code, tools=[echo]).raise_for_error()
        execution = shared.execute("go.set()\nthread.join(60)\nprint(seen)", tools=[echo])
        assert "can only be called while the execution that it belongs to" in execution.stdout

    @pytest.mark.parametrize(
        "frames",
        [
            "[call(1), call(1)]",
            "[call(5), call(2)]",
            "[call(0)]",
            "[call(-1)]",
            "[call(2 ** 40)]",
            "[call('1')]",
            "[call(True)]",
            "[call(1, id=10 ** 6)] * 100",
            "[call(1, tool='no_such_tool')]",
            "[call(1, tool=['echo'])]",
            "[call(1, tool='x' * 1000)]",
            "[call(1, body=b'no JSON')]",
            "[call(1, body=b'[]')]",
            "[call(1, body=b'[' * 100_000)]",
            '[call(1, body=b\'{"value": NaN, "\\\\ud800": 1}\')]',
            "[call(1, body=bytes(17 << 20))]",
            "[call(n) for n in range(1, 3_000)]",
            "[frame({'ev': 'withdraw', 'id': id, 'call': n}) for n in range(3_000)]",
            "[frame({'ev': 'withdraw', 'id': id, 'call': 'x'})]",
            "[frame({'op': 'answer', 'id': id, 'call': 1, 'failed': False}, b'1')]",
            "[frame({'ev': 'answer', 'id': id, 'call': 1}, b'1')]",
        ],
    )
    def test_forged_calls_end_their_own_execution_at_most(self, shared: Session, frames: str) -> None:
        code = f"{_FORGING}for each in {frames}:\n    link.sendall(each)\nprint('sent')"
        calls: list[Any] = []

        def echo(value: int) -> int:
            calls.append(value)
            return value

        execution = shared.execute(code, tools=[echo], timeout=60)
        assert execution.status in {"succeeded", "failed"}
        assert set(calls) <= {1}
        assert len(calls) <= 1_000
        again = shared.execute("echo(2) + 1", tools=[echo], timeout=60)
        assert again.result == "3", f"the session lives: {again} {again.text_for_model()}"

    @pytest.mark.parametrize(
        "frames",
        [
            "[call(1)]",
            "[call(1, body=b'{\"value\": 9}')] * 50",
            "[call(1, id=id + 1), call(1, id=id - 1)]",
            "[frame({'op': 'answer', 'id': id, 'call': 1, 'failed': False}, b'7')] * 50",
            "[frame({'ev': 'withdraw', 'id': id, 'call': 1})] * 3_000",
            "[call(n, body=b'{\"value\": %d}' % n) for n in range(2, 3_000)]",
            "[frame({'ev': 'done', 'id': id, 'status': 'succeeded'})] * 2",
        ],
    )
    def test_a_parked_call_is_neither_forged_nor_replayed(self, session: Session, frames: str) -> None:
        code = (
            f"{_FORGING}"
            "import threading, time\n"
            "thread = threading.Thread(target=lambda: print(echo(1)))\nthread.start()\n"
            "while not os.path.exists('/mnt/data/parked'): time.sleep(0.02)\n"
            f"for each in {frames}:\n    link.sendall(each)\n"
            "thread.join()"
        )
        seen: list[MadeCall] = []
        decided = threading.Event()

        def echo(value: int) -> int:
            seen.append(current_call())
            if not decided.is_set():
                raise CallDeferred
            return value

        handle = session.submit(code, tools=[echo], timeout=10, tool_limits=ToolLimits(parked_timeout=30))
        deadline = time.monotonic() + SAFETY
        while [call.state for call in handle.calls()] != ["deferred"]:  # otherwise it is delivered again
            assert time.monotonic() < deadline
            time.sleep(0.01)
        session.upload(b"", "parked")
        with contextlib.suppress(SandboxLost):
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and handle.status == "running":
                time.sleep(0.05)
        decided.set()
        with contextlib.suppress(SandboxLost):
            execution = session.resume(handle.id, tools=[echo]).result(SAFETY)
            assert execution.status in {"succeeded", "failed", "timed_out"}, execution
        assert [call.arguments for call in seen if call.number == 1] == [{"value": 1}] * sum(
            call.number == 1 for call in seen
        )
        assert len({call.number for call in seen}) <= 1_000
        assert sum(call.number == 1 for call in seen) <= 2, "deferred, and delivered to the second one"
        assert not any(call.delivered_again for call in seen if call.number == 1)
        assert session.execute("1 + 1", timeout=60).result == "2"

    def test_answers_that_are_never_read_end_with_the_execution(self, shared: Session) -> None:
        code = (
            "import threading, os, signal, socket, struct, json\n"
            "def give(*_):\n    pass\n"
            "import asyncio\nasync def main():\n    calls = [big() for _ in range(60)]\n"
            "    os.close(3)\n    await asyncio.gather(*calls)\nasyncio.run(main())"
        )

        def big() -> str:
            return "x" * (1 << 20)

        execution = shared.execute(code, tools=[big], timeout=2, tool_limits=ToolLimits(timeout=5))
        assert execution.status in {"succeeded", "failed", "timed_out"}
        assert shared.execute("1 + 1", timeout=60).result == "2"
