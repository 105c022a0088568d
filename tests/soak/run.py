"""Runs the tests that take minutes, and writes their results to docs/soak.md."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import greenroom

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "soak.md"
HEAD = f"""# Soak test results

Written by `make soak` for Greenroom {greenroom.__version__}, on two processors: the tests that take minutes of a whole
machine, with every engine. `make test` runs the same tests with smaller numbers.

| test | with | result | seconds |
|---|---|---|---:|
"""


FIGURES = """
## Sessions that come and go

The figures of the host process and of what is below it: before, from when the pool was full to the end, and after the
pool was closed; memory in megabytes. A test fails where one has grown.

"""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", "soak"]
        pytest += ["-o", "junit_family=xunit1", f"--junitxml={report}"]  # the family with properties
        ended = subprocess.run([*pytest, "tests/orphans", "tests/soak"], check=False, cwd=ROOT)
        cases = list(ElementTree.parse(report).iter("testcase"))
    if cases:
        PAGE.write_text(HEAD + "".join(map(_row, cases)) + _figures(cases), encoding="utf-8")
    sys.exit(ended.returncode)


def _figures(cases: list[ElementTree.Element]) -> str:
    """A table of the properties that tests recorded, one column per property."""
    found: dict[str, dict[str, str]] = {}
    for case in cases:
        if properties := {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}:
            found[case.attrib["name"].partition("[")[2].removesuffix("]")] = properties
    if not found:
        return ""
    names = list(dict.fromkeys(name for properties in found.values() for name in properties))
    table = [["", *(f"`{test}`" for test in found)], ["---"] * (1 + len(found))]
    table += [[name, *(properties.get(name, "") for properties in found.values())] for name in names]
    return FIGURES + "".join(f"| {' | '.join(row)} |\n" for row in table)


def _row(case: ElementTree.Element) -> str:
    name, _, parameters = case.attrib["name"].partition("[")
    result = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")
    words = name.removeprefix("test_").replace("_", " ")
    return f"| {words} | `{parameters.removesuffix(']')}` | {result} | {float(case.attrib['time']):.0f} |\n"


if __name__ == "__main__":
    main()
