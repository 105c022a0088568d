"""pip and uv: both resolve to a lock with hashes, then install exactly that, wheels only."""

from __future__ import annotations

import json
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from greenroom.engines.packages.running import ending, pip, program, run
from greenroom.engines.packages.store import explain_full_disk
from greenroom.engines.packages.wanted import BUILD_A_WHEEL, Packages, normalized
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.untrusted import printable

_NAME = r"([A-Za-z0-9](?:[\w.-]{0,98}[A-Za-z0-9])?)"
_PIN = re.compile(rf"^ \+ {_NAME}(?:==(\S+)| @ (\S+)|\s*\(from (\S+)\))", re.MULTILINE)
_NOT_FOUND = re.compile(rf"No matching distribution found for {_NAME}")
_REFUSED_HASH = re.compile(
    rf"(?:^ {{4}}|Hash mismatch for `?|Failed to download[^\n]{{0,20}} `){_NAME}(?:==\S+| @ \S+)?[^\n]*(?:from|:|`)",
    re.MULTILINE,
)
_HASHES = ("DO NOT MATCH THE HASHES", "Hash mismatch", "Hashes are required", "hashes are required")
_COLLECTING = re.compile(r"^\s*(?:Collecting|Processing|Obtaining) (\S+)", re.MULTILINE)
_UV_NO_WHEEL = re.compile(rf"{_NAME}(?:[=<>!~]=?\S+)? (?:has|have) no (?:usable )?wheels", re.IGNORECASE)
_UV_NOT_FOUND = re.compile(rf"{_NAME} was not found in the (?:package registry|provided package locations)")
_UV_URL = re.compile(rf"Package `{_NAME}` was included as a URL dependency")
_UV_BUILD = re.compile(rf"(?:Building|building)[^\n]{{0,200}}`?{_NAME}?[^\n]{{0,100}}(?:is disabled|was disabled)")
_HAS_PIP = "import pip"
_NOT_BUILT = "nothing is built outside a sandbox"


class Installer(ABC):
    """Installs into a virtual environment."""

    @abstractmethod
    async def lock(self, packages: Packages, directory: Path) -> str:
        """Return the lines of a requirements file: each package that is missing, with its hash.

        Raises:
            InvalidRequest: a package does not exist, has no wheel, or does not match its hash.
            EngineUnavailable: the index cannot be reached, or the disk is full.
        """

    @abstractmethod
    async def install(self, lock: Path, directory: Path, on_installed: Callable[[int], object]) -> None:
        """Install the packages of a lock.

        Args:
            lock: a requirements file made by `lock`.
            directory: a directory for temporary files.
            on_installed: called with the number of packages that have been fetched.

        Raises:
            InvalidRequest, EngineUnavailable: as for `lock`.
        """


class _Pip(Installer):
    """The interpreter's own pip."""

    def __init__(self, python: Path) -> None:
        self._python = python

    async def lock(self, packages: Packages, directory: Path) -> str:
        report = directory / "report.json"
        arguments = ["install", "--dry-run", "--only-binary", ":all:", "--report", str(report)]
        command = pip(self._python, *arguments, *_arguments(packages))
        code, output = await run(command, _where(packages), directory)
        if code != 0 or not report.is_file():
            await self._explain(output, directory)
        found: dict[str, Any] = json.loads(report.read_bytes())
        return "".join(sorted(_line(each) for each in found["install"]))

    async def install(self, lock: Path, directory: Path, on_installed: Callable[[int], object]) -> None:
        fetched = 0

        def count(line: str) -> None:
            nonlocal fetched
            if re.match(r"\s*(?:Collecting|Processing) ", line):
                on_installed(fetched)
                fetched += 1

        arguments = ["install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--ignore-installed"]
        arguments += ["--no-compile", "--no-warn-script-location", "-r", str(lock)]
        code, output = await run(pip(self._python, *arguments), directory, directory, count)
        if code != 0:
            await self._explain(output, directory)

    async def _explain(self, output: str, directory: Path) -> None:
        explain_full_disk(output)
        _explain_hash(output)
        if _NOT_BUILT in output:
            collected = _COLLECTING.findall(output)
            raise _without_wheel(collected[-1] if collected else "packages")
        if (missing := _NOT_FOUND.search(output)) is not None:
            if "--hash" in missing[0]:
                raise InvalidRequest(f"The packages cannot be installed: {ending(output)}")
            code, _ = await run(pip(self._python, "index", "versions", missing[1]), directory, directory)
            raise _without_wheel(missing[1]) if code == 0 else _not_found(missing[1], output)
        if "no such option: --report" in output:
            raise EngineUnavailable(
                "The pip of the sandboxes' Python must be 22.2 or newer: pip install --upgrade pip."
            )
        _fail(output)


