"""The progress of opening a pool: what its engine prepares, an image that is pulled, the first sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.docker.fake import FakeDocker

import greenroom
from greenroom import CustomContainer, EngineUnavailable, Progress
from greenroom.engines import registry
from greenroom.engines.base import EngineOptions, EnginePlugin, SandboxSpec, StreamSandbox
from greenroom.engines.docker.client import Daemon
from greenroom.engines.docker.pull import find_or_pull
from greenroom.models import ContainerType
from greenroom.progress import Meter, unread
from greenroom.testing.memory_engine import MemoryEngine

STARTS = [("start", 0, 1, "sandboxes"), ("start", 1, 1, "sandboxes")]


class Preparing(MemoryEngine):
    """Has packages to install before its first sandbox."""

    made: ClassVar[list[Preparing]] = []
    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)
        self.closed = 0

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        meter = Meter(self.report, "install", "packages", total=3, unit="packages")
        for _ in range(3):
            meter.advance(1)
        meter.finish()
        await super().check(container_type)

    async def start(self, spec: SandboxSpec) -> StreamSandbox:
        if self.fails:
            raise EngineUnavailable("it does not start")
        return await super().start(spec)

    async def close(self) -> None:
        self.closed += 1
        await super().close()


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EnginePlugin(EngineOptions, lambda _: Preparing())
    found = registry.plugin

    def find(scheme: str) -> EnginePlugin[Any]:
        return plugin if scheme == "preparing" else found(scheme)

    monkeypatch.setattr(registry, "plugin", find)
    Preparing.made.clear()


def told(seen: list[Progress]) -> list[tuple[str, int, int | None, str]]:
    return [(each.task, each.done, each.total, each.unit) for each in seen]


def test_a_pool_reports_its_preparations_and_waits_for_its_first_sandbox() -> None:
    seen: list[Progress] = []
    with greenroom.connect("preparing:", on_progress=seen.append) as pool:
        assert pool.status().ready
        assert seen[0].task == "install"
        assert [each for each in told(seen) if each[0] == "install"][-1] == ("install", 3, 3, "packages")
        assert told(seen)[-1] == STARTS[-1]
        assert Preparing.made[0].report is unread, "the function is not kept"
        count = len(seen)
        pool.session().execute("1")
        assert len(seen) == count


async def test_pools_open_asynchronously_with_progress() -> None:
    seen: list[Progress] = []
    async with greenroom.aconnect("preparing:", on_progress=seen.append) as pool:
        assert (await pool.astatus()).ready
    assert told(seen)[-1] == STARTS[-1]
    seen.clear()
    async with greenroom.session("preparing:", on_progress=seen.append) as session:
        assert await session.ainfo() is not None
    assert told(seen)[-1] == STARTS[-1]


def test_the_one_sessions_sandbox_starts_as_its_context_is_entered() -> None:
    seen: list[Progress] = []
    with greenroom.session("preparing:", on_progress=seen.append) as session:
        assert session.info() is not None
        assert told(seen)[-1] == STARTS[-1]
    with greenroom.session("preparing:") as session:
        assert session.info() is None


def test_a_pool_without_ready_sandboxes_waits_for_none() -> None:
    seen: list[Progress] = []
    with greenroom.connect("preparing:", ready_session_instances=0, on_progress=seen.append):
        assert {each.task for each in seen} == {"install"}


def test_a_sandbox_that_does_not_start_fails_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preparing, "fails", True)
    seen: list[Progress] = []
    with greenroom.connect("preparing:", on_progress=seen.append) as pool:
        assert STARTS[1] not in told(seen)
        with pytest.raises(EngineUnavailable, match="does not start"):
            pool.session().execute("1")
    opening = greenroom.session("preparing:", on_progress=seen.append)
    with pytest.raises(EngineUnavailable, match="does not start"), opening:
        pass
    assert [engine.closed for engine in Preparing.made] == [1, 1]


async def test_a_function_that_raises_leaves_no_pool() -> None:
    def refuse(progress: Progress) -> None:
        if progress.task == "start":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        greenroom.connect("preparing:", on_progress=refuse)
    with pytest.raises(ZeroDivisionError):
        await greenroom.aconnect("preparing:", on_progress=refuse)
    with pytest.raises(ZeroDivisionError), greenroom.session("preparing:", on_progress=refuse):
        pass
    assert [engine.closed for engine in Preparing.made] == [1, 1, 1]


async def test_a_pull_adds_up_its_layers(tmp_path: Path) -> None:
    lines = [
        {"status": "Pulling from team/image", "id": "1.0"},
        *({"status": "Pulling fs layer", "id": layer} for layer in "ab"),
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 4_000_000, "total": 8_000_000}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 1_000_000, "total": 2_000_000}},
        *({"status": "Download complete", "id": layer} for layer in "ab"),
        {"status": "Pull complete", "id": "a"},
        {"status": "Status: Downloaded newer image"},
    ]
    seen: list[Progress] = []
    async with FakeDocker.serving(tmp_path / "docker") as docker:
        inspected = docker.answers["GET /images/json"]
        docker.answers["GET /images/json"] = lambda: (404, {"message": "no such image"})

        def pull() -> tuple[int, bytes]:
            docker.answers["GET /images/json"] = inspected
            return 200, b"".join(json.dumps(line).encode() + b"\n" for line in lines)

        docker.answers["POST /images"] = docker.answers["POST /images/create"] = pull
        daemon = Daemon(docker.url)
        try:
            await find_or_pull(daemon, CustomContainer(image="image:1.0", target_port=80), seen.append)
        finally:
            await daemon.close()
    assert {(each.task, each.label, each.unit) for each in seen} == {("pull", "image:1.0", "bytes")}
    pairs = [(each.done, each.total) for each in seen]
    assert (4_000_000, None) in pairs
    assert (5_000_000, 10_000_000) in pairs
    assert pairs[-1] == (10_000_000, 10_000_000)
    assert [done for done, _ in pairs] == sorted(done for done, _ in pairs)
