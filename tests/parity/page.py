"""Writes docs/azure-parity.md: page.md.template with the cases that are tested. Run it with `make parity`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.openapi import differences

from greenroom.azure.codecs.shared import API_VERSIONS

from .azure import Case
from .mcp_cases import CASES

PATH = Path(__file__).parents[2] / "docs/azure-parity.md"

_ABSENT = "\N{EN DASH}"


def text() -> str:
    """The whole page."""
    template = Path(__file__).with_suffix(".md.template").read_text()
    parts = {"cases": "\n".join(_sections()), "differences": "\n".join(_differences()) + "\n"}
    for name, part in parts.items():
        template = template.replace(f"<!-- {name} -->\n", part)
    return template


def _sections() -> Iterator[str]:
    versions = " | ".join(version.removesuffix("-preview") for version in API_VERSIONS)
    for section, cases in groupby(CASES, key=lambda case: case.section):
        yield f"## {section}\n"
        yield f"| request | what Azure does | {versions} | state |"
        yield "|---|---|" + "---|" * len(API_VERSIONS) + "---|"
        yield from map(_row, cases)
        yield ""


def _differences() -> Iterator[str]:
    yield "| request | what the documents declare | what Greenroom does, with `--strict` too | why |"
    yield "|---|---|---|---|"
    for each in differences.load().values():
        yield f"| {each.request} | {each.document} | {each.server} | {each.reason} |"


def _row(case: Case) -> str:
    evidence = " | ".join(case.evidence.get(version, _ABSENT) for version in API_VERSIONS)
    state = f"expected difference: {case.state}" if case.differs else case.state
    return f"| {case.request} | {case.text} | {evidence} | {state} |"


if __name__ == "__main__":
    PATH.write_text(text())
