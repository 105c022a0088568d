"""Turn a URL, a configuration file or the environment into a pool."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, cast
from urllib.parse import parse_qsl, urlsplit

from greenroom.backend import Backend
from greenroom.config import sources
from greenroom.config.options import PoolOptions
from greenroom.config.templates import with_template
from greenroom.engines import registry
from greenroom.errors import EngineUnavailable, GreenroomError, InvalidRequest
from greenroom.local import PoolSettings
from greenroom.progress import OnProgress, Report, check_callback, unread
from greenroom.sessions import OpenPool, Session, SessionPool
from greenroom.sessions.following import Following
from greenroom.telemetry import Observer, both, ignore, python_logging
from greenroom.telemetry.log_file import LogFile
from greenroom.telemetry.meters import meters

if TYPE_CHECKING:
    from greenroom.engines.base import Engine
    from greenroom.local.container_pool import ContainerPool
    from greenroom.local.pool import LocalPool

_MOST_OPTIONS = 100
_OF_TEMPLATES = ("template", "secrets")


def connect(
    url: str | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    **options: Unpack[PoolOptions],
) -> SessionPool:
    """Open a pool of sessions, and block until it is open; for event loops, use `aconnect`.

    Options come from the arguments, the URL, the configuration file and the environment (`GREENROOM_MEMORY=1Gi`), in
    this order of precedence.

    Args:
        url: `"bubblewrap:"`, `"docker:"`, the scheme of another package's engine, or the management endpoint of a
            pool in Azure (`"https://eastasia.dynamicsessions.io/subscriptions/…/sessionPools/my-pool"`). Options can
            follow, as in `"docker:?runtime=runsc&memory=1Gi"`. Alternatively, a pool's ID
            (`"/subscriptions/…/providers/Microsoft.App/sessionPools/my-pool"`), alone or after the URL of a server: the
            endpoint is then looked up on that server, else on that of the option `server`, else in Azure. By default
            the file's `url`, else the environment variable `GREENROOM_POOL`, else the best engine on this machine:
            bubblewrap, which needs neither a daemon nor an image, then Docker.
        config: a TOML file with a table `[pool]`; by default the file that `GREENROOM_CONFIG` names.
        on_progress: called with a `Progress` on this thread, up to ten times per second, while the pool opens: while an
            image is pulled and the first sandbox starts. This call then also waits for the first ready sandbox. If
            `on_progress` raises, the pool is not opened, and this call raises the same exception.
        options: for a local pool, the fields of `greenroom.PoolSettings`; `template`, the JSON of a pool as in Azure,
            with `secrets`, the values of its secrets by name; and the options of the engine, such as `python` for
            bubblewrap, or `image`, `runtime` and `docker_host` for Docker. For a pool in Azure, the fields of
            `greenroom.azure.settings.AzureSettings`, such as `credential`.

    Raises:
        InvalidRequest: the scheme or an option is unknown, or a value breaks a rule.
        EngineUnavailable: no sandbox can be created on this machine; the message lists what was tried and what to
            install.
        AccessDenied: the credentials do not allow looking up a pool by its ID.
        ServiceFailed: a pool cannot be looked up by its ID, or is not ready.
    """
    following = Following(on_progress)
    return SessionPool(OpenPool.open(_opener(url, config, options, following), following))


def aconnect(
    url: str | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    **options: Unpack[PoolOptions],
) -> OpeningPool:
    """Like `connect`, without blocking the event loop: `async with aconnect() as pool`, or `await aconnect()`.

    `on_progress` is called in the waiting task.
    """
    return OpeningPool(url, config, options, on_progress)


def session(
    url: str | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    **options: Unpack[PoolOptions],
) -> OneSession:
    """Open a pool for one session: `with greenroom.session() as session`, or `async with`.

    At the end of the context, the session is deleted and the pool is closed. The arguments are those of `connect`. With
    `on_progress`, a sandbox on this machine starts when the context is entered, not when the session is first used.
    """
    return OneSession(url, config, options, on_progress)


class OpeningPool:
    """A pool that is being opened. Returned by `aconnect`."""

    def __init__(
        self,
        url: str | None,
        config: str | os.PathLike[str] | None,
        options: PoolOptions,
        on_progress: OnProgress | None = None,
        *,
        identifier: str | None = None,
    ) -> None:
        self._arguments = url, config, options
        self._on_progress = check_callback(on_progress)
        self._identifier = identifier
        self._pool: SessionPool | None = None

    def __await__(self) -> Generator[Any, None, SessionPool]:
        return self._open().__await__()

    async def __aenter__(self) -> SessionPool:
        self._pool = await self._open()
        return self._pool

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def _open(self) -> SessionPool:
        following = Following(self._on_progress)
        opener = _opener(*self._arguments, following, self._identifier)
        return SessionPool(await OpenPool.aopen(opener, following))


class OneSession:
    """A session with its own pool. Returned by `session`."""

    def __init__(
        self,
        url: str | None,
        config: str | os.PathLike[str] | None,
        options: PoolOptions,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._on_progress = check_callback(on_progress)
        self._url = url
        self._config = config
        self._options = options
        self._stack = ExitStack()
        self._async_stack = AsyncExitStack()

    def __enter__(self) -> Session:
        following, identifier = Following(self._on_progress), self._identifier()
        opener = _opener(self._url, self._config, self._alone(), following, identifier)
        pool = self._stack.enter_context(SessionPool(OpenPool.open(opener, following)))
        return self._stack.enter_context(pool.session(identifier))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    async def __aenter__(self) -> Session:
        options = await asyncio.to_thread(self._alone)  # it can read a file
        identifier = await asyncio.to_thread(self._identifier)
        opening = OpeningPool(self._url, self._config, options, self._on_progress, identifier=identifier)
        pool = await self._async_stack.enter_async_context(opening)
        return await self._async_stack.enter_async_context(pool.session(identifier))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._async_stack.__aexit__(kind, error, trace)

    def _identifier(self) -> str | None:
        """The identifier of a session whose sandbox starts when the pool opens, to show the progress."""
        if self._on_progress is None or not is_local(self._url, config=self._config):
            return None
        return uuid.uuid4().hex

    def _alone(self) -> PoolOptions:
        """Return the options without warm sandboxes, as there is no second session to use them."""
        if is_local(self._url, config=self._config):
            return {"ready_session_instances": 0, **self._options}
        return self._options


def is_local(url: str | None = None, *, config: str | os.PathLike[str] | None = None) -> bool:
    """Return whether `connect(url)` starts sandboxes on this machine, and so accepts the options of `PoolSettings`.

    Raises:
        InvalidRequest: the URL is not valid.
    """
    url = _named(url, sources.from_file(config).get("url"))
    return url is None or not _parse(url)[1]


def _opener(
    url: str | None,
    config: str | os.PathLike[str] | None,
    options: PoolOptions,
    following: Following,
    identifier: str | None = None,
) -> Callable[[], Coroutine[Any, Any, Backend]]:
    """Return a function that opens a pool; with a progress callback, it waits for the first sandbox.

    Args:
        following: receives the progress.
        identifier: the session that this sandbox serves; by default, it is one of the ready sandboxes.
    """
    report = following.report

    async def open_pool() -> Backend:
        backend = await open_backend(url, ignore, None, report, config=config, **options)
        if report is unread:
            return backend
        from greenroom.local.changing import ChangeablePool  # noqa: PLC0415  clients of Azure do not need it

        if isinstance(backend, ChangeablePool):
            try:
                await backend.start_first(report, identifier)
            except BaseException as error:
                if isinstance(error, GreenroomError) and identifier is None:
                    return cast("Backend", backend)  # the first session that needs a sandbox gets the error
                await backend.close()
                raise
        return cast("Backend", backend)

    return open_pool


async def open_backend(
    url: str | None = None,
    observer: Observer = ignore,
    name: str | None = None,
    report: Report = unread,
    /,
    *,
    config: str | os.PathLike[str] | None = None,
    **options: Unpack[PoolOptions],
) -> Backend:
    """Like `connect`, for callers on one event loop: return the pool's asynchronous core, on the running loop.

    Args:
        observer: called with the events of a pool on this machine.
        name: the pool's name in metrics and traces; by default the engine's name, with a number if there are several.
        report: called with the progress of opening the pool.
    """
    from_file = sources.from_file(config)
    url = _named(url, from_file.pop("url", None))
    if url is None:
        return await _best({**from_file, **options}, observer, name, report)
    scheme, endpoint, from_url = _parse(url)
    if endpoint:
        return await _remote(endpoint, {**from_file, **from_url, **options})
    return await _open(scheme, {**from_file, **from_url, **options}, observer, name, report)


def _named(url: str | None, url_of_file: str | None) -> str | None:
    return url or url_of_file or os.environ.get(f"{sources.PREFIX}POOL") or None


def _parse(url: str) -> tuple[str, str, dict[str, str]]:
    """Return the scheme of a pool's URL, the endpoint or ID of a pool in Azure, and the options."""
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The pool must be a URL, not {type(url).__name__}.")
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MOST_OPTIONS)
    except ValueError as error:
        raise InvalidRequest(f"The pool must be a URL, not {_shown(url)!r:.200}: {error}.") from None
    is_id = not parts.scheme and not parts.netloc and parts.path.lower().startswith("/subscriptions/")
    remote = is_id or parts.scheme in {"https", "http"}
    if not remote and (parts.netloc or parts.path or parts.fragment):
        scheme = parts.scheme or "docker"
        raise InvalidRequest(
            f'The pool must be a URL such as "{scheme}:" or "{scheme}:?option=value", not {_shown(url)!r:.200}.'
        )
    names = [name for name, _ in options]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"A pool's URL must name each option once, not {', '.join(repeated):.200} twice.")
    return parts.scheme, parts._replace(query="").geturl() if remote else "", dict(options)


