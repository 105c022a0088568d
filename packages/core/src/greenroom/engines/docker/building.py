"""Build a sandbox image with the user's own packages in addition to those of the standard images."""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from greenroom.engines.docker import image, npm_config, pip_config
from greenroom.engines.docker.client import FAILURES, Daemon, status_of
from greenroom.engines.docker.image import BASE_IMAGE, Step
from greenroom.engines.packages import Packages
from greenroom.engines.packages.node import checked_lock, package_json
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.models import ContainerType

PACKAGES_LABEL = "greenroom.packages"
"""The image's label with the packages that were added to the standard ones."""

_CONTAINER_TYPES = (ContainerType.PYTHON_LTS, ContainerType.NODE_LTS)
_SPOOLED = 16 << 20
_LABEL = 1000
_NO_WHEEL = re.compile(r"No matching distribution found for ([A-Za-z0-9][\w.-]{0,99})")
_HASH = re.compile(r"DO NOT MATCH THE HASHES|EINTEGRITY")


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """Which image to build, and how."""

    container_type: ContainerType = ContainerType.PYTHON_LTS
    base: str = BASE_IMAGE
    tag: str = ""
    """By default the name that pools of this container type use."""
    packages: Packages = field(default_factory=Packages)
    """Packages added to the image's own: wheels, or the contents of a Node lock file."""
    further: tuple[str, ...] = ()
    """Requirements that are resolved together with the image's own; sources may be built in the image."""
    wheels: tuple[Path, ...] = ()
    """Local wheels, which are preferred over downloads."""
    network: str = "host"
    """The network of the build, in Docker's terms."""
    cache: bool = True
    """Whether earlier steps may be taken from Docker's cache."""

    def checked(self) -> ImageOrder:
        """Return this request with the image's name filled in.

        Raises:
            InvalidRequest: there is no such image, or the packages are not for it.
        """
        if self.container_type not in _CONTAINER_TYPES:
            raise InvalidRequest(
                f"The container type of an image must be {' or '.join(_CONTAINER_TYPES)}, not {self.container_type}."
            )
        is_node = self.container_type is ContainerType.NODE_LTS
        if self.packages and is_node is (self.packages.node_lock is None):
            kind = "the path of a package-lock.json" if is_node else "Python packages, not a lock of Node packages,"
            raise InvalidRequest(f"The packages of an image must be {kind} for its type {self.container_type}.")
        tag = self.tag or image.default_image(self.container_type)
        return ImageOrder(
            self.container_type, self.base, tag, self.packages, self.further, self.wheels, self.network, self.cache
        )


async def build(daemon: Daemon, order: ImageOrder) -> AsyncGenerator[Step | str, None]:
    """Build an image; yield the steps and their output line by line.

    With packages, an existing image of this version is used as it is, if it was made from the same base.

    Raises:
        InvalidRequest: the packages cannot be used; the message names them.
        EngineUnavailable: Docker does not respond, the base image cannot be pulled, or a step failed.
    """
    order = order.checked()
    sandbox = await _standard(daemon, order) if order.packages and order.cache else None
    if sandbox is None:
        with tempfile.SpooledTemporaryFile(_SPOOLED) as context:
            image.write_context(
                context, packages=order.further, wheels=order.wheels, container_type=order.container_type
            )
            context.seek(0)
            async for event in image.build(
                daemon,
                context,
                base=order.base,
                tag=order.tag,
                network=order.network,
                cache=order.cache,
                container_type=order.container_type,
            ):
                yield event
        sandbox = order.tag
    if order.packages:
        async for event in _add_packages(daemon, order, sandbox):
            yield event


async def _standard(daemon: Daemon, order: ImageOrder) -> str | None:
    """Return the existing image that packages can be added to, if any."""
    if order.further:
        return None
    name = image.default_image(order.container_type)
    try:
        found: dict[str, Any] = await daemon.client.images.inspect(name)
    except FAILURES as error:
        if status_of(error) == 404:
            return None
        raise daemon.unavailable(error, "build the image") from error
    labels: dict[str, str] = found["Config"].get("Labels") or {}
    is_it = labels.get(image.RUNNER_LABEL) == image.runner_digest() and labels.get(image.BASE_LABEL) == order.base
    return name if is_it and PACKAGES_LABEL not in labels else None


async def _add_packages(daemon: Daemon, order: ImageOrder, sandbox: str) -> AsyncGenerator[Step | str, None]:
    parameters = {
        "t": order.tag,
        "buildargs": json.dumps({"SANDBOX": sandbox, **pip_config.proxies()}),
        "labels": json.dumps(
            {
                image.RUNNER_LABEL: image.runner_digest(),
                image.BASE_LABEL: order.base,
                PACKAGES_LABEL: order.packages.described()[:_LABEL],
            }
        ),
        "networkmode": order.network,
        "nocache": str(int(not order.cache)),
        "forcerm": "1",
    }
    refused: list[str] = []
    source = image.source_of(order.container_type) / "Dockerfile.with"
    with tempfile.SpooledTemporaryFile(_SPOOLED) as context:
        _write_context(context, order, source)
        context.seek(0)
        try:
            async for event in image.run(daemon, context, parameters, source, base=sandbox):
                if isinstance(event, str) and (_NO_WHEEL.search(event) or _HASH.search(event)):
                    refused.append(event)
                yield event
        except EngineUnavailable as error:
            raise _named(refused, error) from error


def _write_context(file: IO[bytes], order: ImageOrder, dockerfile: Path) -> None:
    lock = order.packages.node_lock
    with tarfile.open(fileobj=file, mode="w|") as archive:
        image.add(archive, "Dockerfile", dockerfile.read_bytes())
        wheels: Sequence[Path] = order.wheels
        if lock is not None:
            content = checked_lock(lock)
            image.add(archive, "with/package-lock.json", json.dumps(content).encode())
            image.add(archive, "with/package.json", package_json(content).encode())
            image.add(archive, "with/npmrc", npm_config.npmrc(lock.parent))
        else:
            plain = order.packages.flattened("/with/wheels")
            image.add(archive, "with/requirements.txt", plain.requirements.encode())
            image.add(archive, "with/constraints.txt", plain.constraints.encode())
            for name, wheel in plain.wheels.items():
                image.add_file(archive, f"with/wheels/{name}", wheel)
        for name, data in pip_config.pip_files("/build", wheels=bool(wheels)).items():
            image.add(archive, f"packages/{name}", data)
        for wheel in wheels:
            image.add_file(archive, f"packages/wheels/{wheel.name}", wheel)


def _named(refused: Sequence[str], error: EngineUnavailable) -> Exception:
    """Return an error that names the package that could not be installed, if known."""
    for line in refused:
        if (match := _NO_WHEEL.search(line)) is not None:
            return InvalidRequest(
                f"The package {match[1]} cannot be found, or has no wheel for the image's Python. Build a wheel "
                f"(pip wheel), or build it with the image: --package {match[1]}."
            )
        return InvalidRequest(f"A package does not match its hash: {line:.300}")
    return error
