"""Tools on the host's side: their calls within limits, their values, and what a runner that lies can do."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom import InvalidRequest, SandboxLost, ToolLimits
from greenroom.local import PoolSettings
from greenroom.local.channel import Channel
from greenroom.local.collecting import ExecutionLimits
from greenroom.local.deadline import Deadline
from greenroom.local.pool import LocalPool
from greenroom.models import ContainerType, Execution
from greenroom.runner.protocol import FrameError, encode
from greenroom.sessions.threads import Threads
from greenroom.testing import memory_pool
from greenroom.testing.memory_engine import MemoryEngine
from greenroom.tools import RunningCalls, ToolAnswer, Toolbox, ToolCall, ToolParameter, ToolStub
from greenroom.tools.stubs import annotation, stub_of
from greenroom.tools.values import ArgumentsMalformed, ResultRefused, decode_arguments, encode_result

from .scripted import READY, Answer, ScriptedSandbox, done, obey
from .virtual_time import in_virtual_time

LIMITS = ExecutionLimits(timeout=5, grace=1, text=1000, display=10_000)
STUBS = (ToolStub("f", "Do it.", (ToolParameter("x", "int", required=True),)), ToolStub("g"))


async def succeed(call: ToolCall) -> ToolAnswer:
    return ToolAnswer(call.arguments)


def toolbox(answer: Callable[[ToolCall], Awaitable[ToolAnswer]] = succeed, **limits: Any) -> Toolbox:
    return Toolbox(STUBS, ToolLimits(**limits), answer)


def call(number: object, *, of: object = 1, tool: object = "f", body: bytes = b"{}") -> bytes:
    return encode({"ev": "call", "id": of, "call": number, "tool": tool}, body)


async def executed(answer: Answer, tools: Toolbox | None, limits: ExecutionLimits = LIMITS) -> Execution:
    """An execution with a runner that answers in this way."""
    sandbox = ScriptedSandbox(answer)
    channel = Channel(sandbox, lambda: None)
    sandbox.say(READY)
    await channel.ready()
    try:
        return await channel.execute("x", limits, None, tools=tools)
    finally:
        await channel.close("the test has ended")


def calling(*frames: bytes, answers: list[Any], ends_after: int) -> Answer:
    """A runner that makes calls, and ends after so many answers."""

    def answer(header: dict[str, Any], body: bytes) -> Iterator[bytes]:
        match header["op"]:
            case "execute":
                yield from frames
                if not ends_after:
                    yield done(1)
            case "answer":
                answers.append((header["call"], header["failed"], body))
                if len(answers) == ends_after:
                    yield done(1)
            case "interrupt":
                yield done(1)
            case _:
                yield from obey(header, body)

    return answer


# What an honest runner gets


@in_virtual_time
async def test_calls_are_answered_in_the_order_in_which_they_end() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        await asyncio.sleep(3 - call.number)
        return ToolAnswer(b"%d" % call.number)

    answers: list[Any] = []
    runner = calling(call(1), call(2), answers=answers, ends_after=2)
    assert (await executed(runner, toolbox(answer))).succeeded
    assert answers == [(2, False, b"2"), (1, False, b"1")]


@in_virtual_time
async def test_time_counts_only_while_no_call_waits() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        await asyncio.sleep(50)
        return ToolAnswer(b"1")

    answers: list[Any] = []
    runner = calling(call(1), call(2), answers=answers, ends_after=2)
    assert (await executed(runner, toolbox(answer))).succeeded
    begun = asyncio.get_running_loop().time()
    runner = calling(call(1), answers=[], ends_after=2)
    assert (await executed(runner, toolbox(answer))).status == "timed_out"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(55)


@in_virtual_time
async def test_the_waits_together_have_a_limit() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        await asyncio.sleep(50)
        return ToolAnswer(b"1")

    begun = asyncio.get_running_loop().time()
    runner = calling(call(1), answers=[], ends_after=2)
    assert (await executed(runner, toolbox(answer, total_timeout=20))).status == "timed_out"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(25)


async def test_calls_that_end_after_their_execution_leave_no_timer() -> None:
    deadline = Deadline(3600, waits=3600)
    deadline.set_waiting(True)
    deadline.end()
    deadline.set_waiting(False)
    known = weakref.ref(deadline)
    del deadline
    gc.collect()
    assert known() is None


@in_virtual_time
async def test_a_call_that_waits_for_hours_is_answered() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        await asyncio.sleep(5 * 3600)
        return ToolAnswer(b"1")

    answers: list[Any] = []
    runner = calling(call(1), answers=answers, ends_after=1)
    assert (await executed(runner, toolbox(answer, timeout=8 * 3600, total_timeout=8 * 3600))).succeeded
    assert answers == [(1, False, b"1")]


@in_virtual_time
async def test_an_abandoned_call_is_cancelled_and_the_remaining_ones_end_with_the_execution() -> None:
    ended: list[int] = []

    async def answer(call: ToolCall) -> ToolAnswer:
        try:
            await asyncio.sleep({1: 3600, 2: 1, 3: 2, 4: 3600}[call.number])
        finally:
            ended.append(call.number)
        return ToolAnswer(b"1")

    answers: list[Any] = []
    runner = calling(*map(call, range(1, 5)), answers=answers, ends_after=2)

    def withdrawing(header: dict[str, Any], body: bytes) -> Iterator[bytes]:
        if header["op"] == "answer" and header["call"] == 2:
            yield encode({"ev": "withdraw", "id": 1, "call": 1})
        yield from runner(header, body)

    assert (await executed(withdrawing, toolbox(answer))).succeeded
    assert answers == [(2, False, b"1"), (3, False, b"1")]
    assert ended == [2, 1, 3, 4]


@in_virtual_time
async def test_a_failing_application_still_answers_calls() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        raise ZeroDivisionError

    answers: list[Any] = []
    runner = calling(call(1), call(2, tool="h"), answers=answers, ends_after=2)
    assert (await executed(runner, toolbox(answer))).succeeded
    assert sorted(answers) == [
        (1, True, b"f failed: ZeroDivisionError."),
        (2, True, b"This execution has no tool with that name."),
    ]


@pytest.mark.parametrize("content", [b"no", b"", b"\xff", b"NaN", b"[" * 100_000, b"9" * 5000])
async def test_a_client_answer_that_is_not_json_fails_only_the_call(content: bytes) -> None:
    async def answer(_call: ToolCall) -> ToolAnswer:
        return ToolAnswer(content)

    code = "try: f(x=1)\nexcept ToolError as error: print(error)"
    pool = await LocalPool.open(MemoryEngine(), PoolSettings.parse({"preload": (), "ready_session_instances": 0}))
    try:
        execution = await pool.execute("s", code, timeout=30, on_event=None, tools=toolbox(answer))
    finally:
        await pool.close()
    assert execution.stdout == "The result of f is not JSON that Python can read.\n"


@in_virtual_time
async def test_results_over_the_limit_of_all_fail() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        await asyncio.sleep(1)
        return ToolAnswer(b"1" * 60)

    answers: list[Any] = []
    runner = calling(call(1), call(2), answers=answers, ends_after=2)
    await executed(runner, toolbox(answer, result_bytes=100))
    assert [failed for _, failed, _ in answers] == [False, True]


# Calls on which nobody works


@in_virtual_time
async def test_a_parked_call_waits_for_its_own_limit_and_stops_all_others() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        call.park(True)
        await asyncio.sleep(hours[call.number] * 3600)
        call.park(False)
        await asyncio.sleep(1)
        return ToolAnswer(b"1")

    hours, answers = {1: 5, 2: 4}, list[Any]()
    limits = {"timeout": 2, "total_timeout": 3, "parked_timeout": 6 * 3600}
    assert (await executed(calling(call(1), answers=answers, ends_after=1), toolbox(answer, **limits))).succeeded
    assert answers == [(1, False, b"1")]

    def one_after_the_other(header: dict[str, Any], body: bytes) -> Iterator[bytes]:
        if header["op"] == "answer" and header["call"] == 1:
            yield call(2)
        yield from runner(header, body)

    answers.clear()
    runner = calling(call(1), answers=answers, ends_after=2)
    begun = asyncio.get_running_loop().time()
    assert (await executed(one_after_the_other, toolbox(answer, **limits))).succeeded
    message = b"f was not answered: no decision was made within 21600 seconds."
    assert answers == [(1, False, b"1"), (2, True, message)]
    assert asyncio.get_running_loop().time() - begun == pytest.approx(6 * 3600 + 1)


@in_virtual_time
async def test_code_that_computes_beside_a_parked_call_is_stopped_after_it() -> None:
    async def answer(call: ToolCall) -> ToolAnswer:
        call.park(True)
        await asyncio.sleep(100)
        return ToolAnswer(b"1")

    begun = asyncio.get_running_loop().time()
    runner = calling(call(1), answers=[], ends_after=9)
    assert (await executed(runner, toolbox(answer, parked_timeout=20))).status == "timed_out"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(25)


@in_virtual_time
async def test_queued_calls_use_no_tasks() -> None:
    go, sent = asyncio.Event(), list[int]()

    async def answer(_call: ToolCall) -> ToolAnswer:
        await go.wait()
        return ToolAnswer(b"1")

    async def send(number: int, _answer: ToolAnswer) -> None:
        sent.append(number)

    calls = RunningCalls(toolbox(answer, calls=20_000, concurrent=3), send)
    before = len(asyncio.all_tasks())
    tracemalloc.start()
    for number in range(1, 20_001):
        calls.take(number, "f", b"{}")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(asyncio.all_tasks()) - before == 3
    assert size < 20_000 * 1_000, "bytes"
    assert calls.waiting == 20_000
    calls.withdraw(20_000)
    go.set()
    while calls.waiting:  # noqa: ASYNC110  there is nothing to wait for
        await asyncio.sleep(0)
    assert sorted(sent) == list(range(1, 20_000))
    assert len(asyncio.all_tasks()) == before


@in_virtual_time
async def test_nothing_of_an_executions_calls_is_left_after_it() -> None:
    sandbox = ScriptedSandbox(calling(call(1), answers=[], ends_after=1))
    channel = Channel(sandbox, lambda: None)
    sandbox.say(READY)
    await channel.ready()
    assert (await channel.execute("x", LIMITS, None, tools=toolbox())).succeeded
    assert channel.calls is None
    await channel.close("the test has ended")


# What a runner that lies gets


@pytest.mark.parametrize(
    "frames",
    [
        *([call(1), call(1)], [call(2), call(1)], [call(0)], [call(-1)], [call(True)], [call("1")], [call(None)]),
        *([call(2**40)], [call(1, tool=None)], [call(1, tool=["f"])], [call(1, tool="f" * 101)], [call(1, of=7)]),
        *([call(number) for number in range(1, 5)], [call(1, body=b"x" * 101)], [call(1, of="1")]),
        [call(1, body=b"x" * 60), call(2, body=b"x" * 60)],
    ],
)
@in_virtual_time
async def test_invalid_calls_of_a_runner_end_the_sandbox(frames: list[bytes]) -> None:
    with pytest.raises(SandboxLost, match="violated the protocol"):
        await executed(calling(*frames, answers=[], ends_after=9), toolbox(calls=3, argument_bytes=100))


@pytest.mark.parametrize("frame", [call(1), encode({"ev": "withdraw", "id": 1, "call": 1})])
@in_virtual_time
async def test_code_without_tools_cannot_call(frame: bytes) -> None:
    with pytest.raises(SandboxLost, match="of an unknown kind"):
        await executed(calling(frame, answers=[], ends_after=9), None)


@in_virtual_time
async def test_an_invalid_withdrawal_is_ignored() -> None:
    numbers: list[Any] = [None, -1, 5, "1", [], True, 2**70]
    frames = [encode({"ev": "withdraw", "id": 1, "call": number}) for number in numbers]
    assert (await executed(calling(*frames, answers=[], ends_after=0), toolbox())).succeeded


operations = st.lists(
    st.tuples(st.sampled_from(["take", "withdraw", "wait", "end"]), st.integers(-1, 12), st.integers(0, 30)),
    max_size=30,
)


@given(operations)
@settings(max_examples=examples(100), deadline=None)
def test_each_call_is_answered_once_at_most_and_within_the_limits(steps: list[tuple[str, int, int]]) -> None:
    @in_virtual_time
    async def check() -> None:
        begun: list[int] = []
        running: set[int] = set()
        answered: list[int] = []
        waits: list[bool] = []

        async def answer(call: ToolCall) -> ToolAnswer:
            begun.append(call.number)
            running.add(call.number)
            assert len(running) <= 2
            try:
                await asyncio.sleep(call.number)
            finally:
                running.remove(call.number)
            return ToolAnswer(b"1" * call.number)

        async def send(number: int, answer: ToolAnswer) -> None:
            answered.append(number)

        tools = toolbox(answer, calls=5, concurrent=2, argument_bytes=60, result_bytes=25, timeout=9)
        calls = RunningCalls(tools, send, waits.append)
        taken: list[int] = []
        try:
            for step, number, size in steps:
                if step == "take":
                    calls.take(number, "f", b"x" * size)
                    taken.append(number)
                elif step == "withdraw":
                    calls.withdraw(number)
                elif step == "end":
                    calls.end()
                else:
                    await asyncio.sleep(size)
        except FrameError:
            pass
        await asyncio.sleep(100)
        calls.end()
        await asyncio.sleep(0)
        assert len(begun) == len(set(begun))
        assert len(answered) == len(set(answered))
        assert set(begun) | set(answered) <= set(taken)
        assert taken == sorted(set(taken))
        assert len(taken) <= 5
        assert waits == [index % 2 == 0 for index in range(len(waits))]
        assert not running

    check()


# Values

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(json_values)
@settings(max_examples=examples(100), deadline=None)
def test_json_round_trips(value: Any) -> None:
    encoded = json.loads(encode_result(value, 1 << 20))
    assert encoded == json.loads(json.dumps(value).encode("utf-8", "replace")) or "\\ud" in json.dumps(value)


@given(json_values, st.integers(1, 100))
@settings(max_examples=examples(100), deadline=None)
def test_a_result_is_within_its_limit_or_refused(value: Any, most: int) -> None:
    try:
        assert len(encode_result(value, most)) <= most
    except ResultRefused:
        assert len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) >= most / 2


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
def test_infinite_numbers_are_not_valid_arguments(number: bytes) -> None:
    with pytest.raises(ArgumentsMalformed):
        decode_arguments(b'{"x":[%s]}' % number)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=examples(200), deadline=None)
def test_arguments_are_an_object_or_refused(body: bytes) -> None:
    try:
        arguments = decode_arguments(body)
    except ArgumentsMalformed:
        return
    assert isinstance(arguments, dict)
    json.dumps(arguments, ensure_ascii=False).encode()


keywords = st.sampled_from(["type", "anyOf", "items", "$ref", "enum", "const", "properties", "additionalProperties"])


@given(st.recursive(json_values, lambda inner: st.dictionaries(keywords, inner), max_leaves=8))
@settings(max_examples=examples(200), deadline=None)
def test_any_schema_has_a_type(schema: Any) -> None:
    assert isinstance(annotation(schema, {"properties": schema}), str)


def test_a_schema_that_grows_with_each_level_gets_a_type_quickly() -> None:
    nodes: dict[str, Any] = {
        f"n{level}": {"anyOf": [{"type": "array", "items": {"$ref": f"#/$defs/n{level + 1}"}}] * 1000}
        for level in range(10)
    }
    root = {"$defs": {**nodes, "wide": {"anyOf": [{"$ref": "#/$defs/wide"}] * 1000}}}
    for name in ("n0", "wide"):
        assert annotation({"$ref": f"#/$defs/{name}"}, root) == "Any"


def test_schemas_become_signatures() -> None:
    schema = {
        "properties": {
            "a": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
            "b": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "c": {"enum": ["x", 1]},
            "d": {"type": ["string", "boolean"]},
            "e": {"type": "object", "additionalProperties": {"type": "number"}},
            "f": {"$ref": "#/$defs/Loop"},
        },
        "required": ["c", "a"],
        "$defs": {"Item": {"type": "object"}, "Loop": {"type": "array", "items": {"$ref": "#/$defs/Loop"}}},
    }
    stub = stub_of("find", "Find.", schema, {"type": "array", "items": {"type": "string"}})
    assert stub.signature.startswith(
        "find(a: list[dict[str, Any]], c: Literal['x', 1], b: int | None = None, d: str | bool = None, "
        "e: dict[str, float] = None, f: list[list["
    )
    assert stub.signature.endswith("-> list[str]")


# Where functions run


def test_an_asynchronous_function_that_blocks_its_loop_delays_no_pool() -> None:
    release = threading.Event()

    async def block() -> None:
        release.wait(60)  # as a mistake of the application

    pool = memory_pool()
    try:
        with pool.session() as session:
            execution = session.execute("block()", tools=[block], tool_limits=ToolLimits(timeout=0.2))
            assert execution.error is not None
            assert "did not return" in execution.error.value
            assert session.execute("1").result == "1"
        pool.close()
        assert not release.is_set()
    finally:
        release.set()
        pool.close()


def test_a_closed_pool_leaves_no_thread() -> None:
    async def work() -> int:
        return 1

    def other() -> int:
        return 2

    before = threading.active_count()
    with memory_pool() as pool, pool.session() as session:
        assert session.execute("[work(), other()]", tools=[work, other]).result == "[1, 2]"
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_process_that_cannot_start_threads_fails_only_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> int:
        return 1

    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("greenroom tool"):
            raise RuntimeError("can't start new thread")
        start(thread)

    code = "for _ in range(3):\n    try: print(work())\n    except ToolError as error: print(error)"
    with memory_pool() as pool, pool.session() as session:
        limits = ToolLimits(concurrent=1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            execution = session.execute(code, tools=[work], tool_limits=limits)
        assert execution.stdout == 3 * "work was not called: the application cannot start a thread.\n"
        assert session.execute(code, tools=[work], tool_limits=limits).stdout == "1\n1\n1\n"


async def test_threads_of_all_executions_together_are_bounded() -> None:
    threads = Threads(2)
    await threads.acquire()
    await threads.acquire()
    first, second, third = (asyncio.create_task(threads.acquire()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert not second.done()
    await asyncio.to_thread(threads.release)
    await second
    threads.release()
    third.cancel()  # as it comes
    await asyncio.wait([third])
    for _ in range(2):
        await asyncio.wait_for(threads.acquire(), 60)
        threads.release()
    threads.release()
    async with asyncio.timeout(60):
        await threads.acquire()
        await threads.acquire()


def test_functions_that_never_return_stop_no_other_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait(60)

    async def work() -> int:
        return 7

    threads = Threads(2)
    monkeypatch.setattr("greenroom.sessions.tools.THREADS", threads)
    code = "for _ in range(3):\n    try: hang()\n    except ToolError as error: print(error)\nprint(work())"
    try:
        with memory_pool() as pool, pool.session() as session:
            limits = ToolLimits(timeout=0.2)
            execution = session.execute(code, tools=[hang, work], tool_limits=limits)
            assert execution.stdout == 3 * "hang did not return within 0.2 seconds.\n" + "7\n"
            running = [thread for thread in threading.enumerate() if thread.name == "greenroom tool hang"]
            assert len(running) == 2
            release.set()
            assert session.execute("hang()", tools=[hang]).succeeded
    finally:
        release.set()


# Sessions without tools


@pytest.mark.parametrize("container_type", ["Shell", "NodeLTS"])
def test_sessions_of_other_types_refuse_tools_by_name(container_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def f() -> None:
        pass

    monkeypatch.setattr(MemoryEngine, "container_types", frozenset(ContainerType))
    with memory_pool(container_type=container_type) as pool, pool.session() as session:
        with pytest.raises(InvalidRequest, match=f"of type PythonLTS, not {container_type}"):
            session.execute("1", tools=[f])
        assert session.info() is None, "none was begun"
