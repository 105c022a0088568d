"""The client of a Docker engine, and the errors to raise when the engine does not respond or refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from greenroom.errors import EngineUnavailable, InvalidRequest

try:
    import aiodocker
    import aiohttp
except ModuleNotFoundError as error:
    raise EngineUnavailable(
        "The Docker engine needs the package aiodocker. Install it with: pip install 'greenroom[docker]'."
    ) from error

FAILURES = (aiodocker.DockerError, aiohttp.ClientError, OSError, TimeoutError)
"""The exceptions that an aiodocker call raises when the engine does not respond or refuses."""

_URL = re.compile(r"(unix|npipe|tcp|http|https|ssh)://.+")
_UNREACHABLE = 900  # aiodocker's status for "no connection"


class Daemon:
    """A client of one Docker engine; it belongs to the running event loop.

    Args:
        host: the engine's URL, such as `unix:///var/run/docker.sock` or `ssh://user@host`. By default the
            environment variable `DOCKER_HOST`, else Docker's current context, else the usual socket.

    Raises:
        InvalidRequest: the URL has no known scheme.
        EngineUnavailable: Docker's own configuration cannot be used.
    """

    def __init__(self, host: str | None = None) -> None:
        host = host or os.environ.get("DOCKER_HOST") or None
        context = None if host else _current_context()
        if host is None and context is None:
            host = _default_host()
        if host is not None and not _URL.fullmatch(host):
            raise InvalidRequest(
                "The Docker host must begin with unix://, npipe://, tcp://, http://, https:// or ssh://, "
                f"not {host!r:.200}."
            )
        self.address = host or f"Docker's context {context!r}"
        try:
            self.client = aiodocker.Docker(host, context=context)
        except (aiodocker.DockerError, ValueError, OSError) as error:
            raise EngineUnavailable(f"Docker cannot be used at {self.address}: {error}.") from error
        # Each attached sandbox holds a connection, and by default the connector silently stops at 100.
        self.client.connector._limit = 0  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    async def request(self, method: str, path: str, **options: Any) -> aiohttp.ClientResponse:
        """Make a call that aiodocker lacks, or that needs more options; `options` are passed to aiohttp.

        Raises:
            any of `FAILURES`.
        """
        response = await self.client.session.request(method, f"{self.client.docker_host}/{path}", **options)
        if response.status >= 400:
            raise await refusal(response)
        return response

    async def close(self) -> None:
        await self.client.close()

    def unavailable(self, error: BaseException, doing: str) -> EngineUnavailable:
        """Return the error to raise for a failed call; `doing` is its purpose, such as `"start a sandbox"`."""
        if isinstance(error, TimeoutError):
            return EngineUnavailable(f"The Docker engine at {self.address} did not respond in time. Restart Docker.")
        if isinstance(error, aiodocker.DockerError) and error.status != _UNREACHABLE:
            return EngineUnavailable(f"The Docker engine at {self.address} could not {doing}: {error.message}")
        cause = error.__context__ if isinstance(error, aiodocker.DockerError) else error
        if isinstance(cause, aiohttp.ClientConnectorError) and isinstance(cause.os_error, PermissionError):
            return EngineUnavailable(
                f"This user is not allowed to use the Docker engine at {self.address}. Add it to the group that owns "
                'the socket (sudo usermod -aG docker "$USER", then log in again), '
                'or use greenroom.connect("bubblewrap:").'
            )
        return EngineUnavailable(
            f"The Docker engine at {self.address} cannot be reached. Start Docker, or use "
            'greenroom.connect("bubblewrap:").'
        )


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an engine's refusal; None if it did not respond."""
    return error.status if isinstance(error, aiodocker.DockerError) and error.status != _UNREACHABLE else None


async def refusal(response: aiohttp.ClientResponse) -> aiodocker.DockerError:
    """Read a response with an unexpected status to its end, and return the error to raise."""
    async with response:
        text = await response.text()
    with contextlib.suppress(ValueError, TypeError, KeyError):
        text = json.loads(text)["message"]
    return aiodocker.DockerError(response.status, text)


def _current_context() -> str | None:
    name = os.environ.get("DOCKER_CONTEXT")
    if not name:
        try:
            name = json.loads((Path.home() / ".docker/config.json").read_bytes()).get("currentContext")
        except (OSError, ValueError, AttributeError):
            return None
    return None if name == "default" else name


def _default_host() -> str:
    if os.name == "nt":
        return "npipe:////./pipe/docker_engine"
    rootless = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "docker.sock")
    usual = Path("/var/run/docker.sock")
    candidates = (usual, rootless, Path.home() / ".docker/run/docker.sock")
    return f"unix://{next(filter(Path.is_socket, candidates), usual)}"
