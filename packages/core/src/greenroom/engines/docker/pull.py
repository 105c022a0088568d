"""Finds the image of custom containers, or pulls it with the credentials of its registry."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any, cast

from greenroom.config.containers import CustomContainer
from greenroom.config.values import did_you_mean
from greenroom.engines.docker.client import FAILURES, Daemon, status_of
from greenroom.errors import ImageMissing
from greenroom.progress import Meter, Report, unread

_PULL_TIMEOUT = 1800.0
_MOST_NAMED = 10
_MOST_LAYERS = 1000
_LAYER_STATES = {
    "Pulling fs layer", "Waiting", "Already exists", "Downloading", "Verifying Checksum", "Download complete",
    "Extracting", "Pull complete",
}  # fmt: skip


async def find_or_pull(daemon: Daemon, container: CustomContainer, report: Report = unread) -> dict[str, Any]:
    """Return Docker's description of the image; a missing image is pulled, and `report` receives the progress.

    Raises:
        ImageMissing: it does not exist locally, and cannot be pulled.
        any of `FAILURES`.
    """
    try:
        return await _inspect(daemon, container.image)
    except FAILURES as error:
        if status_of(error) != 404:
            raise
    try:
        async with asyncio.timeout(_PULL_TIMEOUT):
            await _pull(daemon, container, report)
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
    """The reason given by the registry or Docker."""


async def _inspect(daemon: Daemon, image: str) -> dict[str, Any]:
    return await daemon.client.images.inspect(image)


async def _pull(daemon: Daemon, container: CustomContainer, report: Report) -> None:
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
            layers = Layers(Meter(report, "pull", container.image))
            async for line in response.content:
                message: Any = json.loads(line)
                if failure := message.get("error"):
                    raise _NotPulled(str(failure).strip().rstrip(".")[:500])
                layers.take(message)
            layers.meter.finish()
    except FAILURES as error:
        if status_of(error) is None:
            raise
        raise _NotPulled(str(getattr(error, "message", error)).strip().rstrip(".")[:500]) from error


class Layers:
    """Adds up the layers of an image during a pull, from Docker's messages about each.

    The total is known once Docker has begun to download each layer that it lacks, as it learns the sizes only then.
    Only downloaded bytes are counted, not what Docker then unpacks.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._sizes: dict[str, int | None] = {}
        self._received: dict[str, int] = {}
        meter.begin()

    def take(self, message: Mapping[str, Any]) -> None:
        """Process a message from Docker, in any form."""
        layer, status, detail = message.get("id"), message.get("status"), message.get("progressDetail")
        if not isinstance(layer, str) or not isinstance(status, str) or status not in _LAYER_STATES:
            return
        if layer not in self._sizes:
            if len(self._sizes) >= _MOST_LAYERS:
                return
            self._sizes[layer], self._received[layer] = None, 0
        if status == "Already exists":
            self._sizes[layer] = 0
        elif status == "Downloading":
            current, total = _size(detail, "current"), _size(detail, "total")
            if total:
                self._sizes[layer] = total
            self._received[layer] = max(self._received[layer], current)
        elif status in {"Download complete", "Pull complete"}:
            size = self._sizes[layer] or self._received[layer]
            self._sizes[layer] = self._received[layer] = size
        sizes = list(self._sizes.values())
        self.meter.expect(None if None in sizes else sum(size or 0 for size in sizes))
        self.meter.reach(sum(self._received.values()))


def _size(detail: object, name: str) -> int:
    value: object = cast("Mapping[str, object]", detail).get(name) if isinstance(detail, Mapping) else None
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0


async def _names(daemon: Daemon) -> list[str]:
    found: Any = await daemon.client.images.list()
    return sorted(name for image in found for name in image.get("RepoTags") or () if name != "<none>:<none>")
