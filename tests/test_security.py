"""Every test that SECURITY.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

import greenroom.testing

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()


def test_the_tests_that_hold_the_promises_exist() -> None:
    sources = [*ROOT.glob("tests/**/*.py"), *Path(greenroom.testing.__file__).parent.rglob("*.py")]
    defined = {name for source in sources for name in re.findall(r"def (test_\w+)", source.read_text())}
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 20
    assert named <= defined


def test_the_files_of_tests_exist() -> None:
    assert [path for path in re.findall(r"`(tests/[\w/]+(?:\.py)?)`", TEXT) if not (ROOT / path).exists()] == []


def test_the_suites_exist() -> None:
    assert all(hasattr(greenroom.testing, name) for name in re.findall(r"`(\w+Suite)`", TEXT))
