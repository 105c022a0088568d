"""Writes docs/cgroups-v2.md from the results of the virtual machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from .inside import SETTINGS, SUITES, pairs

PATH = Path(__file__).parents[2] / "docs/cgroups-v2.md"

_OUTCOMES = {
    "passed": "passed",
    "failed": "FAILED",
    "missing": "NOT RUN",
    "skipped": "skipped",
    "expected": "expected to fail",
    "held": "passed against expectation",
}


def write(results: Path) -> bool:
    """Write the page; returns whether everything ran and nothing failed or was skipped."""
    reports = {(setting, suite): results / report for setting, suite, report in pairs()}
    counts = {key: _count(path) for key, path in reports.items()}
    rows = [[suite, *(_summary(counts.get((setting, suite))) for setting in SETTINGS)] for suite in SUITES]
    text = Path(__file__).with_suffix(".md.template").read_text()
    for name, content in {
        "facts": _facts(json.loads((results / "facts.json").read_text())),
        "results": "\n".join(_table(["tests", *SETTINGS], rows)),
        "limits": "\n".join(_limits(reports)),
    }.items():
        text = text.replace(f"<!-- {name} -->", content)
    PATH.write_text(text)
    return not any(count["failed"] or count["missing"] or count["skipped"] for count in counts.values())


def _facts(facts: dict[str, str]) -> str:
    return ", ".join(
        (
            f"{facts['system']} with Linux {facts['kernel']}",
            "on KVM"
            if facts["virtualization"] == "kvm"
            else "on an emulated processor (its clock counts instructions)",
            facts["systemd"].partition(" (")[0],
            facts["bubblewrap"],
            f"Python {facts['Python']}",
            f"a `{facts['mounts']}` mount with the controllers {facts['controllers']}",
        )
    )


def _count(report: Path) -> Counter[str]:
    if not report.exists():
        return Counter(missing=1)
    return Counter(map(_outcome, ET.parse(report).iter("testcase")))


def _outcome(case: ET.Element) -> str:
    failure = case.find("failure")
    if failure is not None and failure.get("message", "").startswith("[XPASS(strict)]"):
        return "held"
    if failure is not None or case.find("error") is not None:
        return "failed"
    skipped = case.find("skipped")
    if skipped is None:
        return "passed"
    return "expected" if skipped.get("type") == "pytest.xfail" else "skipped"


def _summary(count: Counter[str] | None) -> str:
    if count is None:
        return ""
    return ", ".join(f"{count[name]} {text}" for name, text in _OUTCOMES.items() if count[name])


def _limits(reports: dict[tuple[str, str], Path]) -> Iterator[str]:
    found: dict[str, dict[str, str]] = {}
    for (setting, _), report in reports.items():
        if report.exists():
            for item in ET.parse(report).iter("property"):
                if item.get("name") == "limits":
                    found[setting] = json.loads(item.get("value") or "")
    names = sorted({name for limits in found.values() for name in limits})
    rows = [[f"`{name}`", *(found.get(setting, {}).get(name, "missing") for setting in SETTINGS)] for name in names]
    return _table(["file", *SETTINGS], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
