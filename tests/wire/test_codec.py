"""The codec of greenroom/1: whatever goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import json
from datetime import datetime
from typing import Any

import pytest

from greenroom import errors, models
from greenroom.backend import Overrides
from greenroom.errors import AzureDetails, ExecutionFailed, FileMissing, FileRefused, GreenroomError, PoolFull
from greenroom.models import Execution, Output, RemoteFile, StreamText
from greenroom.wire.content import ContentDecoder, encode_chunk, encode_content_end
from greenroom.wire.executions import Assembler, Order, error_line, event_lines, execution_lines
from greenroom.wire.problems import decode_error, encode_error
from greenroom.wire.values import WireError, decode, decode_list, dump, encode

from .filling import BUNDLE, TEXT, filled

MODELS = [
    kind
    for kind in vars(models).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in {models.Image, StreamText}
]


def sent(value: object) -> Any:
    return json.loads(dump(encode(value)))


@pytest.mark.parametrize("kind", [*MODELS, AzureDetails, Overrides, Order], ids=lambda kind: kind.__name__)
def test_every_field_of_a_value_round_trips(kind: type[Any]) -> None:
    value = filled(kind)
    assert decode(kind, sent(value)) == value
    required = {
        each.name: getattr(value, each.name)
        for each in dataclasses.fields(kind)
        if each.default is each.default_factory is dataclasses.MISSING
    }
    assert decode(kind, sent(kind(**required))) == kind(**required)


def lines_of(*lines: dict[str, Any]) -> list[Any]:
    assembler = Assembler()
    return [event for line in lines if (event := assembler.add(dump(line).removesuffix(b"\n"))) is not None]


@pytest.mark.parametrize(
    "execution",
    [
        filled(Execution),
        Execution("1", "succeeded"),
        Execution("1", "succeeded", result=""),
        Execution("1", "failed", stdout=TEXT * 50_000, stderr="é" * 100_000, result="r" * 200_000),
        Execution("1", "succeeded", stdout="half of a pair: \ud83d"),
        Execution("1", "succeeded", outputs=(Output({}), Output(BUNDLE, BUNDLE, is_result=True)) * 100),
    ],
    ids=["every field", "nothing", "an empty result", "long texts", "half of a pair", "many outputs"],
)
def test_an_execution_is_decoded_from_its_lines(execution: Execution) -> None:
    assert lines_of(*execution_lines(execution)) == [execution]


def test_events_come_out_in_order_and_long_text_in_pieces() -> None:
    events = [StreamText("stdout", TEXT), Output(BUNDLE), StreamText("stderr", "x" * 150_000)]
    received = lines_of(*(line for event in events for line in event_lines(event)))
    assert received[:2] == events[:2]
    assert "".join(event.text for event in received[2:]) == events[2].text
    assert all(event.stream == "stderr" for event in received[2:])


def test_an_output_that_was_an_event_is_sent_once_and_is_the_same_object() -> None:
    first, second, update = Output(BUNDLE), Output({"text/plain": "x" * 100_000}), Output({"text/plain": "later"})
    execution = Execution("1", "succeeded", outputs=(second, first, second), updates=(update,))
    shown = [first, second]
    last = list(execution_lines(execution, shown))
    assert len(dump(last)) < 1000
    *events, received = lines_of(*(line for event in shown for line in event_lines(event)), *last)
    assert (events, received) == (shown, execution)
    assert [id(each) for each in received.outputs] == [id(events[1]), id(events[0]), id(events[1])]


NESTED = json.loads('{"a":' * 198 + "1" + "}" * 198)


def test_outputs_are_as_deep_and_as_full_of_signs_as_in_a_local_pool() -> None:
    deep = Output({"application/json": NESTED})
    full = Output({"text/html": "[{,:}]" * 600_000})
    many = Execution("1", "succeeded", outputs=(deep, *(full,) * 8))
    assert lines_of(*execution_lines(many)) == [many]


# Errors


def examples() -> list[GreenroomError]:
    azure = FileMissing("of a pool in Azure")
    azure.azure = filled(AzureDetails)
    return [
        *(
            kind(TEXT)
            for kind in vars(errors).values()
            if inspect.isclass(kind)
            and issubclass(kind, GreenroomError)
            and not issubclass(kind, PoolFull | ExecutionFailed | errors.RequestFailed)
        ),
        PoolFull("full", sessions=4, retry_after=2.5),
        PoolFull("full", sessions=4),
        FileMissing(errno.ENOENT, "The session has no such file", "/mnt/data/a"),
        FileRefused(errno.ENOSPC, "full"),
        FileRefused.too_large("/mnt/data/ü", 5, option="file_limit", size=10),
        *(kind(filled(Execution)) for kind in (ExecutionFailed, errors.ExecutionTimedOut, errors.ExecutionCancelled)),
        azure,
    ]


def properties(error: GreenroomError) -> dict[str, Any]:
    names = ("args", "errno", "strerror", "filename", "filename2", "sessions", "retry_after", "execution", "azure")
    return {"type": type(error), "str": str(error), **{name: getattr(error, name, None) for name in names}}


@pytest.mark.parametrize("error", examples(), ids=lambda error: type(error).__name__)
def test_every_field_of_an_exception_round_trips(error: GreenroomError) -> None:
    decoded = decode_error(json.loads(dump(encode_error(error))))
    assert properties(decoded) == properties(error)
    with pytest.raises(type(error)) as caught:
        lines_of(error_line(error))
    assert properties(caught.value) == properties(error)


def test_an_exception_of_another_package_is_the_nearest_one() -> None:
    class OfAnEngine(errors.EngineUnavailable):
        pass

    assert type(decode_error(encode_error(OfAnEngine("why")))) is errors.EngineUnavailable


def test_the_number_of_an_error_has_a_name_as_systems_differ() -> None:
    assert encode_error(FileRefused(errno.ENOTEMPTY, "no"))["errno"] == "ENOTEMPTY"


# Files


@pytest.mark.parametrize("size", [1, 3, 1000, 1 << 20])
def test_a_file_comes_out_of_pieces_of_any_size(size: int) -> None:
    chunks = [b"abc", b"", bytes(100_000), b"\n"]
    body = b"".join(map(encode_chunk, chunks)) + encode_content_end()
    decoder = ContentDecoder()
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert b"".join(part for piece in pieces for part in decoder.feed(piece)) == b"".join(chunks)
    assert decoder.ended
    broken = encode_chunk(b"abc") + encode_content_end(errors.SandboxLost(TEXT))
    received, decoder = bytearray(), ContentDecoder()
    with pytest.raises(errors.SandboxLost) as caught:  # noqa: PT012  what came before is needed
        for start in range(0, len(broken), size):
            for part in decoder.feed(broken[start : start + size]):
                received += part
    assert (bytes(received), str(caught.value)) == (b"abc", TEXT)


# What does not have the form


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Execution, [], "Execution must be an object, not list"),
        (Execution, {"status": "failed"}, "Execution must have the field id"),
        (Execution, {"id": 1, "status": "failed"}, "Execution.id must be of type str, not int"),
        (Execution, {"id": "1", "status": "fine"}, "Execution.status must be one of succeeded, .*, not 'fine'"),
        (Execution, {"id": "1", "status": "failed", "truncated": True}, "truncated must be of type int, not bool"),
        (Execution, {"id": "1", "status": "failed", "duration": "1"}, "duration must be of type float, not '1'"),
        (Execution, {"id": "1", "status": "failed", "duration": 10**400}, "duration must be a number"),
        (Execution, {"id": "1", "status": "failed", "files": {}}, "files must be a list, not dict"),
        (Output, {"data": "x"}, "data must be an object, not 'x'"),
        (RemoteFile, {"path": "/etc/passwd", "size": 1, "modified": "2026-01-01"}, "must be below /mnt/data"),
        (RemoteFile, {"path": "/mnt/data/../x", "size": 1, "modified": "2026-01-01"}, "must be below /mnt/data"),
        (RemoteFile, {"path": "/mnt/data/x", "size": 1, "modified": "yesterday"}, "modified must be a timestamp"),
        (RemoteFile, {"path": "/mnt/data/x", "size": 1, "modified": 5}, "modified must be a timestamp"),
    ],
)
def test_a_value_of_another_form_is_refused(kind: type[Any], value: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode(kind, value)


ENDED = {"id": "1", "status": "failed"}


@pytest.mark.parametrize("number", [-1, -(10**30), 10**30, -0.5, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [
        (Execution, ENDED, "truncated"),
        (Execution, ENDED, "files_omitted"),
        (Execution, ENDED, "duration"),
        (RemoteFile, {"path": "/mnt/data/x", "modified": "2026-01-01"}, "size"),
        (models.Place, {"stdout": 0, "stderr": 0}, "output"),
        (models.Place, {"stderr": 0}, "stdout"),
        (models.Place, {"stdout": 0, "stderr": 0}, "repeated"),
        (models.PoolStatus, {}, "limit"),
        (models.PoolStatus, {"limit": 1}, "wait_max"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_count_size_or_time_is_negative_or_beyond_all_bounds(
    kind: type[Any], value: dict[str, Any], field: str, number: float
) -> None:
    with pytest.raises(WireError, match=rf"{field} must be (at least 0, and finite|of type int), not"):
        decode(kind, {**value, field: number})


@pytest.mark.parametrize("fields", [{"sessions": -1}, {"sessions": 1, "retry_after": -1.0}, {"retry_after": 1e400}])
def test_impossible_numbers_of_a_full_pool_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="must be at least 0, and finite"):
        decode_error({"type": "PoolFull", "message": "full", "sessions": 1, **fields})


def test_the_numbers_of_ended_sandboxes_are_possible_and_an_exit_code_can_be_negative() -> None:
    with pytest.raises(WireError, match="evictions must be at least 0"):
        decode(models.PoolStatus, {"limit": 1, "evictions": {"lost": -3}})
    assert decode(Execution, {**ENDED, "exit_code": -1}).exit_code == -1


def test_a_field_of_a_later_release_is_ignored() -> None:
    assert decode(Execution, {"id": "1", "status": "failed", "later": {}}) == Execution("1", "failed")


def test_a_time_without_a_zone_is_utc() -> None:
    file = decode(RemoteFile, {"path": "/mnt/data/x", "size": 1, "modified": "2026-01-01T00:00:00"})
    assert file.modified == datetime.fromisoformat("2026-01-01T00:00:00+00:00")


def test_a_list_has_no_more_entries_than_a_local_one() -> None:
    with pytest.raises(WireError, match="at most 20000 entries, not 20001"):
        decode_list(RemoteFile, [{}] * 20_001)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"nonsense",
        b"[" * 300 + b"]" * 300,
        b"{" + b'"a":{},' * 4_000_000 + b'"b":1}',
        b'{"type":"text","stream":"stdin","text":""}',
        b'{"type":"text","stream":"stdout"}',
        b'{"type":"output","data":[]}',
        b'{"type":"part","of":"stdout","text":7}',
        b'{"type":"part","of":"outputs","event":0}',
        b'{"type":"part","of":"outputs","event":-1}',
        b'{"type":"part","of":"outputs","event":"0"}',
        b'{"type":"end"}',
        b'{"type":"end","execution":{}}',
        b'{"type":"error"}',
        b'{"type":"error","error":{"type":"Exception","message":"x"}}',
        b'{"type":"error","error":{"type":"PoolFull","message":"x","sessions":"4"}}',
        b'{"type":"error","error":{"type":"FileMissing","message":"x","errno":"nonsense"}}',
        b'{"type":"error","error":{"type":"ExecutionFailed","message":"x"}}',
    ],
    ids=lambda line: line[:70].decode(),
)
def test_a_line_of_another_form_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        Assembler().add(line)


@pytest.mark.parametrize("kind", ["text", "part"])
def test_text_has_a_limit(kind: str) -> None:
    line = dump({"type": kind, "of": "stdout", "stream": "stdout", "text": "x" * (8 << 20)})
    assembler = Assembler()
    for _ in range(8):
        assembler.add(line)
    with pytest.raises(WireError, match="at most 67108864 characters"):
        assembler.add(line)


@pytest.mark.parametrize("kind", ["output", "part"])
def test_outputs_have_a_limit(kind: str) -> None:
    line = dump({"type": kind, "of": "outputs", "data": {"text/plain": "x" * (20 << 20)}})
    assembler = Assembler()
    for _ in range(4):
        assembler.add(line)
    with pytest.raises(WireError, match="must take at most"):
        assembler.add(line)
