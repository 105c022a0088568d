"""A pool in this process, for tests of applications and adapters."""

from __future__ import annotations

from typing import Any

from greenroom.local import PoolSettings
from greenroom.local.pool import LocalPool
from greenroom.sessions import OpenPool, SessionPool
from greenroom.testing.memory_engine import MemoryEngine


def memory_pool(**options: Any) -> SessionPool:
    """A pool whose sessions are ready immediately and run code in this process, without isolation.

    It is for tests whose code you wrote yourself. It supports plain Python: no magics, no crashes, and no figures,
    and warns when code imports matplotlib.

    Args:
        options: the settings of any local pool, as for `greenroom.connect`.
    """
    settings = PoolSettings.parse({"preload": (), **options})

    async def backend() -> LocalPool:
        return await LocalPool.open(MemoryEngine(), settings)

    return SessionPool(OpenPool.open(backend))
