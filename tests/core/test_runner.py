"""The runner's parts that need no sandbox: the limits of an execution, and the settings of a supervisor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom.engines.base import RUNNER_SOURCE
from greenroom.runner.files import FileTree
from greenroom.runner.protocol import ERROR_LIMITS, MAX_ENDING, MAX_NAME, MAX_OUTPUTS, Frame, bundle
from greenroom.runner.run import TEXT_PIECE, Run, parse_error

CONTENT = bundle({"text/plain": "x"}, {})


class Started:
    """A run, and what it has sent."""

    def __init__(self, tree: FileTree, *, text_limit: int = 100, output_limit: int = 10_000) -> None:
        self.sent: list[Frame] = []
        order = {"op": "execute", "id": 7, "text_limit": text_limit, "output_limit": output_limit}
        self.run = Run(order, tree, self.sent.append)

    def finish(self, **ending: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Finish it; returns the last frame's header and what its body holds."""
        fields: dict[str, Any] = {"state_lost": False, **ending}
        self.run.finish(**fields)
        header, body = self.sent[-1]
        assert header["ev"] == "done"
        return header, json.loads(body)


def test_a_full_wake_pipe_does_not_end_the_supervisor() -> None:
    program = """
import json, os, sys
from greenroom.runner.files import FileTree
from greenroom.runner.supervisor import Supervisor
from greenroom.runner.protocol import Decoder

(orders, to_supervisor), (answers, from_supervisor) = os.pipe(), os.pipe()
supervisor = Supervisor(orders, from_supervisor, FileTree(sys.argv[1]), spawn=None, user=None, rlimits={})
try:
    while True:
        os.write(supervisor._waker, bytes(4096))
except BlockingIOError:
    supervisor._wake_up()
os.close(to_supervisor)
supervisor.serve()
print("served")
"""
    ran = subprocess.run([sys.executable, "-c", program, "."], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("served\n", "")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[FileTree]:
    tree = FileTree(str(tmp_path))
    yield tree
    tree.close()


def test_text_of_one_stream_is_merged_and_streams_keep_their_order(tree: FileTree) -> None:
    started = Started(tree)
    for stream, data in [("stdout", b"a"), ("stdout", b"b"), ("stderr", b"c"), ("stdout", b"d")]:
        started.run.add_text(stream, data)
    assert not started.sent
    assert started.run.due() is not None
    started.run.send_text()
    assert [(header["stream"], body) for header, body in started.sent] == [
        ("stdout", b"ab"),
        ("stderr", b"c"),
        ("stdout", b"d"),
    ]
    assert started.run.due() is None


def test_large_amounts_of_text_are_sent_immediately(tree: FileTree) -> None:
    started = Started(tree, text_limit=10 * TEXT_PIECE)
    started.run.add_text("stdout", bytes(TEXT_PIECE))
    assert [len(body) for _, body in started.sent] == [TEXT_PIECE]


def test_text_over_the_limit_is_counted_as_truncated(tree: FileTree) -> None:
    started = Started(tree, text_limit=3)
    started.run.add_text("stdout", b"abcde")
    started.run.add_text("stderr", b"f")
    header, _ = started.finish(duration=0.5)
    assert [body for _, body in started.sent[:-1]] == [b"abc"]
    assert header == {"ev": "done", "id": 7, "duration": 0.5, "truncated": 3, "state_lost": False, "files_omitted": 0}


def test_an_output_is_sent_after_the_text_before_it(tree: FileTree) -> None:
    started = Started(tree)
    started.run.add_text("stdout", b"before")
    started.run.show({"result": True}, CONTENT)
    assert [header["ev"] for header, _ in started.sent] == ["text", "output"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({}, {"result": False}),
        ({"result": True}, {"result": True}),
        ({"result": 1, "id": 99, "more": "x"}, {"result": False}),
        ({"update": True}, {"result": False}),
        ({"display_id": 5, "update": True}, {"result": False}),
        ({"display_id": "a"}, {"result": False, "display_id": "a", "update": False}),
        ({"display_id": "a", "update": True}, {"result": False, "display_id": "a", "update": True}),
        ({"display_id": "a" * 999, "update": "x"}, {"result": False, "display_id": "a" * MAX_NAME, "update": False}),
    ],
)
def test_only_known_fields_of_an_output_are_sent(
    tree: FileTree, header: dict[str, Any], expected: dict[str, Any]
) -> None:
    started = Started(tree)
    started.run.show(header, CONTENT)
    assert started.sent == [({"ev": "output", "id": 7, **expected}, CONTENT)]


