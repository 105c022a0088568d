"""The table of docs/ready-instances.md is what the simulation gives: the same at each run, on any machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_ROWS = """
from benchmarks.ready_instances import page
from benchmarks.ready_instances.__main__ import run
from benchmarks.ready_instances.settings import CHOICES

for choice in CHOICES:
    print(page.row("recorded", choice.name, run(("recorded", choice.name))))
"""


@pytest.mark.slow
def test_the_rows_of_the_recorded_arrivals_are_those_of_the_page() -> None:
    ran = subprocess.run([sys.executable, "-c", _ROWS], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = ran.stdout.splitlines()
    assert len(rows) == 7
    page = (ROOT / "docs/ready-instances.md").read_text().splitlines()
    assert [row for row in page if row.startswith("| recorded |")] == rows
