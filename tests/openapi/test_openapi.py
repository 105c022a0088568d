"""A short form of `make openapi`, and the list of accepted differences."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from greenroom.azure.codecs.shared import CURRENT_VERSIONS
from greenroom.testing import engine_pool

from . import differences, documents, run


@pytest.fixture
def schemathesis() -> None:
    if not run.SCHEMATHESIS.exists():
        reason = "Schemathesis is not installed: make .venv-openapi/.ready"
        if os.environ.get("GREENROOM_REQUIRE_ENGINES"):
            pytest.fail(reason)
        pytest.skip(reason)
    engine_pool("bubblewrap:", ready_session_instances=0).close()


@pytest.mark.slow
@pytest.mark.usefixtures("schemathesis")
def test_a_strict_server_differs_from_microsofts_documents_as_listed(tmp_path: Path) -> None:
    wrong, accepted = run.compare(
        tmp_path, versions=documents.VERSIONS[-1:], examples=5, phases="examples,coverage,fuzzing"
    )
    assert not wrong, "\n".join(wrong)
    assert {"exit-code", "relative-location", "unknown-method"} <= accepted


@pytest.mark.slow
@pytest.mark.usefixtures("schemathesis")
def test_any_other_difference_is_found_and_documents_can_be_given(tmp_path: Path) -> None:
    version, name = documents.VERSIONS[-1], "Azure.Core.Foundations.ApiVersionParameter"
    document = documents.load(version)
    document["parameters"] = {name: {"name": "api-version", "in": "query", "required": True, "type": "string"}}
    operation = document["paths"]["/listSessions"]["get"]
    operation["parameters"] = [{"$ref": f"#/parameters/{name}"}]
    document["paths"] = {"/listSessions": {"get": operation}}
    document["definitions"]["Sessions"]["required"].append("another")
    path = tmp_path / "given" / version / "DynamicSessions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    wrong, accepted = run.compare(
        tmp_path,
        versions=[version],
        examples=1,
        phases="fuzzing",
        folder=tmp_path / "given",
        pool="bubblewrap:?preload=",
    )
    assert len(wrong) == 1
    assert '"another" is a required property' in wrong[0]
    assert accepted == set()


def test_there_is_a_document_for_each_version_of_the_current_contract() -> None:
    assert documents.VERSIONS == CURRENT_VERSIONS
    for version in documents.VERSIONS:
        document = documents.load(version)
        assert document["info"]["version"] == version
        used = set(re.findall(r"#/definitions/(\w+)", str(document)))
        assert used == document["definitions"].keys()


def test_an_accepted_difference_covers_no_other() -> None:
    failure = {
        "kind": "RejectedPositiveData",
        "operation": "GET /listSessions",
        "version": "2025-10-02-preview",
        "status": "400",
        "target": "skip",
        "message": "Valid data should have been accepted\n'skip' must be a whole number",
    }
    assert [name for name, each in differences.load().items() if each.accepts(failure)] == ["negative-skip"]
    for other in ({"status": "500"}, {"target": "identifier"}, {"operation": "GET /session"}, {"kind": "ServerError"}):
        assert not any(each.accepts(failure | other) for each in differences.load().values())
