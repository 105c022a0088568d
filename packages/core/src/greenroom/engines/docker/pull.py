"""The image of custom containers: found, or pulled with the credentials of its registry."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from greenroom.config.containers import CustomContainer
from greenroom.config.values import did_you_mean
from greenroom.engines.docker.client import FAILURES, Daemon, status_of
from greenroom.errors import ImageMissing

_PULL_TIMEOUT = 1800.0
_MOST_NAMED = 10


async def find_or_pull(daemon: Daemon, container: CustomContainer) -> dict[str, Any]:
    """Return Docker's description of the image; an image that is missing is pulled.

    Raises:
        ImageMissing: it is not there, and cannot be pulled.
        any of `FAILURES`.
    """
    try:
        return await _inspect(daemon, container.image)
    except FAILURES as error:
        if status_of(error) != 404:
            raise
    try:
        async with asyncio.timeout(_PULL_TIMEOUT):
            await _pull(daemon, container)
    except _NotPulled as error:
        known = await _names(daemon)
        some = (
            f" Docker has {', '.join(known[:_MOST_NAMED])}{', …' if len(known) > _MOST_NAMED else ''}." if known else ""
        )
        raise ImageMissing(
            f"The image must be one that Docker has or can pull, not {container.image!r}: {error}."
            f"{did_you_mean(container.image, known)}{some}"
        ) from error
    return await _inspect(daemon, container.image)


class _NotPulled(Exception):
    """The registry's or Docker's reason."""


async def _inspect(daemon: Daemon, image: str) -> dict[str, Any]:
    return await daemon.client.images.inspect(image)


async def _pull(daemon: Daemon, container: CustomContainer) -> None:
    name = container.image
    if ":" not in name.rpartition("/")[2]:  # neither a tag nor a digest: Docker would pull every tag
        name += ":latest"
    headers: dict[str, str] = {}
    if (registry := container.registry) is not None:
        account = {
            "username": registry.username,
            "password": registry.password.get_secret_value(),
            "serveraddress": registry.server,
        }
        headers["X-Registry-Auth"] = base64.urlsafe_b64encode(json.dumps(account).encode()).decode()
    try:
        request = daemon.request("POST", "images/create", params={"fromImage": name}, headers=headers, timeout=None)
        async with await request as response:
            async for line in response.content:
                if failure := json.loads(line).get("error"):
                    raise _NotPulled(str(failure).strip().rstrip(".")[:500])
    except FAILURES as error:
        if status_of(error) is None:
            raise
        raise _NotPulled(str(getattr(error, "message", error)).strip().rstrip(".")[:500]) from error


async def _names(daemon: Daemon) -> list[str]:
    found: Any = await daemon.client.images.list()
    return sorted(name for image in found for name in image.get("RepoTags") or () if name != "<none>:<none>")
