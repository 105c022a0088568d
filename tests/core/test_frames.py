"""Frames arrive as they were sent, however the stream is cut, and the protocol's page has every message."""

from __future__ import annotations

import itertools
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.protocol import (
    ERROR_LIMITS,
    MAX_BODY,
    MAX_HEADER,
    VERSION,
    Decoder,
    Frame,
    FrameError,
    HostEvent,
    HostOrder,
    WorkerEvent,
    WorkerOrder,
    bundle,
    crash,
    encode,
    file_entry,
)

PAGE = (Path(__file__).parent.parent.parent / "docs/runner-protocol.md").read_text()

CONTENT = bundle({"text/plain": "x"}, {})
ENTRY = file_entry("/mnt/data/a", size=1, modified=2, directory=False)
CRASH = crash(-9, killed=True, out_of_memory=False)
MESSAGES: dict[type, dict[Callable[..., Frame], list[Frame]]] = {
    HostOrder: {
        HostOrder.execute: [
            HostOrder.execute(1, "1 + 1", text_limit=2, output_limit=3),
            HostOrder.execute(1, "f()", text_limit=2, output_limit=3, tools=b"[]", call_limit=4, call_bytes=5),
        ],
        HostOrder.answer: [HostOrder.answer(1, 2, b"null", failed=False)],
        HostOrder.environment: [HostOrder.environment({"TZ": "UTC"})],
        HostOrder.shell: [HostOrder.shell(1, ["ls", "-l"], stdin=b"x", env={"TZ": "UTC"}, text_limit=2)],
        HostOrder.save: [HostOrder.save(1, ["x"], text_limit=2, output_limit=3)],
        HostOrder.take: [HostOrder.take(1)],
        HostOrder.load: [HostOrder.load(1, text_limit=2, output_limit=3)],
        HostOrder.give: [HostOrder.give(1, b"x")],
        HostOrder.interrupt: [HostOrder.interrupt(1, grace=0.5)],
        HostOrder.preload: [HostOrder.preload(("numpy",))],
        HostOrder.open: [HostOrder.open(1, "/mnt/data/a", "r")],
        HostOrder.read: [HostOrder.read(1, 2, 3)],
        HostOrder.write: [HostOrder.write(1, 2, b"x")],
        HostOrder.finish: [HostOrder.finish(1, 2)],
        HostOrder.close: [HostOrder.close(1, 2)],
        HostOrder.list: [HostOrder.list(1, "/mnt/data", recursive=True)],
        HostOrder.stat: [HostOrder.stat(1, "/mnt/data/a")],
        HostOrder.delete: [HostOrder.delete(1, "/mnt/data/a")],
    },
    HostEvent: {
        HostEvent.ready: [HostEvent.ready()],
        HostEvent.preloaded: [HostEvent.preloaded()],
        HostEvent.text: [HostEvent.text(1, "stdout", b"x")],
        HostEvent.output: [HostEvent.output(1, CONTENT, result=False, display_id="a", update=True)],
        HostEvent.error: [HostEvent.error(1, dict.fromkeys(ERROR_LIMITS, "x"), ends=True)],
        HostEvent.clear: [HostEvent.clear(1, wait=True)],
        HostEvent.area: [HostEvent.area(1, begins=True)],
        HostEvent.call: [HostEvent.call(1, 2, "f", b"{}")],
        HostEvent.withdraw: [HostEvent.withdraw(1, 2)],
        HostEvent.done: [
            HostEvent.done(1, duration=0.5, crash=CRASH, files=[ENTRY]),
            HostEvent.done(1, duration=0.5, exit_code=3),
        ],
        HostEvent.reply: [HostEvent.reply(1, file=2, entry=ENTRY), HostEvent.reply(1, errno=2)],
    },
    WorkerOrder: {
        WorkerOrder.execute: [
            WorkerOrder.execute({"id": 1, "env": 0, "tools": 2, "call_limit": 4, "call_bytes": 5}, b"[]f()")
        ],
        WorkerOrder.answer: [WorkerOrder.answer(1, 2, b"null", failed=False)],
        WorkerOrder.save: [WorkerOrder.save(b'["x"]')],
        WorkerOrder.load: [WorkerOrder.load()],
        WorkerOrder.piece: [WorkerOrder.piece(b"x")],
        WorkerOrder.environment: [WorkerOrder.environment(b'{"TZ": "UTC"}')],
        WorkerOrder.preload: [WorkerOrder.preload(b'["numpy"]')],
    },
    WorkerEvent: {
        WorkerEvent.ready: [WorkerEvent.ready()],
        WorkerEvent.preloaded: [WorkerEvent.preloaded()],
        WorkerEvent.began: [WorkerEvent.began()],
        WorkerEvent.output: [WorkerEvent.output(CONTENT, result=False, display_id="a", update=True)],
        WorkerEvent.error: [WorkerEvent.error(dict.fromkeys(ERROR_LIMITS, "x"), ends=True)],
        WorkerEvent.clear: [WorkerEvent.clear(wait=True)],
        WorkerEvent.area: [WorkerEvent.area(begins=True)],
        WorkerEvent.call: [WorkerEvent.call(1, 2, "f", b"{}")],
        WorkerEvent.withdraw: [WorkerEvent.withdraw(1, 2)],
        WorkerEvent.piece: [WorkerEvent.piece(b"x")],
        WorkerEvent.more: [WorkerEvent.more()],
        WorkerEvent.done: [WorkerEvent.done(duration=0.5, error=dict.fromkeys(ERROR_LIMITS, "x"))],
    },
}
HEADINGS = {
    HostOrder: "Host link: orders",
    HostEvent: "Host link: events",
    WorkerOrder: "Worker link: orders",
    WorkerEvent: "Worker link: events",
}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
frames = st.tuples(st.dictionaries(st.text(), values, max_size=5), st.binary(max_size=100))


