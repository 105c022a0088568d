"""The host's end of the protocol, with an honest, a broken and a hostile runner."""

from __future__ import annotations

import asyncio
import errno
import json
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Self

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom.backend import ShellCommand
from greenroom.config.environment import Environment
from greenroom.errors import FileMissing, FileRefused, GreenroomError, SandboxLost
from greenroom.local.channel import Channel
from greenroom.local.collecting import ExecutionLimits
from greenroom.models import Execution, ExecutionError, Output, RemoteFile, StreamText
from greenroom.runner.protocol import MAX_HEADER, MAX_NAME, VERSION, encode

from .scripted import READY, Answer, ScriptedSandbox, done, obey, output, reply, shown_error, text
from .virtual_time import in_virtual_time

LIMITS = ExecutionLimits(timeout=5, grace=1, text=1000, display=10_000)
FILE_LIMIT = 1 << 20


class Listener:
    """A channel with its sandbox, and the number of calls of `on_lost`."""

    def __init__(self, answer: Answer = obey) -> None:
        self.sandbox = ScriptedSandbox(answer)
        self.losses = 0
        self.events: list[object] = []
        self.channel = Channel(self.sandbox, self._count)

    async def execute(self, code: str = "x", limits: ExecutionLimits = LIMITS) -> Execution:
        return await self.channel.execute(code, limits, self.events.append)

    async def __aenter__(self) -> Self:
        self.sandbox.say(READY)
        await self.channel.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close("the test has ended")
        assert self.losses == 1, "a channel is lost once, at the latest when it is closed"

    def _count(self) -> None:
        self.losses += 1


def saying(*frames: Callable[[int], bytes]) -> Answer:
    """A runner that answers code with these frames, made for the number of the execution."""

    def answer(header: dict[str, Any], body: bytes) -> Iterator[bytes]:
        if header["op"] == "execute":
            yield b"".join(frame(header["id"]) for frame in frames)
        else:
            yield from obey(header, body)

    return answer


@pytest.mark.parametrize(
    "fields", [{}, {"exit_code": None}, {"exit_code": -1}, {"exit_code": 256}, {"exit_code": True}]
)
async def test_a_command_that_ends_without_an_exit_code_is_a_violation(fields: dict[str, Any]) -> None:
    def answer(header: dict[str, Any], body: bytes) -> Iterator[bytes]:
        yield done(header["id"], **fields) if header["op"] == "shell" else b"".join(obey(header, body))

    async with Listener(answer) as listener:
        with pytest.raises(SandboxLost, match="without an exit code"):
            await listener.channel.shell(ShellCommand("true"), LIMITS, None)


async def test_a_command_reports_its_exit_code_and_its_end() -> None:
    answers = iter([{"exit_code": 0}, {"exit_code": 7}, {"exit_code": 137, "oom": True}, {"exit_code": 0, "oom": True}])

    def answer(header: dict[str, Any], body: bytes) -> Iterator[bytes]:
        yield done(header["id"], **next(answers)) if header["op"] == "shell" else b"".join(obey(header, body))

    async with Listener(answer) as listener:
        ended = [await listener.channel.shell(ShellCommand("true"), LIMITS, None) for _ in range(4)]
    names = [None if each.error is None else each.error.name for each in ended]
    assert [each.exit_code for each in ended] == [0, 7, 137, 0]
    assert names == [None, "ExitCode", "MemoryError", None]


def silent(*operations: str) -> Answer:
    """A runner that does not answer these operations."""
    return lambda header, body: () if header["op"] in operations else obey(header, body)


# An honest runner


@in_virtual_time
async def test_text_and_displays_become_an_execution() -> None:
    answer = saying(
        lambda number: text(number, b"one\n"),
        lambda number: text(number, b"oh\n", "stderr"),
        lambda number: output(number, {"text/plain": "shown"}),
        lambda number: text(number, b"two\n"),
        lambda number: output(number, {"text/plain": "42"}, result=True),
        lambda number: done(
            number,
            files=[{"path": "/mnt/data/a.csv", "size": 3, "modified": 1_700_000_000 * 10**9, "directory": False}],
        ),
    )
    async with Listener(answer) as listener:
        execution = await listener.execute()
    assert execution.status == "succeeded"
    assert (execution.stdout, execution.stderr, execution.result) == ("one\ntwo\n", "oh\n", "42")
    assert [shown.text for shown in execution.outputs] == ["shown", "42"]
    assert [(file.path, file.size, file.modified.year) for file in execution.files] == [("/mnt/data/a.csv", 3, 2023)]
    assert execution.duration == 0.5
    kinds = [type(event) for event in listener.events]
    assert kinds == [StreamText, StreamText, Output, StreamText, Output, Execution]
    assert listener.events[-1] is execution


