"""The requirements of a release, checked before anything is built, and messages about failures."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from releasing import changes, source, sums
from releasing.distributions import version

KEY = "GREENROOM_SIGNING_KEY"
PROGRAMS = {"bwrap": "bubblewrap", "git": "git", "mmdebstrap": "mmdebstrap", "ssh-keygen": "openssh-client"}
"""The programs that `make release` runs in addition to `.venv`, and their Debian packages."""

_PUBLIC = re.compile(r"\b(?:ssh|ecdsa|sk)-\S+ ([A-Za-z0-9+/]+=*)")


def missing() -> list[str]:
    """Return what `make release` lacks, one sentence each."""
    found = [
        f"The program {program} must be installed: apt-get install {package}."
        for program, package in PROGRAMS.items()
        if shutil.which(program) is None
    ]
    if os.geteuid() != 0:
        found.append(
            "make release must run as root, which makes the systems with newer Pythons: "
            f"sudo --preserve-env={KEY},SSH_AUTH_SOCK make release."
        )
    if shutil.which("git") and (fault := source.uncommitted()):
        found.append(fault)
    key = os.environ.get(KEY)
    try:
        reasons = unsigned()
        found += [f"To sign, {reason}." for reason in reasons if key]
    except ValueError as error:
        found.append(str(error))
    if key and shutil.which("ssh-keygen") and (fault := fault_of_key(Path(key))):
        found.append(fault)
    return found


def unsigned() -> list[str]:
    """Return why what is checked out cannot be signed by any key, a clause each.

    Raises:
        ValueError: the changelog has no entry for this version.
    """
    _, dated = changes.entry(changes.CHANGELOG.read_text(), version())
    found = [] if dated else [f"CHANGELOG.md must have a date for {version()} (make version VERSION={version()})"]
    if source.repository() is None:
        found.append("pyproject.toml must have project.urls.Repository")
    return found


def fault_of_key(key: Path, signers: Path = sums.SIGNERS) -> str | None:
    """Return why a key cannot sign a release, without its passphrase or token.

    Args:
        key: a private or a public key.
        signers: a file of those who may release.
    """
    ended = subprocess.run(["ssh-keygen", "-l", "-f", key], check=False, capture_output=True, text=True)
    if ended.returncode != 0:
        return f"{KEY} must be the path of an SSH key, not {str(key)!r}: {(ended.stderr or ended.stdout).strip()}"
    lines = [line for line in signers.read_text().splitlines() if not line.startswith("#")]
    allowed = {_fingerprint(match[1]) for line in lines if (match := _PUBLIC.search(line))}
    if ended.stdout.split()[1] not in allowed:
        return f"The key must be in {signers.name}, with the namespace {sums.NAMESPACE}; {key} is not."
    return None


def _fingerprint(public: str) -> str:
    digest = hashlib.sha256(base64.b64decode(public)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def failure(error: OSError | subprocess.CalledProcessError) -> str:
    """Describe the failure of a program or a file in one sentence, with the program's output."""
    if isinstance(error, OSError):
        return f"{error.filename or 'A file or program'}: {error.strerror or error}"
    command = error.cmd if isinstance(error.cmd, str) else shlex.join(map(str, error.cmd))
    said = error.stderr or error.stdout or ""
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return f"This command failed with exit code {error.returncode}: {command}\n{text}".strip()
