"""The templates of an engine: one per sandbox specification, started with the first sandbox of that specification."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from greenroom.engines.base import SandboxSpec
from greenroom.engines.bubblewrap.template import ForkedProcess, ForkFailed, NotNow, Template, TemplateLost
from greenroom.errors import EngineUnavailable

_log = logging.getLogger(__name__)

_MOST_LOST = 3  # consecutive templates that ended without having forked a sandbox
_MOST_FAILED = 10  # consecutive forks


class Templates:
    """Forks sandboxes, and replaces templates that have ended.

    Args:
        start: starts a template for a sandbox specification.
    """

    def __init__(self, start: Callable[[SandboxSpec], Awaitable[Template]]) -> None:
        self._start = start
        self._current: tuple[SandboxSpec, asyncio.Task[Template]] | None = None
        self._retired: list[asyncio.Task[Template]] = []
        self._lost = 0
        self._failed = 0
        self._refused: SandboxSpec | None = None
        self._closed = False

    async def fork(
        self, spec: SandboxSpec, settings: Mapping[str, Any], groups: Sequence[Path]
    ) -> ForkedProcess | None:
        """Fork a sandbox; if that fails, log it and return `None`.

        Raises:
            EngineUnavailable: the templates were closed.
            OSError: no descriptors are left, or a control group is gone.
        """
        forked = await self._fork(spec, settings, groups)
        if forked is None and self._closed:
            raise EngineUnavailable("The engine was closed.")
        return forked

    async def _fork(
        self, spec: SandboxSpec, settings: Mapping[str, Any], groups: Sequence[Path]
    ) -> ForkedProcess | None:
        while not self._closed and self._works and self._refused != spec:
            start = await self._template(spec)
            try:
                template = await asyncio.shield(start)
            except OSError as error:
                self._lose(start, error)
                continue
            try:
                forked = await template.fork(settings, groups)
            except TemplateLost as error:
                self._lose(start, error)
            except NotNow as error:
                _log.info("A sandbox is started from scratch instead of being forked from a template: %s.", error)
                return None
            except ForkFailed as error:
                self._failed += 1
                if error.permanent:
                    self._refused = spec
                which = "Sandboxes are" if error.permanent or not self._works else "A sandbox is"
                _log.warning("%s started from scratch instead of being forked from a template: %s.", which, error)
                return None
            else:
                self._lost = self._failed = 0
                return forked
        return None

    @property
    def _works(self) -> bool:
        return self._lost < _MOST_LOST and self._failed < _MOST_FAILED

    async def close(self) -> None:
        """End all templates. Idempotent, bounded in time."""
        self._closed = True
        self._retire()
        await asyncio.gather(*map(_end, self._retired))
        self._retired.clear()

    async def _template(self, spec: SandboxSpec) -> asyncio.Task[Template]:
        """Return the task that starts the template for a specification."""
        if self._current is not None and self._current[0] == spec:
            return self._current[1]
        self._retire()
        start = asyncio.ensure_future(self._start(spec))
        self._current = spec, start
        # Look for the next one each time: others can be removed while one ends.
        while unused := next((start for start in self._retired if not _is_in_use(start)), None):
            self._retired.remove(unused)
            await _end(unused)
        return start

    def _retire(self) -> None:
        """Stop forking from the current template, which ends once all of its sandboxes have ended."""
        if self._current is not None:
            self._retired.append(self._current[1])
            self._current = None

    def _lose(self, start: asyncio.Task[Template], reason: object) -> None:
        """Note that a template cannot be used any more."""
        if self._closed or self._current is None or self._current[1] is not start:
            return  # already noted
        self._retire()
        self._lost += 1
        after = "a new one is started" if self._lost < _MOST_LOST else "sandboxes are started from scratch from now on"
        _log.warning("The template that sandboxes are forked from was lost; %s: %s.", after, reason)


def _is_in_use(start: asyncio.Task[Template]) -> bool:
    if not start.done():
        return True
    return not start.cancelled() and start.exception() is None and start.result().in_use


async def _end(start: asyncio.Task[Template]) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await (await start).close()