@in_virtual_time
async def test_a_character_that_arrives_in_pieces_is_whole() -> None:
    letters = "äΩ漢🦊"

    def piece(byte: int) -> Callable[[int], bytes]:
        return lambda number: text(number, bytes([byte]))

    answer = saying(*[piece(byte) for byte in letters.encode()], done)
    async with Listener(answer) as listener:
        assert (await listener.execute()).stdout == letters
    assert "".join(event.text for event in listener.events if isinstance(event, StreamText)) == letters


@in_virtual_time
async def test_executions_take_turns() -> None:
    async with Listener(silent("execute")) as listener:
        first, second = (asyncio.create_task(listener.execute(code)) for code in ("first", "second"))
        await asyncio.sleep(1)
        assert [body for _, body in listener.sandbox.heard] == [b"first"]
        listener.sandbox.say(done(listener.sandbox.heard[0][0]["id"]))
        await first
        await asyncio.sleep(1)
        assert [body for _, body in listener.sandbox.heard] == [b"first", b"second"]
        listener.sandbox.say(done(listener.sandbox.heard[1][0]["id"]))
        await second


@in_virtual_time
async def test_code_is_interrupted_at_its_deadline() -> None:
    def answer(header: dict[str, Any], body: bytes) -> Iterable[bytes]:
        if header["op"] == "interrupt":
            assert header["grace"] == LIMITS.grace
            return [done(header["id"], error={"name": "KeyboardInterrupt", "value": "", "traceback": "deep inside"})]
        return silent("execute")(header, body)

    async with Listener(answer) as listener:
        execution = await listener.execute()
        assert execution.status == "timed_out"
        assert execution.error is not None
        assert execution.error.name == "TimeoutError"
        assert execution.error.value == "The code ran for longer than 5 s and was interrupted."
        assert execution.error.traceback == "deep inside"
        assert not execution.state_lost
        assert [header["op"] for header, _ in listener.sandbox.heard] == ["execute", "interrupt"]


@in_virtual_time
async def test_a_runner_that_does_not_stop_its_code_is_lost() -> None:
    async with Listener(silent("execute", "interrupt")) as listener:
        began = asyncio.get_running_loop().time()
        with pytest.raises(SandboxLost, match="did not stop"):
            await listener.execute()
        assert asyncio.get_running_loop().time() - began < 60
        with pytest.raises(SandboxLost):
            await listener.execute()


@in_virtual_time
async def test_cancelling_interrupts_the_code_and_the_next_waits_for_its_end() -> None:
    async with Listener(silent("execute", "interrupt")) as listener:
        first = asyncio.create_task(listener.execute("first"))
        await asyncio.sleep(1)
        first.cancel()
        second = asyncio.create_task(listener.execute("second"))
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.sleep(1)
        assert [header["op"] for header, _ in listener.sandbox.heard] == ["execute", "interrupt"]
        listener.sandbox.answer = obey
        listener.sandbox.say(done(listener.sandbox.heard[0][0]["id"]))
        assert (await second).succeeded


@in_virtual_time
async def test_cancelling_a_queued_execution_sends_nothing() -> None:
    async with Listener(silent("execute")) as listener:
        first, second = (asyncio.create_task(listener.execute(code)) for code in ("first", "second"))
        await asyncio.sleep(1)
        second.cancel()
        listener.sandbox.say(done(listener.sandbox.heard[0][0]["id"]))
        assert (await first).succeeded
        assert [body for _, body in listener.sandbox.heard] == [b"first"]


