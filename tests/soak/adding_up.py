"""Whether the usage that a pool reports adds up to what the kernel counted for all of its sandboxes together.

`make usage-check`, or `python -m tests.soak.adding_up bubblewrap: 1000`: as root, with control groups of version 1. The
sandboxes get a separate parent group, whose `cpuacct.usage` is read once the last one is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from greenroom import SessionUsage
from greenroom.engines.base import ControlGroups
from greenroom.engines.bubblewrap import cgroups
from greenroom.engines.docker.engine import DockerEngine
from greenroom.testing import engine_pool

MOUNT = Path("/sys/fs/cgroup")
IDENTIFIERS = 50
AT_ONCE = 10

WORK = (
    "1 + 1",
    "import time\nuntil = time.process_time() + 0.05\nwhile time.process_time() < until: pass",
    # A process that ends, one that is killed, and one that is busy until the session ends.
    "import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', 'sum(range(10**6))'], check=True).returncode",
    "import subprocess, time\na = subprocess.Popen('while :; do :; done', shell=True)\ntime.sleep(0.1)\na.kill()",
    "import subprocess\nbusy = subprocess.Popen('while :; do :; done', shell=True)",
    "data = bytearray(20_000_000)\nlen(data)",
)
"""What sessions do; most do several of these."""


@dataclass(frozen=True)
class Sums:
    """Seconds of processor time, from different sources."""

    sessions: int
    told: float
    """From the sessions, one by one after their ends."""
    pool: float
    """From the pool: its sessions, without spare sandboxes."""
    spare: float
    """From the pool: its spare sandboxes."""
    kernel: float
    """From the kernel: all of them."""
    source: str
    elapsed: float
    """Seconds of wall time."""

    @property
    def difference(self) -> float:
        """The pool's relative deviation from the kernel."""
        return (self.pool + self.spare) / self.kernel - 1


def reason_to_skip() -> str | None:
    """Return why this machine does not support it."""
    hierarchy = cgroups.find()
    if hierarchy is None or hierarchy.version is not ControlGroups.VERSION_1:
        return "needs root and control groups of version 1, whose parents count what is gone"
    return None


@contextlib.contextmanager
def parent_group(engine: str) -> Generator[Path, None, None]:
    """Give the sandboxes that start in the meantime a separate parent; yield its `cpuacct.usage`."""
    name = f"greenroom-usage-{secrets.token_hex(4)}"
    own = MOUNT / "cpuacct" / name
    own.mkdir()
    try:
        if engine.startswith("bubblewrap"):
            hierarchy = cgroups.find()
            assert hierarchy is not None
            counted = cgroups.Hierarchy({**hierarchy.parents, "cpuacct": own})
            replaced = patch.object(cgroups, "find", lambda: counted)
        else:
            describe: Callable[..., dict[str, Any]] = cast("Any", DockerEngine)._config

            def below_own(*arguments: Any) -> dict[str, Any]:
                described = describe(*arguments)
                described["HostConfig"]["CgroupParent"] = f"/{name}"
                return described

            replaced = patch.object(DockerEngine, "_config", below_own)
        with replaced:
            yield own / "cpuacct.usage"
    finally:
        for directory in {each.resolve() for each in MOUNT.glob(f"*/{name}")}:
            directory.rmdir()


def measure(engine: str, sessions: int, identifiers: int = IDENTIFIERS) -> Sums:
    """Run this many sessions: those with one identifier one after another, those with different ones concurrently."""
    began = time.monotonic()
    each = sessions // identifiers
    with parent_group(engine) as counter:
        options = {"max_concurrent_sessions": AT_ONCE + 2, "ready_session_instances": 2, "acquire_timeout": 300}
        with engine_pool(engine, preload=(), **options) as pool:

            def one(number: int) -> list[SessionUsage]:
                chance, used = random.Random(number), list[SessionUsage]()
                for _ in range(each):
                    session = pool.session(f"identifier-{number}")
                    for code in chance.sample(WORK, chance.randint(1, 3)):
                        session.execute(code, timeout=120).raise_for_error()
                    session.delete()
                    usage = session.usage()
                    assert usage is not None
                    used.append(usage)
                return used

            with ThreadPoolExecutor(AT_ONCE) as threads:
                used = [usage for found in threads.map(one, range(identifiers)) for usage in found]
            total = pool.usage()
        kernel = int(counter.read_text()) / 1e9
    assert total.sessions == len(used) == each * identifiers
    told = sum(usage.cpu or 0 for usage in used)
    elapsed = time.monotonic() - began
    return Sums(len(used), told, total.cpu, total.spare_cpu, kernel, total.source, elapsed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    parser.add_argument("sessions", type=int)
    arguments = parser.parse_args()
    if reason := reason_to_skip():
        parser.exit(1, f"The check {reason}.\n")
    found = measure(arguments.engine, arguments.sessions)
    print(f"{arguments.engine} {found.sessions} sessions of {IDENTIFIERS} identifiers in {found.elapsed:.0f} s")
    print(
        f"processors: {found.told:.2f} s by the sessions ({found.source}); {found.pool:.2f} s and {found.spare:.2f} s "
        f"of spare sandboxes by the pool; {found.kernel:.2f} s by the kernel: {100 * found.difference:+.2f} %"
    )
    if abs(found.difference) > 0.02:
        parser.exit(1, "They must be within 2 % of each other.\n")


if __name__ == "__main__":
    main()
