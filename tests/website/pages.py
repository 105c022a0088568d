"""Run the blocks of a page as a reader does, and compare what they print with what stands below them."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BIN = Path(sys.executable).parent


def run_python(page: Path) -> dict[str, Any]:
    """Run the Python blocks in order, in one namespace. Where a block of plain text follows one, it is its output."""
    found = re.findall(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", page.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no examples"
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, (code, shown) in enumerate(found, 1):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(code, f"{page.name}, example {number}", "exec"), names)  # the page's own code
        printed = output.getvalue()
        assert printed == shown, f"{page.name}, example {number} printed {printed!r}, not {shown!r}"
    return names


def run_commands(page: Path) -> int:
    """Run the `greenroom` commands of blocks of the type console, and return how many there were."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    number = 0
    for command, shown in re.findall(r"^\$ (greenroom .*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.MULTILINE):
        number += 1
        program = [BIN / "greenroom", *shlex.split(command)[1:]]
        ended = subprocess.run(program, check=False, capture_output=True, text=True, timeout=120)
        assert ended.stdout == shown, (command, ended)
    return number
