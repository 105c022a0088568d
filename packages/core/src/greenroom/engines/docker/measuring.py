"""The usage of containers: from their control groups if they are on this machine, else from Docker's statistics."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

from greenroom.engines.base import Resources
from greenroom.engines.docker.client import FAILURES, Daemon
from greenroom.engines.measuring import Gauge, groups_named, groups_of, of_group
from greenroom.models import UsageSource

_STATS_TIMEOUT = 3.0
_AT_ONCE, _SLOW = 1.0, 10.0  # seconds
_READ_ON = 0.01  # seconds between readings, of some 0.1 ms each, while containers are removed

_log = logging.getLogger(__name__)


class ContainerMeter:
    """Measures the containers of one sandbox together.

    Docker sends statistics once a second, so each reading waits for up to a second; control groups do not wait.
    """

    def __init__(self, daemon: Daemon, names: Sequence[str]) -> None:
        self._daemon = daemon
        self._names = names
        self._groups: list[tuple[Path, ...]] | None = None
        self._last: Resources | None = None
        self.sampling_interval = _AT_ONCE
        """The shortest interval in seconds at which readings are worth their cost."""
        self._gauge: Gauge | None = None
        self._ended = False

    def gauge(self, id: str) -> Gauge | None:  # noqa: A002  Docker's own word
        """Return a meter for the container with this id, if it is on this machine."""
        if self._gauge is None and not self._ended and (directories := groups_named(id)):
            self._gauge = Gauge(directories)
        return self._gauge

    def close(self) -> None:
        """Close the files of a container that has ended."""
        self._ended = True
        if self._gauge is not None:
            self._gauge.close()

    async def read(self) -> Resources | None:
        """Return what they have used so far, or the last reading."""
        if self._groups is None:
            self._groups = await asyncio.gather(*map(self._groups_of, self._names))
            if not all(self._groups):
                self.sampling_interval = _SLOW
        if self.sampling_interval == _AT_ONCE:
            self._last = _sum([of_group(directories) for directories in self._groups]) or self._last
            if self._last is not None and self._gauge is not None:
                self._last = replace(self._last, peak=max(self._last.peak or 0, self._gauge.highest))
        else:
            self._last = _sum(await asyncio.gather(*map(self._statistics, self._names))) or self._last
        return self._last

    @contextlib.asynccontextmanager
    async def until_removed(self) -> AsyncGenerator[None, None]:
        """Keep reading while the containers are removed: busy ones use processors until they are killed.

        Their groups disappear a moment after their last process, so they could not be read afterwards.
        """
        reading = None
        if self._groups and self.sampling_interval == _AT_ONCE:
            reading = asyncio.create_task(self._read_on())
        try:
            yield
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.wait([reading])

    async def _read_on(self) -> None:
        while True:
            await self.read()
            await asyncio.sleep(_READ_ON)

    async def _groups_of(self, name: str) -> tuple[Path, ...]:
        try:
            async with asyncio.timeout(_STATS_TIMEOUT):
                async with await self._daemon.request("GET", f"containers/{name}/json") as response:
                    described = json.loads(await response.read())
            return groups_of(int(described["State"]["Pid"]), str(described["Id"]))
        except (*FAILURES, KeyError, TypeError, ValueError) as error:
            _log.debug("Docker could not inspect the container %s: %r", name, error)
            return ()

    async def _statistics(self, name: str) -> Resources | None:
        parameters = {"stream": "false", "one-shot": "true"}
        try:
            async with asyncio.timeout(_STATS_TIMEOUT):
                async with await self._daemon.request("GET", f"containers/{name}/stats", params=parameters) as response:
                    stats = json.loads(await response.read())
            memory = stats["memory_stats"]
            # Version 2 of control groups has no peak here. A container that has ended has no statistics at all.
            usage, peak = int(memory["usage"]), memory.get("max_usage")
            cpu = int(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9
            return Resources(UsageSource.DOCKER, cpu, usage, None if peak is None else int(peak))
        except (*FAILURES, KeyError, TypeError, ValueError) as error:
            _log.debug("Docker did not report the usage of the container %s: %r", name, error)
            return None


def _sum(found: Sequence[Resources | None]) -> Resources | None:
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        return None
    peaks = [each.peak for each in known if each.peak is not None]
    peak = sum(peaks) if len(peaks) == len(known) else None
    return Resources(known[0].source, sum(each.cpu for each in known), sum(each.memory for each in known), peak)
