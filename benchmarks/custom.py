"""Custom containers, measured: `make bench`, or `python benchmarks/custom.py`. Each figure is a median.

The image is that of the tests, a small Python server on Debian. `docker run` of the same image runs beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import greenroom

IMAGE = "greenroom-test-custom:latest"
CONTEXT = Path(__file__).parents[1] / "tests/custom/image"
BATCH = 5


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def warm(container: Any, rounds: int) -> tuple[float, float, float]:
    """A new session with a ready container: its allocation, its first response, and the next one."""
    waits: list[float] = []
    firsts: list[float] = []
    nexts: list[float] = []
    while len(firsts) < rounds:
        with greenroom.connect("docker:", container=container, ready_session_instances=BATCH) as pool:
            deadline = time.monotonic() + 120
            while pool.status().ready < BATCH and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(2)
            for _ in range(BATCH):
                session = pool.session()
                firsts.append(seconds(lambda session=session: session.request("GET", "/")))
                nexts += [seconds(lambda session=session: session.request("GET", "/")) for _ in range(10)]
            waits.append(pool.status().wait_max)
    return median(waits), median(firsts), median(nexts)


def cold(container: Any, rounds: int) -> float:
    """A new session's first response with no container ready."""
    times: list[float] = []
    with greenroom.connect("docker:", container=container, ready_session_instances=0) as pool:
        for _ in range(rounds):
            with pool.session() as session:
                times.append(seconds(lambda session=session: session.request("GET", "/")))
    return median(times)


def docker_run(rounds: int) -> float:
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint", "true", IMAGE]
    return median(seconds(lambda: subprocess.run(command, capture_output=True, check=True)) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds: int = parser.parse_args().rounds
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    build = ["docker", "build", "--quiet", "--tag", IMAGE, str(CONTEXT)]
    try:
        subprocess.run(build, env=environment, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Custom containers are left out: {error}")
        return
    container = {"image": IMAGE, "target_port": 8080}
    allocation, first, following = warm(container, rounds)
    for what, value in (
        ("custom container, warm: the longest allocation of five", allocation),
        ("custom container, warm: new session, first response", first),
        ("custom container, next response", following),
        ("custom container, cold: new session, first response", cold(container, rounds)),
        ("peer: docker run of the same image, to its end", docker_run(rounds)),
    ):
        print(f"{what:60} {value * 1000:8.2f} ms")


if __name__ == "__main__":
    main()