@in_virtual_time
async def test_cancelling_while_variables_are_sent_sends_no_code() -> None:
    async with Listener() as listener:
        listener.channel.environment = Environment.parse({"A": "1"})
        listener.sandbox.blocked = True
        first = asyncio.create_task(listener.execute("first"))
        await asyncio.sleep(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        listener.sandbox.blocked = False
        assert (await listener.execute("second")).succeeded
        await asyncio.sleep(60)
        assert not listener.losses
        assert [header["op"] for header, _ in listener.sandbox.heard] == ["execute"]


@pytest.mark.parametrize(
    ("crash", "name", "value"),
    [
        ({"code": 3}, "WorkerCrashed", "exited with code 3"),
        ({"code": -11}, "WorkerCrashed", "killed by signal 11 (SIGSEGV)"),
        ({"code": -9, "oom": True}, "MemoryError", "exceeded the session's memory limit"),
        ({"code": -1000}, "WorkerCrashed", "killed by signal 1000 (unknown)"),
    ],
)
def test_the_end_of_the_worker_fails_the_execution(crash: dict[str, Any], name: str, value: str) -> None:
    @in_virtual_time
    async def converse() -> Execution:
        async with Listener(saying(lambda number: done(number, crash=crash))) as listener:
            return await listener.execute()

    execution = converse()
    assert execution.status == "failed"
    assert execution.state_lost
    assert execution.error is not None
    assert execution.error.name == name
    assert value in execution.error.value


@in_virtual_time
async def test_text_for_the_user_has_no_terminal_colours() -> None:
    error = {"name": "ValueError", "value": "\x1b[31mbad\x1b[0m", "traceback": "\x1b[1;32mline\x1b[0m 1"}
    async with Listener(saying(lambda number: done(number, error=error))) as listener:
        execution = await listener.execute()
    assert execution.error is not None
    assert (execution.error.value, execution.error.traceback) == ("bad", "line 1")


@in_virtual_time
async def test_a_display_can_be_updated_and_cleared() -> None:
    answer = saying(
        lambda number: output(number, {"text/plain": "gone"}),
        lambda number: text(number, b"gone"),
        lambda number: encode({"ev": "clear", "id": number, "wait": False}),
        lambda number: output(number, {"text/plain": "10 %"}, display_id="bar"),
        lambda number: output(number, {"text/plain": "other"}, display_id="other"),
        lambda number: output(number, {"text/plain": "100 %"}, display_id="bar", update=True),
        lambda number: output(number, {"text/plain": "of yesterday"}, display_id="unknown", update=True),
        done,
    )
    async with Listener(answer) as listener:
        execution = await listener.execute()
    assert [shown.text for shown in execution.outputs] == ["100 %", "other"]
    assert execution.stdout == ""
    assert execution.parts == execution.outputs


@in_virtual_time
async def test_displays_and_errors_keep_their_order() -> None:
    error = {"name": "KeyError", "value": "key", "traceback": "third", "summary": "short"}
    answer = saying(
        lambda number: text(number, b"gone"),
        lambda number: shown_error(number, "gone", ends=True),
        lambda number: encode({"ev": "clear", "id": number, "wait": False}),
        lambda number: text(number, b"a\xc3"),
        lambda number: shown_error(number, "first"),
        lambda number: text(number, b"\xa4"),
        lambda number: text(number, b"warned", "stderr"),
        lambda number: output(number, {"text/plain": "shown"}),
        lambda number: shown_error(number, "second", ends=True),
        lambda number: text(number, b"b"),
        lambda number: shown_error(number, "third", ends=True),
        lambda number: text(number, b"late", "stderr"),
        lambda number: done(number, error=error),
    )
    async with Listener(answer) as listener:
        execution = await listener.execute()
    assert (execution.stdout, execution.stderr) == ("aäb", "first\nwarnedsecond\nlate")
    first, second = (ExecutionError("ValueError", "bad", traceback) for traceback in ("first", "second"))
    assert execution.parts == (
        StreamText("stdout", "a"),
        first,
        StreamText("stdout", "ä"),
        StreamText("stderr", "warned"),
        *execution.outputs,
        second,
        StreamText("stdout", "b"),
        ExecutionError("KeyError", "key", "third", "short"),
        StreamText("stderr", "late"),
    )
    streamed = "".join(event.text for event in listener.events if isinstance(event, StreamText))
    assert streamed == "gonea" + "first\näwarned" + "b" + "second\nlate"


@in_virtual_time
async def test_a_clear_in_an_area_keeps_what_was_before_it() -> None:
    def area(begins: bool) -> Callable[[int], bytes]:
        return lambda number: encode({"ev": "area", "id": number, "begins": begins})

    def clear(wait: bool) -> Callable[[int], bytes]:
        return lambda number: encode({"ev": "clear", "id": number, "wait": wait})

    answer = saying(
        lambda number: text(number, b"gone"),
        clear(wait=True),
        area(begins=False),
        lambda number: text(number, b"gone"),
        clear(wait=True),
        area(begins=True),
        lambda number: text(number, b"own\xc3"),
        area(begins=True),
        lambda number: text(number, b"\xa4 of the area"),
        lambda number: output(number, {"text/plain": "of the area"}, display_id="bar"),
        lambda number: shown_error(number, "of the area"),
        clear(wait=False),
        lambda number: output(number, {"text/plain": "kept"}),
        clear(wait=True),
        area(begins=False),
        lambda number: text(number, b"after"),
        lambda number: output(number, {"text/plain": "a new one"}, display_id="bar"),
        done,
    )
    async with Listener(answer) as listener:
        execution = await listener.execute()
    assert (execution.stdout, execution.stderr) == ("ownafter", "")
    kept, new = execution.outputs
    assert execution.parts == (StreamText("stdout", "own"), kept, StreamText("stdout", "after"), new)
    assert (kept.text, new.text) == ("kept", "a new one")


@in_virtual_time
async def test_an_error_that_did_not_end_the_code_is_text() -> None:
    answer = saying(lambda number: shown_error(number, "lines", ends=True), done)
    async with Listener(answer) as listener:
        execution = await listener.execute()
    assert (execution.status, execution.stderr) == ("succeeded", "lines\n")
    assert execution.parts == (ExecutionError("ValueError", "bad", "lines"),)


@in_virtual_time
async def test_a_clear_that_waits_is_done_by_the_next_output() -> None:
    def clear(number: int) -> bytes:
        return encode({"ev": "clear", "id": number, "wait": True})

    answer = saying(lambda number: text(number, b"first"), clear, lambda number: text(number, b"last"), clear, done)
    async with Listener(answer) as listener:
        assert (await listener.execute()).stdout == "last"


@in_virtual_time
async def test_a_runner_of_another_version_is_refused() -> None:
    listener = Listener()
    listener.sandbox.say(encode({"ev": "ready", "version": 99}))
    with pytest.raises(SandboxLost, match="version 99"):
        await listener.channel.ready()
    await listener.channel.close("over")


@in_virtual_time
async def test_a_runner_that_ends_before_it_is_ready_leaves_its_diagnosis() -> None:
    listener = Listener()
    listener.sandbox.end("no module named IPython")
    with pytest.raises(SandboxLost, match="no module named IPython"):
        await listener.channel.ready()
    await listener.channel.close("over")


@in_virtual_time
async def test_a_runner_that_ends_right_after_its_start_is_lost() -> None:
    listener = Listener()
    listener.sandbox.say(READY)
    listener.sandbox.end("killed")
    with pytest.raises(SandboxLost, match="killed"):
        await listener.channel.ready()
    await listener.channel.close("over")


@in_virtual_time
async def test_all_waiting_calls_fail_with_the_loss() -> None:
    async with Listener(silent("execute", "list")) as listener:
        waiting: list[asyncio.Task[Any]] = [
            asyncio.create_task(listener.execute()),
            asyncio.create_task(listener.execute()),
            asyncio.create_task(listener.channel.files("/mnt/data", recursive=False)),
        ]
        await asyncio.sleep(1)
        listener.sandbox.end("out of memory")
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, SandboxLost)
            assert "scripted-1 was lost: out of memory" in str(result)
        assert listener.losses == 1


