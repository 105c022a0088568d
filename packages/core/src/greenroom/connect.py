"""A URL, or an environment variable, becomes a pool."""

from __future__ import annotations

from typing import Any

from greenroom.session import SessionPool


def connect(url: str | None = None, **options: Any) -> SessionPool:
    """Open a pool of sessions.

    Args:
        url: `"bubblewrap:"`, `"docker:"`, or an Azure pool's endpoint (`"https://…"`); options may follow as
            in `"docker:?runtime=runsc"`. By default the environment variable `GREENROOM_POOL`, else the best
            engine on this machine.
        options: the same options as keywords; they go before those of the URL.

    Raises:
        InvalidRequest: the scheme or an option is unknown, or a value breaks a rule.
        EngineUnavailable: no sandbox can be made here; the message says what to install.
    """
    raise NotImplementedError
