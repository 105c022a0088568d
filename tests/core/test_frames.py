"""Frames come out as they went in, however the bytes between are cut."""

from __future__ import annotations

import itertools
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.protocol import MAX_BODY, MAX_HEADER, Decoder, FrameError, encode

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
frames = st.tuples(st.dictionaries(st.text(), values, max_size=5), st.binary(max_size=100))


@given(st.lists(frames, max_size=5), st.lists(st.integers(0, 2000)))
def test_frames_survive_any_cut(sent: list[tuple[dict[str, Any], bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode(header, body) for header, body in sent)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = Decoder()
    received = [frame for start, end in itertools.pairwise(places) for frame in decoder.feed(stream[start:end])]
    assert received == sent


@given(frames)
def test_a_frame_comes_with_its_last_byte_and_not_before(frame: tuple[dict[str, Any], bytes]) -> None:
    stream = encode(*frame)
    decoder = Decoder()
    assert [decoder.feed(stream[place : place + 1]) for place in range(len(stream))][:-1] == [[]] * (len(stream) - 1)
    assert decoder.feed(stream) == [frame]


@given(st.binary())
def test_any_bytes_are_frames_or_an_error(data: bytes) -> None:
    try:
        frames = Decoder().feed(data)
    except FrameError:
        return
    assert sum(8 + len(body) for _, body in frames) <= len(data)


@pytest.mark.parametrize(
    "header",
    [b"", b"nonsense", b"[1]", b'"text"', b"null", b"\xff", b'{"a":', b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}"],
    ids=lambda header: repr(header[:20]),
)
def test_a_header_that_is_no_json_object_breaks_the_stream(header: bytes) -> None:
    with pytest.raises(FrameError):
        Decoder().feed(struct.pack(">II", len(header), 0) + header)


@pytest.mark.parametrize(("header", "body"), [(MAX_HEADER + 1, 0), (2, MAX_BODY + 1), (0xFFFFFFFF, 0), (2, 0xFFFFFFFF)])
def test_a_size_over_the_limit_is_refused_before_anything_of_it_comes(header: int, body: int) -> None:
    with pytest.raises(FrameError, match="over the limit"):
        Decoder().feed(struct.pack(">II", header, body))


def test_a_decoder_may_have_a_lower_limit() -> None:
    assert Decoder(max_body=3).feed(encode({}, b"123")) == [({}, b"123")]
    with pytest.raises(FrameError, match="over the limit"):
        Decoder(max_body=3).feed(encode({}, b"1234"))


@pytest.mark.parametrize(("header", "body"), [({"a": "x" * MAX_HEADER}, b""), ({}, bytes(MAX_BODY + 1))])
def test_a_frame_over_the_limit_is_not_made(header: dict[str, Any], body: bytes) -> None:
    with pytest.raises(FrameError, match="over the limit"):
        encode(header, body)


def test_on_the_wire_are_two_lengths_the_header_and_the_body() -> None:
    wire = encode({"op": "x"}, b"body")
    assert wire[:8] == struct.pack(">II", len(wire) - 8 - 4, 4)
    assert json.loads(wire[8:-4]) == {"op": "x"}
    assert wire[-4:] == b"body"
