"""The reference is that of the code: settings, commands, and each public name once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from website.reference import PAGES

from .pages import DOCS, ROOT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_generated_reference_is_up_to_date(page: Path) -> None:
    assert page.read_text() == PAGES[page](), f"docs/{page.name} is not up to date: run `make reference`."


def test_every_setting_has_its_meaning() -> None:
    rows = re.findall(r"^\| `\w+` \|.*$", (DOCS / "settings.md").read_text(), re.MULTILINE)
    assert len(rows) > 60
    assert not [row for row in rows if row.endswith("|  |")]


@pytest.mark.parametrize(
    "module",
    [
        "core/src/greenroom",
        "core/src/greenroom/testing",
        "langchain/src/langchain_greenroom",
        "llamaindex/src/llama_index/tools/greenroom",
        "semantic_kernel/src/greenroom_semantic_kernel",
        "agent_framework/src/greenroom_agent_framework",
    ],
)
def test_the_reference_has_each_public_name_once(module: str) -> None:
    source = ast.parse((ROOT / "packages" / module / "__init__.py").read_text())
    assigned = [each for each in source.body if isinstance(each, ast.Assign)]
    (public,) = [each.value for each in assigned if ast.unparse(each.targets[0]) == "__all__"]
    name = module.partition("/src/")[2].replace("/", ".")
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    documented = re.findall(rf"^::: {re.escape(name)}\.(?!adapters$)(\w+)$", pages, re.MULTILINE)
    assert sorted(documented) == sorted(ast.literal_eval(public))
