"""Installs built distributions with the Pythons of newer Debian releases, and runs the pages' first programs there.

Each release is a minimal system of its own, made by mmdebstrap and entered with bubblewrap, as root. uv installs there
what requirements.lock pins, from its cache and its index, and each page has an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from releasing.distributions import ROOT, UV
from releasing.readiness import failure
from tests.packaging.first_programs import PAGES, expected, outcome
from tests.packaging.installing import from_wheels
from tests.packaging.pages import first_program

SUITES = ("trixie", "sid")
KNOWN = {
    ("Python 3.14", "packages/semantic_kernel/README.md"): "TypeError: 'member_descriptor' object is not iterable",
}
"""Where a first program cannot run yet, and what its error has: `kernel_function` of Semantic Kernel 1 takes no unions
under Python 3.14. A known fault that is gone is a fault."""


def make(suite: str, root: Path, wheels: Path) -> None:
    """Make a system that has Python, and the wheels and the lock where they are outside of it."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,ca-certificates"]
    # A mirror can be behind, with lists that have expired.
    subprocess.run([*command, "--aptopt=Acquire::Check-Valid-Until false", suite, root], check=True)
    shutil.copytree(wheels, root / wheels.relative_to("/"))
    shutil.copy(ROOT / "requirements.lock", root / "requirements.lock")
    shutil.copy(UV, root / "usr/local/bin/uv")


def inside(root: Path, folder: str = "/") -> list[str | Path]:
    """The beginning of a command that runs in the system, with this machine's network and all of root's rights."""
    cache = subprocess.run([UV, "cache", "dir"], check=True, capture_output=True, text=True).stdout.strip()
    (root / "uv").mkdir(exist_ok=True)
    shared = [
        "/etc/resolv.conf",
        "/etc/uv",
        *([certificates] if (certificates := os.environ.get("SSL_CERT_FILE")) else []),
    ]
    return [
        *("bwrap", "--bind", root, "/", "--dev", "/dev", "--proc", "/proc", "--bind", cache, "/uv"),
        *(argument for path in shared for argument in ("--ro-bind-try", path, path)),
        *("--ro-bind-try", Path.home() / ".config/uv", "/root/.config/uv"),
        *("--cap-add", "ALL", "--unshare-pid", "--die-with-parent", "--chdir", folder),
    ]


def fault(page: str, root: Path, wheels: Path) -> str | None:
    """Install what a page names, run its first program, and return what went wrong."""
    name = page.replace("/", "-").removesuffix(".md")
    # How uv reaches its index, and nothing else of this machine.
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.upper().startswith(("UV_", "SSL_")) or "PROXY" in key.upper()
    }
    environment = {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", "UV_CACHE_DIR": "/uv"}
    venv, folder = f"/root/{name}", f"/root/{name}-empty"
    (root / folder[1:]).mkdir()
    pip = ["uv", "pip", "install", "--quiet", "--link-mode", "copy", "--python", f"{venv}/bin/python"]
    requirements = from_wheels(first_program(page).requirements, wheels)
    for command in (
        ["uv", "venv", "--quiet", "--python", "/usr/bin/python3", venv],
        [*pip, "--constraint", "/requirements.lock", *requirements],
    ):
        ended = subprocess.run([*inside(root), *command], env=environment, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            return f"{ended.stdout}{ended.stderr}".strip()
    found = outcome(page, [*inside(root, folder), f"{venv}/bin/python"], root / folder[1:], environment)
    shutil.rmtree(root / venv[1:])
    return None if found == expected(page) else f"It must come to {expected(page)}, not {found}.\n{found.errors}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("suites", nargs="*", default=SUITES, help=f"by default {', '.join(SUITES)}")
    arguments = parser.parse_args()
    wheels: Path = arguments.wheels.resolve()
    failed = False
    for suite in arguments.suites:
        with tempfile.TemporaryDirectory(prefix=f"greenroom-{suite}-") as name:
            root = Path(name, "root")
            make(suite, root, wheels)
            python = subprocess.run(
                [*inside(root), "python3", "--version"], check=True, capture_output=True, text=True
            ).stdout.strip()
            for page in PAGES:
                began = time.monotonic()
                wrong = fault(page, root, wheels)
                if (known := KNOWN.get((python.rpartition(".")[0], page))) is not None:
                    wrong = None if wrong is not None and known in wrong else f"It must fail with {known}, not {wrong}."
                failed = failed or wrong is not None
                result = wrong or ("known to fail" if known else "as shown")
                print(f"{suite}, {python}, {page}: {result} ({time.monotonic() - began:.0f} s)", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"debian: {failure(error)}")
