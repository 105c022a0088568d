"""Azure's HTTP API for tests, served from this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from greenroom.server.app import Application
from greenroom.server.registry import PoolRegistry
from greenroom.server.run import Server
from greenroom.server.settings import ServerSettings


@contextmanager
def serving(url: str | None = None, *, strict: bool = False, **options: Any) -> Generator[str, None, None]:
    """Serve a pool on the loopback, without authentication; yield the address, for any Azure client.

    Args:
        url: the URL of the pool, as for `greenroom.connect`.
        strict: whether to refuse what Azure's specification refuses.
        options: the options of the pool.

    Raises:
        EngineUnavailable: no sandbox can be started here.
    """
    settings = ServerSettings.parse({"port": 0, "strict": strict, "shutdown_grace": 0})
    started: Future[tuple[str, Server, asyncio.AbstractEventLoop]] = Future()

    async def serve() -> None:
        pools = PoolRegistry()
        try:
            await pools.open("default", {"url": url, **options})
            server = Server(Application(pools, settings, None), settings)
            server.on_start = lambda: started.set_result((server.url, server, asyncio.get_running_loop()))
            await server.serve()
        finally:
            await pools.close()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="greenroom server", daemon=True)
    thread.start()
    address, server, loop = started.result()
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(setattr, server, "should_exit", True)
        thread.join()
