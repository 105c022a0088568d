"""What a reader of a page types first: the installation, the program, the test."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from releasing.distributions import ROOT


@dataclass(frozen=True)
class FirstProgram:
    """The first program of a page."""

    requirements: list[str]
    """What its first installation installs."""
    program: str
    printed: str | None
    """What the page says that it prints, if the next block does so."""


def first_program(page: str) -> FirstProgram:
    text = (ROOT / page).read_text()
    (installation, *_), (program, *_) = (
        re.findall(rf"^```{kind}\n({first}.*?)^```", text, re.DOTALL | re.MULTILINE)
        for kind, first in (("", "pip install"), ("python", "import"))
    )
    printed = re.search(rf"^{re.escape(program)}```\n\n```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return FirstProgram(shlex.split(installation.splitlines()[0])[2:], program, printed[1] if printed else None)


def first_test() -> tuple[str, str]:
    """The requirement that docs/testing.md begins with, and its first test."""
    text = (ROOT / "docs/testing.md").read_text()
    (requirement, *_) = re.findall(r"`pip install \"(.*?)\"`", text)
    (test, *_) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return requirement, test
