"""The disk of the virtual machine: Debian with systemd, the locked packages of the tests, and a unit that runs them."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/cgroups2"

PACKAGES = [
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "udev",
    "dbus-user-session",
    "libpam-systemd",
    "python3-venv",
    "bubblewrap",
]
ENVIRONMENT = "/opt/environment"
USER = "tester"
PLATFORM = "x86_64-manylinux_2_36"

# The machine has one purpose, and powers off when it is fulfilled.
UNIT = """\
[Unit]
Description=The tests
After=multi-user.target
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=oneshot
TimeoutStartSec=infinity
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -ec 'mkdir /srv/greenroom; cd /srv/greenroom; \\
    tar -xf /dev/disk/by-id/virtio-source; \\
    exec /opt/environment/bin/python tests/cgroups2/inside.py /dev/disk/by-id/virtio-results'

[Install]
WantedBy=default.target
"""


def make() -> Path:
    """The directory with `disk`, `vmlinuz` and `initrd.img`, made where it does not exist."""
    recipe = [
        Path(__file__),
        ROOT / "requirements.lock",
        ROOT / "pyproject.toml",
        ROOT / "packages/core/pyproject.toml",
    ]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in recipe)).hexdigest()[:16]
    made = CACHE / key
    if not made.exists():
        print("cgroups2: making the disk (a few minutes)", flush=True)
        shutil.rmtree(CACHE, ignore_errors=True)
        unfinished = CACHE / "unfinished"
        unfinished.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="greenroom-cgroups2-") as directory:
            tree = Path(directory, "tree")
            install_system(tree)
            for name in ("vmlinuz", "initrd.img"):
                shutil.copy(next((tree / "boot").glob(f"{name}-*")), unfinished / name)
            disk = unfinished / "disk"
            disk.touch()
            os.truncate(disk, 8 << 30)
            subprocess.run(["mkfs.ext4", "-q", "-d", tree, disk], check=True)
        unfinished.rename(made)
    return made


def install_system(tree: Path) -> None:
    """Make a tree of files to boot from."""
    packages = f"{ENVIRONMENT}/lib/python3.11/site-packages"
    install = [".venv/bin/uv", "pip", "install", "--quiet", "--python-version", "3.11", "--python-platform", PLATFORM]
    locked = ["-c", "requirements.lock", "--group", "test", "-r", "packages/core/pyproject.toml", "--all-extras"]
    with tempfile.NamedTemporaryFile("w") as unit:
        unit.write(UNIT)
        unit.flush()
        steps = [  # of a shell, whose $1 is the tree
            f'install -m 644 {unit.name} "$1"/etc/systemd/system/greenroom-tests.service',
            'chroot "$1" systemctl --quiet enable greenroom-tests',
            f'chroot "$1" python3 -m venv {ENVIRONMENT}',
            f'{shlex.join(install + locked)} --target "$1"{packages}',
            f'chroot "$1" {ENVIRONMENT}/bin/python -m compileall -q {packages} >/dev/null || true',
            f'chroot "$1" useradd --create-home {USER}',
            f'install -D /dev/null "$1"/var/lib/systemd/linger/{USER}',  # its service manager runs without a login
            'echo cgroups2 > "$1"/etc/hostname',
        ]
        hooks = [f"--customize-hook={step}" for step in steps]
        bootstrap = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", *hooks]
        subprocess.run([*bootstrap, "bookworm", tree], cwd=ROOT, check=True)