def _shown(url: str) -> str:
    """Return a URL without its options, whose values can be secrets."""
    place, mark, _ = url.partition("?")
    return f"{place}?…" if mark else place


async def _remote(endpoint: str, options: Mapping[str, Any]) -> Backend:
    """Return the pool with an endpoint, or with an ID, whose endpoint is looked up on a server."""
    try:
        from greenroom.azure.remote import remote_pool  # noqa: PLC0415
    except ImportError as error:
        raise EngineUnavailable(
            f"A pool in Azure needs {error.name}. Install it: pip install 'greenroom[azure]'."
        ) from error
    from greenroom.azure.discovery import find  # noqa: PLC0415
    from greenroom.azure.settings import AzureSettings  # noqa: PLC0415

    if found := sorted((options.keys() & PoolSettings.model_fields.keys()).difference(AzureSettings.model_fields)):
        raise InvalidRequest(
            "These options must be set where the pool is created, in Azure or on a server, not when it is opened: "
            f"{', '.join(found)}."
        )
    names = [name for name in AzureSettings.model_fields if name not in {"credential", "ssl_context"}]
    settings = AzureSettings.parse({**sources.from_environment(names), **options})
    return remote_pool(*await find(endpoint, settings, options.keys()))


async def _open(
    scheme: str, options: Mapping[str, Any], observer: Observer, name: str | None, report: Report
) -> Backend:
    return await read_choice(scheme, options).open(observer, name, report)