@in_virtual_time
async def test_closing_kills_and_gives_waiting_calls_the_reason() -> None:
    async with Listener(silent("execute")) as listener:
        waiting = asyncio.create_task(listener.execute())
        await asyncio.sleep(1)
        await listener.channel.close("its session was deleted")
        with pytest.raises(SandboxLost, match="its session was deleted"):
            await waiting
        assert listener.sandbox.kills == 1


@in_virtual_time
async def test_closing_while_code_is_being_stopped_is_a_loss_and_not_a_cancellation() -> None:
    async with Listener(silent("execute", "interrupt")) as listener:
        waiting = asyncio.create_task(listener.execute())
        await asyncio.sleep(LIMITS.timeout + 0.5)
        await listener.channel.close("its session was deleted")
        with pytest.raises(SandboxLost, match="its session was deleted"):
            await waiting


@pytest.mark.parametrize("call", ["execute", "upload", "delete_file"])
def test_a_runner_that_reads_nothing_is_lost(call: str) -> None:
    """A process 1 that was stopped or starved: the pipe to it fills up, and the call must end nevertheless."""

    @in_virtual_time
    async def converse() -> None:
        async with Listener() as listener:
            listener.sandbox.blocked = True
            began = asyncio.get_running_loop().time()
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "execute": lambda: listener.execute("x" * (2 << 20)),
                "upload": lambda: listener.channel.upload("/mnt/data/a", pieces(b"x"), FILE_LIMIT),
                "delete_file": lambda: listener.channel.delete_file("/mnt/data/a"),
            }
            with pytest.raises(SandboxLost, match="does not read its input"):
                await calls[call]()
            assert asyncio.get_running_loop().time() - began <= 30
            with pytest.raises(SandboxLost):
                await listener.execute()

    converse()


