"""The image of Docker sandboxes: its name, whether it has this version's runner, and how it is built."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import textwrap
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO

from greenroom.engines.base import RUNNER_SOURCE
from greenroom.engines.docker import pip_config
from greenroom.engines.docker.client import FAILURES, Daemon
from greenroom.errors import EngineUnavailable
from greenroom.models import ContainerType

RUNNER_LABEL = "greenroom.runner"
"""The image's label with the digest of the runner that is in it."""

BASE_LABEL = "greenroom.base"
"""The image's label with the name of the image it was made from."""

BASE_IMAGE = "python:3.12-slim"

_NAMES = {ContainerType.PYTHON_LTS: "python", ContainerType.NODE_LTS: "node", ContainerType.SHELL: "python"}
"""The container types that have an image: the image's name, and the name of its directory."""

_PACKAGES_INSIDE = "/build"  # the path of the context's `packages` in the Dockerfile
_COLOUR = re.compile(r"\x1b\[\d*m")
_STEP = re.compile(r"Step (\d+)/(\d+) : (.+)")


def default_image(container_type: ContainerType = ContainerType.PYTHON_LTS) -> str:
    """The image of this version of Greenroom for a container type."""
    return f"greenroom-{_NAMES[container_type]}:{version('greenroom')}"


def build_command(image: str, base: str = BASE_IMAGE, container_type: ContainerType = ContainerType.PYTHON_LTS) -> str:
    """The command that builds that image."""
    words = ["greenroom image build"]
    if container_type is ContainerType.NODE_LTS:
        words += ["--container-type", container_type]
    if image != default_image(container_type):
        words += ["--tag", image]
    if base != BASE_IMAGE:
        words += ["--base", base]
    return " ".join(words)