@given(st.lists(frames, max_size=5), st.lists(st.integers(0, 2000)))
def test_frames_can_be_split_anywhere(sent: list[tuple[dict[str, Any], bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode(header, body) for header, body in sent)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = Decoder()
    received = [frame for start, end in itertools.pairwise(places) for frame in decoder.feed(stream[start:end])]
    assert received == sent


@given(frames)
def test_a_frame_is_delivered_with_its_last_byte_and_not_before(frame: tuple[dict[str, Any], bytes]) -> None:
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
def test_a_header_that_is_not_a_json_object_breaks_the_stream(header: bytes) -> None:
    with pytest.raises(FrameError):
        Decoder().feed(struct.pack(">II", len(header), 0) + header)


@pytest.mark.parametrize(("header", "body"), [(MAX_HEADER + 1, 0), (2, MAX_BODY + 1), (0xFFFFFFFF, 0), (2, 0xFFFFFFFF)])
def test_a_size_over_the_limit_is_refused_before_anything_of_it_comes(header: int, body: int) -> None:
    with pytest.raises(FrameError, match="over the limit"):
        Decoder().feed(struct.pack(">II", header, body))


def test_a_decoder_can_have_a_lower_limit() -> None:
    assert Decoder(max_body=3).feed(encode({}, b"123")) == [({}, b"123")]
    with pytest.raises(FrameError, match="over the limit"):
        Decoder(max_body=3).feed(encode({}, b"1234"))


@pytest.mark.parametrize(("header", "body"), [({"a": "x" * MAX_HEADER}, b""), ({}, bytes(MAX_BODY + 1))])
def test_a_frame_over_the_limit_is_not_created(header: dict[str, Any], body: bytes) -> None:
    with pytest.raises(FrameError, match="over the limit"):
        encode(header, body)


def test_a_frame_is_two_lengths_a_header_and_a_body() -> None:
    wire = encode({"op": "x"}, b"body")
    assert wire[:8] == struct.pack(">II", len(wire) - 8 - 4, 4)
    assert json.loads(wire[8:-4]) == {"op": "x"}
    assert wire[-4:] == b"body"


# Messages


@pytest.mark.parametrize("link", MESSAGES, ids=lambda link: link.__name__)
def test_every_message_is_named_as_on_the_wire(link: type) -> None:
    functions = {name for name in vars(link) if not name.startswith("_")}
    assert functions == {function.__name__ for function in MESSAGES[link]}
    kind = "op" if link in (HostOrder, WorkerOrder) else "ev"
    for function, frames in MESSAGES[link].items():
        assert {frame.header[kind] for frame in frames} == {function.__name__}
        for frame in frames:
            assert Decoder().feed(encode(*frame)) == [frame]


@pytest.mark.parametrize("link", MESSAGES, ids=lambda link: link.__name__)
def test_the_page_has_every_message_with_its_fields_and_no_other(link: type) -> None:
    section = PAGE.partition(f"\n## {HEADINGS[link]}\n")[2].partition("\n## ")[0]
    table = re.search(r"\| `(?:op|ev)` \|.*\n\|[-|]*\|\n((?:\|.*\n)*)", section)
    assert table is not None
    rows = {row.split("`")[1]: row for row in table[1].splitlines()}
    assert list(rows) == [function.__name__ for function in MESSAGES[link]]
    for function, frames in MESSAGES[link].items():
        fields = {name for frame in frames for name in frame.header} - {"op", "ev"}
        missing = {name for name in fields if f"`{name}`" not in rows[function.__name__]}
        assert not missing, function


def test_the_page_has_the_parts_of_bodies_and_their_limits() -> None:
    parts = PAGE.partition("An **error**")[2].partition("**Order**")[0]
    assert re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", parts, re.MULTILINE) == [
        (name, f"{limit:,}") for name, limit in ERROR_LIMITS.items()
    ]
    crashes, _, entries = PAGE.partition("A **crash**")[2].partition("An **entry**")
    assert re.findall(r"`(\w+)`", crashes) == list(CRASH)
    assert re.findall(r"`(\w+)`", entries) == list(ENTRY)
    assert f"`version` of this link, {VERSION} " in PAGE
