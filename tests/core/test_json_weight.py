"""JSON is weighed before it is parsed: never less than a part of what it takes, and no more than its text needs."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.json_weight import MAX_DEPTH, TooDeep, weigh_json

MIB = 1 << 20

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)


def count(value: object) -> int:
    """The tokens that separate values: brackets that open, commas, and colons."""
    match value:
        case dict():
            return 1 + 2 * len(value) - bool(value) + sum(map(count, value.values()))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case list():
            return 1 + len(value) - bool(value) + sum(map(count, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case _:
            return 0


@given(values)
def test_content_of_strings_weighs_only_its_bytes(value: object) -> None:
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    weight = len(body) + 48 * count(value)
    assert weigh_json(body, 10 * MIB) >= weight, "an upper bound where there is room"
    assert weigh_json(body, weight) == weight, "exactly where there is not"
    if weight > len(body):
        assert weigh_json(body, weight - 1) > weight - 1


@given(st.binary(max_size=200))
def test_any_bytes_can_be_weighed(body: bytes) -> None:
    try:
        weight = weigh_json(body, len(body))
    except TooDeep:
        return
    assert weight >= len(body)


@pytest.mark.parametrize(
    "piece", ["{},", "[],", '"ab",', '"Ā",', '{"a":0},', "1e5,", "999,", '"\\"",', '"\\\\",', "[[[[0]]]],"]
)
def test_light_json_takes_at_most_four_times_its_weight(piece: str) -> None:
    body = f"[{piece * 20_000}0]".encode()
    weight = weigh_json(body, 100 * MIB)
    tracemalloc.start()
    try:
        content = json.loads(body)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del content
    assert taken <= 4 * weight


def test_depth_is_limited() -> None:
    for bracket, inner in (("[", "]"), ('{"a":', "}")):
        weigh_json((bracket * MAX_DEPTH + "0" + inner * MAX_DEPTH).encode(), MIB)
        with pytest.raises(TooDeep):
            weigh_json((bracket * (MAX_DEPTH + 1) + "0" + inner * (MAX_DEPTH + 1)).encode(), MIB)
    weigh_json(json.dumps("[" * 1000 + '"' + "[" * 1000).encode(), MIB)
    weigh_json(b"[" + b"[]," * 1000 + b"0]", MIB)


@pytest.mark.slow
def test_weighing_takes_little_time_and_memory() -> None:
    """Whatever the bytes are: it happens before they are trusted."""
    for piece in (b"{},", b'"",', b'\\"', b'"\\\\"', b"[]", b":"):
        body = b"[" + piece * (16 * MIB // len(piece) - 1)
        tracemalloc.start()
        try:
            weigh_json(body, 16 * MIB)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 64 * MIB, piece
