"""The conformance suites cannot be softened: no test is replaced, and no difference outlives its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from greenroom.testing import FileSuite

TEST = "test_an_upload_replaces_a_file_of_the_same_name"

PASSES = """
from greenroom.testing.suite import Suite

class Small(Suite):
    def test_it(self): pass

class TestSubject(Small):
    known_differences = {"test_it": "it is otherwise here"}
"""


def subclass(**attributes: Any) -> type[FileSuite]:
    return type("TestSubject", (FileSuite,), attributes)


def test_a_subclass_cannot_replace_a_test() -> None:
    with pytest.raises(TypeError, match=rf"{TEST} would replace a test of the suite; use known_differences"):
        subclass(**{TEST: lambda self: None})  # pyright: ignore[reportUnknownLambdaType]


@pytest.mark.parametrize("attribute", ["known_differences", "not_run"])
def test_a_difference_must_name_a_test(attribute: str) -> None:
    with pytest.raises(AttributeError, match="test_of_nothing"):
        subclass(**{attribute: {"test_of_nothing": "a reason"}})


def test_a_mark_on_one_subject_does_not_affect_the_others() -> None:
    different = subclass(known_differences={TEST: "a reason"})
    assert [mark.kwargs["reason"] for mark in getattr(different, TEST).pytestmark] == ["a reason"]
    assert not hasattr(getattr(FileSuite, TEST), "pytestmark")


def test_a_known_difference_that_passes_is_a_failure(tmp_path: Path) -> None:
    tests = tmp_path / "test_subject.py"
    tests.write_text(PASSES)
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tests]
    ended = subprocess.run(pytest_command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert ended.returncode == 1
    assert "[XPASS(strict)] it is otherwise here" in ended.stdout
