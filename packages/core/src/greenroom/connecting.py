"""A URL, a configuration file or the environment becomes a pool."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from greenroom.backend import Backend
from greenroom.config import sources
from greenroom.engines.base import Engine
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.local import LocalPool, PoolSettings
from greenroom.sessions import OpenPool, SessionPool

_MOST_OPTIONS = 100


def connect(url: str | None = None, *, config: str | os.PathLike[str] | None = None, **options: Any) -> SessionPool:
    """Open a pool of sessions.

    An option is taken from the arguments, else from the URL, else from the configuration file, else from the
    environment (`GREENROOM_MEMORY=1Gi`).

    Args:
        url: `"bubblewrap:"`, `"docker:"`, or the management endpoint of a pool in Azure
            (`"https://eastasia.dynamicsessions.io/subscriptions/…/sessionPools/my-pool"`); options may follow, as
            in `"docker:?runtime=runsc&memory=1Gi"`. By default the file's `url`, else the environment variable
            `GREENROOM_POOL`, else the best engine on this machine: bubblewrap, which needs neither a daemon nor
            an image, then Docker.
        config: a TOML file with a table `[pool]`; by default the one that `GREENROOM_CONFIG` names.
        options: those of every local pool are the fields of `greenroom.local.PoolSettings`; bubblewrap's is
            `python`, Docker's are `image`, `runtime` and `docker_host`. Those of a pool in Azure are the fields of
            `greenroom.azure.settings.AzureSettings`, such as `credential`.

    Raises:
        InvalidRequest: the scheme or an option is unknown, or a value breaks a rule.
        EngineUnavailable: no sandbox can be made here; the message says what was tried and what to install.
    """
    return SessionPool(OpenPool.open(lambda: open_backend(url, config=config, **options)))


def is_local(url: str | None = None) -> bool:
    """Whether `connect(url)` makes its sandboxes on this machine, and so has the options of `PoolSettings`.

    Raises:
        InvalidRequest: the URL is not valid.
    """
    url = _named(url, sources.from_file(None).get("url"))
    return url is None or not _parse(url)[1]


async def open_backend(
    url: str | None = None, *, config: str | os.PathLike[str] | None = None, **options: Any
) -> Backend:
    """As `connect`, for callers that live on one event loop: the pool's asynchronous core, on the running loop."""
    from_file = sources.from_file(config)
    url = _named(url, from_file.pop("url", None))
    if url is None:
        return await _best({**from_file, **options})
    scheme, endpoint, from_url = _parse(url)
    if endpoint:
        return _azure(endpoint, {**from_file, **from_url, **options})
    return await _open(scheme, {**from_file, **from_url, **options})


def _named(url: str | None, url_of_file: str | None) -> str | None:
    return url or url_of_file or os.environ.get(f"{sources.PREFIX}POOL") or None


def _parse(url: str) -> tuple[str, str, dict[str, str]]:
    """The scheme of a pool's URL, the endpoint if it is one of Azure's API, and the options."""
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The pool must be a URL, not {type(url).__name__}.")
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MOST_OPTIONS)
    except ValueError as error:
        raise InvalidRequest(f"The pool {url!r:.200} is not valid: {error}.") from None
    remote = parts.scheme in {"https", "http"}
    if parts.scheme not in ENGINES and not remote:
        raise InvalidRequest(
            f"The pool {url!r:.200} is not valid: its scheme is {parts.scheme!r}, and the known ones are "
            f"{', '.join(f'{scheme}:' for scheme in ENGINES)} and https: for the endpoint of a pool in Azure."
        )
    if not remote and (parts.netloc or parts.path or parts.fragment):
        raise InvalidRequest(f'The pool {url!r:.200} is not valid: it is written "{parts.scheme}:?option=value".')
    names = [name for name, _ in options]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InvalidRequest(f"The pool {url!r:.200} is not valid: it says {', '.join(sorted(repeated)):.200} twice.")
    return parts.scheme, parts._replace(query="").geturl() if remote else "", dict(options)


def _azure(endpoint: str, options: Mapping[str, Any]) -> Backend:
    try:
        from greenroom.azure.client import AzurePool  # noqa: PLC0415
    except ImportError as error:
        raise EngineUnavailable(
            f"A pool in Azure needs {error.name}. Install it: pip install 'greenroom[azure]'."
        ) from error
    from greenroom.azure.settings import AzureSettings  # noqa: PLC0415

    names = [name for name in AzureSettings.model_fields if name not in {"credential", "transport"}]
    return AzurePool(endpoint, AzureSettings.parse({**sources.from_environment(names), **options}))


def _bubblewrap(options: Mapping[str, Any]) -> Engine:
    from greenroom.engines.bubblewrap.engine import BubblewrapEngine  # noqa: PLC0415  only what is used is loaded

    return BubblewrapEngine(**options)


def _docker(options: Mapping[str, Any]) -> Engine:
    from greenroom.engines.docker.engine import DockerEngine  # noqa: PLC0415

    return DockerEngine(**options)


ENGINES: dict[str, tuple[Callable[[Mapping[str, Any]], Engine], tuple[str, ...]]] = {
    "bubblewrap": (_bubblewrap, ("python",)),
    "docker": (_docker, ("image", "runtime", "docker_host")),
}
"""By scheme: what makes the engine, and its options."""


async def _open(scheme: str, options: Mapping[str, Any]) -> Backend:
    make, names = ENGINES[scheme]
    options = {**sources.from_environment([*PoolSettings.model_fields, *names]), **options}
    engine_options = {name: value for name, value in options.items() if name in names}
    rest = {name: value for name, value in options.items() if name not in names}
    return await LocalPool.open(make(engine_options), PoolSettings.parse(rest, also_known=names))


async def _best(options: Mapping[str, Any]) -> Backend:
    tried: list[str] = []
    for scheme in ENGINES:
        try:
            return await _open(scheme, options)
        except EngineUnavailable as error:
            tried.append(f"- {scheme}: {error}")
    raise EngineUnavailable("No engine can make sandboxes here.\n" + "\n".join(tried))
