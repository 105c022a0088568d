"""The buckets of tokens: over time, over several workers, and after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from code_service import limits
from code_service.limits import TokenBuckets


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_tokens_are_refilled_over_time(tmp_path: Path) -> None:
    clock = Clock()
    with closing(TokenBuckets(tmp_path / "rates", rate=0.5, burst=2, clock=clock)) as buckets:
        assert [buckets.take("alice") for _ in range(3)] == [0, 0, 2]
        clock.now += 1.5
        assert buckets.take("alice") == pytest.approx(0.5), "a refusal takes nothing"
        clock.now += 0.5
        assert [buckets.take("alice") for _ in range(2)] == [0, 2]
        clock.now += 1_000
        assert [buckets.take("alice") for _ in range(3)] == [0, 0, 2], "no more than the burst"


def test_setting_the_clock_back_changes_no_tokens(tmp_path: Path) -> None:
    clock = Clock()
    with closing(TokenBuckets(tmp_path / "rates", rate=1, burst=1, clock=clock)) as buckets:
        assert buckets.take("alice") == 0
        clock.now -= 500
        assert buckets.take("alice") == 1
        clock.now += 1
        assert buckets.take("alice") == 0


def test_workers_that_ask_at_the_same_time_share_the_tokens(tmp_path: Path) -> None:
    clock = Clock()
    with (
        closing(TokenBuckets(tmp_path / "rates", rate=1, burst=50, clock=clock)) as one,
        closing(TokenBuckets(tmp_path / "rates", rate=1, burst=50, clock=clock)) as two,
        ThreadPoolExecutor(8) as threads,
    ):
        asked = [threads.submit(buckets.take, "alice") for buckets in [one, two] * 50]
        waits = [each.result() for each in asked]
    assert waits.count(0) == 50


def test_full_buckets_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_FORGET_EVERY", 10)
    clock = Clock()
    with closing(TokenBuckets(tmp_path / "rates", rate=1, burst=2, clock=clock)) as buckets:
        for number in range(9):
            buckets.take(f"user {number}")
        clock.now += 1
        buckets.take("alice")
        assert buckets.users() == ["alice"]


def test_a_worker_that_is_killed_leaves_the_file_to_the_others(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom code_service.limits import TokenBuckets\n"
        "buckets = TokenBuckets(Path(sys.argv[1]), rate=0.001, burst=10**9)\nprint('ready', flush=True)\n"
        "while True: buckets.take('alice')\n"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", program, tmp_path / "rates"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        with closing(TokenBuckets(tmp_path / "rates", rate=0.001, burst=2)) as buckets:
            buckets.take("bob")
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            assert buckets.take("bob") == 0
            assert buckets.take("bob") > 0
