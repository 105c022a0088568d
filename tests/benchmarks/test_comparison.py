"""`python -m benchmarks.comparison`: a short run gives every table and figure, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from benchmarks.comparison import beside, page, plots
from benchmarks.comparison.contestants import KERNEL, LeftOut, Peer, all_of, in_turn
from benchmarks.comparison.course import Course
from rich.console import Console

ROOT = Path(__file__).parents[2]

# A peer that says who it is, and then answers as it is told to by its name.
_WORKER = """
import json, os, sys, time
directory = {directory!r}
os.mkdir(directory)
print(json.dumps({{"version": str(os.getpid()), "directory": directory, "containers": "none-"}}), flush=True)
for line in sys.stdin:
    {act}
"""


@pytest.fixture
def peer(tmp_path: Path) -> Generator[Callable[..., Peer]]:
    """Return what makes a peer that does this for each order."""
    made: list[Peer] = []

    def make(act: str, limit: float = 60) -> Peer:
        worker = tmp_path / f"worker{len(made)}.py"
        worker.write_text(_WORKER.format(directory=str(tmp_path / f"left{len(made)}"), act=act))
        made.append(Peer(KERNEL, limit=limit, python=Path(sys.executable), worker=worker))
        return made[-1]

    yield make
    for each in made:
        each.leave()


@pytest.fixture
def course() -> Course:
    return Course(1, Console(file=StringIO()))


@pytest.mark.slow
def test_a_quick_run_fills_every_table_and_leaves_nothing(tmp_path: Path) -> None:
    temporary, into = tmp_path / "temporary", tmp_path / "into"
    temporary.mkdir()
    into.mkdir()
    page_before = page.PATH.read_text()
    command = [sys.executable, "-m", "benchmarks.comparison", "--quick", "--into", str(into), "bubblewrap:"]
    with subprocess.Popen(
        [*command, "--peers", "ipykernel"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        printed, told = run.communicate(timeout=600)
    assert run.returncode == 0, told
    results: dict[str, Any] = json.loads((into / "results.json").read_text())
    if "Greenroom, bubblewrap" in results["left_out"]:
        pytest.skip(results["left_out"]["Greenroom, bubblewrap"])
    assert results["ended_early"] == {}
    assert " 1/10" in told
    assert "10/10" in told
    for title in ("first pandas result", "100 prints", "3 displays", "0.01 MB of output", "memory of each additional"):
        assert title in printed
    assert printed.count("| Greenroom, bubblewrap") == 3
    assert len(results["growth"]["sessions"]["Greenroom, bubblewrap"]) == 2
    assert len(results["growth"]["files"]["Greenroom, bubblewrap"]) == 2
    assert "Greenroom, bubblewrap" in results["growth"]["output"]
    assert "Greenroom, bubblewrap" in results["growth"]["cells"]
    if KERNEL in results["left_out"]:  # its environment is not set up everywhere
        assert "left out: the peers' environment is missing" in printed
    else:
        assert f"| {KERNEL}" in printed
    assert {file.name for file in into.glob("*.svg")} == {"performance-peers.svg", "performance-growth.svg"}
    assert list(temporary.iterdir()) == []
    assert page.PATH.read_text() == page_before


def test_a_peer_that_does_not_respond_is_ended_and_named(peer: Callable[..., Peer], course: Course) -> None:
    stuck = peer("time.sleep(600)", limit=1)
    left_out: dict[str, str] = {}
    everyone: list[Any] = [stuck]
    in_turn(everyone, left_out, course, lambda each: each.open())
    assert left_out == {KERNEL: "it did not answer within 1 s"}
    assert everyone == []
    assert not alive(stuck)


def test_a_peer_that_fails_is_named_and_the_others_continue(
    peer: Callable[..., Peer], tmp_path: Path, course: Course
) -> None:
    good = peer("print('{}', flush=True)")
    bad = peer("print(json.dumps({'error': 'OSError:\\n  no | disk'}), flush=True)")
    bad.name = "bad"
    left_out: dict[str, str] = {}
    everyone: list[Any] = [good, bad]
    with course.part("new sessions", 60):
        times = beside.first_and_next(everyone, left_out, 1, course)
    assert left_out == {"bad": "OSError: no | disk"}
    assert everyone == [good]
    assert times["next"].keys() == {KERNEL}
    assert not (tmp_path / "left1").exists()
    with pytest.raises(LeftOut, match="its process has ended"):
        bad.open()


def test_a_part_that_hangs_is_stopped_with_its_processes(peer: Callable[..., Peer], tmp_path: Path) -> None:
    course = Course(1, Console(file=StringIO()), grace=0.5)
    stuck = peer("time.sleep(600)")
    began = time.monotonic()
    with course.part("new sessions", 0.5):
        stuck.open()
    assert time.monotonic() - began < 60
    assert course.ended_early == {"new sessions": "it was stopped after 1 s"}
    assert not alive(stuck)
    assert not (tmp_path / "left0").exists()


def test_a_part_that_fails_or_takes_long_is_named_and_the_next_one_starts(course: Course) -> None:
    with course.part("first", 60):
        raise OSError("the disk is full")
    with course.part("second", 60):
        assert not course.over()
    with course.part("third", 0):
        assert not course.over(), "the second has left some time"
    assert course.ended_early == {"first": "OSError: the disk is full"}
    course = Course(1, Console(file=StringIO()))
    with course.part("fourth", 0):
        assert course.over()
    assert course.ended_early == {"fourth": "the time was up"}


def test_a_peer_without_its_environment_is_named() -> None:
    left_out: dict[str, str] = {}
    with all_of([], ["nothing"], left_out) as everyone:
        assert everyone == []
    assert left_out.keys() == {"nothing"}


def test_the_tables_and_figures_of_a_run_in_which_every_part_failed() -> None:
    results: dict[str, Any] = {
        "date": "2026-01-01",
        "python": "3.11.2",
        "machine": {
            "processors": 2,
            "model": "",
            "architecture": "x86_64",
            "memory": 1 << 30,
            "kernel": "6",
            "load": 0,
        },
        "at_once_sessions": 20,
        "printed": {"prints": 50_000},
        "left_out": {"docker exec": "it | failed"},
        "ended_early": {"memory": "the time was up"},
        **{name: {} for name in ("versions", "times", "at_once", "warm", "printing", "memory", "cold")},
        "growth": {"sessions": {}, "files": {}},
    }
    block = "\n".join(page.block(results))
    assert "| docker exec | left out: it / failed | | | | |" in block
    assert '- The part "memory" is incomplete: the time was up.' in block
    assert [name for name, _ in plots.figures(results)] == ["performance-peers.svg", "performance-growth.svg"]


def test_the_block_of_the_page_is_replaced() -> None:
    text = page.PATH.read_text()
    once = page.replaced(text, "make bench", ["a", "b"])
    assert "<!-- make bench: begin -->\na\nb\n<!-- make bench: end -->" in once
    assert page.replaced(once, "make bench", ["a", "b"]) == once
    with pytest.raises(ValueError, match="must have the comments"):
        page.replaced("no block", "make bench", [])


def alive(peer: Peer) -> bool:
    return Path("/proc", peer.version).exists()
