"""The output of custom containers, logged only if the owner of the pool wants it."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

import greenroom
from greenroom.backend import HttpRequest
from greenroom.local.console import ConsoleLines
from greenroom.telemetry import ConsoleWritten, TelemetryEvent

from .conftest import template
from .scripted import ScriptedContainers, answer, scripted_pool


async def printed(*, console_log: bool) -> list[ConsoleWritten]:
    events: list[TelemetryEvent] = []
    engine = ScriptedContainers(answer)
    pool = await scripted_pool(engine, events.append, ready_session_instances=1, console_log=console_log)
    try:
        await pool.wait_until_ready()
        engine.started[0].print("stdout", b"before any session\n")
        async with pool.request("the-session", HttpRequest("GET", "/"), timeout=30) as response:
            async for _ in response.content:
                pass
        engine.started[0].print("stderr", b"a warning\r\nand the ")
        engine.started[0].print("stdout", b"another stream\n")
        engine.started[0].print("stderr", b"rest")
    finally:
        await pool.close()
    return [event for event in events if isinstance(event, ConsoleWritten)]


async def test_lines_are_kept_with_their_session_and_stream() -> None:
    assert await printed(console_log=True) == [
        ConsoleWritten(None, "stdout", "before any session"),
        ConsoleWritten("the-session", "stderr", "a warning"),
        ConsoleWritten("the-session", "stdout", "another stream"),
        ConsoleWritten("the-session", "stderr", "and the rest"),
    ]


async def test_nothing_is_kept_by_default() -> None:
    assert await printed(console_log=False) == []


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=30)), max_size=30))
@settings(max_examples=examples(200))
def test_lines_are_those_of_each_stream_however_it_is_cut(pieces: list[tuple[str, bytes]]) -> None:
    lines: list[tuple[str, str]] = []
    console = ConsoleLines(lambda stream, line: lines.append((stream, line)))
    for stream, data in pieces:
        console.feed(stream, data)
    console.close()
    for stream in ("stdout", "stderr"):
        whole = b"".join(data for each, data in pieces if each == stream).decode("utf-8", "replace")
        *ended, rest = whole.split("\n")
        expected = [line.removesuffix("\r") for line in (*ended, *([rest] if rest else []))]
        assert [line for each, line in lines if each == stream] == expected


def test_a_container_that_prints_without_end_fills_nothing() -> None:
    lines: list[str] = []
    now = 0.0
    console = ConsoleLines(lambda _, line: lines.append(line), lambda: now)
    for _ in range(1000):
        console.feed("stdout", b"x" * 65_535 + b"\n")
    assert sum(map(len, lines)) <= 256 << 10
    assert max(map(len, lines)) <= 4096
    now = 60.0
    console.feed("stdout", b"the end\n")
    assert lines[-2:] == ["[65,273,856 bytes were left out]", "the end"]


def test_the_output_of_a_docker_container_is_logged(image: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.log"
    made = template(image, scaleConfiguration={"maxConcurrentSessions": 5, "readySessionInstances": 0})
    with greenroom.connect("docker:", template=made, log=path, console_log=True) as pool:
        assert pool.session("user-0001").request("GET", "/").status == 200
        pool.session("user-0001").delete()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    console = [each for each in lines if each["Type"] == "AppEnvSessionConsoleLogs"]
    assert ("stdout", "serving, with arguments ['8080']") in {(each["Status"], each["Log"]) for each in console}
    assert ("user-0001", "request /") in {(each.get("Identifier"), each["Log"]) for each in console}
