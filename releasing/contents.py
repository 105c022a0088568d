"""Checks of the distributions before a release."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.version import Version
from readme_renderer import markdown

from releasing.distributions import FOLDERS, project, sdist_of, version, wheel_of

# Beside modules.
_KINDS = (".cjs", ".css", ".html", ".js", ".svg", ".toml", ".txt", "Dockerfile", "Dockerfile.with", "py.typed")
_OF_A_WHEEL = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
_OF_AN_SDIST = ("LICENSE", "README.md", "PKG-INFO", "pyproject.toml")


def faults(distributions: Path) -> list[str]:
    """Return the faults of the wheels and source distributions in a folder, one sentence each."""
    found: list[str] = []
    for folder in FOLDERS:
        wheel, sdist = wheel_of(distributions, folder), sdist_of(distributions, folder)
        with zipfile.ZipFile(wheel) as archive:
            info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            described = archive.read(info)
            found += [f"{wheel.name}: {fault}" for fault in _of_a_wheel(archive.namelist(), info.partition("/")[0])]
        with tarfile.open(sdist) as archive:
            names = [name.partition("/")[2] for name in archive.getnames()]
            if (member := archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO")) is None:
                raise TypeError(f"{sdist.name}: PKG-INFO must be a file.")
            same = member.read() == described
        found += [f"{sdist.name}: {fault}" for fault in _of_an_sdist(names)]
        if not same:
            found.append(f"{sdist.name}: its metadata must be those of the wheel.")
        found += [f"{wheel.name}: {fault}" for fault in _of_metadata(described, folder)]
    return found


def _of_a_wheel(names: list[str], info: str) -> Iterator[str]:
    if not any(name.endswith("/py.typed") for name in names):
        yield "py.typed is missing."
    if f"{info}/licenses/LICENSE" not in names:
        yield "its licence is missing."
    for name in names:
        if not (name.removeprefix(f"{info}/") in _OF_A_WHEEL if name.startswith(f"{info}/") else _belongs(name)):
            yield f"{name} must not be in it."


def _of_an_sdist(names: list[str]) -> Iterator[str]:
    for name in _OF_AN_SDIST:
        if name not in names:
            yield f"{name} is missing."
    for name in names:
        if name not in _OF_AN_SDIST and not (name.startswith(("src/", "image/")) and _belongs(name)):
            yield f"{name} must not be in it."


def _belongs(name: str) -> bool:
    return name.endswith((".py", *_KINDS)) and not {"tests", "__pycache__"} & set(name.split("/"))


def _of_metadata(text: bytes, folder: str) -> Iterator[str]:
    try:
        metadata = Metadata.from_email(text)
    except ExceptionGroup as errors:
        yield from (f"its metadata are not valid: {error}" for error in errors.exceptions)
        return
    if (metadata.name, str(metadata.version)) != (project(folder)["name"], version()):
        yield f"it must be {project(folder)['name']} {version()}, not {metadata.name} {metadata.version}."
    if metadata.license_expression != "MIT":
        yield f"its licence must be MIT, not {metadata.license_expression}."
    for wanted in ("summary", "license_files", "requires_python", "project_urls", "classifiers"):
        if not getattr(metadata, wanted):
            yield f"its metadata have no {wanted}."
    for requirement in metadata.requires_dist or []:
        if requirement.name == "greenroom" and folder != "core":
            yield from _of_the_bound(requirement)
    yield from _of_a_readme(metadata)


def _of_the_bound(requirement: Requirement) -> Iterator[str]:
    major, minor = Version(version()).release[:2]
    if not requirement.specifier.contains(version(), prereleases=True):
        yield f"it must allow greenroom {version()}, not {requirement}."
    if requirement.specifier.contains(f"{major}.{minor + 1}"):
        yield f"it must not allow greenroom {major}.{minor + 1}, as {requirement} does."


def _of_a_readme(metadata: Metadata) -> Iterator[str]:
    if metadata.description_content_type != "text/markdown" or metadata.description is None:
        yield f"its README must be Markdown, not {metadata.description_content_type}."
        return
    log = io.StringIO()
    page = markdown.render(metadata.description, stream=log)
    if page is None:
        yield f"its README cannot be rendered: {log.getvalue()}"
        return
    for address in re.findall(r'(?:href|src)="([^"]*)"', page):
        if not address.startswith(("https://", "#", "mailto:")):
            yield f"its README links to {address}, which leads nowhere outside of the repository."
