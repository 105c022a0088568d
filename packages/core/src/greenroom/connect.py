"""A URL, or an environment variable, becomes a pool."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from greenroom.engines.base import Engine
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.pool import LocalPool, PoolSettings
from greenroom.session import SessionPool

_VARIABLE = "GREENROOM_POOL"


def connect(url: str | None = None, **options: Any) -> SessionPool:
    """Open a pool of sessions.

    Args:
        url: `"bubblewrap:"` or `"docker:"`; options may follow, as in `"docker:?runtime=runsc&memory=1Gi"`. By
            default the environment variable `GREENROOM_POOL`, else the best engine on this machine: bubblewrap,
            which needs neither a daemon nor an image, then Docker.
        options: the same options as keywords; they go before those of the URL. Those of every local pool are
            the fields of `greenroom.pool.PoolSettings`; bubblewrap's is `python`, Docker's are `image`,
            `runtime` and `host`.

    Raises:
        InvalidRequest: the scheme or an option is unknown, or a value breaks a rule.
        EngineUnavailable: no sandbox can be made here; the message says what was tried and what to install.
    """
    url = url or os.environ.get(_VARIABLE) or None
    if url is None:
        return _best(options)
    parts = urlsplit(url)
    if parts.scheme not in ENGINES:
        raise InvalidRequest(
            f"The pool {url!r:.200} is not valid: its scheme is {parts.scheme!r}, and the known ones are "
            f"{', '.join(f'{scheme}:' for scheme in ENGINES)}."
        )
    if parts.netloc or parts.path or parts.fragment:
        raise InvalidRequest(f'The pool {url!r:.200} is not valid: it is written "{parts.scheme}:?option=value".')
    from_url = parse_qsl(parts.query, keep_blank_values=True)
    repeated = {name for name, _ in from_url if [known for known, _ in from_url].count(name) > 1}
    if repeated:
        raise InvalidRequest(f"The pool {url!r:.200} is not valid: it says {', '.join(sorted(repeated))} twice.")
    return _open(parts.scheme, {**dict(from_url), **options})


def _bubblewrap(options: Mapping[str, Any]) -> Engine:
    from greenroom.engines.bubblewrap import BubblewrapEngine  # noqa: PLC0415  only what is used is loaded

    return BubblewrapEngine(**options)


def _docker(options: Mapping[str, Any]) -> Engine:
    try:
        from greenroom.engines.docker import DockerEngine  # noqa: PLC0415  an extra
    except ImportError as error:
        raise EngineUnavailable(
            f"The Docker engine needs aiodocker ({error}). Install it: pip install 'greenroom[docker]'."
        ) from error
    return DockerEngine(**options)


ENGINES: dict[str, tuple[Callable[[Mapping[str, Any]], Engine], tuple[str, ...]]] = {
    "bubblewrap": (_bubblewrap, ("python",)),
    "docker": (_docker, ("image", "runtime", "host")),
}
"""By scheme: what makes the engine, and its options."""


def _open(scheme: str, options: Mapping[str, Any]) -> SessionPool:
    make, names = ENGINES[scheme]
    settings = PoolSettings.parse(
        {name: value for name, value in options.items() if name not in names}, also_known=names
    )
    engine_options = {name: value for name, value in options.items() if name in names}

    async def backend() -> LocalPool:
        return await LocalPool.open(make(engine_options), settings)

    return SessionPool(backend, scheme)


def _best(options: Mapping[str, Any]) -> SessionPool:
    tried: list[str] = []
    for scheme in ENGINES:
        try:
            return _open(scheme, options)
        except EngineUnavailable as error:
            tried.append(f"- {scheme}: {error}")
    raise EngineUnavailable("No engine can make sandboxes here.\n" + "\n".join(tried))
