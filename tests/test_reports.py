"""A failing test whose text is not Unicode is reported as any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def test_a_lone_surrogate_in_a_failure_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_texts.py").write_text(
        "def test_one():\n    print('\\ud800')\n    assert '\\udcff' == 'b'\n\ndef test_two():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses", "1", str(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "\\udcff" in run.stdout
