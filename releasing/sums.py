"""A file of checksums, and its signature by an SSH key: ssh-keygen makes and verifies it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from releasing.distributions import ROOT

NAME = "SHA256SUMS"
NAMESPACE = "greenroom-release"
SIGNERS = ROOT / "releasing/allowed_signers"


def write_sums(folder: Path) -> Path:
    """Write the checksums of all files in the folder, as `sha256sum --check` reads them."""
    sums = folder / NAME
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(NAME)
    ]
    sums.write_text("\n".join([*lines, ""]))
    return sums


def sign(sums: Path, key: Path, signers: Path = SIGNERS) -> None:
    """Sign the checksums, and verify that the signature is by one of the allowed signers.

    Args:
        sums: as written by `write_sums`.
        key: a private key, or the public key of one that ssh-agent has.
        signers: a file of those who may release.

    Raises:
        ValueError: the key cannot sign, or is not one of theirs.
    """
    signature = sums.with_name(f"{sums.name}.sig")
    signature.unlink(missing_ok=True)
    ended = _ssh_keygen("-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(sums))
    if ended.returncode != 0:
        raise ValueError(f"{key} must be an SSH key that can sign: {ended.stderr.decode().strip()}")
    found = _ssh_keygen("-Y", "find-principals", "-f", str(signers), "-s", str(signature))
    signer = (found.stdout.decode().splitlines() or [""])[0]
    check = ["-Y", "verify", "-f", str(signers), "-I", signer, "-n", NAMESPACE, "-s", str(signature)]
    if not signer or _ssh_keygen(*check, text=sums.read_bytes()).returncode != 0:
        signature.unlink()
        raise ValueError(f"The key must be in {signers.name}, with the namespace {NAMESPACE}; {key} is not.")


def _ssh_keygen(*arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ssh-keygen", *arguments], input=text, capture_output=True, check=False)
