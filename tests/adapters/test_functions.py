"""What models read of the functions that code can call, and how code finds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from greenroom import InvalidRequest, SessionPool, Tool
from greenroom.adapters import SEARCH, Toolset, read_functions
from greenroom.testing import memory_pool


def get_orders(customer: int, limit: int = 10) -> list[dict[str, Any]]:
    """Return the latest orders
    of a customer."""
    return [{"customer": customer, "limit": limit}]


def many(count: int) -> list[Tool]:
    return [
        Tool(f"fetchReport{n}", f"Fetch the report about {'bread' if n % 2 else 'milk'}, number {n}.", {}, lambda _: 1)
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with memory_pool() as pool:
        yield pool


def test_the_description_has_each_function_with_its_signature() -> None:
    functions = read_functions([get_orders])
    assert functions.search is None
    assert functions.text.endswith(
        "\nget_orders(customer: int, limit: int = 10) -> list[dict[str, Any]]\n"
        "    Return the latest orders of a customer."
    )
    assert read_functions(None) == read_functions([])
    assert read_functions(None).text == ""


@pytest.mark.parametrize("budget", [200, 700, 1_000, 4_000])
def test_the_description_keeps_its_budget_and_names_the_search(budget: int) -> None:
    functions = read_functions(many(100), budget)
    assert len(functions.text) <= max(budget, 450)
    assert f"{SEARCH}(query: str)" in functions.text
    assert "There are 100 in total" in functions.text


def test_a_search_finds_functions_by_their_words() -> None:
    functions = read_functions([*many(100), get_orders], 1_000)
    assert functions.search is not None
    search = functions.search.handler
    assert search({"query": "order of a customer"})[0].startswith("get_orders(customer: int")
    assert len(search({"query": "report"})) == 10
    assert search({"query": "report bread 17"})[0].startswith("fetchReport17(")
    assert search({"query": "zebra"}) == []


def test_a_function_named_like_the_search_is_refused_where_the_search_is_needed() -> None:
    own = Tool(SEARCH, "Mine.", {}, lambda _: 1)
    assert SEARCH in read_functions([own]).text
    with pytest.raises(InvalidRequest, match="must not have the name 'search_functions'"):
        read_functions([own, *many(99)], 500)


def test_code_calls_functions_and_finds_them(pool: SessionPool) -> None:
    tools = Toolset("framework", "x", pool=pool, functions=[get_orders, *many(99)], functions_budget=600)
    assert "fetchReport" in tools.describe("run_python")
    assert "fetchReport" not in tools.describe("list_files")
    answer = tools.call("ann", "run_python", code=f"print({SEARCH}('customer orders')[0][:10], get_orders(7)[0])")
    assert answer.text == "stdout:\nget_orders {'customer': 7, 'limit': 10}"

    def for_this_call(arguments: dict[str, Any]) -> str:
        return f"for ann: {arguments['customer']}"

    bound = Tool("get_orders", "x", {"type": "object", "properties": {"customer": {}}}, for_this_call)
    answer = tools.call("ann", "run_python", functions=[bound], code=f"{SEARCH}('orders')\nget_orders(customer=7)")
    assert answer.text == "result:\n'for ann: 7'"
