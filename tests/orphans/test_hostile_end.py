"""Code that keeps its sandbox's first process from ending does not outlive its owner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.processes import statistics

from greenroom.testing import engine_pool

pytestmark = pytest.mark.alone

ENGINES = ["bubblewrap:", "docker:", "docker:?runtime=runsc"]
LIMIT = 60.0  # seconds, after which nothing may be left
KILLS = 20  # per engine, in `make soak`
TOGETHER = 5
ALL_ATTACKS = 6  # the first pairs in which each attack is met
TOGETHER_UNPRIVILEGED = 2  # nothing limits their processors there
START_LIMIT = 60.0
NOBODY = 65534

# Each owner has two sessions, so that every attack meets others.
PAIRS = [
    ("starve", "stop"),
    ("stop", "write"),
    ("end children", "starve"),
    ("fill the memory", "stop"),
    ("hold both ends", "starve"),
    ("limit", "write"),
    ("starve", "fill the memory"),
    ("write", "end children"),
    ("stop", "hold both ends"),
    ("starve", "limit"),
]


def command(python: str | Path, url: str, attacks: tuple[str, str]) -> list[str]:
    return [str(python), "-I", "-c", Path(__file__).with_name("attacker.py").read_text(), url, *attacks]


def here(url: str, attacks: tuple[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("attacker.py")), url, *attacks],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def unprivileged(python: Path, attacks: tuple[str, str]) -> subprocess.Popen[str]:
    nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    return subprocess.Popen(
        command(python, "bubblewrap:", attacks),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        **nobody,
    )


def statuses() -> dict[int, tuple[int, str, int]]:
    """By process: its parent, when it started, and its namespace of processes (0 where that is hidden)."""
    found: dict[int, tuple[int, str, int]] = {}
    for process, fields in statistics():
        namespace = 0
        try:
            with contextlib.suppress(PermissionError):
                namespace = Path(f"/proc/{process}/ns/pid").stat().st_ino
        except OSError:
            continue
        if fields[0] != "Z":
            found[process] = (int(fields[1]), fields[19], namespace)
    return found


def docker(*arguments: str) -> str:
    if shutil.which("docker") is None:
        return ""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False).stdout


def containers(owner: int) -> list[str]:
    return docker("ps", "-aq", "--filter", f"label=greenroom.owner.pid={owner}").split()


class Remains:
    """What belongs to an owner: its processes, those of their namespaces, and its containers."""

    def __init__(self, owner: int) -> None:
        self._owner = owner
        everything = statuses()
        first = {owner}
        if found := containers(owner):
            first |= {int(each["State"]["Pid"]) for each in json.loads(docker("inspect", *found) or "[]")}
        below = set(first)
        waiting = list(first)
        while waiting:
            parent = waiting.pop()
            children = [pid for pid, status in everything.items() if status[0] == parent and pid not in below]
            below |= set(children)
            waiting += children
        self._processes = {(pid, everything[pid][1]) for pid in below - {owner} if pid in everything}
        outside = {0, Path("/proc/self/ns/pid").stat().st_ino}
        self._namespaces = {everything[pid][2] for pid in below if pid in everything} - outside

    def __bool__(self) -> bool:
        return bool(self._processes)

    def left(self) -> list[str]:
        everything = statuses()
        known = {pid for pid, started in self._processes if pid in everything and everything[pid][1] == started}
        new = {pid for pid, status in everything.items() if status[2] in self._namespaces}
        return [*map(str, sorted(known | new)), *containers(self._owner)]

    def clear(self) -> None:
        """Leave nothing to the tests after this one."""
        for each in self.left():
            if each.isdigit() and len(each) < 12:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(each), signal.SIGKILL)
            else:
                docker("rm", "-f", each)


def wait_for(owner: subprocess.Popen[str], word: str) -> None:
    assert owner.stdout is not None
    late = threading.Timer(START_LIMIT, owner.kill)
    late.start()
    line = owner.stdout.readline()
    late.cancel()
    assert line == f"{word}\n", f"{line!r}: {owner.communicate()[1]}"


def kill(owner: subprocess.Popen[str], remains: Remains, stopped: bool) -> list[str]:
    """End an owner, and return what is left after the limit. If it is stopped before, nobody reads for a while."""
    if stopped:
        owner.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + LIMIT
    while (left := remains.left()) and time.monotonic() < deadline:
        time.sleep(0.2)
    remains.clear()
    return left


def end(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.communicate()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("url", [*ENGINES, "bubblewrap: without privileges"])
@pytest.mark.parametrize("kills", [ALL_ATTACKS, pytest.param(KILLS, marks=pytest.mark.soak)])
def test_sandboxes_that_starve_or_stop_their_first_process_end_with_their_owner(
    request: pytest.FixtureRequest, url: str, kills: int
) -> None:
    engine_pool(url.partition(" ")[0], ready_session_instances=0).close()  # skips, or fails, where there is none
    python: Path | None = request.getfixturevalue("bare_python") if " " in url else None
    # Two rounds at least, as the owners of the second half are stopped before they are killed.
    together = min(TOGETHER, kills // 2) if python is None else TOGETHER_UNPRIVILEGED
    left: dict[str, list[str]] = {}
    for start in range(0, kills, together):
        attacks = [PAIRS[number % len(PAIRS)] for number in range(start, start + together)]
        owners = [here(url, pair) if python is None else unprivileged(python, pair) for pair in attacks]
        try:
            for owner in owners:
                wait_for(owner, "ready")
            remains = [Remains(owner.pid) for owner in owners]
            assert all(remains), "there are no sandboxes"
            for owner in owners:
                assert owner.stdin is not None
                owner.stdin.write("\n")
                owner.stdin.flush()
            for owner in owners:
                wait_for(owner, "attacking")
            time.sleep(0.5)
            with ThreadPoolExecutor(together) as threads:
                stopped = [start >= kills // 2] * together
                ends = threads.map(kill, owners, remains, stopped)
                named = (f"{number}: {' and '.join(pair)}" for number, pair in enumerate(attacks, start))
                left |= {name: found for name, found in zip(named, ends, strict=True) if found}
        finally:
            for owner in owners:
                end(owner)
    assert left == {}