@in_virtual_time
async def test_a_cancelled_execution_has_its_output_so_far() -> None:
    def partly(header: dict[str, Any], body: bytes) -> Iterable[bytes]:
        if header["op"] != "execute":
            return [done(header["id"])] if header["op"] == "interrupt" else obey(header, body)
        number = header["id"]
        clear = encode({"ev": "clear", "id": number})
        bar = [output(number, {"text/plain": f"{part} %"}, display_id="bar", update=part > 0) for part in (0, 50)]
        return [text(number, b"gone"), clear, text(number, b"here"), *bar]

    async with Listener(partly) as listener:
        execution = asyncio.create_task(listener.execute())
        await asyncio.sleep(1)
        execution.cancel()
        await asyncio.wait([execution])
        told = listener.events[-1]
        assert isinstance(told, Execution)
        assert (told.status, told.stdout, [shown.text for shown in told.outputs]) == ("cancelled", "here", ["50 %"])
        assert told.duration >= 0


# A hostile runner: whatever it sends, the host gets an execution or a GreenroomError

wild = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["stdout", "stderr", "/mnt/data/a", "/mnt/data/../x", "\ud800", "x" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)

names = st.sampled_from(
    [
        "ev",
        "id",
        "stream",
        "version",
        "wait",
        "display_id",
        "update",
        "result",
        "error",
        "crash",
        "files",
        "truncated",
        "duration",
        "errno",
        "file",
        "entry",
        "state_lost",
        "path",
        "size",
        "modified",
        "directory",
        "name",
        "value",
        "traceback",
        "summary",
        "code",
        "oom",
    ]
)
events = st.sampled_from(["text", "output", "clear", "done", "reply", "ready", "preloaded", "nonsense"])
bundles = st.fixed_dictionaries({}, optional={"data": wild, "metadata": wild})
images = st.fixed_dictionaries(
    {}, optional={"image/png": st.text("aQ=+ \n", max_size=9), "image/svg+xml": st.text(max_size=9), "text/plain": wild}
).map(lambda data: {"data": data, "metadata": {}})
errors = st.fixed_dictionaries({}, optional=dict.fromkeys(("name", "value", "traceback", "summary"), wild))
endings = st.fixed_dictionaries({}, optional={"error": errors | wild, "files": st.lists(wild, max_size=3) | wild})
bodies = st.binary(max_size=60) | (wild | bundles | images | endings).map(lambda value: json.dumps(value).encode())


@st.composite
def hostile_frames(draw: st.DrawFn, number: int) -> bytes:
    """A frame that is nearly one of the conversation: known words with values of any kind."""
    header: dict[str, Any] = {"ev": draw(events), "id": number, "stream": "stdout"}
    header |= draw(st.dictionaries(names, wild, max_size=4))
    return encode(header, draw(bodies))


@st.composite
def honest_frames(draw: st.DrawFn, number: int) -> bytes:
    return draw(
        st.one_of(
            st.binary(min_size=1, max_size=30).map(lambda data: text(number, data)),
            st.binary(min_size=1, max_size=30).map(lambda data: text(number, data, "stderr")),
            st.text(max_size=10).map(lambda shown: output(number, {"text/plain": shown})),
            st.text(max_size=10).map(lambda shown: output(number, {"text/plain": shown}, display_id="a")),
            st.text(max_size=10).map(lambda shown: output(number, {"text/plain": shown}, display_id="a", update=True)),
            st.booleans().map(lambda wait: encode({"ev": "clear", "id": number, "wait": wait})),
            st.just(done(number)),
        )
    )


