"""In the virtual machine: run each suite in each setting, and write the results to a disk."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
USER, USER_ID = "tester", 1000

# Each name is a column of the page; what follows is the command that starts the tests in that setting.
_SERVICE = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--working-directory=/srv/greenroom"]
_FILES = "--property=LimitNOFILE=4096"  # with systemd's 1,024 there are fewer sockets than the attacks need
_AS_USER = ["runuser", "-u", USER, "--", "env", f"XDG_RUNTIME_DIR=/run/user/{USER_ID}"]
SETTINGS = {
    "root": [*_SERVICE, _FILES],
    "root, delegated by systemd": [*_SERVICE, _FILES, "--property=Delegate=yes"],
    "user, delegated by systemd": [*_AS_USER, *_SERVICE, _FILES, "--user", "--property=Delegate=yes"],
    "user, chowned group": [
        "sh",
        "-ec",
        f'echo 0 > {GROUPS}/handed/cgroup.procs; exec runuser -u {USER} -- "$@"',
        "sh",
    ],
}


# The suites that depend on control groups. Each name is a row of the page; what follows are pytest's arguments.
_ENGINE = "tests/engines/test_bubblewrap.py"
SUITES = {
    "control groups": ["tests/cgroups2"],
    "limits": [_ENGINE, "-k", "TestLimits"],
    "isolation": [_ENGINE, "-k", "TestIsolation"],
    "attacks on shared resources": [_ENGINE, "-k", "TestAttacks and (taking_all or count_as_memory or process_1_is)"],
    "clean-up after the owner": ["tests/orphans/test_the_end.py", "tests/orphans/test_frozen.py", "-k", "not docker"],
}
EVERYWHERE = {"control groups"}
"""The others run as root, and as a user whose group systemd delegates: an emulated processor takes its time."""


def pairs() -> Iterator[tuple[str, str, str]]:
    """Each setting and suite that run, with the name of their report, in their order."""
    for place, suite in enumerate(SUITES):
        for number, setting in enumerate(SETTINGS):
            if suite in EVERYWHERE or setting in {"root", "user, delegated by systemd"}:
                yield setting, suite, f"{number}-{place}.xml"


def main(disk: str) -> None:
    install()
    add_swap()
    hand_over_a_group()
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory)
        results.chmod(0o777)
        (results / "facts.json").write_text(json.dumps(facts()))
        for setting, suite, report in pairs():
            run(setting, suite, results / report)
        with tarfile.open(disk, "w") as archive:
            archive.add(results, ".")
    os.sync()


def install() -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "./packages/core"], check=True)


def add_swap() -> None:
    """Add the space that the memory of frozen sessions moves to."""
    file = Path("/swap")
    for command in (["fallocate", "-l", "512M"], ["chmod", "600"], ["mkswap", "--quiet"], ["swapon"]):
        subprocess.run([*command, file], check=True)


def hand_over_a_group() -> None:
    """Give the user a group, as kernel documentation describes it: the directory and the files that delegate."""
    group = GROUPS / "handed"
    (GROUPS / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    group.mkdir()
    for path in (group, *(group / f"cgroup.{name}" for name in ("procs", "threads", "subtree_control"))):
        shutil.chown(path, USER)


def facts() -> dict[str, str]:
    """The page's description of the machine."""

    def first_line(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.partition("\n")[0]

    return {
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "virtualization": first_line("systemd-detect-virt"),
        "systemd": first_line("systemctl", "--version"),
        "bubblewrap": first_line("bwrap", "--version"),
        "Python": platform.python_version(),
        "controllers": (GROUPS / "cgroup.controllers").read_text().strip(),
        "mounts": first_line("findmnt", "--noheadings", "--output", "FSTYPE", str(GROUPS)),
    }


def run(setting: str, suite: str, report: Path) -> None:
    print(f"cgroups2: {setting}: {suite}", flush=True)
    pytest = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]
    xml = ["--override-ini=junit_family=xunit1", f"--junitxml={report}"]  # this family has properties
    environment = ["env", "GREENROOM_REQUIRE_ENGINES=bubblewrap"]
    done = subprocess.run([*SETTINGS[setting], *environment, *pytest, *xml, *SUITES[suite]], check=False)
    print(f"cgroups2: {setting}: {suite}: pytest ended with {done.returncode}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
