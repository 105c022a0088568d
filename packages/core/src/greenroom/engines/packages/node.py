"""Environments of Node packages, installed from a package-lock.json with hashes, without running package code."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from greenroom.engines.packages import store
from greenroom.engines.packages.running import ending, program, run
from greenroom.engines.packages.wanted import Packages, read_file
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.progress import Meter, Report
from greenroom.untrusted import brief, printable

_VERSION = "1"
_SCRIPTS = ("preinstall", "install", "postinstall")
_IMAGE = "Install it in an image (greenroom image build --container-type NodeLTS, and your own Dockerfile based on it)"
_OF_THE_ROOT = (
    *("name", "version", "dependencies", "devDependencies", "optionalDependencies", "peerDependencies"),
    *("bundleDependencies", "engines"),
)
_NOT_ITS_HASH = "EINTEGRITY"
_NPM = ("lib/node_modules/npm/bin/npm-cli.js", "share/nodejs/npm/bin/npm-cli.js")


async def prepare(packages: Packages, node: Path, report: Report) -> Path:
    """Return a directory `node_modules` with the packages of a lock, created if needed.

    Raises:
        InvalidRequest: the lock cannot be read, or has a package with an install script, without a hash, or not from
            a registry.
        EngineUnavailable: npm is missing or does not work, or the disk is full.
    """
    lock = packages.node_lock
    assert lock is not None  # noqa: S101  checked by the caller
    content = await asyncio.to_thread(checked_lock, lock)
    code, about = await run(
        program(node, "-p", "[process.version, process.platform, process.arch, process.versions.modules].join()"),
        Path("/"),
        Path("/tmp"),  # noqa: S108
    )
    if code != 0:
        raise EngineUnavailable(f"Node.js does not work on this machine: {ending(about)}")

    async def make(directory: Path) -> None:
        await _make(directory, content, node, report)

    return await store.environment(f"node-{store.key(_VERSION, json.dumps(content, sort_keys=True), about)}", make)


def checked_lock(file: Path) -> dict[str, Any]:
    """Return the content of a package-lock.json whose packages can be installed without running their code.

    Raises:
        InvalidRequest: the file cannot be read, or a package breaks a rule; the message names it.
    """
    try:
        content = json.loads(read_file(file))
    except (ValueError, RecursionError):
        raise InvalidRequest(f"The lock {printable(str(file))} must be JSON.") from None
    found = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    packages = found.get("packages")
    if not isinstance(packages, dict) or not isinstance(cast("dict[str, Any]", packages).get(""), dict):
        raise InvalidRequest(
            f"The lock {printable(str(file))} must have packages in the format of npm 7 or newer. Recreate it with: "
            "npm install --package-lock-only"
        )
    for place, package in cast("dict[str, Any]", packages).items():
        if place:
            _check(place, package)
    return found


def package_json(lock: Mapping[str, Any]) -> str:
    """Return the parts of the package.json for a lock that npm needs."""
    root = {name: value for name, value in lock["packages"][""].items() if name in _OF_THE_ROOT}
    return json.dumps({"name": "session", "version": "0.0.0", **root})


def _check(place: str, package: object) -> None:
    name = brief(place.rpartition("node_modules/")[2])
    if not isinstance(package, dict):
        raise InvalidRequest(f"The package {name} in the lock must be an object.")
    about = cast("Mapping[str, Any]", package)
    if about.get("dev") is True and about.get("link") is not True and place.startswith("node_modules/"):
        return  # which is not installed
    resolved = about.get("resolved")
    if not place.startswith("node_modules/") or about.get("link") is True or ".." in place.split("/"):
        raise InvalidRequest(f"The package {name} in the lock must come from a registry, not from a directory.")
    if about.get("inBundle") is True:
        return  # part of another package, whose hash covers it
    if not isinstance(resolved, str) or not resolved.startswith(("https://", "http://")):
        raise InvalidRequest(f"The package {name} in the lock must come from a registry, not from {brief(resolved)}.")
    if not isinstance(about.get("integrity"), str):
        raise InvalidRequest(f"The package {name} in the lock must have a hash in its field integrity.")
    if about.get("hasInstallScript") is True:
        raise _has_script(name)


async def _make(directory: Path, lock: Mapping[str, Any], node: Path, report: Report) -> None:
    npm = _npm_of(node)
    project = directory.parent / "project"
    project.mkdir()
    (project / "package.json").write_text(package_json(lock))
    (project / "package-lock.json").write_text(json.dumps(lock))
    total = sum(bool(place) and package.get("dev") is not True for place, package in lock["packages"].items())
    meter = Meter(report, "install", "packages", total=total, unit="packages")
    meter.begin()
    arguments = ["ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier"]
    code, output = await run(program(node, str(npm), *arguments), project, project)
    if code != 0:
        store.explain_full_disk(output)
        if _NOT_ITS_HASH in output:
            raise InvalidRequest(f"A package does not match its hash in the lock: {ending(output)}")
        raise EngineUnavailable(f"The Node packages cannot be installed: {ending(output)}")
    made = project / "node_modules"
    made.mkdir(exist_ok=True)
    for name in await asyncio.to_thread(lambda: list(_with_scripts(made))):
        raise _has_script(brief(name))
    directory.rmdir()
    made.rename(directory)
    meter.finish()


def _with_scripts(modules: Path) -> Iterator[str]:
    """Yield the packages with install scripts, even if the lock does not mark them."""
    for file in modules.rglob("package.json"):
        directory = file.parent
        if directory.parent.name != "node_modules" and directory.parent.parent.name != "node_modules":
            continue  # a part of a package
        try:
            about = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        scripts = cast("dict[str, Any]", about).get("scripts") if isinstance(about, dict) else None
        named = isinstance(scripts, dict) and any(name in scripts for name in _SCRIPTS)
        if named or (directory / "binding.gyp").is_file():
            yield str(directory.relative_to(modules))


def _has_script(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"The package {name} has an install script. It is not run on this machine, and the package may not work "
        f"without it. {_IMAGE}."
    )


def _npm_of(node: Path) -> Path:
    """Return the npm of a Node installation, otherwise the one on the PATH."""
    for prefix in (node.parent.parent, node.resolve().parent.parent):
        for place in _NPM:
            if (prefix / place).is_file():
                return prefix / place
    if found := shutil.which("npm"):
        return Path(found).resolve()
    raise EngineUnavailable(
        "Node packages need npm, which comes with Node.js. Install it (pip install 'greenroom[node]')."
    )
