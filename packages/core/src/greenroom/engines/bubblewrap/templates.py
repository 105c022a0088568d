"""The templates of an engine: one for each specification of sandboxes, started when the first of them is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from greenroom.engines.base import SandboxSpec
from greenroom.engines.bubblewrap.template import ForkedProcess, ForkFailed, Template

_log = logging.getLogger(__name__)

_MOST_FAILURES = 3  # templates that have ended one after the other without a sandbox


class Templates:
    """Forks sandboxes, and replaces a template that has ended.

    Args:
        start: starts a template for sandboxes of a specification.
    """

    def __init__(self, start: Callable[[SandboxSpec], Awaitable[Template]]) -> None:
        self._start = start
        self._current: tuple[SandboxSpec, asyncio.Task[Template]] | None = None
        self._retired: list[asyncio.Task[Template]] = []
        self._failures = 0
        self._refused: SandboxSpec | None = None
        self._closed = False

    async def fork(
        self, spec: SandboxSpec, settings: Mapping[str, Any], groups: Sequence[Path]
    ) -> ForkedProcess | None:
        """Fork a sandbox; `None` if that does not succeed, which is logged.

        Raises:
            OSError: there are no descriptors left, or a group is gone.
        """
        if self._closed or self._failures >= _MOST_FAILURES or self._refused == spec:
            return None
        start = await self._template(spec)
        try:
            template = await asyncio.shield(start)
        except OSError as error:
            return self._failed(error)
        try:
            process = await template.fork(settings, groups)
        except ForkFailed as error:
            if template.alive:
                if error.refused:
                    self._refused = spec
                return self._failed(error, counts=False)
            return self._failed(await template.diagnosis() or error)
        self._failures = 0
        return process

    async def close(self) -> None:
        """End all templates. Idempotent, bounded in time."""
        self._closed = True
        if self._current is not None:
            self._retired.append(self._current[1])
            self._current = None
        await asyncio.gather(*map(_end, self._retired))
        self._retired.clear()

    async def _template(self, spec: SandboxSpec) -> asyncio.Task[Template]:
        """Return the start of a specification's template."""
        if self._current is not None:
            known, start = self._current
            if known == spec and not _is_over(start):
                return start
            self._retired.append(start)
            self._current = None
        start = asyncio.ensure_future(self._start(spec))
        self._current = spec, start
        await self._end_unused()
        return start

    async def _end_unused(self) -> None:
        """End retired templates without sandboxes."""
        for start in [start for start in self._retired if _is_over(start) or not start.result().in_use]:
            self._retired.remove(start)
            await _end(start)

    def _failed(self, reason: object, *, counts: bool = True) -> None:
        self._failures += counts
        if not self._closed:
            _log.warning("A sandbox is started anew instead of forked from the template: %s.", reason)


def _is_over(start: asyncio.Task[Template]) -> bool:
    """Whether a template has ended, or could not be started."""
    if not start.done():
        return False
    return start.cancelled() or start.exception() is not None or not start.result().alive


async def _end(start: asyncio.Task[Template]) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await (await start).close()