@cache
def runner_digest() -> str:
    """The digest of the runner's sources; an image with another digest may use another version of the protocol."""
    digest = hashlib.sha256()
    for path in _runner_files():
        digest.update(f"{path.relative_to(RUNNER_SOURCE).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Step:
    """The start of a Dockerfile instruction."""

    number: int
    total: int
    title: str
    """A description for the user; empty for minor instructions."""


async def build(
    daemon: Daemon,
    context: IO[bytes],
    *,
    base: str,
    tag: str,
    network: str,
    cache: bool,
    container_type: ContainerType = ContainerType.PYTHON_LTS,
) -> AsyncGenerator[Step | str, None]:
    """Build the image; yield the steps and their output line by line.

    It uses Docker's first builder, which every engine has.

    Args:
        context: the archive that `write_context` wrote.
        network: the network of the build, in Docker's terms; `host` is that of the engine's machine.
        cache: whether earlier steps with the same files may be taken from Docker's cache.
        container_type: the type whose image to build.

    Raises:
        EngineUnavailable: Docker does not respond, the base image cannot be pulled, or a step failed.
    """
    parameters = {
        "t": tag,
        "buildargs": json.dumps({"BASE": base, **pip_config.proxies()}),
        "labels": json.dumps({RUNNER_LABEL: runner_digest(), BASE_LABEL: base}),
        "networkmode": network,
        "nocache": str(int(not cache)),
        "forcerm": "1",
    }
    dockerfile = source_of(container_type) / "Dockerfile"
    async for event in run(daemon, context, parameters, dockerfile, base=base):
        yield event


async def run(
    daemon: Daemon, context: IO[bytes], parameters: Mapping[str, str], dockerfile: Path, *, base: str
) -> AsyncGenerator[Step | str, None]:
    """Have Docker build a context; yield the steps and their output line by line.

    Raises:
        EngineUnavailable: as for `build`.
    """
    titles = _titles(dockerfile)
    instruction = ""
    try:
        headers = {"Content-Type": "application/x-tar"}
        async with await daemon.request("POST", "build", params=parameters, data=context, headers=headers) as response:
            async for line in response.content:
                message = json.loads(line)
                if failure := message.get("error"):
                    raise _build_error(failure.strip(), base, instruction)
                for text in _lines(message):
                    if (match := _STEP.fullmatch(text)) is not None:
                        instruction = match[3]
                        yield Step(int(match[1]), int(match[2]), titles.get(int(match[1]), ""))
                    else:
                        yield text
    except FAILURES as error:
        raise daemon.unavailable(error, "build the image") from error


def write_context(
    file: IO[bytes],
    *,
    packages: Sequence[str] = (),
    wheels: Sequence[Path] = (),
    container_type: ContainerType = ContainerType.PYTHON_LTS,
) -> None:
    """Write the build context of the image, a tar archive.

    Args:
        packages: requirements beyond the image's own, as pip reads them.
        wheels: local wheels that pip can use in the build.
        container_type: the type whose image to build.
    """
    source = source_of(container_type)
    requirements = (source / "requirements.txt").read_text(encoding="utf-8")
    requirements += "".join(f"{package}\n" for package in packages)
    with tarfile.open(fileobj=file, mode="w|") as archive:
        add(archive, "Dockerfile", (source / "Dockerfile").read_bytes())
        add(archive, "packages/requirements.txt", requirements.encode())
        add(archive, "packages/constraints.txt", (source / "constraints.txt").read_bytes())
        for name, content in pip_config.pip_files(_PACKAGES_INSIDE, wheels=bool(wheels)).items():
            add(archive, f"packages/{name}", content)
        for wheel in wheels:
            add_file(archive, f"packages/wheels/{wheel.name}", wheel)
        for path in _runner_files():
            add(archive, f"runner/{path.relative_to(RUNNER_SOURCE).as_posix()}", path.read_bytes())


def package_count(container_type: ContainerType = ContainerType.PYTHON_LTS) -> int:
    """The approximate number of packages that a build installs."""
    lines = (source_of(container_type) / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return sum("==" in line and "win32" not in line for line in lines)


def source_of(container_type: ContainerType) -> Path:
    """The directory of an image's Dockerfile: beside the package in a wheel, above it in a checkout."""
    package = Path(__file__).parents[2]
    for images in (package / "image", package.parents[1] / "image"):
        directory = images / _NAMES[container_type]
        if (directory / "Dockerfile").is_file():
            return directory
    raise FileNotFoundError("This installation of greenroom has no Dockerfile.")


def _titles(dockerfile: Path) -> dict[int, str]:
    """Descriptions of the Dockerfile's instructions by number, from the comments that begin with `#:`."""
    titles: dict[int, str] = {}
    number = 1
    for line in dockerfile.read_text(encoding="utf-8").splitlines():
        if line.startswith("#: "):
            titles[number] = line[3:]
        elif line and line[0] not in "# ":  # continued lines are indented
            number += 1
    return titles


def _runner_files() -> list[Path]:
    return sorted([*RUNNER_SOURCE.rglob("*.py"), *RUNNER_SOURCE.rglob("*.cjs")])


def add_file(archive: tarfile.TarFile, name: str, file: Path) -> None:
    """Add a local file to an archive."""
    with file.open("rb") as content:
        entry = tarfile.TarInfo(name)
        entry.size = os.fstat(content.fileno()).st_size
        archive.addfile(entry, content)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file with the given content to an archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _lines(message: dict[str, str]) -> list[str]:
    text = message.get("stream") or " ".join(filter(None, (message.get("status"), message.get("id"))))
    return [line.strip() for line in _COLOUR.sub("", text).splitlines() if line.strip()]


def _build_error(message: str, base: str, instruction: str) -> EngineUnavailable:
    if not instruction.startswith("FROM"):
        return EngineUnavailable(f"The image could not be built: {textwrap.shorten(message, 200, placeholder=' …')}")
    return EngineUnavailable(
        f"The base image {base!r} does not exist on this machine and cannot be pulled: {message}\n"
        "If no registry can be reached, use an image that Docker already has, with Python 3.11 or 3.12: "
        "greenroom image build --base IMAGE"
    )