@st.composite
def conversations(draw: st.DrawFn, number: int = 1) -> list[bytes]:
    """What a runner sends while one piece of code runs: frames, some of them hostile, spoilt and cut at random."""
    frames = draw(st.lists(honest_frames(number) | hostile_frames(number) | st.binary(max_size=40), max_size=6))
    stream = bytearray(b"".join(frames))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2)):
        if place < len(stream):
            stream[place] = byte
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=3)))
    return [bytes(stream[start:end]) for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def sound(execution: Execution) -> None:
    """Every part of an execution can be used, and none is over its limit."""
    assert isinstance(execution.succeeded, bool)
    assert len(execution.stdout) + len(execution.stderr) <= LIMITS.text
    assert len(execution.text_for_model(500)) <= 500
    assert all(isinstance(image.data, bytes) for image in execution.images)
    assert all(file.path.startswith("/mnt/data/") and file.size >= 0 for file in execution.files)
    assert execution.duration >= 0
    assert execution.truncated >= 0
    for words in (execution.stdout, execution.stderr, execution.text_for_model()):
        words.encode()
    repr(execution)


async def survive(call: Awaitable[object]) -> object:
    """The result or the GreenroomError; anything else fails, and so does a wait without end."""
    try:
        return await asyncio.wait_for(call, 3600)
    except GreenroomError as error:
        return error


@settings(max_examples=examples(300))
@given(st.lists(conversations(), min_size=1, max_size=1), st.booleans())
@example([[encode({"ev": "text", "id": 1, "stream": []})]], False)
@example([[output(1, {"image/svg+xml": "\ud800"}), done(1)]], False)
@example([[output(1, {"text/plain": "\ud800"}), done(1)]], False)
@in_virtual_time
async def test_an_execution_survives_any_frames_of_the_runner(conversation: list[list[bytes]], ends: bool) -> None:
    def answer(header: dict[str, Any], body: bytes) -> Iterable[bytes]:
        if header["op"] == "execute" and conversation:
            return conversation.pop()
        return () if header["op"] == "interrupt" else obey(header, body)

    async with Listener(answer) as listener:
        if ends:
            asyncio.get_running_loop().call_later(1, listener.sandbox.end)
        result = await survive(listener.execute())
        if isinstance(result, Execution):
            sound(result)
            following = await survive(listener.execute())
            assert isinstance(following, SandboxLost) or not listener.channel.lost
        else:
            assert isinstance(result, SandboxLost)
            assert listener.channel.lost


@settings(max_examples=examples(100))
@given(st.lists(st.binary(max_size=200) | hostile_frames(1), max_size=5))
@in_virtual_time
async def test_any_frames_before_ready_are_survived(said: list[bytes]) -> None:
    listener = Listener()
    for data in said:
        listener.sandbox.say(data)
    listener.sandbox.end()
    assert await survive(listener.channel.ready()) is None or listener.channel.lost
    await listener.channel.close("over")


entries = st.fixed_dictionaries(
    {}, optional={"path": wild | st.just("/mnt/data/a"), "size": wild, "modified": wild, "directory": wild}
)
replies = st.fixed_dictionaries({}, optional={"file": wild | st.just(7), "entry": entries | wild, "errno": wild})


@settings(max_examples=examples(300))
@given(
    st.sampled_from(["upload", "download", "files", "file", "delete"]),
    st.lists(
        st.tuples(
            replies,
            st.binary(max_size=20) | st.lists(entries, max_size=3).map(lambda found: json.dumps(found).encode()),
        ),
        min_size=1,
        max_size=6,
    ),
)
@example("file", [({"errno": 2**70}, b"")])
@example("upload", [({"file": "x" * (MAX_HEADER - 50)}, b"")])
@example("upload", [({"file": 1, "entry": {"path": "/mnt/data/a", "size": 10**30, "modified": 1e300}}, b"")])
@example("files", [({}, b"[" * 100_000)])
@example("files", [({}, b'{"a": 1}')])
@in_virtual_time
async def test_files_survive_whatever_the_runner_replies(call: str, lies: list[tuple[dict[str, Any], bytes]]) -> None:
    said = iter(lies)

    def answer(header: dict[str, Any], _body: bytes) -> Iterable[bytes]:
        fields, body = next(said, (None, b""))
        if fields is not None:
            yield reply(header["id"], body, **fields)

    async with Listener(answer) as listener:
        result = await survive(use(listener.channel, call))
        if isinstance(result, RemoteFile):
            assert result.path.startswith("/mnt/data/")
            assert ".." not in result.path.split("/")
            assert result.size >= 0


async def use(channel: Channel, call: str) -> object:
    match call:
        case "upload":
            return await channel.upload("/mnt/data/a", pieces(b"some", b"bytes"), FILE_LIMIT)
        case "download":
            return await download(channel)
        case "files":
            return await channel.files("/mnt/data", recursive=True)
        case "file":
            return await channel.file("/mnt/data/a")
        case _:
            return await channel.delete_file("/mnt/data/a")


async def download(channel: Channel, limit: int = FILE_LIMIT) -> bytes:
    async with aclosing(channel.download("/mnt/data/a", limit)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">II", MAX_HEADER + 1, 0),
        struct.pack(">II", 2, 0xFFFFFFFF),
        encode({"ev": "text", "id": 1, "stream": "stdin"}, b"x"),
        text(1, b""),
        encode({"ev": "news", "id": 1}),
        output(1, {}, display_id="x" * (MAX_NAME + 1)),
        encode({"ev": "output", "id": 1}, b'{"data":{},"metadata":{"a":' + b"[" * 300 + b"]" * 300 + b"}}"),
        text(1, b"x" * (LIMITS.text + 1)),
        output(1, {"text/plain": "x" * LIMITS.display}),
        encode({"ev": "output", "id": 1}, b"not JSON"),
        encode({"ev": "output", "id": 1}, b"[" * 9000),
        done(1, files="none"),
        done(1, files=[{"path": "/etc/passwd"}]),
        done(1, files=[{"path": "/mnt/data/../../etc/passwd"}]),
        done(1, error=3),
        done(1, crash=[]),
        encode({"ev": "done", "id": 1}, b"[" * 1000),
    ],
    ids=repr,
)
def test_a_violation_of_the_protocol_ends_the_sandbox(said: bytes) -> None:
    @in_virtual_time
    async def converse() -> None:
        async with Listener(saying(lambda _: said)) as listener:
            with pytest.raises(SandboxLost):
                await listener.execute()
            assert listener.losses == 1

    converse()


