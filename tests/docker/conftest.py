"""Fixtures of the Docker engine's tests."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiodocker
import pytest

from greenroom.engines import owner
from greenroom.engines.docker import engine as docker
from greenroom.engines.docker.engine import DockerEngine
from greenroom.errors import EngineUnavailable

from .fake import FakeDocker

Program = Callable[[str], None]


async def usable(engine: DockerEngine) -> DockerEngine:
    """The engine, or a skip, which is a failure where Docker is required."""
    try:
        await engine.check()
    except EngineUnavailable as error:
        await engine.close()
        if "docker" in os.environ.get("GREENROOM_REQUIRE_ENGINES", "").split(","):
            raise
        pytest.skip(str(error))
    return engine


@pytest.fixture(params=[None, "runsc"], ids=["runc", "runsc"])
def runtime(request: pytest.FixtureRequest) -> str | None:
    return request.param


@pytest.fixture
async def engine(runtime: str | None) -> AsyncIterator[DockerEngine]:
    engine = await usable(DockerEngine(runtime=runtime))
    yield engine
    await engine.close()


@pytest.fixture
async def plain_engine() -> AsyncIterator[DockerEngine]:
    """With Docker's own runtime alone, for what no runtime has a part in."""
    engine = await usable(DockerEngine())
    yield engine
    await engine.close()


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeDocker]:
    """A Docker engine of the test's own making."""
    async with FakeDocker.serving(tmp_path / "engine.sock") as fake:
        yield fake


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Program:
    """Has sandboxes run a program in the supervisor's place."""

    def replace(program: str) -> None:
        def command(python: str, *_arguments: str) -> list[str]:
            return [python, "-I", "-c", program]

        monkeypatch.setattr(docker, "runner_command", command)

    return replace


async def containers_of(pid: int | None = None) -> list[str]:
    """The names of a process's containers, by default of this one's, in whatever state they are."""
    labels = [f"{owner.MACHINE}={owner.machine()}", f"greenroom.owner.pid={pid or os.getpid()}"]
    async with aiodocker.Docker() as client:
        found = await client.containers.list(all=True, filters=json.dumps({"label": labels}))
        return [container["Names"][0] for container in found]
