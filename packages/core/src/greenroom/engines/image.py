"""The image of Docker's sandboxes: its name, whether it fits this version of the runner, and what it is built from."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO

from greenroom.engines.base import RUNNER_SOURCE

RUNNER_LABEL = "greenroom.runner"
"""The image's label with the digest of the runner that is in it."""

BASE_IMAGE = "python:3.12-slim"


def default_image() -> str:
    """The image of this version of Greenroom."""
    return f"greenroom-python:{version('greenroom')}"


def build_command(image: str) -> str:
    """What a person types to have that image."""
    return "greenroom image build" if image == default_image() else f"greenroom image build --tag {image}"


@cache
def runner_digest() -> str:
    """Names the runner's sources; an image with another one speaks another version of the conversation."""
    digest = hashlib.sha256()
    for path in _runner_files():
        digest.update(f"{path.relative_to(RUNNER_SOURCE).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_context(
    file: IO[bytes],
    *,
    packages: Sequence[str] = (),
    wheels: Sequence[Path] = (),
    pip_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write what Docker builds the image from, a tar archive.

    Args:
        packages: requirements beyond the image's own, as pip reads them.
        wheels: wheels of this machine that pip may use in the build.
        pip_files: what pip needs to know of this network, by name; it does not become part of the image.
    """
    source = _source()
    requirements = (source / "requirements.txt").read_text(encoding="utf-8")
    requirements += "".join(f"{package}\n" for package in packages)
    with tarfile.open(fileobj=file, mode="w|") as archive:
        _add(archive, "Dockerfile", (source / "Dockerfile").read_bytes())
        _add(archive, "packages/requirements.txt", requirements.encode())
        _add(archive, "packages/constraints.txt", (source / "constraints.txt").read_bytes())
        for name, content in (pip_files or {}).items():
            _add(archive, f"packages/{name}", content)
        for wheel in wheels:
            archive.add(wheel, f"packages/wheels/{wheel.name}", filter=_anonymous)
        for path in _runner_files():
            _add(archive, f"runner/{path.relative_to(RUNNER_SOURCE).as_posix()}", path.read_bytes())


def package_count() -> int:
    """About how many packages a build installs."""
    lines = (_source() / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return sum("==" in line and "win32" not in line for line in lines)


def _source() -> Path:
    """The directory of the Dockerfile: beside the package in a wheel, above it in a checkout."""
    package = Path(__file__).parents[1]
    for directory in (package / "image", package.parents[1] / "image"):
        if (directory / "Dockerfile").is_file():
            return directory
    raise FileNotFoundError("This installation of greenroom has no Dockerfile.")


def _runner_files() -> list[Path]:
    return sorted(RUNNER_SOURCE.rglob("*.py"))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry
