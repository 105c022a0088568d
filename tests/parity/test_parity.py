"""Every claim of the page about parity on an operation and a version, and the page itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenroom.azure.codecs.shared import API_VERSIONS

from . import page
from .azure import Azure, Case
from .mcp_cases import CASES


def known_difference(case: Case) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(raises=AssertionError, strict=True, reason=case.state)] if case.differs else []


EVERYTHING = [
    pytest.param(case, version, id=f"{case.check.__name__}-{version}", marks=known_difference(case))
    for case in CASES
    for version in case.evidence
]


@pytest.mark.parametrize(("case", "version"), EVERYTHING)
def test_the_server_does_as_azure(case: Case, version: str, request: pytest.FixtureRequest) -> None:
    azure = Azure(request.getfixturevalue(case.server), version)
    try:
        case.check(azure)
    finally:
        azure.client.delete("session", params={"identifier": azure.identifier, "api-version": API_VERSIONS[-1]})


def test_the_page_names_what_is_tested() -> None:
    assert Path(__file__).parents[2] / "docs/azure-parity.md" == page.PATH
    assert page.PATH.read_text() == page.text(), "docs/azure-parity.md is not up to date: run `make parity`."


def test_every_row_of_the_page_is_different() -> None:
    rows = [(case.request, case.text) for case in CASES]
    assert len(set(rows)) == len(rows)
    assert all(text for _, text in rows)
