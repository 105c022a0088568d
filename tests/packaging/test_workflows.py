"""The workflows in .github call what exists, with no more rights than they need. What runs them is not here."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
import yaml
from releasing.distributions import ROOT
from tests.packaging import newcomer

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
TARGETS = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _jobs(name: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / ".github/workflows" / f"{name}.yml").read_text())["jobs"]


def _commands(job: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def _packages(text: str) -> set[str]:
    """What a text installs with apt-get."""
    (arguments,) = re.findall(r"apt-get install (.*)", text)
    return {word for word in arguments.split() if not word.startswith("-")}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_what_exists_and_ends(workflow: Any) -> None:
    for job in _jobs(workflow.stem).values():
        assert job["timeout-minutes"] <= 150
        commands = _commands(job)
        assert set(re.findall(r"^make ([a-z-]+)", commands, re.MULTILINE)) <= TARGETS
        for program in re.findall(r"^(\.\S+/\S+)", commands, re.MULTILINE):
            assert os.access(ROOT / program, os.X_OK)
        for step in job["steps"]:
            assert re.search(r"@(v\d+|release/v\d+|[0-9a-f]{40})$", step.get("uses", "@v1")), step


def test_each_push_is_checked_and_a_change_passes_everything() -> None:
    jobs = _jobs("ci")
    assert "make check" in _commands(jobs["check"]).splitlines()
    assert ".ci/run" in _commands(jobs["everything"]).splitlines()
    assert _packages(_commands(jobs["check"])) == _packages(CONTRIBUTING) | {"ca-certificates"}


def test_only_the_upload_can_publish_and_only_with_a_persons_consent() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert "secrets." not in text
    assert yaml.safe_load(text)["permissions"] == {}
    jobs = _jobs("release")
    assert jobs["build"]["permissions"] == {"contents": "read"}
    assert "make release" in _commands(jobs["build"]).splitlines()
    upload = jobs["upload"]
    assert (upload["needs"], upload["environment"]) == ("build", "pypi")
    assert upload["permissions"] == {"id-token": "write"}
    assert not _commands(upload)
    (kept,) = [step["with"] for step in jobs["build"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert kept["path"].split() == ["dist/*.whl", "dist/*.tar.gz"]


def test_the_guide_names_targets_that_exist() -> None:
    named = re.findall(r"^make ([a-z0-9-]+)|`make ([a-z0-9-]+)", CONTRIBUTING, re.MULTILINE)
    assert len(named) > 5
    assert {first or second for first, second in named} <= TARGETS


def test_the_newcomers_blocks_are_those_of_the_guide() -> None:
    programs, change = newcomer.blocks()
    assert _packages(programs) == _packages(CONTRIBUTING)
    assert change.startswith("git clone /repository greenroom\ncd greenroom\nmake check ")
