"""The comparison claims nothing about Greenroom that no test verifies."""

import ast
import re
from pathlib import Path

import pytest

from greenroom.testing import AdapterSuite

ROOT = Path(__file__).parents[2]
ADAPTERS = ("agent_framework", "langchain", "llamaindex", "semantic_kernel")


def rows(table: str) -> dict[str, list[str]]:
    """A Markdown table's cells, by the first of their row."""
    _, _, *lines = table.strip().splitlines()
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return {feature: rest for feature, *rest in cells}


COMPARISON, TESTS = (
    rows(table) for table in re.findall(r"(?:^\|.*\n)+", (ROOT / "docs/comparison.md").read_text(), re.MULTILINE)
)


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("feature", COMPARISON)
def test_each_greenroom_claim_names_existing_tests(feature: str) -> None:
    ours = COMPARISON[feature][0]
    assert ours, "a feature that Greenroom says nothing about"
    named = re.findall(r"`([^`]+)::(test_\w+)`", TESTS[feature][0])
    assert named
    for place, name in named:
        found = dir(AdapterSuite) if place == "AdapterSuite" else functions(ROOT / place)
        assert name in found, f"{place} has no {name}"


def test_no_test_is_named_for_a_claim_that_is_not_made() -> None:
    assert TESTS.keys() <= COMPARISON.keys()


def test_every_row_has_a_cell_for_each_integration() -> None:
    assert {len(cells) for cells in COMPARISON.values()} == {4}


def test_the_table_of_the_readme_is_a_part_of_the_whole() -> None:
    readme = (ROOT / "README.md").read_text()
    start = readme.index("| | Greenroom's adapters |")
    table = rows(readme[start : readme.index("\n\n", start)])
    assert len(table) > 10
    assert table.items() <= COMPARISON.items()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_suite_runs_over_each_adapter(adapter: str) -> None:
    source = (ROOT / "packages" / adapter / "tests/test_adapter.py").read_text()
    assert "class TestAwaited(AdapterSuite)" in source
    assert "class TestInSandboxes(AdapterSuite)" in source
