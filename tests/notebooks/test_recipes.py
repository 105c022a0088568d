"""The recipes of docs/notebooks.md run one after the other, and print the output below them."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "notebooks.md"

_nbformat: Any = nbformat  # its types are unknown in part


@pytest.mark.usefixtures("bubblewrap")
def test_each_recipe_prints_the_output_shown_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "examples" / "data" / "gapminder.csv", tmp_path)
    shutil.copy(ROOT / "notebooks" / "input" / "life_expectancy.ipynb", tmp_path / "report.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GREENROOM_POOL", "bubblewrap:?ready_session_instances=0")
    recipes = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```)?", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(recipes) == PAGE.read_text(encoding="utf-8").count("```python")
    state: dict[str, Any] = {}
    for code, expected in recipes:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(code, state)  # the page's own code
        assert output.getvalue() == expected, code
    saved = _nbformat.read(tmp_path / "report-done.ipynb", as_version=4)
    _nbformat.validate(saved)
    assert any("image/png" in output.get("data", {}) for cell in saved.cells for output in cell.get("outputs", []))
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
