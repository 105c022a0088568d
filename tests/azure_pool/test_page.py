"""The examples of docs/azure.md work as shown, with a server on this machine in Azure's place."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from greenroom.azure.settings import AzureSettings
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving

PAGE = (Path(__file__).parents[2] / "docs/azure.md").read_text()


def test_each_example_prints_the_output_shown_below_it() -> None:
    examples = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == PAGE.count("```python")
    names: dict[str, object] = {}
    with contextlib.ExitStack() as stack:
        with skipping_without("bubblewrap:"):
            url = stack.enter_context(serving("bubblewrap:", preload=()))
        for example, expected in examples:
            output = io.StringIO()
            code = re.sub(r'ENDPOINT = ".*"', f"ENDPOINT = '{url}?api_version=2025-10-02-preview'", example)
            with contextlib.redirect_stdout(output):
                exec(code, names)  # the page's own code
            assert output.getvalue() == expected


def test_every_option_is_documented() -> None:
    told = {
        name for cells in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(\w+)`", cells)
    }
    assert told == AzureSettings.model_fields.keys()