@dataclass(frozen=True, slots=True)
class LocalChoice:
    """A pool on this machine as its options describe it, not yet opened."""

    scheme: str
    settings: PoolSettings
    of_engine: Mapping[str, Any]
    """The options of its engine."""

    def engine(self) -> Engine:
        """Return a new engine.

        Raises:
            InvalidRequest: an option of the engine is unknown or breaks a rule.
            EngineUnavailable: something that it needs is not installed.
        """
        return registry.plugin(self.scheme).engine(self.of_engine)

    async def open(
        self, observer: Observer = ignore, name: str | None = None, report: Report = unread
    ) -> LocalPool | ContainerPool:
        """Open the pool on the running event loop. The arguments are those of `open_backend`.

        Raises:
            GreenroomError: as for `engine`, or the engine does not work here.
        """
        engine = self.engine()
        instruments = meters()
        if instruments is not None and name is None:
            name = instruments.name(engine.name)
        name = name or engine.name
        log = None if self.settings.log is None else LogFile(self.settings.log)
        if observer is ignore:  # there is no server with its own log
            observer = python_logging.observer_of(name)
        if instruments is not None:
            observer = both(observer, instruments.observer(name))
        if log is not None:
            observer = both(observer, log.observer_of(name))
        try:
            if log is not None:
                await asyncio.to_thread(log.check)
            engine.report = report
            pool = await self._open(engine, observer, name)
        except BaseException:
            await engine.close()
            raise
        finally:
            engine.report = unread
        pool.log = log
        if instruments is not None:
            instruments.watch(name, pool.reading)
        return pool

    async def _open(self, engine: Engine, observer: Observer, name: str) -> LocalPool | ContainerPool:
        if self.settings.container is not None:
            from greenroom.local.container_pool import ContainerPool  # noqa: PLC0415  needs h11

            return await ContainerPool.open(engine, self.settings, observer, name)
        from greenroom.local.pool import LocalPool  # noqa: PLC0415  clients of Azure do not need it

        return await LocalPool.open(engine, self.settings, observer, name)


def read_choice(scheme: str, options: Mapping[str, Any]) -> LocalChoice:
    """Read the options of a pool on this machine, including those from the environment.

    Raises:
        InvalidRequest: an option is unknown or breaks a rule.
        EngineUnavailable: the engine's plug-in cannot be imported.
    """
    names = registry.plugin(scheme).options.model_fields.keys()
    known = [*PoolSettings.model_fields, *names, *_OF_TEMPLATES]
    options = with_template({**sources.from_environment(known), **options})
    settings = PoolSettings.parse(
        {name: value for name, value in options.items() if name not in names}, also_known=[*names, *_OF_TEMPLATES]
    )
    return LocalChoice(scheme, settings, {name: value for name, value in options.items() if name in names})


def read_engine(url: str) -> tuple[str, dict[str, str]]:
    """Return the scheme and the options of an engine's URL.

    Raises:
        InvalidRequest: it is not the URL of an engine on this machine.
    """
    scheme, endpoint, options = _parse(url)
    if endpoint:
        raise InvalidRequest(f"The engine must be a local one, such as 'docker:', not {_shown(url)!r:.200}.")
    registry.plugin(scheme)
    return scheme, options


async def _best(options: Mapping[str, Any], observer: Observer, name: str | None, report: Report) -> Backend:
    tried: list[str] = []
    for scheme in registry.BUILT_IN:
        try:
            return await _open(scheme, options, observer, name, report)
        except EngineUnavailable as error:
            tried.append(f"- {scheme}: {error}")
    raise no_engine(tried)


def no_engine(tried: Sequence[str]) -> EngineUnavailable:
    """Return the error that no engine works, with one line per engine."""
    return EngineUnavailable("No engine can start sandboxes on this machine.\n" + "\n".join(tried))
