"""Run a server on one event loop: open its pools, serve requests, let executions end, close the pools."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import ssl
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from greenroom.azure.httpx_transport import HttpxTransport
from greenroom.errors import InvalidRequest
from greenroom.pricing import Prices
from greenroom.progress import Report, unread
from greenroom.server.access.entra import EntraTokens, KeySet
from greenroom.server.access.keys import ApiKeys, EitherOf, Guard, ManagementGuard, check_key, digest, read_keys
from greenroom.server.app import Application, Management
from greenroom.server.control.choices import Engines
from greenroom.server.control.plane import ControlPlane
from greenroom.server.registry import PoolRegistry
from greenroom.server.settings import ServerSettings
from greenroom.server.state.file import IN_MEMORY, StateFile, default_path
from greenroom.server.state.logs import LogLimits, LogStore
from greenroom.server.state.pools import PoolTable
from greenroom.server.transport.slow_clients import SlowClientProtocol
from greenroom.server.transport.tls import Certificate, self_signed
from greenroom.server.ui.access import Access
from greenroom.server.ui.application import Ui
from greenroom.server.ui.history import History
from greenroom.server.ui.pages import Pages
from greenroom.telemetry import ObserverOf, both, ignore, nobody
from greenroom.telemetry.meters import observer_of

__all__ = ["Announcement", "Server", "default_path", "serve"]

KEY_VARIABLE = "GREENROOM_API_KEY"
MANAGEMENT_KEY_VARIABLE = "GREENROOM_MANAGEMENT_KEY"

_OTHER_FILES = 4096
"""Open files in addition to connections, mainly of sandboxes."""

_RESPONSES_GRACE = 5
"""Seconds for sending responses after all executions have ended."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """The facts to print when a server has started."""

    url: str
    guarded: bool
    """Whether callers need credentials."""
    exposed: bool
    """Whether credentials are sent over a network unencrypted."""
    authority: Path | None
    """The CA file that clients must trust, if the certificate is self-signed."""
    state: Path
    """Where created pools are kept."""
    ui: str | None
    """The URL of the web pages, if the server has them."""


async def serve(
    settings: ServerSettings,
    pools: Mapping[str, Mapping[str, Any]],
    announce: Callable[[Announcement], None],
    observers: ObserverOf = nobody,
    *,
    report: Report = unread,
) -> None:
    """Serve until a signal arrives.

    Args:
        settings: the server's.
        pools: the declared pools by name: the `url` and options of `greenroom.connect`.
        announce: called once the server accepts requests.
        observers: returns the observer for a pool, by its name, or for the server with `None`.
        report: called with the progress of opening the declared pools.

    Raises:
        InvalidRequest: the settings are inconsistent, such as an address that others can reach without authentication.
        EngineUnavailable: a pool cannot make sandboxes.
    """
    _allow_open_files(settings.max_connections + _OTHER_FILES)
    async with contextlib.AsyncExitStack() as stack:
        guards = await stack.enter_async_context(_guards(settings))
        certificate = _certificate(settings)
        state = settings.state.expanduser() if settings.state is not None else IN_MEMORY
        logs = LogStore(state, LogLimits(settings.log_max_age, settings.log_max_size))
        stack.push_async_callback(logs.close)  # after the pools, whose shutdown emits events
        engines = Engines(settings.engine)
        file = await StateFile.open(state)
        registry = PoolRegistry(
            lambda name: both(observers(name), ignore if name is None else logs.observer_of(name)),
            None if state == IN_MEMORY else file,
        )
        stack.push_async_callback(registry.close)
        table = PoolTable(file)
        try:
            engines.check()
            for name, options in pools.items():
                await registry.open(name, options, report)
            plane = await ControlPlane.open(registry, table, engines, strict=settings.strict)
        except BaseException:
            await table.close()
            raise
        stack.push_async_callback(plane.close)
        has_ui = settings.has_ui
        pages = _pages(settings, registry, guards, logs, plane) if has_ui else contextlib.nullcontext()
        application = Application(
            registry,
            settings,
            guards.sessions,
            both(observers(None), observer_of(None)),
            metrics_guard=guards.metrics,
            management=Management(plane, guards.management),
            ui=await stack.enter_async_context(pages),
            log_store=logs,
        )
        server = Server(application, settings, certificate)
        server.on_start = lambda: announce(
            Announcement(
                url=server.url,
                guarded=guards.sessions is not None,
                exposed=certificate is None and not settings.is_local,
                authority=certificate.authority if certificate else None,
                state=state,
                ui=f"{server.url}/ui" if has_ui else None,
            )
        )
        await server.serve()


class Server(uvicorn.Server):
    """uvicorn, with time limits for clients, and a shutdown that lets executions finish."""

    def __init__(
        self,
        application: Application,
        settings: ServerSettings,
        certificate: Certificate | None = None,
    ) -> None:
        class Protocol(SlowClientProtocol):
            client_timeout = settings.client_timeout

        super().__init__(
            uvicorn.Config(
                application,
                host=settings.host,
                port=settings.port,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # the application has its own logs; uvicorn's would contain whole queries
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=settings.max_headers,
                limit_concurrency=settings.max_connections,
                timeout_graceful_shutdown=_RESPONSES_GRACE,
                ssl_certfile=certificate.certificate if certificate else None,
                ssl_keyfile=certificate.key if certificate else None,
            )
        )
        self.application = application
        self._settings = settings
        self._certificate = certificate
        self.on_start: Callable[[], None] = lambda: None
        """Called once the server accepts requests."""

    @property
    def url(self) -> str:
        """The server's address, once it has started."""
        scheme = "https" if self._certificate else "http"
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{scheme}://{host}:{self.servers[0].sockets[0].getsockname()[1]}"

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # raised by uvicorn when it cannot listen
            where = f"{self._settings.host}:{self._settings.port}"
            raise InvalidRequest(f"Cannot listen on {where}: is the port already in use?") from None
        self.on_start()

    async def shutdown(self, sockets: Any = None) -> None:
        """Let executions end while clients can still poll them, then close the server."""
        drain = asyncio.create_task(self.application.drain(self._settings.shutdown_grace))
        while not drain.done() and not self.force_exit:
            await asyncio.wait([drain], timeout=0.1)
        drain.cancel()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's method, but without raising the signal again: the pools must still be closed."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM)
        try:
            for number in handled:
                loop.add_signal_handler(number, self._stop)
        except RuntimeError:  # not the main thread, or not Unix (NotImplementedError is a RuntimeError)
            yield
            return
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        """Shut down gracefully on the first signal, immediately on the second."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _allow_open_files(number: int) -> None:
    """Raise this process's limit of open files as far as allowed: the usual 1,024 are too few for the connections."""
    try:
        import resource  # noqa: PLC0415  exists on Unix only
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@dataclass(frozen=True, slots=True)
class _Guards:
    """The guards of the server; `None` accepts every program on this machine."""

    sessions: Guard | None
    management: Guard | None
    metrics: Guard | None