@in_virtual_time
async def test_only_the_first_done_counts() -> None:
    answer = saying(done, lambda number: done(number, error={"name": "Late"}), lambda number: text(number, b"late"))
    async with Listener(answer) as listener:
        assert (await listener.execute()).succeeded
        with pytest.raises(SandboxLost, match="after the end of its execution"):
            await listener.execute()


@pytest.mark.parametrize("kind", ["ready", "text", "done", "reply"])
@pytest.mark.parametrize("number", [0, -1, 10**9, "1", None])
def test_an_unexpected_frame_ends_the_sandbox(kind: str, number: Any) -> None:
    """Ignored, a flood of them would keep the host's processor busy for nothing."""

    @in_virtual_time
    async def converse() -> None:
        async with Listener() as listener:
            listener.sandbox.say(encode({"ev": kind, "id": number, "stream": "stdout", "version": VERSION}, b"x"))
            with pytest.raises(SandboxLost, match=r"not requested|over the limit"):
                await listener.execute()

    converse()


@in_virtual_time
async def test_the_reply_to_an_abandoned_request_can_arrive_late() -> None:
    async with Listener(silent("stat")) as listener:
        for _ in range(3):
            request = asyncio.create_task(listener.channel.file("/mnt/data/a"))
            await asyncio.sleep(0.1)
            request.cancel()
            await asyncio.wait([request])
        for header, _ in listener.sandbox.heard:
            listener.sandbox.say(reply(header["id"]))
        assert (await listener.execute()).succeeded
        listener.sandbox.say(reply(listener.sandbox.heard[0][0]["id"]))
        with pytest.raises(SandboxLost, match="not requested"):
            await listener.execute()


@in_virtual_time
async def test_a_reply_can_arrive_at_the_moment_of_cancellation() -> None:
    """As when a client of the server leaves in the middle of a download: it cost the session its sandbox."""
    async with Listener(silent("stat")) as listener:
        request = asyncio.create_task(listener.channel.file("/mnt/data/a"))
        await asyncio.sleep(0.1)
        listener.sandbox.say(reply(listener.sandbox.heard[0][0]["id"]))
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()
        assert (await listener.execute()).succeeded


@in_virtual_time
async def test_a_runner_that_never_answers_about_files_is_lost() -> None:
    async with Listener(silent("stat")) as listener:
        with pytest.raises(SandboxLost, match="did not respond"):
            await listener.channel.file("/mnt/data/a")


