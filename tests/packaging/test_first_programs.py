"""The first program of each README runs as it stands: its installation in an empty environment, in an empty folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.packaging.first_use import first_use
from tests.packaging.installing import installed
from tests.packaging.pages import first_program
from tests.packaging.scripted_openai import scripted_openai

from greenroom.testing import engine_pool

# The two turns of the scripted model.
CODE = (
    "import pandas as pd\nsales = pd.read_csv('/mnt/data/sales.csv').iloc[:, 1]\nax = sales.plot.bar()\n"
    "print(sales.sum())"
)
ANSWER = "Their sum is 40."


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("page", "printed", "drawn"),
    [
        ("README.md", None, "sales.png"),
        ("packages/core/README.md", None, None),
        ("packages/langchain/README.md", f"{ANSWER}\n", None),
        ("packages/llamaindex/README.md", f"{ANSWER}\n", None),
        ("packages/semantic_kernel/README.md", None, None),
        ("packages/agent_framework/README.md", f"{ANSWER}\n", "figure-1.png"),
    ],
)
def test_the_first_program_of_a_page_runs_as_it_stands(
    page: str, printed: str | None, drawn: str | None, wheels: Path, tmp_path: Path
) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    first = first_program(page)
    python = installed(tmp_path / "venv", wheels, *first.requirements) / "python"
    folder = tmp_path / "empty"
    folder.mkdir()
    with scripted_openai(CODE, ANSWER) as url:
        model = {"OPENAI_API_KEY": "a-key-of-the-test-alone", "OPENAI_BASE_URL": url, "OPENAI_API_BASE": url}
        ended = subprocess.run(
            [python, "-c", first.program],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, **model},
        )
    assert (ended.stdout, ended.stderr) == (first.printed if printed is None else printed, "")
    assert [path.name for path in folder.iterdir()] == ([drawn] if drawn else [])


@pytest.mark.timeout(300)
def test_an_empty_environment_comes_to_its_first_test(wheels: Path, tmp_path: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    steps = first_use(tmp_path, wheels, installed)
    assert [step.name for step in steps] == ["install", "first program", "install pytest", "first test"]
