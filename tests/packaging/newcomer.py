"""Follows CONTRIBUTING.md from an empty Debian to the first tests, as a newcomer does.

`python -m tests.packaging.newcomer`, as root, with mmdebstrap, bubblewrap, Debian's and pip's index. It downloads more
than 1 GB and takes many minutes, so it is no part of CI. The system has nothing but what Debian's minimal one has; the
commit that is checked out is cloned there, and both blocks run as the guide shows them: the first as root, the second
as another user.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from releasing.distributions import ROOT
from releasing.readiness import failure

SUITE = "bookworm"
USER = 1000
# How apt, git, pip and uv reach their servers from this machine, and nothing else of it.
SETTINGS = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/uv", os.environ.get("SSL_CERT_FILE"), os.environ.get("PIP_CERT"))
VARIABLES = re.compile(r"(PIP|UV|SSL|CURL_CA|REQUESTS_CA|GIT_SSL)_|.*PROXY", re.IGNORECASE)
LIMIT = 3 * 3600.0
"""How long one block may take, in seconds."""


def blocks() -> tuple[str, str]:
    """The commands that install programs, and those of the newcomer, with this repository's address."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    first, second, *_ = re.findall(r"^```\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    if not first.startswith("apt-get install ") or not second.startswith("git clone … "):
        raise ValueError("CONTRIBUTING.md must begin with a block of apt-get and one of git clone.")
    return first, second.replace("…", "/repository", 1)


def make(root: Path) -> None:
    """Make an empty system with a user, and a repository of what is checked out."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
    # A mirror can be behind, with lists that have expired.
    subprocess.run([*command, "--aptopt=Acquire::Check-Valid-Until false", SUITE, root], check=True)
    # The questions of apt-get, answered with yes.
    answers = 'APT::Get::Assume-Yes "true";\nAcquire::Check-Valid-Until "false";\nAPT::Sandbox::User "root";\n'
    (root / "etc/apt/apt.conf.d/90newcomer").write_text(answers)
    subprocess.run(["useradd", "--root", root, "--create-home", "--uid", str(USER), "newcomer"], check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, root / "repository"], check=True)
    for path in (root / "repository", *(root / "repository").rglob("*")):
        os.chown(path, USER, USER)
    # pip's own settings of this user are the way to its index, too.
    if (own := Path.home() / ".config/pip/pip.conf").exists():
        shutil.copy(own, root / "etc/pip.conf")


def run(root: Path, name: str, commands: str, *, user: int = 0) -> None:
    """Run a block in the system as a shell does, line by line, until one fails.

    Raises:
        subprocess.CalledProcessError: a command failed.
        subprocess.TimeoutExpired: the block took longer than `LIMIT`.
    """
    home = "/root" if user == 0 else "/home/newcomer"
    kept = {key: value for key, value in os.environ.items() if VARIABLES.match(key)}
    environment = {**kept, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home}
    shared = [path for path in SETTINGS if path and not (path == "/etc/pip.conf" and (root / "etc/pip.conf").exists())]
    command = [
        *("bwrap", "--bind", root, "/", "--dev", "/dev", "--bind", "/proc", "/proc"),
        *(argument for path in shared for argument in ("--ro-bind-try", path, path)),
        *("--cap-add", "ALL", "--die-with-parent", "--chdir", home),
        *(("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups") if user else ()),
        *("bash", "-eux", "-c", commands),
    ]
    began = time.monotonic()
    subprocess.run(command, check=True, timeout=LIMIT, env={**environment, "DEBIAN_FRONTEND": "noninteractive"})
    print(f"newcomer: {name}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    programs, change = blocks()
    with tempfile.TemporaryDirectory(prefix="greenroom-newcomer-") as name:
        Path(name).chmod(0o755)  # the other user's way to its own files
        root = Path(name, "root")
        make(root)
        run(root, "lists of packages", "apt-get update -qq")
        run(root, "programs", programs)
        run(root, "clone, check and first tests", change, user=USER)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"newcomer: {error}")
    except subprocess.TimeoutExpired as error:
        sys.exit(f"newcomer: a block must end within {error.timeout:.0f} s")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"newcomer: {failure(error)}")
