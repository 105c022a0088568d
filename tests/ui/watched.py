"""The pages of a server over pools in memory: called without a socket, or at a port of their own."""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from tests.server.served import client_of

from greenroom.backend import Backend
from greenroom.local import PoolSettings
from greenroom.local.pool import LocalPool
from greenroom.pricing import Prices
from greenroom.server.access.keys import ApiKeys, Guard, ManagementGuard, digest
from greenroom.server.app import Application
from greenroom.server.registry import PoolRegistry
from greenroom.server.settings import ServerSettings
from greenroom.server.state.file import IN_MEMORY
from greenroom.server.state.logs import LogLimits, LogStore
from greenroom.server.ui.access import Access
from greenroom.server.ui.application import Ui
from greenroom.server.ui.history import History
from greenroom.server.ui.pages import Pages
from greenroom.telemetry import Observer, both, ignore
from greenroom.telemetry.aggregate import Aggregate
from greenroom.testing.memory_engine import MemoryEngine

USER, MANAGER = "a key that is for sessions", "a key that manages pools"

BROWSER = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
"""What browsers send when a person follows a link of the page."""
FORM = {**BROWSER, "origin": "http://localhost"}
"""What they send with a form of the page."""


class Keys(ApiKeys):
    """Keys that can be revoked."""

    def revoke(self, name: str) -> None:
        del self._digests[name]


def keys(**of: str) -> Keys:
    return Keys({name: digest(key) for name, key in of.items()})


@dataclass(frozen=True)
class Watched:
    """A server with pages."""

    app: Application
    client: httpx.AsyncClient
    history: History
    access: Access
    logs: LogStore | None

    async def open(self, path: str = "/ui", **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={**BROWSER, **headers})

    async def send(self, path: str, headers: Mapping[str, str] = FORM, /, **fields: str) -> httpx.Response:
        return await self.client.post(path, data=fields, headers=headers)

    async def sign_in(self, key: str) -> httpx.Response:
        return await self.send("/ui/sign-in", key=key)

    async def form_token(self, path: str = "/ui/sessions") -> str:
        """The token of the forms of a page; empty if it has none."""
        found = re.search(r'name="form_token" value="([^"]+)"', (await self.open(path)).text)
        return html.unescape(found[1]) if found else ""

    async def begin(self, identifier: str, pool: str = "ci", code: str = "1") -> None:
        """Run code in a session."""
        served = next(each for each in self.app.pools if each.signal_name == pool)
        await served.backend.execute(identifier, code, timeout=30, on_event=None)

    async def sessions(self, pool: str = "ci") -> list[str]:
        served = next(each for each in self.app.pools if each.signal_name == pool)
        return [session.identifier for session in await served.backend.sessions()]


async def pool_in_memory(name: str, observer: Observer, **options: Any) -> LocalPool:
    settings = PoolSettings.parse(
        {"preload": (), "ready_session_instances": 0, "max_concurrent_sessions": 4, **options}
    )
    return await LocalPool.open(MemoryEngine(), settings, observer, name)


@contextlib.asynccontextmanager
async def watched(
    *names: str,
    sessions: Guard | None = None,
    management: Guard | None = None,
    backends: Mapping[str, Backend] | None = None,
    base_url: str = "http://localhost",
    with_log: bool = False,
    prices: Prices | None = None,
    **options: Any,
) -> AsyncGenerator[Watched, None]:
    """A client of a server with pools of these names, by default one, and with pages."""
    logs = LogStore(IN_MEMORY, LogLimits()) if with_log else None
    pools = PoolRegistry()
    for name in names or (() if backends else ("ci",)):
        metrics = Aggregate()
        observer = both(metrics.observe, ignore if logs is None else logs.observer_of(name))
        pools.add(name, await pool_in_memory(name, observer), metrics=metrics)
    for name, backend in (backends or {}).items():
        pools.add(name, backend)
    settings = ServerSettings.parse(options)
    guard = ManagementGuard(management, sessions) if sessions is not None else management
    access, history = Access(sessions, guard), History(pools)
    pages = Pages(pools, access, history, logs, prices=prices or Prices(currency="USD"))
    ui = Ui(pages, access, settings)
    app = Application(pools, settings, sessions, ui=ui)
    try:
        transport = client_of(app)
        transport.base_url = base_url
        async with transport as client:
            yield Watched(app, client, history, access, logs)
    finally:
        await pools.close()
        if logs is not None:
            await logs.close()


def guarded(*, names: tuple[str, ...] = (), **options: Any) -> contextlib.AbstractAsyncContextManager[Watched]:
    """The same, with a key for sessions and one for management."""
    return watched(*names, sessions=keys(user=USER), management=keys(manager=MANAGER), **options)
