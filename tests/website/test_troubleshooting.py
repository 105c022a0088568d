"""Each text that docs/troubleshooting.md quotes is one that the code can show, and each has a cause and a remedy."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from .pages import DOCS, ROOT

PAGE = (DOCS / "troubleshooting.md").read_text()
ENTRIES = re.split(r"^###? ", PAGE.partition("\n## ")[2], flags=re.MULTILINE)[1:]
QUOTED = re.findall(r"^```text\n(.*?)\n^```", PAGE, re.DOTALL | re.MULTILINE)


@cache
def shown_texts() -> tuple[str, ...]:
    """All strings of the core, each with `…` for what differs from case to case."""
    texts: list[str] = []
    for path in (ROOT / "packages/core/src/greenroom").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.JoinedStr(values=parts):
                    texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts))
                case ast.Constant(value=str(text)):
                    texts.append(text)
                case _:
                    pass
    return tuple(texts)


@pytest.mark.parametrize("quoted", QUOTED)
def test_the_quoted_texts_are_in_the_code(quoted: str) -> None:
    assert any(quoted in text for text in shown_texts())


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if "```text" in entry], ids=lambda entry: entry[:40])
def test_an_entry_has_a_cause_and_a_remedy(entry: str) -> None:
    assert re.search(r"```text\n.*\n```\n\n\*\*Cause:\*\* [^*]+\n\n\*\*What to do:\*\* ", entry, re.DOTALL)


def test_all_entries_are_found() -> None:
    assert len(QUOTED) > 30
    assert sum("```text" in entry for entry in ENTRIES) == PAGE.count("\n### ")
