"""The pages that no other test runs work as shown, and every page with a program has a test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from greenroom.testing import engine_pool

from .pages import DOCS, ROOT, run_commands, run_python


@pytest.fixture(autouse=True)
def sandboxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GREENROOM_POOL", "bubblewrap:")


@pytest.mark.slow
def test_the_tutorial_works_as_shown(tmp_path: Path) -> None:
    run_python(DOCS / "tutorial.md")
    assert run_commands(DOCS / "tutorial.md") == 1
    for name in ("sales.png", "agent.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


class ScriptedModel(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


@pytest.mark.slow
def test_the_page_about_csv_files_works_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    plot = "import pandas as pd\nsales = pd.read_csv('sales.csv')\nax = sales.plot.bar('month')\nsales.sales.max()"
    save = "sales[sales.sales > 100].to_csv('best.csv', index=False)"
    turns = [
        *(call(plot), AIMessage("March was the best month, with sales of 143.")),
        *(call(save), AIMessage("There you are.")),
        AIMessage("You are welcome."),
    ]
    model = ScriptedModel(messages=iter(turns))

    def scripted_model(_: str) -> ScriptedModel:
        return model

    monkeypatch.setattr("langchain.chat_models.init_chat_model", scripted_model)
    run_python(DOCS / "csv-agent.md")


def call(code: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "run_python", "args": {"code": code}, "id": "1"}])


@pytest.mark.slow
def test_the_start_page_works_as_shown() -> None:
    run_python(DOCS / "index.md")


def test_every_page_with_a_program_is_named_by_a_test() -> None:
    tests = [path.read_text() for place in ("tests", "packages/*/tests") for path in ROOT.glob(f"{place}/**/*.py")]
    pages = [page.name for page in DOCS.glob("*.md") if "```python\n" in page.read_text()]
    assert len(pages) > 20
    assert not [page for page in pages if not any(re.search(rf"""["/]{page}\b""", test) for test in tests)]


def test_every_claim_about_a_project_has_a_source() -> None:
    tables = re.findall(
        r"^\| \| Greenroom \| E2B .*\n(?:\|.*\n)+", (DOCS / "alternatives.md").read_text(), re.MULTILINE
    )
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for table in tables for line in table.splitlines()[2:]
    ]
    assert len(rows) > 20
    assert not [row for row in rows for cell in row[2:] if cell != "not found" and "](https://" not in cell]
    # A "no" has no page of Greenroom's documentation that says so.
    assert not [row for row in rows if row[1] != "no" and not re.search(r"\]\((?!https?:)[^)]+\)", row[1])]
