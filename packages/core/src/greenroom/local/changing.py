"""A pool whose settings can change while it serves: sessions keep their sandboxes, new ones use the new settings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic

from greenroom.engines.base import Engine
from greenroom.errors import EngineUnavailable, GreenroomError
from greenroom.local.allocator import Allocator
from greenroom.local.instance import InstanceT
from greenroom.local.metering import PresentUsage
from greenroom.local.plan import Rules
from greenroom.local.settings import PoolSettings
from greenroom.models import PoolStatus, PoolUsage, ReadyReason, SessionUsage
from greenroom.progress import Meter, Report
from greenroom.telemetry.log_file import LogFile

_log = logging.getLogger("greenroom.local")

_TRIAL_TIMEOUT = 300.0
"""Seconds in which an instance must become ready; a container's probes can take minutes."""


class ChangeablePool(ABC, Generic[InstanceT]):
    """The common part of pools of code and of custom containers. Created and used on one event loop."""

    _allocator: Allocator[InstanceT]

    def __init__(self, engine: Engine, settings: PoolSettings) -> None:
        self.log: LogFile | None = None
        """The file for records; the pool closes it."""
        self._engine = engine
        self._engines: dict[int, Engine] = {}
        """Engines that earlier generations of instances still need."""
        self._take(settings)

    def _take(self, settings: PoolSettings) -> None:
        self._settings = settings
        self.container_type = settings.container_type
        self.file_limit = settings.file_limit
        self.forward_authorization = settings.forward_authorization

    def _rules(self) -> Rules:
        engine, settings = self._engine, self._settings
        if settings.idle_after is not None and not engine.freezes:
            _log.warning(
                "Idle sessions of %s are not frozen (idle_after): that needs control groups, which are not available.",
                engine.name,
            )
        return settings.rules(starts_give_way=engine.starts_give_way, freezes=engine.freezes)

    @property
    def settings(self) -> PoolSettings:
        """The generation of the sandboxes that start now."""
        return self._settings

    @property
    def engine_name(self) -> str:
        """The name of the engine that starts them."""
        return self._engine.name

    def __repr__(self) -> str:
        return repr(self._allocator)

    @staticmethod
    @abstractmethod
    async def _check(engine: Engine, settings: PoolSettings) -> None:
        """Check that an engine can create the instances.

        Raises:
            EngineUnavailable: it cannot.
        """

    @abstractmethod
    async def _launch(self, engine: Engine, settings: PoolSettings, on_lost: Callable[[], None]) -> InstanceT:
        """Start an instance."""

    async def _start(self, on_lost: Callable[[], None]) -> InstanceT:
        return await self._launch(self._engine, self._settings, on_lost)

    async def change(self, settings: PoolSettings, make_engine: Callable[[], Engine], *, outdated: bool) -> None:
        """Apply other settings, of the same container type.

        They apply to sandboxes that start from now on; those that serve a session continue until it ends. If sandboxes
        will differ, one is tried first, unless none are to be kept ready.

        Args:
            settings: all of the settings.
            make_engine: creates the engine for sandboxes that differ: an engine whose check fails closes itself, so the
                engine of the current sandboxes must not be used.
            outdated: whether they differ in more than the settings.

        Raises:
            GreenroomError: the engine cannot create such sandboxes; nothing has changed.
        """
        outdated = outdated or _sandboxes_of(settings) != _sandboxes_of(self._settings)
        if outdated:
            engine = make_engine()
            try:
                await self._check(engine, settings)
                if settings.ready_session_instances != 0:
                    await self._try(engine, settings)
            except BaseException:
                await engine.close()
                raise
            self._engines[self._allocator.generation] = self._engine
            self._engine = engine
        self._take(settings)
        self._allocator.change(self._rules(), outdated=outdated)
        await self._close_unused_engines()

    async def wait_until_ready(self) -> None:
        """Wait for the first of the sandboxes that are kept ready.

        Raises:
            GreenroomError: one did not start.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + _TRIAL_TIMEOUT
        while (error := self._allocator.start_error) is None:
            status = self._allocator.status()
            if not status.ready_target or status.ready_reason is ReadyReason.MEMORY:
                return  # none is needed now
            if status.ready or status.idle or status.executing:
                return
            if clock() > deadline:
                raise EngineUnavailable(f"No sandbox of {self.engine_name} was ready after {_TRIAL_TIMEOUT:g} seconds.")
            await asyncio.sleep(0.02)
        raise error

    async def start_first(self, report: Report, identifier: str | None = None) -> None:
        """Wait for the first sandbox: a session's, or by default the first of those that are kept ready.

        Raises:
            GreenroomError: it did not start. Of those that are kept ready, another can start later.
        """
        meter = Meter(report, "start", self.engine_name, total=1, unit="sandboxes")
        if identifier is not None:
            meter.begin()
            async with self._allocator.lease(identifier):
                pass
        elif self._allocator.status().ready_target:
            meter.begin()
            await self.wait_until_ready()
        else:
            return
        meter.finish()

    def reading(self) -> tuple[PoolStatus, PoolUsage]:
        """Return the state of the pool without delay; can be called from any thread.

        Raises:
            PoolClosed: the pool was closed.
        """
        return self._allocator.status(), self._allocator.metering.pool()

    async def usage(self, identifier: str) -> SessionUsage | None:
        return await self._allocator.metering.session(identifier)

    async def pool_usage(self) -> PoolUsage:
        await self._allocator.metering.refresh()
        return self._allocator.metering.pool()

    async def refresh_usage(self) -> None:
        """Sample the sandboxes that have worked since their last sample."""
        await self._allocator.metering.refresh()

    def present_usage(self) -> list[PresentUsage]:
        """Return what each of the current sandboxes has used, according to the last samples."""
        return self._allocator.metering.present()

    async def close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:  # an error in one must not keep the others open
            if self.log is not None:
                stack.push_async_callback(asyncio.to_thread, self.log.close)
            for engine in (self._engine, *self._engines.values()):
                stack.push_async_callback(engine.close)
            self._engines.clear()
            await self._allocator.close()

    async def _try(self, engine: Engine, settings: PoolSettings) -> None:
        try:
            async with asyncio.timeout(_TRIAL_TIMEOUT):
                instance = await self._launch(engine, settings, lambda: None)
                try:
                    await instance.ready()
                finally:
                    await instance.close("it was tried")
        except GreenroomError:
            raise
        except Exception as error:
            reason = f"it was not ready after {_TRIAL_TIMEOUT:g} seconds" if isinstance(error, TimeoutError) else error
            raise EngineUnavailable(f"A sandbox of {engine.name} did not start: {reason}") from error

    async def _close_unused_engines(self) -> None:
        used = self._allocator.generations()
        for generation in sorted(self._engines):
            if not any(each <= generation for each in used):  # it served that generation and earlier ones
                try:
                    await self._engines.pop(generation).close()
                except Exception:  # noqa: BLE001  the change is made in any case
                    _log.exception("An engine that is no longer needed could not be closed")


def _sandboxes_of(settings: PoolSettings) -> object:
    """The settings whose change requires other sandboxes."""
    return settings.spec, settings.env
