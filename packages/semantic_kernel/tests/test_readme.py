"""The README's examples run, and print the output that it shows."""

import re
from pathlib import Path
from typing import Any

import pytest

import greenroom
from greenroom import SessionPool

from .doubles import ScriptedModel, run_what_the_user_says

README = (Path(__file__).parent.parent / "README.md").read_text()
FIRST, AGENT = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_first_example_prints_its_result(
    sandboxes: SessionPool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREENROOM_POOL", "bubblewrap:")
    exec(FIRST, {})
    assert f"```\n{capsys.readouterr().out}```" in README


async def test_the_agent_answers_and_its_figures_are_saved(
    sandboxes: SessionPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(FIRST.partition("async def main")[0] + AGENT, names)
    model = ScriptedModel(ai_model_id="scripted", script=run_what_the_user_says)
    code = "import pandas as pd; pd.read_csv('/mnt/data/sales.csv').plot(); print('drawn')"
    assert (await names["analyse"](sandboxes, model, code)).startswith("stdout:\ndrawn")
    assert (tmp_path / "figure-1.png").read_bytes().startswith(b"\x89PNG")


def test_the_version_is_the_one_of_the_core() -> None:
    from importlib.metadata import version

    assert version("greenroom-semantic-kernel") == greenroom.__version__
