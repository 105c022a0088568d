"""Types of pydantic against arguments that hostile code chose: unions that contain themselves, and no others."""

from __future__ import annotations

import time
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypeAliasType

from greenroom.testing import memory_pool
from greenroom.tools import Tool
from greenroom.tools.definitions import definitions_of
from greenroom.tools.effort import TooMuchWork, effort_check
from greenroom.tools.schemas import ArgumentsRefused


class Left(BaseModel):
    child: Left | Right | None = None


class Right(BaseModel):
    child: Left | Right | None = Field(default=None, alias="child")
    other: list[Left | Right] = []


class Tagged(BaseModel):
    kind: Literal["tagged"] = "tagged"
    child: Tagged | Other | None = Field(default=None, discriminator="kind")


class Other(BaseModel):
    kind: Literal["other"] = "other"
    child: Tagged | Other | None = Field(default=None, discriminator="kind")


class Sum(BaseModel):
    terms: list[Sum | float]


for model in (Left, Right, Tagged, Other, Sum):
    model.model_rebuild()

Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | float | bool | None")


def nested(levels: int, **fields: Any) -> Any:
    value: Any = None
    for _ in range(levels):
        value = {**fields, "child": value}
    return value


def refuses(kind: Any, arguments: Any) -> bool:
    check = effort_check(TypeAdapter(kind))
    try:
        if check is not None:
            check(arguments)
    except TooMuchWork:
        return True
    return False


@pytest.mark.parametrize("kind", [Left, Right, list[Left | Right], dict[str, Left] | dict[str, Right]])
def test_a_recursive_union_without_a_discriminator_has_a_limit(kind: Any) -> None:
    began = time.thread_time()
    deep: Any = nested(150)
    assert refuses(kind, [deep] if kind == list[Left | Right] else {"a": deep} if "dict" in repr(kind) else deep)
    assert time.thread_time() - began < 20


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Left, nested(10)),
        (Tagged, nested(150, kind="other")),
        (Json, nested(150)),
        (Json, [{"rows": [[n, str(n), {"n": [n]}] for n in range(5_000)]}]),
        (Sum, {"terms": [1.0, *[{"terms": [1.0, 2.0]}] * 5_000]}),
        (list[int] | list[str], ["1"] * 50_000),
        (Left, "no object"),
        (Left, {"child": {"child": [[["x"]]]}}),
    ],
)
def test_checks_in_linear_time_are_not_limited(kind: Any, arguments: Any) -> None:
    assert not refuses(kind, arguments)


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["child", "other", "kind"]), inner),
    max_leaves=10,
)


@given(json_values)
def test_small_arguments_are_never_refused(arguments: Any) -> None:
    for kind in (Left, Right, Tagged, Json, Sum):
        assert not refuses(kind, arguments)


def test_hostile_arguments_are_refused_with_a_reason_and_the_session_lives() -> None:
    def note(value: Left | Right) -> str:
        return type(value).__name__

    code = (
        "value = None\nfor _ in range(100):\n    value = {'child': value}\n"
        "try:\n    note(value)\nexcept ToolError as error:\n    print(error)\nprint(note({'child': None}))"
    )
    with memory_pool() as pool, pool.session() as session:
        execution = session.execute(code, tools=[note], timeout=60)
    assert execution.stdout == (
        "The arguments of note are not valid: they are nested too deeply for a union that contains itself: its members "
        "need a discriminator.\nLeft\n"
    )


def test_a_model_as_the_parameters_of_a_tool_has_the_same_limit() -> None:
    bind = definitions_of([Tool("f", "", Left, lambda arguments: arguments)])["f"].bind
    assert bind(nested(5))() == nested(5)
    with pytest.raises(ArgumentsRefused, match="need a discriminator"):
        bind(nested(100))
