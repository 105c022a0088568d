"""JSON schemas of tools against arguments that hostile code chose."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from greenroom import InvalidRequest
from greenroom.testing import memory_pool
from greenroom.tools import Tool
from greenroom.tools.definitions import Definition, definitions_of
from greenroom.tools.schemas import ArgumentsRefused, CheckTooLong, at_most, schema_check

REFERENCED = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"text": {"type": "string", "pattern": r"^(\w+\s?)*$"}, "inner": {"$ref": "#"}},
}
EXPONENTIAL = {
    "type": "object",
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "anyOf": [
                {"properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["left"]},
                {"properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["right"]},
            ]
        }
    },
}


def definition(schema: dict[str, Any]) -> Definition:
    return definitions_of([Tool("f", "", schema, lambda arguments: arguments)])["f"]


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"next": value}
    return value


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        (REFERENCED, {"text": "a" * 10_000 + "!"}),
        (REFERENCED, {"inner": {"inner": {"text": "a" * 10_000 + "!"}}}),
        ({"patternProperties": {r"^(a+)+$": False}, "additionalProperties": False}, {"a" * 10_000 + "!": 1}),
        (
            {"properties": {"a": {"uniqueItems": True}}},
            {"a": [*({"a": n} for n in range(50_000)), *(n * (2**61 - 1) for n in range(50_000)), 1, 1]},
        ),
    ],
    ids=["pattern", "reference", "names", "unique"],
)
def test_checks_take_linear_time(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    began = time.thread_time()
    with at_most(60), pytest.raises(ArgumentsRefused):
        definition(schema).bind(arguments)
    assert time.thread_time() - began < 30


def test_a_check_that_would_never_finish_fails() -> None:
    with at_most(0.1), pytest.raises(CheckTooLong):
        definition(EXPONENTIAL).bind(nested(150))


def test_code_that_passes_too_complex_arguments_gets_an_error_and_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenroom.tools.schemas._EFFORT", 0.2)

    async def handler(arguments: dict[str, Any]) -> int:
        return len(arguments)

    code = (
        "value = {}\nfor _ in range(150): value = {'next': value}\n"
        "try: f(**value)\nexcept ToolError as error: print(error)"
    )
    with memory_pool() as pool, pool.session() as session:
        execution = session.execute(code, tools=[Tool("f", "", EXPONENTIAL, handler)])
        assert execution.stdout == "The arguments of f are not valid: they take too long to check.\n"


@pytest.mark.parametrize(
    "schema", [{"properties": {"a": {"pattern": "^(?!b)"}}}, {"patternProperties": {"(a)\\1": {}}}]
)
def test_patterns_that_need_backtracking_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="must have patterns that can be matched in linear time"):
        definition(schema)


@given(
    st.lists(st.recursive(st.sampled_from([0, 1, 1.0, 0.5, True, False, None, "1", ""]), st.lists, max_leaves=3)),
    st.dictionaries(st.sampled_from(["a", "ab", "b", "c"]), st.integers(0, 3)),
)
def test_own_keywords_mean_what_the_standard_ones_do(items: list[Any], rest: dict[str, int]) -> None:
    schema: dict[str, Any] = {
        "properties": {"items": {"uniqueItems": True}, "c": {}},
        "patternProperties": {"^a": {"maximum": 2}, "b$": {"minimum": 1}},
        "additionalProperties": {"const": 3},
    }
    given_ = json.loads(json.dumps({"items": items, **rest}))
    for each in (schema, {**schema, "additionalProperties": False}):
        try:
            schema_check("f", each)(given_)
            valid = True
        except ArgumentsRefused:
            valid = False
        standard: Any = Draft202012Validator(each)
        assert valid == standard.is_valid(given_)