@in_virtual_time
async def test_a_file_error_says_what_is_wrong() -> None:
    numbers = iter([errno.ENOENT, errno.ENOSPC, errno.EISDIR, errno.EACCES])
    async with Listener(lambda header, _: [reply(header["id"], errno=next(numbers))]) as listener:
        with pytest.raises(FileMissing, match=r"no such file: '/mnt/data/a'"):
            await listener.channel.file("/mnt/data/a")
        for reason in ("the session's disk is full", "it is a directory", "permission denied"):
            with pytest.raises(FileRefused, match=reason):
                await listener.channel.file("/mnt/data/a")


@in_virtual_time
async def test_an_endless_download_is_refused_at_the_limit() -> None:
    def answer(header: dict[str, Any], body: bytes) -> Iterable[bytes]:
        if header["op"] == "open":
            return [reply(header["id"], file=1, entry={"path": "/mnt/data/a", "size": 5})]
        if header["op"] == "read":
            return [reply(header["id"], bytes(header["size"]))]
        return obey(header, body)

    async with Listener(answer) as listener:
        with pytest.raises(FileRefused, match="over the limit of 1 MiB"):
            await download(listener.channel)
        reads = sum(header["op"] == "read" for header, _ in listener.sandbox.heard)
        assert reads <= FILE_LIMIT // (256 * 1024) + 1
        await asyncio.sleep(1)
        assert listener.sandbox.heard[-1][0]["op"] == "close", "the runner may close the file"


@in_virtual_time
async def test_an_upload_over_the_limit_is_dropped() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    def answer(header: dict[str, Any], _body: bytes) -> Iterable[bytes]:
        return [reply(header["id"], file=1)]

    async with Listener(answer) as listener:
        with pytest.raises(FileRefused, match="over the limit"):
            await listener.channel.upload("/mnt/data/a", endless(), FILE_LIMIT)
        await asyncio.sleep(1)
        assert [header["op"] for header, _ in listener.sandbox.heard].count("finish") == 0
        assert listener.sandbox.heard[-1][0]["op"] == "close"


@in_virtual_time
async def test_a_flood_of_updates_costs_no_more_than_its_bytes() -> None:
    """Thousands of displays, each of them updated: the work must not grow with the product."""
    count = 5_000
    shown = b"".join(output(1, {}, display_id=str(place)) for place in range(count))
    updates = b"".join(output(1, {}, display_id=str(place), update=True) for place in range(count))
    limits = ExecutionLimits(timeout=5, grace=1, text=0, display=8 << 20)
    async with Listener(saying(lambda _: shown + updates, done)) as listener:
        import time

        began = time.process_time()
        execution = await listener.execute(limits=limits)
        assert time.process_time() - began < 2
        assert len(execution.outputs) == count


@pytest.mark.slow
@in_virtual_time
async def test_text_in_small_pieces_takes_the_memory_of_its_bytes() -> None:
    count = 100_000
    limits = ExecutionLimits(timeout=5, grace=1, text=3 * count, display=0)
    async with Listener(silent("execute")) as listener:
        waiting = asyncio.create_task(listener.channel.execute("x", limits, None))
        await asyncio.sleep(0)
        pieces = text(1, "Ā".encode()) * 1000
        tracemalloc.start()
        try:
            for _ in range(count // 1000):
                listener.sandbox.say(pieces)
                await asyncio.sleep(0.001)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken < 10 * count
        listener.sandbox.say(done(1))
        assert (await waiting).stdout == "Ā" * count


async def test_a_flood_of_frames_does_not_starve_others() -> None:
    async with Listener(silent("execute")) as flooded, Listener() as other:
        waiting = asyncio.create_task(flooded.execute())
        await asyncio.sleep(0)
        flooded.sandbox.say(encode({"ev": "clear", "id": 1}) * 100_000)
        flooded.sandbox.say(done(1))
        assert (await other.execute()).succeeded
        assert not waiting.done(), "the other came first"
        await waiting


@pytest.mark.slow
@in_virtual_time
async def test_nothing_that_a_runner_repeats_piles_up() -> None:
    """Frames that carry nothing are free for the runner, so they must be free for the host, too."""
    nothing = encode({"ev": "clear", "id": 1}) * 4
    async with Listener(silent("execute")) as listener:
        waiting = asyncio.create_task(listener.execute())
        await asyncio.sleep(0)
        tracemalloc.start()
        try:
            for _ in range(50):
                listener.sandbox.say(nothing * 100)
                await asyncio.sleep(0.001)
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(50):
                listener.sandbox.say(nothing * 100)
                await asyncio.sleep(0.001)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 10_000
        listener.sandbox.say(done(1))
        await waiting
