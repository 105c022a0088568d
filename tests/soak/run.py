"""Runs the tests that take minutes, and writes their result to docs/soak.md."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import greenroom

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "soak.md"
HEAD = f"""# What a long run leaves

Written by `make soak` for Greenroom {greenroom.__version__}, on two processors: the tests that take minutes of a whole
machine, with every engine. `make test` runs the same tests with smaller numbers.

| test | with | result | seconds |
|---|---|---|---:|
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", "soak", f"--junitxml={report}"]
        ended = subprocess.run([*pytest, "tests/orphans", "tests/soak"], check=False, cwd=ROOT)
        rows = [_row(case) for case in ElementTree.parse(report).iter("testcase")]
    if rows:
        PAGE.write_text(HEAD + "".join(rows), encoding="utf-8")
    sys.exit(ended.returncode)


def _row(case: ElementTree.Element) -> str:
    name, _, parameters = case.attrib["name"].partition("[")
    result = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")
    words = name.removeprefix("test_").replace("_", " ")
    return f"| {words} | `{parameters.removesuffix(']')}` | {result} | {float(case.attrib['time']):.0f} |\n"


if __name__ == "__main__":
    main()
