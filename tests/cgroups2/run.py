"""Run the engines' tests under control groups version 2, in a virtual machine; run it with `make test-cgroups2`.

It makes a disk with Debian, its kernel and systemd, and the packages that the tests need; boots it with this
checkout; has `inside.py` run the tests; and writes docs/cgroups-v2.md from what came of them. A disk that was made
is used again (`.cache/cgroups2`) until its recipe or the locked dependencies change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

from . import disk, page
from .disk import CACHE, ROOT

MEMORY = "4G"
TIME_LIMIT = 3 * 60 * 60  # seconds, after which the machine is ended; an emulated processor needs most of it
RESULTS_SIZE = 64 << 20

# The tools of this machine: by command, Debian's package.
TOOLS = {"mmdebstrap": "mmdebstrap", "qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs"}


def main() -> None:
    check_machine()
    system = disk.make()
    with tempfile.TemporaryDirectory(prefix="greenroom-cgroups2-") as directory:
        source, results = Path(directory, "source.tar"), Path(directory, "results.tar")
        pack_source(source)
        results.touch()
        os.truncate(results, RESULTS_SIZE)
        boot(system, source, results)
        unpacked = Path(directory, "results")
        with tarfile.open(results) as archive:
            archive.extractall(unpacked, filter="data")
        if not (unpacked / "facts.json").exists():
            sys.exit(f"cgroups2: the machine ended without results; see {CACHE / 'console.log'}")
        passed = page.write(unpacked)
    print(page.PATH.read_text())
    if not passed:
        sys.exit(f"cgroups2: not everything passed; see {CACHE / 'console.log'}")


def say(text: str) -> None:
    print(f"cgroups2: {text}", flush=True)


def check_machine() -> None:
    if os.geteuid() != 0:
        sys.exit("cgroups2: this must run as root, as it makes a disk image")
    missing = [package for command, package in TOOLS.items() if shutil.which(command) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        sys.exit(f"cgroups2: {', '.join(missing)} must be installed")
    say(f"installing {', '.join(missing)}")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    install = ["apt-get", "install", "-qq", "--no-install-recommends", *missing]
    subprocess.run(
        install, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL
    )


def accelerator() -> list[str]:
    """KVM where the processor virtualizes; elsewhere emulation, with a clock that counts instructions.

    By that clock an emulated machine is not slow, so that no time limit of a test is reached early. Some clouds
    have a /dev/kvm without such a processor: it runs no kernel but their own.
    """
    flags = Path("/proc/cpuinfo").read_text().split()
    if os.access("/dev/kvm", os.R_OK | os.W_OK) and {"vmx", "svm"} & set(flags):
        return ["-accel", "kvm", "-cpu", "host", "-smp", "2"]
    say("there is no /dev/kvm with a processor that virtualizes: the machine is emulated, which takes hours")
    return ["-accel", "tcg,thread=single", "-icount", "shift=0", "-rtc", "clock=vm", "-cpu", "max", "-smp", "1"]


def pack_source(to: Path) -> None:
    """This checkout as it is, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with tarfile.open(to, "w") as archive:
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
                archive.add(ROOT / name, name)


def boot(system: Path, source: Path, results: Path) -> None:
    """Start the machine and wait for its end; the disk stays as it was made."""
    drives = {"system": system / "disk", "source": source, "results": results}
    command = [
        "qemu-system-x86_64",
        *["-machine", "q35", "-m", MEMORY, "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"],
        *accelerator(),
        *["-kernel", str(system / "vmlinuz"), "-initrd", str(system / "initrd.img")],
        *[
            "-append",
            "root=/dev/disk/by-id/virtio-system rw console=ttyS0 panic=-1 systemd.mask=serial-getty@ttyS0.service",
        ],
    ]
    for name, file in drives.items():
        command += [
            "-drive",
            f"file={file},format=raw,if=none,id={name},snapshot={'on' if name == 'system' else 'off'}",
        ]
        command += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    say("starting the machine")
    with (CACHE / "console.log").open("w") as log:
        machine = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
        )
        deadline = threading.Timer(TIME_LIMIT, machine.kill)
        deadline.start()
        assert machine.stdout is not None
        for line in machine.stdout:
            log.write(line)
            log.flush()
            if line.startswith("cgroups2: "):
                print(line.rstrip(), flush=True)
        deadline.cancel()
        if machine.wait() != 0:
            sys.exit(f"cgroups2: qemu ended with {machine.returncode}; see {log.name}")


if __name__ == "__main__":
    main()