class _Uv(Installer):
    """uv, used if the interpreter has no pip."""

    def __init__(self, uv: str, python: Path, base: Path) -> None:
        self._uv = uv
        self._python = python
        self._base = base

    async def lock(self, packages: Packages, directory: Path) -> str:
        # Only missing packages, as uv in a virtual environment does not see the interpreter's own ones.
        dry = ["pip", "install", "--dry-run", "--no-build", "--break-system-packages", "--python", str(self._base)]
        code, output = await run(program(self._uv, *dry, *_arguments(packages)), _where(packages), directory)
        if code != 0:
            self._explain(output)
        pins = [
            f"{name}=={version}" if version else f"{name} @ {url or place}"
            for name, version, url, place in _PIN.findall(output)
        ]
        if not pins:
            return ""
        (directory / "pins.in").write_text("\n".join(pins) + "\n", encoding="utf-8")
        lock = directory / "lock.txt"
        compile_ = ["pip", "compile", "--no-deps", "--generate-hashes", "--no-build", "--no-header", "--no-annotate"]
        compile_ += ["--python", str(self._base), "--output-file", str(lock), str(directory / "pins.in")]
        code, output = await run(program(self._uv, *compile_), _where(packages), directory)
        if code != 0:
            self._explain(output)
        lines = re.sub(r" \\\n\s+", " ", lock.read_text(encoding="utf-8")).splitlines()
        asked_for = packages.hashes()
        return "".join(f"{_with_hashes(line, asked_for)}\n" for line in lines if line.strip())

    async def install(self, lock: Path, directory: Path, on_installed: Callable[[int], object]) -> None:
        arguments = ["pip", "install", "--no-deps", "--require-hashes", "--no-build", "--link-mode", "copy"]
        arguments += ["--python", str(self._python), "-r", str(lock)]
        code, output = await run(program(self._uv, *arguments), directory, directory)
        if code != 0:
            self._explain(output)
        on_installed(len(_PIN.findall(output)))

    @staticmethod
    def _explain(output: str) -> None:
        explain_full_disk(output)
        _explain_hash(output)
        output = " ".join(output.split())  # uv wraps its messages
        if (missing := _UV_NO_WHEEL.search(output) or _UV_BUILD.search(output)) is not None:
            raise _without_wheel(missing[1] or "packages")
        if (missing := _UV_URL.search(output)) is not None:
            raise InvalidRequest(
                f"The package {missing[1]}, which another requires by URL, must be named with that URL and be a wheel. "
                f"{BUILD_A_WHEEL}."
            )
        if (missing := _UV_NOT_FOUND.search(output)) is not None:
            raise _not_found(missing[1], output)
        _fail(output)


async def find(python: Path, base: Path) -> Installer:
    """Return the interpreter's pip, or uv if it has none.

    Args:
        python: the Python of the virtual environment for the packages, which is still empty.
        base: the environment's base interpreter.

    Raises:
        EngineUnavailable: there is neither.
    """
    # It must not run once the environment contains files of a package.
    code, _ = await run(program(python, "-I", "-c", _HAS_PIP), Path("/"), Path("/tmp"))  # noqa: S108
    if code == 0:
        return _Pip(python)
    beside = Path(sys.executable).parent
    if uv := shutil.which("uv") or shutil.which("uv", path=str(beside)):
        return _Uv(uv, python, base)
    raise EngineUnavailable(
        f"The Python for the sandboxes, {printable(str(base))}, must have pip to install packages, unless uv is "
        f"installed. Install one of them: {base} -m ensurepip, or pip install uv."
    )


def _arguments(packages: Packages) -> Iterator[str]:
    for file in packages.files:
        yield from ("-r", str(file))
    if packages.requirements:
        yield "--"
        yield from packages.requirements


def _where(packages: Packages) -> Path:
    """The base directory of relative paths of wheels."""
    return packages.files[0].parent if packages.files else Path.cwd()


def _line(item: Mapping[str, Any]) -> str:
    """Return a package of pip's report as a line of the lock."""
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    download: Mapping[str, Any] = item["download_info"]
    archive: Mapping[str, Any] = download.get("archive_info") or {}
    if not urlsplit(str(download["url"])).path.endswith(".whl"):
        raise _without_wheel(name)
    hashes: Mapping[str, str] = archive.get("hashes") or dict(
        [archive["hash"].split("=", 1)] if "hash" in archive else []
    )
    if not hashes:
        raise InvalidRequest(f"The package {printable(name)} must have a hash in its index.")
    what = f"{name} @ {download['url']}" if item.get("is_direct") else f"{name}=={version}"
    return f"{what} {' '.join(f'--hash={kind}:{value}' for kind, value in sorted(hashes.items()))}\n"


def _with_hashes(line: str, asked_for: Mapping[str, frozenset[str]]) -> str:
    """Return a line of uv's lock, with only the requested hashes."""
    what, *found = line.split(" --hash=")
    name = re.split(r"[ =@]", what, maxsplit=1)[0]
    if not found:
        raise InvalidRequest(
            f"The package {printable(name)} must have a hash in its index. If the index has none, pip computes it: "
            "install pip for the sandboxes' Python."
        )
    wanted = asked_for.get(normalized(name))
    kept = [each.strip() for each in found if wanted is None or each.strip() in wanted]
    if not kept:
        raise InvalidRequest(f"The package {printable(name)} does not match its hash, so nothing was installed.")
    return " ".join([what, *(f"--hash={each}" for each in kept)])


def _explain_hash(output: str) -> None:
    if any(sign in output for sign in _HASHES):
        found = _REFUSED_HASH.search(output)
        name = f"The package {found[1]}" if found is not None else "A package"
        raise InvalidRequest(f"{name} does not match its hash, so nothing was installed: {ending(output)}")


def _without_wheel(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"The package {printable(name)!s:.200} has no wheel for this Python, only source code, and nothing is built on "
        f"this machine, because a build runs the package's code. {BUILD_A_WHEEL}."
    )


def _not_found(name: str, output: str) -> InvalidRequest:
    return InvalidRequest(
        f"The package {printable(name)} cannot be found for this Python and platform: {ending(output)}"
    )


def _fail(output: str) -> None:
    raise EngineUnavailable(f"The packages cannot be installed: {ending(output) or 'the installer gave no reason'}")
