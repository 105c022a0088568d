"""A process that kills frozen sandboxes if this process is killed.

A sandbox ends when its standard input closes, but a frozen one does not notice that. So before it freezes sandboxes,
an engine starts a watchdog: a small process outside the sandboxes that waits for the owner to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from greenroom.engines import last_guard

_OWN = Path(last_guard.__file__).parents[2]
_START_TIMEOUT = 5.0  # a caller can wait for it
_RESTART_AFTER = 5.0
_log = logging.getLogger(__name__)


class Watchdog:
    """Starts the process when it is first needed, and again if it ends. Belongs to one event loop.

    Args:
        function: kills the sandboxes of the dead owner and returns their number, as `module:name`; imported only
            when needed.
        arguments: its arguments, as JSON values.
    """

    def __init__(self, function: str, *arguments: Any) -> None:
        path = [str(_OWN), *map(os.path.abspath, sys.path)]  # the process works in another directory
        self._order = json.dumps([os.getpid(), path, function, arguments])
        self._guard: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._watching = False

    async def is_on(self) -> bool:
        """Return whether it is watching; the first call starts it."""
        if os.name != "posix":
            return False
        if self._guard is None:
            self._guard = asyncio.create_task(self._keep())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT):
                await self._tried.wait()
        return self._watching

    async def close(self) -> None:
        """End it. Idempotent."""
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.wait([self._guard])
            self._guard = None

    async def _keep(self) -> None:
        while True:
            try:
                await self._run()
            except OSError as error:
                _log.warning("Idle sandboxes are not frozen, because their watchdog process cannot start: %s", error)
                self._tried.set()
            await asyncio.sleep(_RESTART_AFTER)

    async def _run(self) -> None:
        """Start the process and wait for its end."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", last_guard.__file__, self._order),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            assert process.stdout is not None  # noqa: S101  a pipe by construction
            self._watching = await process.stdout.readline() == last_guard.WATCHING.encode()
            self._tried.set()
            await process.wait()
        finally:
            self._watching = False
            if process.returncode is None:
                process.kill()
                await asyncio.shield(process.wait())
