"""The copy of a session into others, with honest, silent and hostile runners at both ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from greenroom.errors import ForkFailed, SandboxLost
from greenroom.local.channel import Channel
from greenroom.local.collecting import ExecutionLimits
from greenroom.local.copying import CopyLimits, copy
from greenroom.models import NotCarried
from greenroom.runner.protocol import MAX_LEFT_OUT

from .scripted import READY, Answer, ScriptedSandbox, done, obey, output, reply
from .virtual_time import in_virtual_time

LIMITS = CopyLimits(seconds=20, grace=2, size=1000)
CODE = ExecutionLimits(timeout=5, grace=1, text=1000, display=1000)
LONGEST = 3 * (LIMITS.seconds + LIMITS.grace + 60)

Failed = Callable[[int], list[str] | None]
"""What a runner could not copy the first, the second, … time, and why."""


def result(number: int, **report: Any) -> bytes:
    return output(number, {"application/json": report}, result=True)


@dataclass
class Runner:
    """Saves and loads as an honest runner does."""

    pieces: Sequence[bytes] = (b"one", b"two")
    size: object = 6
    left_out: object = ()
    failed: Failed = lambda _: None
    taken: list[bytes] = field(default_factory=list[bytes])
    times: int = 0
    without: list[bytes] = field(default_factory=list[bytes])
    _number: int | None = None
    _left: list[bytes] = field(default_factory=list[bytes])

    def __call__(self, header: dict[str, Any], body: bytes) -> Iterable[bytes]:
        number = header["id"]
        match header["op"]:
            case "save":
                self._number, self._left = number, list(self.pieces)
                self.times += 1
                self.without.append(body)
                yield result(number, size=self.size)
            case "load":
                self._number = number
                self.times += 1
                self.taken.clear()
            case "take" if self._left:
                yield reply(number, self._left.pop(0))
            case "take":
                yield from self._end()
                yield reply(number)
            case "give":
                self.taken.append(body)
                yield reply(number)
                if not body:
                    yield from self._end()
            case "interrupt":
                yield from self._end()
            case _:
                yield from obey(header, body)

    def _end(self) -> Iterable[bytes]:
        number, self._number = self._number, None
        if number is not None:
            yield result(number, left_out=self.left_out, failed=self.failed(self.times))
            yield done(number)


def but(runner: Runner, **answers: Callable[[int], Iterable[bytes]]) -> Answer:
    """A runner that answers some operations otherwise."""

    def answer(header: dict[str, Any], body: bytes) -> Iterable[bytes]:
        if (other := answers.get(header["op"])) is not None:
            return other(header["id"])
        return runner(header, body)

    return answer


class SlowSandbox(ScriptedSandbox):
    async def send(self, data: bytes) -> None:
        await asyncio.sleep(3)
        await super().send(data)


@asynccontextmanager
async def channels(*runners: Answer | ScriptedSandbox) -> AsyncGenerator[list[Channel], None]:
    opened: list[Channel] = []
    try:
        for runner in runners:
            sandbox = runner if isinstance(runner, ScriptedSandbox) else ScriptedSandbox(runner)
            opened.append(Channel(sandbox, lambda: None))
            sandbox.say(READY)
            await opened[-1].ready()
        yield opened
    finally:
        for each in opened:
            await each.close("the test has ended")


async def copied(parent: Channel, children: Sequence[Channel]) -> tuple[NotCarried, ...]:
    """Copy, and check that it has taken a limited time."""

    async def lease() -> Sequence[Channel]:
        return children

    began = asyncio.get_running_loop().time()
    try:
        return await copy(parent, lease, LIMITS)
    finally:
        assert asyncio.get_running_loop().time() - began < LONGEST


def silence(_number: int) -> Iterable[bytes]:
    return ()


@in_virtual_time
async def test_objects_written_by_one_runner_are_read_by_the_others() -> None:
    first, second = Runner(), Runner()
    async with channels(Runner(left_out=[["lock", "it is a lock"]]), first, second) as (parent, *children):
        assert await copied(parent, children) == (NotCarried("lock", "it is a lock"),)
        assert [each.not_carried for each in children] == [(NotCarried("lock", "it is a lock"),)] * 2
    assert first.taken == second.taken == [b"one", b"two", b""]


@in_virtual_time
async def test_an_unreadable_object_is_left_out_of_the_next_attempt() -> None:
    source, target = Runner(), Runner(failed=lambda time: [f"bad{time}", "no"] if time < 3 else None)
    async with channels(source, target) as (parent, *children):
        assert await copied(parent, children) == (NotCarried("bad1", "no"), NotCarried("bad2", "no"))
    assert source.without == [b"[]", b'["bad1"]', b'["bad1", "bad2"]']


@pytest.mark.parametrize("end", ["parent", "child"])
def test_endless_failures_are_abandoned(end: str) -> None:
    @in_virtual_time
    async def run() -> None:
        hostile = Runner(failed=lambda time: [f"bad{time}", "no\n"])
        runners = (hostile, Runner()) if end == "parent" else (Runner(), hostile)
        async with channels(*runners) as (parent, *children):
            with pytest.raises(ForkFailed, match=r"more than 50 of its variables .*bad51 among them \(no\\n\)"):
                await copied(parent, children)
            assert not parent.lost
        assert hostile.times == 51

    run()


@in_virtual_time
async def test_slow_failures_end_with_the_time() -> None:
    target = Runner(failed=lambda time: [f"bad{time}", "no"])
    async with channels(Runner(), SlowSandbox(target)) as (parent, *children):
        with pytest.raises(ForkFailed, match=r"within 20 seconds. It was copying bad3 at that time."):
            await copied(parent, children)
    assert target.times == 3


@in_virtual_time
async def test_the_time_to_lease_sandboxes_does_not_count() -> None:
    async with channels(Runner(), SlowSandbox(Runner())) as (parent, *children):

        async def lease() -> Sequence[Channel]:
            await asyncio.sleep(100)
            return children

        assert await copy(parent, lease, LIMITS) == ()


@in_virtual_time
async def test_the_list_of_omitted_objects_is_limited() -> None:
    many = [[f"name{number}", "no"] for number in range(2 * MAX_LEFT_OUT)]
    target = Runner(failed=lambda time: ["bad", "no"] if time == 1 else None)
    async with channels(Runner(left_out=many), target) as (parent, *children):
        assert len(await copied(parent, children)) == MAX_LEFT_OUT


_OF_PARENTS: list[dict[str, Callable[[int], Iterable[bytes]]]] = [
    {"take": silence},
    {"save": lambda number: [done(number)], "take": silence},
    {"save": silence, "take": silence, "interrupt": silence},
    {"take": lambda number: [reply(number, errno=2)]},
    {"take": lambda number: [reply(number, errno=13)]},
    {"take": lambda number: [reply(number, b"x" * (2 << 20))]},
]


@pytest.mark.parametrize(
    "answers",
    _OF_PARENTS,
    ids=["no reply", "early end, no reply", "nothing", "ENOENT", "EACCES", "too long"],
)
def test_a_parent_that_disconnects_is_lost(answers: dict[str, Callable[[int], Iterable[bytes]]]) -> None:
    @in_virtual_time
    async def run() -> None:
        async with channels(but(Runner(), **answers), Runner()) as (parent, *children):
            with pytest.raises(SandboxLost):
                await copied(parent, children)
            assert parent.lost

    run()


_OF_CHILDREN: list[dict[str, Callable[[int], Iterable[bytes]]]] = [
    {"give": silence},
    {"load": lambda number: [done(number)], "give": silence},
    {"load": silence, "give": silence, "interrupt": silence},
    {"give": lambda number: [reply(number, errno=2)]},
    {"give": lambda number: [reply(number, errno=13)]},
]


@pytest.mark.parametrize(
    "answers",
    _OF_CHILDREN,
    ids=["no reply", "early end, no reply", "nothing", "ENOENT", "EACCES"],
)
def test_a_child_that_disconnects_fails_only_the_copy(answers: dict[str, Callable[[int], Iterable[bytes]]]) -> None:
    @in_virtual_time
    async def run() -> None:
        async with channels(Runner(), Runner(), but(Runner(), **answers)) as (parent, *children):
            with pytest.raises(ForkFailed):
                await copied(parent, children)
            assert not parent.lost
            assert not children[0].lost
            assert (await parent.execute("x", CODE, None)).succeeded

    run()


@in_virtual_time
async def test_endless_pieces_are_abandoned() -> None:
    hostile = Runner(pieces=[bytes(1 << 20)] * 50)
    async with channels(hostile, Runner()) as (parent, *children):
        with pytest.raises(ForkFailed, match=r"must be at most 1,000 bytes, not 17 MiB or more"):
            await copied(parent, children)


@pytest.mark.parametrize("size", [3 << 30, 10**4000, True, -1, "x", [], None])
def test_any_size_can_be_reported(size: object) -> None:
    @in_virtual_time
    async def run() -> str:
        async with channels(Runner(size=size), Runner()) as (parent, *children):
            try:
                await copied(parent, children)
            except ForkFailed as error:
                return str(error)
            return ""

    text = run()
    assert len(text) < 200
    assert bool(text) == (isinstance(size, int) and size > 1)
    assert ("must be at most 1,000 bytes, not 3 GiB." in text) == (size == 3 << 30)


@in_virtual_time
async def test_a_name_stays_on_one_line() -> None:
    def fail(number: int) -> Iterable[bytes]:
        yield done(number, error={"name": "Bad\nName" * 10, "value": "a\nb", "traceback": ""})

    async with channels(but(Runner(pieces=()), save=fail), Runner()) as (parent, *children):
        with pytest.raises(ForkFailed) as failed:
            await copied(parent, children)
    assert "\n" not in str(failed.value)
