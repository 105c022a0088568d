"""The records of pools without a server: through Python's logging, and in a file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.plugins import IN_MEMORY, only_engines
from tests.effort import examples
from tests.server.served import eventually

import greenroom
from greenroom.errors import InvalidRequest, PoolFull
from greenroom.telemetry import AllocationRefusal, AllocationRefused, ExecutionEnded, SandboxStarted, python_logging
from greenroom.telemetry.log_file import LogFile


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    only_engines(monkeypatch, memory=IN_MEMORY)


def connect(**options: Any) -> greenroom.SessionPool:
    merged: Any = {"preload": (), "ready_session_instances": 0, **options}
    return greenroom.connect("memory:", **merged)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def messages_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the logger was given; pools that share an engine have numbers, if OpenTelemetry is loaded."""
    messages = [record.getMessage() for record in caplog.records if record.name == "greenroom.log"]
    return [re.sub(r" memory-\d+ ", " memory ", message) for message in messages]


def test_a_pool_without_a_server_logs_its_records(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "greenroom.log")
    with connect() as pool, pool.session("analysis-001") as session:
        session.execute("1 / 0")
    columns: list[Any] = [record.__dict__["greenroom"] for record in caplog.records if record.name == "greenroom.log"]
    assert [each["OperationName"] for each in columns] == [
        "SandboxStarted", "SessionAllocated", "ExecutionEnded", "SessionEnded", "SessionUsage",
    ]  # fmt: skip
    assert (
        columns[2].items() >= {"Identifier": "analysis-001", "Status": "failed", "Reason": "ZeroDivisionError"}.items()
    )
    assert columns[4]["Executions"] == 1
    assert messages_of(caplog)[3] == "SessionEnded memory analysis-001: The session has ended: session deleted."


def test_code_errors_are_not_warnings_but_a_full_pool_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "greenroom.log")
    with connect(max_concurrent_sessions=1, acquire_timeout=0) as pool:
        pool.session("the-first").execute("1 / 0")
        with pytest.raises(PoolFull):
            pool.session("the-second").execute("1")
    assert messages_of(caplog) == ["SessionRefused memory the-second: The session got no sandbox: pool full."]


def test_a_file_has_the_same_records_and_only_this_user_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "pool.log"
    path.touch(mode=0o644)
    with connect(log=str(path)) as pool, pool.session("analysis-001") as session:
        session.execute("print('a secret')")
        session.upload(b"12345", "secret.txt")
    with connect(log=path) as pool:
        pool.session("analysis-002").execute("1")
    records = lines_of(path)
    assert [each["OperationName"] for each in records if each.get("Identifier") == "analysis-001"] == [
        "SessionAllocated", "ExecutionEnded", "FileUploaded", "SessionEnded", "SessionUsage",
    ]  # fmt: skip
    assert any(each.get("Identifier") == "analysis-002" for each in records)
    assert "secret" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("make", ["directory", "pipe", "link", "nowhere"])
def test_an_unwritable_file_is_refused_before_the_pool_opens(tmp_path: Path, make: str) -> None:
    path = tmp_path / "pool.log"
    match make:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(tmp_path / "another")
        case _:
            path = tmp_path / "missing" / "pool.log"
    with pytest.raises(InvalidRequest, match=r"The option log must name a writable file, not"):
        connect(log=path)
    assert not (tmp_path / "another").exists()


@pytest.mark.parametrize("value", ["", "\0", 7, b"bytes"])
def test_a_log_that_is_not_a_file_name_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="The option log "):
        connect(log=value)


def test_a_full_file_becomes_the_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "pool.log"
    for number in range(300):
        log = LogFile(path, most=20_000)
        log.observer_of("ci")(SandboxStarted(number))
        log.close()
    latest, before = lines_of(path), lines_of(tmp_path / "pool.log.1")
    assert latest[-1]["DurationSeconds"] == 299
    assert before[-1]["DurationSeconds"] + 1 == latest[0]["DurationSeconds"]
    assert path.stat().st_size <= 20_000
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pool.log", "pool.log.1"]


async def test_a_locked_file_causes_no_delay_and_no_torn_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pool.log"
    log = LogFile(path)
    with contextlib.closing(log), path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        observe = log.observer_of("ci")
        observe(SandboxStarted(0.1))
        await eventually(lambda: "cannot be written" in caplog.text)
        for _ in range(10_500):
            observe(SandboxStarted(0.2))
        fcntl.flock(other, fcntl.LOCK_UN)
        await eventually(lambda: "are being written again" in caplog.text)
    assert log.dropped == 501
    assert len(lines_of(path)) == 10_000


async def test_a_full_disk_leaves_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, write = tmp_path / "pool.log", os.write
    room = 500

    def limited(file: int, content: bytes | memoryview) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(28, "No space left on device")
        written = write(file, bytes(content[:room]))
        room -= written
        return written

    log = LogFile(path)
    with contextlib.closing(log):
        monkeypatch.setattr("greenroom.telemetry.log_file.os.write", limited)
        for number in range(20):
            log.observer_of("ci")(SandboxStarted(number))
        await eventually(lambda: "No space left" in caplog.text)
        assert path.read_text() == ""
        room = 1 << 20
        await eventually(lambda: "are being written again" in caplog.text)
    assert [each["DurationSeconds"] for each in lines_of(path)] == list(range(20))


NAMES = st.text(max_size=400) | st.sampled_from(
    ["a\nb", "\x1b[31mred\x1b[0m", "<b>x</b>", "[bold]x[/bold]", "%s%n", "\ud800"]
)


@given(pool=NAMES, identifier=NAMES)
@settings(max_examples=examples(100))
def test_hostile_names_stay_text(tmp_path_factory: pytest.TempPathFactory, pool: str, identifier: str) -> None:
    path = tmp_path_factory.mktemp("log") / "pool.log"
    log = LogFile(path)
    messages = list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    python_logging.logger.addHandler(handler)
    try:
        for observe in (log.observer_of(pool), python_logging.observer_of(pool)):
            observe(AllocationRefused(identifier, AllocationRefusal.POOL_FULL, 1.0))
            observe(ExecutionEnded(identifier, "failed", 1.0, error="SandboxLost"))
    finally:
        python_logging.logger.removeHandler(handler)
        log.close()
    records = lines_of(path)
    assert [each["OperationName"] for each in records] == ["SessionRefused", "ExecutionEnded"]
    assert all(char >= " " or char == "\n" for char in path.read_text())
    assert len(messages) == 2
    assert all(message.isprintable() for message in messages)
    assert not log.dropped
