"""Environments of Python packages: a virtual environment with the packages that an interpreter itself lacks."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenroom.engines.packages import store
from greenroom.engines.packages.installers import Installer, find
from greenroom.engines.packages.running import program, run
from greenroom.engines.packages.wanted import Packages
from greenroom.errors import EngineUnavailable
from greenroom.progress import Meter, Report
from greenroom.untrusted import printable

_VERSION = "1"
"""The version of the format of environments; another version has separate environments."""

_ABOUT = """
import json, os, platform, sys, sysconfig
paths = [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)]
print(json.dumps({
    "executable": os.path.realpath(sys.executable),
    "version": sys.version,
    "folder": "python%d.%d" % sys.version_info[:2],
    "number": "%d.%d.%d" % sys.version_info[:3],
    "platform": sysconfig.get_platform(),
    "libc": platform.libc_ver(),
    "paths": paths,
    "installed": sorted(name for path in paths for name in os.listdir(path) if name.endswith("-info")),
}))
"""

# Neither the packages' own code nor their .pth files are run.
_COMPILE = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2, workers=0)"

_PIP_SCRIPT = """#!{python}
import sys
from pip._internal.cli.main import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The interpreter of the sandboxes and its installed packages."""

    python: Path
    executable: Path
    """With all links resolved."""
    folder: str
    """The directory name for packages, such as `python3.11`."""
    version: str
    paths: tuple[str, ...]
    """The directories of its packages."""
    identity: str
    """A text that differs between interpreters that need different packages."""

    @classmethod
    async def of(cls, python: str) -> Interpreter:
        """Query an interpreter on this machine.

        Raises:
            EngineUnavailable: it does not run, or it belongs to another user and so must not be run.
        """
        try:
            owner = Path(python).stat().st_uid
        except OSError as error:
            raise EngineUnavailable(
                f"The Python for the sandboxes, {printable(python)}, cannot be run: {error.strerror}."
            ) from None
        if owner not in {0, os.geteuid()}:
            raise EngineUnavailable(
                f"The Python for the sandboxes, {printable(python)}, belongs to another user, so packages are not "
                "installed for it: installing runs it outside sandboxes. Choose one of your own with python=…"
            )
        code, output = await run(program(python, "-I", "-c", _ABOUT), Path("/"), Path("/tmp"))  # noqa: S108
        try:
            about: dict[str, Any] = json.loads(output.splitlines()[-1]) if code == 0 else {}
            return cls(
                Path(python),
                Path(about["executable"]),
                about["folder"],
                about["number"],
                tuple(about["paths"]),
                json.dumps(about),
            )
        except (IndexError, KeyError, ValueError):
            raise EngineUnavailable(
                f"The Python for the sandboxes, {printable(python)}, cannot list its packages: {output:.300}"
            ) from None


async def prepare(packages: Packages, python: str, shown_at: str, report: Report) -> Path:
    """Return an environment with packages, created if needed, for sandboxes that see it at `shown_at`. Its `bin/python`
    has these packages and those of the interpreter.

    Raises:
        InvalidRequest: a package does not exist, has no wheel, or does not match its hash.
        EngineUnavailable: the installer is missing or does not work, or the disk is full.
    """
    wanted = await asyncio.to_thread(packages.read)
    interpreter = await Interpreter.of(python)

    meter = Meter(report, "install", "packages", unit="packages")

    async def resolve(directory: Path) -> str:
        meter.begin()
        return await _resolve(packages, interpreter, directory)

    lock = await store.lock_of(store.key(_VERSION, wanted, interpreter.identity), resolve)

    async def make(directory: Path) -> None:
        await _make(directory, lock, interpreter, shown_at, meter)

    name = store.key(_VERSION, lock, str(interpreter.executable), interpreter.version, *interpreter.paths, shown_at)
    return await store.environment(f"python-{name}", make)


async def _resolve(packages: Packages, interpreter: Interpreter, directory: Path) -> str:
    skeleton = directory / "skeleton"
    _lay_out(skeleton, interpreter)
    installer = await find(skeleton / "bin" / "python", interpreter.python)
    return await installer.lock(packages, directory)


async def _make(directory: Path, lock: str, interpreter: Interpreter, shown_at: str, meter: Meter) -> None:
    _lay_out(directory, interpreter)
    total = sum(" --hash=" in line for line in lock.splitlines())
    meter.expect(total)
    if total:
        scratch = directory.parent / "scratch"
        scratch.mkdir()
        (scratch / "lock.txt").write_text(lock, encoding="utf-8")
        installer: Installer = await find(directory / "bin" / "python", interpreter.python)
        await installer.install(scratch / "lock.txt", scratch, lambda done: meter.reach(min(done, total)))
        _point_scripts_to(directory, shown_at)
        site = directory / "lib" / interpreter.folder / "site-packages"
        compile_ = program(interpreter.executable, "-I", "-S", "-c", _COMPILE, str(site))
        _, output = await run(compile_, scratch, scratch)
        store.explain_full_disk(output)
    _add_pip(directory, shown_at)
    meter.finish()


def _add_pip(directory: Path, shown_at: str) -> None:
    """Make the command `pip` list these packages too, not only the interpreter's."""
    for name in ("pip", "pip3"):
        script = directory / "bin" / name
        if not script.exists():
            _write(script, _PIP_SCRIPT.format(python=f"{shown_at}/bin/python"))
            script.chmod(0o755)


def _lay_out(directory: Path, interpreter: Interpreter) -> None:
    """Create an empty virtual environment."""
    site = directory / "lib" / interpreter.folder / "site-packages"
    for folder in (site, directory / "bin"):
        folder.mkdir(parents=True, mode=0o755)
    for folder in (directory, directory / "lib", site.parent, site, directory / "bin"):
        folder.chmod(0o755)  # regardless of the umask
    for name in ("python", "python3", interpreter.folder):
        (directory / "bin" / name).symlink_to(interpreter.executable)
    _write(
        directory / "pyvenv.cfg",
        f"home = {interpreter.executable.parent}\ninclude-system-site-packages = false\n"
        f"version = {interpreter.version}\n",
    )
    # Also process their .pth files. This file's name sorts before those of the packages.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in interpreter.paths]
    _write(site / "_greenroom.pth", "".join(lines))


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    file.chmod(0o644)


def _point_scripts_to(directory: Path, shown_at: str) -> None:
    """Make scripts start the interpreter at its path in sandboxes."""
    here, there = os.fsencode(directory), os.fsencode(shown_at)
    for script in (directory / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        if content.startswith(b"#!"):
            head, rest = content[: 3 * len(here) + 200], content[3 * len(here) + 200 :]
            script.write_bytes(head.replace(here, there) + rest)
