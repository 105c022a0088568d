"""The examples of docs/custom-containers.md work as shown."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs/custom-containers.md").read_text()


def test_each_example_prints_the_output_shown_below_it(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (template,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert f'"{image}"' in template
    Path("custom.json").write_text(template)
    examples = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == PAGE.count("```python")
    names: dict[str, object] = {}
    for code, expected in examples:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(code, names)  # the page's own code
        assert output.getvalue() == expected
