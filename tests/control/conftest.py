"""Engines in memory, in place of those of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.core.plugins import IN_MEMORY, only_engines

from greenroom.engines.base import Engine, EngineOptions, EnginePlugin, SandboxSpec, StreamSandbox
from greenroom.errors import EngineUnavailable
from greenroom.models import ContainerType
from greenroom.testing.memory_engine import MemoryEngine

from .plane import Control, control


class Broken(MemoryEngine):
    """Cannot be used."""

    name = "broken"

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        raise EngineUnavailable(f"The engine broken is broken, for {container_type}, too.")


class Lame(MemoryEngine):
    """Its sandboxes do not start."""

    name = "lame"

    async def start(self, spec: SandboxSpec) -> StreamSandbox:
        raise EngineUnavailable(f"A sandbox with {spec.limits.pids} processes does not start.")


class Stuck(MemoryEngine):
    """It does not close."""

    name = "stuck"

    async def close(self) -> None:
        await super().close()
        raise OSError("something holds it")


def plugin(engine: type[Engine]) -> EnginePlugin[EngineOptions]:
    return EnginePlugin(EngineOptions, lambda _: engine())


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    only_engines(monkeypatch, memory=IN_MEMORY, broken=plugin(Broken), lame=plugin(Lame), stuck=plugin(Stuck))


@pytest.fixture
async def server() -> AsyncIterator[Control]:
    async with control() as server:
        yield server