@contextlib.asynccontextmanager
async def _guards(settings: ServerSettings) -> AsyncGenerator[_Guards, None]:
    """Return the guards from the settings and the environment.

    Raises:
        InvalidRequest: there are no credentials for sessions although others can reach the address; or a key has two
            purposes.
    """
    async with contextlib.AsyncExitStack() as stack:
        sessions = _digests(settings.api_key_file, KEY_VARIABLE)
        management = _digests(settings.management_key_file, MANAGEMENT_KEY_VARIABLE)
        metrics = read_keys(settings.metrics_key_file.expanduser()) if settings.metrics_key_file else {}
        purposes = [set(digests.values()) for digests in (sessions, management, metrics)]
        if len(set[str]().union(*purposes)) < sum(map(len, purposes)):
            raise InvalidRequest("A key must be for sessions, management or metrics, not for several of them.")
        using: list[Guard] = [ApiKeys(sessions)] if sessions else []
        managing: list[Guard] = [ApiKeys(management)] if management else []
        if (entra := settings.entra) is not None:
            transport = HttpxTransport(entra.keys_url)
            stack.push_async_callback(transport.close)
            keys = KeySet(entra.keys_url, transport)
            using.append(EntraTokens(entra, keys))
            if entra.management_object_ids:
                managing.append(EntraTokens(entra, keys, management=True))
        if not using and not settings.is_local:
            raise InvalidRequest(
                f"A server without credentials must listen on 127.0.0.1, not {settings.host!r}, which other "
                f"machines can reach. Give it --api-key-file, {KEY_VARIABLE} or --entra-tenant."
            )
        manager = EitherOf(managing) if managing else None
        reader = EitherOf([*using, ApiKeys(metrics)]) if metrics else None
        if not using:
            yield _Guards(None, manager, reader)
        else:
            user = EitherOf(using)
            yield _Guards(user, ManagementGuard(manager, user), reader)


@contextlib.asynccontextmanager
async def _pages(
    settings: ServerSettings, pools: PoolRegistry, guards: _Guards, logs: LogStore, plane: ControlPlane
) -> AsyncGenerator[Ui, None]:
    """Create the pages at `/ui`, and sample the pools for them until the end of the context.

    Raises:
        InvalidRequest: the price list cannot be read or breaks a rule.
    """
    access, history = Access(guards.sessions, guards.management), History(pools)
    prices = Prices.load(settings.prices)
    pages = Pages(pools, access, history, logs, not_serving=plane.not_serving, prices=prices)
    async with history.sampling():
        yield Ui(pages, access, settings)


def _digests(file: Path | None, variable: str) -> dict[str, str]:
    """Return the digests of keys by name, from a file and from the environment."""
    digests = read_keys(file.expanduser()) if file else {}
    if key := _take_key(variable):
        digests["environment"] = digest(check_key(key))
    return digests


def _take_key(variable: str) -> str | None:
    """Remove a key from the environment, and from `/proc/PID/environ`, and return it."""
    key = os.environ.get(variable)
    if key is not None and sys.platform == "linux":
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_void_p
        if address := getenv(variable.encode()):
            ctypes.memset(address, 0, len(os.fsencode(key)))
    os.environ.pop(variable, None)
    return key


def _certificate(settings: ServerSettings) -> Certificate | None:
    if settings.tls_self_signed:
        hosts = dict.fromkeys(["localhost", "127.0.0.1", "::1", settings.host, *sorted(settings.allowed_hosts)])
        return self_signed(settings.tls_directory.expanduser(), [host for host in hosts if host != "0.0.0.0"])  # noqa: S104
    if settings.certfile is None or settings.keyfile is None:
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certfile, settings.keyfile)
    except OSError as error:  # an SSLError is an OSError
        raise InvalidRequest(
            f"The certificate {str(settings.certfile)!r} and its key {str(settings.keyfile)!r} cannot be used: {error}."
        ) from error
    return Certificate(settings.certfile, settings.keyfile)
