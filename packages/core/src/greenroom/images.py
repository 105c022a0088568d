"""Build the images of Docker sandboxes from Python."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Literal

from greenroom.engines.packages import Packages
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.models import ContainerType
from greenroom.progress import OnProgress, Progress, check_callback


def build_image(
    *,
    packages: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    container_type: ContainerType | Literal["PythonLTS", "NodeLTS"] = ContainerType.PYTHON_LTS,
    base: str = "python:3.12-slim",
    tag: str | None = None,
    docker_host: str | None = None,
    on_progress: OnProgress | None = None,
) -> str:
    """Build an image for Docker sandboxes, as `greenroom image build` does, and return its name. This takes minutes.

    Args:
        packages: packages to add: requirements in pip's form, paths of requirements files, or for NodeLTS the path of a
            package-lock.json. Nothing is built from source.
        container_type: the container type of the sandboxes.
        base: the base image: Python 3.11 or 3.12 on Linux with glibc.
        tag: the name of the new image; by default, the one that pools use if they name no image.
        docker_host: the URL of the Docker engine; by default, that of Docker's own command line.
        on_progress: called with a `Progress` at the start of each step, and at the end.

    Raises:
        InvalidRequest: a package or `on_progress` cannot be used, or the container type has no image.
        EngineUnavailable: Docker does not respond, the base image cannot be pulled, or a step failed.
    """
    return asyncio.run(_build(packages, container_type, base, tag, docker_host, on_progress))


async def _build(  # noqa: PLR0917  its only caller names them
    packages: object,
    container_type: str,
    base: str,
    tag: str | None,
    docker_host: str | None,
    on_progress: OnProgress | None,
) -> str:
    try:
        from greenroom.engines.docker import building  # noqa: PLC0415  an extra
        from greenroom.engines.docker.client import Daemon  # noqa: PLC0415
    except ImportError as error:
        raise EngineUnavailable(
            f"Building an image needs {error.name}. Install it: pip install 'greenroom[docker]'."
        ) from error
    try:
        kind, wanted = ContainerType(container_type), Packages.parse(packages)
    except ValueError as error:
        raise InvalidRequest(f"The image cannot be built: {error}.") from None
    order = building.ImageOrder(kind, base, tag or "", wanted).checked()
    on_progress = check_callback(on_progress)
    daemon = Daemon(docker_host)
    try:
        before = done = total = 0  # packages are added by a second build, after the image's own
        async for event in building.build(daemon, order):
            if isinstance(event, str):
                continue
            if before + event.number - 1 < done:
                before = total
            done, total = before + event.number - 1, before + event.total
            if on_progress is not None and event.title:
                on_progress(Progress("build", event.title, done, total, "steps"))
        if on_progress is not None:
            on_progress(Progress("build", order.tag, total, total, "steps"))
    finally:
        await daemon.close()
    return order.tag