def test_outputs_over_the_limit_of_bytes_are_counted_as_truncated(tree: FileTree) -> None:
    started = Started(tree, output_limit=1_000)
    started.run.show({}, CONTENT)
    started.run.show({}, CONTENT)
    header, _ = started.finish()
    assert [sent["ev"] for sent, _ in started.sent] == ["output", "done"]
    assert header["truncated"] == len(CONTENT)


def test_outputs_over_their_number_are_left_out_until_they_are_cleared(tree: FileTree) -> None:
    started = Started(tree, output_limit=1 << 30)
    for _ in range(MAX_OUTPUTS + 1):
        started.run.show({}, CONTENT)
    assert len(started.sent) == MAX_OUTPUTS
    started.run.show({"display_id": "a", "update": True}, CONTENT)
    assert len(started.sent) == MAX_OUTPUTS + 1, "an update shows nothing new"
    started.run.clear(wait=False)
    started.run.show({}, CONTENT)
    assert [header["ev"] for header, _ in started.sent[-2:]] == ["clear", "output"]


def test_deeply_nested_output_is_left_out(tree: FileTree) -> None:
    started = Started(tree, output_limit=1 << 20)
    started.run.show({}, b"[" * 1_000 + b"]" * 1_000)
    assert not started.sent


def test_the_end_lists_new_and_changed_files(tree: FileTree, tmp_path: Path) -> None:
    for name in ("same", "changed"):
        (tmp_path / name).write_bytes(b"1")
    started = Started(tree)
    (tmp_path / "changed").write_bytes(b"12")
    (tmp_path / "new").write_bytes(b"123")
    (tmp_path / "directory").mkdir()
    header, ending = started.finish(state_lost=True, crash={"code": -9, "killed": True, "oom": False})
    assert [(file["path"], file["size"]) for file in ending["files"]] == [
        ("/mnt/data/changed", 2),
        ("/mnt/data/new", 3),
    ]
    assert header["state_lost"] is True
    assert header["crash"] == {"code": -9, "killed": True, "oom": False}
    assert 0 <= header["duration"] < 60


@pytest.mark.parametrize(
    "body",
    [b"", b"1", b"[]", b'"x"', b"{}", b'{"name": "x"}', b"\xff", b"[" * 100_000, b" " * (MAX_ENDING + 1)],
    ids=lambda body: repr(body[:20]),
)
def test_an_invalid_error_is_refused(body: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, RecursionError)):
        parse_error(body)


def test_an_error_is_cut_to_its_limits() -> None:
    parts = parse_error(json.dumps(dict.fromkeys(ERROR_LIMITS, "x" * 99_999) | {"more": "x"}).encode())
    assert parts is not None
    assert {name: len(text) for name, text in parts.items()} == ERROR_LIMITS
    assert parse_error(b"null") is None


def test_an_unknown_container_type_ends_the_supervisor_and_names_the_known_ones() -> None:
    start = f"import sys; sys.path.insert(0, {str(RUNNER_SOURCE.parent)!r}); from runner.supervisor import main; main()"
    command = [sys.executable, "-I", "-c", start, json.dumps({"container_type": "Rust"})]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == "container_type must be one of PythonLTS, NodeLTS, Shell, not 'Rust'\n"
