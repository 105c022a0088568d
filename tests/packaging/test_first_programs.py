"""The first program of each README runs as it stands: its installation in an empty environment, in an empty folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.packaging.first_programs import PAGES, expected, outcome
from tests.packaging.first_use import first_use
from tests.packaging.installing import installed
from tests.packaging.pages import first_program

from greenroom.testing import engine_pool


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_first_program_of_a_page_runs_as_it_stands(page: str, wheels: Path, tmp_path: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    python = installed(tmp_path / "venv", wheels, *first_program(page).requirements) / "python"
    folder = tmp_path / "empty"
    folder.mkdir()
    assert outcome(page, [python], folder, os.environ) == expected(page)


@pytest.mark.timeout(300)
def test_an_empty_environment_reaches_its_first_test(wheels: Path, tmp_path: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    steps = first_use(tmp_path, wheels, installed)
    assert [step.name for step in steps] == ["install", "first program", "install pytest", "first test"]
