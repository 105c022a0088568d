"""`greenroom usage` and `greenroom top`: what they print, to pipes and on terminals, and how they end."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import greenroom
from greenroom.azure.management import ManagementClient
from greenroom.cli.app import app
from greenroom.cli.top import Screen
from greenroom.models import ContainerType, PoolStatus, PoolUsage, SessionUsage, UsageSource
from greenroom.pricing import Prices
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving
from greenroom.wire.usage import Overview, PoolState, PresentSession, UsageReport, UsageRow

GIB = 1 << 30
GROUPS = UsageSource.CONTROL_GROUPS
HOSTILE = "a\x1b[31m\x07[bold red]\u202e\nb"
LIST = """
currency = "EUR"
[code_interpreter]
session_hour = 0.5
source = "https://example.com/prices"
date = 2026-01-31
[here]
cpu_hour = 0.36
gib_hour = 0.036
source = "the contract"
date = 2026-01-31
"""


@pytest.fixture(scope="module")
def url() -> Generator[str, None, None]:
    with (
        skipping_without("bubblewrap:"),
        serving("bubblewrap:", ready_session_instances=0, preload=()) as address,
        greenroom.connect(address) as pool,
    ):
        pool.session("user-0007").execute("sum(range(1_000_000))").raise_for_error()
        yield address


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "MANAGEMENT_KEY", "CONFIG", "PRICES", "SERVER"):
        monkeypatch.delenv(f"GREENROOM_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "220")


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.toml"
    path.write_text(LIST)
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def output_of(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


def answering(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> list[Any]:
    """Have the client of a server return a value; what it is asked is kept."""
    asked: list[Any] = []

    async def answer(_: ManagementClient, *arguments: Any) -> Any:
        asked.extend(arguments)
        return value

    monkeypatch.setattr(ManagementClient, name, answer)
    return asked


# greenroom usage

ROW = UsageRow("user-0007", 3, 1, 3660.0, 12, 2 * GIB, 5, 100.0, 1000.0 * GIB, 3 << 20, (GROUPS,), 0, 4)


def test_usage_prints_a_table_with_its_total(url: str, prices: str) -> None:
    lines = output_of("usage", "--by", "identifier", "--prices", prices, "--server", url).splitlines()
    titles = "identifier sessions runs seconds cpu s GiB s peak up down EUR here EUR in Azure"
    assert lines[0].split() == titles.split()
    assert [line.split()[0] for line in lines[1:]] == ["user-0007", "total"]
    assert lines[1].split()[1:4] == ["1", "(1", "present)"]
    assert lines[1].split()[-1] == "0.5000"


def test_usage_prints_json_for_programs(monkeypatch: pytest.MonkeyPatch, prices: str) -> None:
    asked = answering(monkeypatch, "usage", UsageReport((ROW,), ROW, spare_cpu=36.0, dropped=2))
    printed = output_of(
        *("usage", "--by", "Identifier", "--since", "24h", "--pool", "ci", "-g", "team"),
        *("--prices", prices, "--output", "json"),
    )
    report = json.loads(printed)
    (row,) = report["rows"]
    assert (row["identifier"], row["sessions"], row["presentSessions"]) == ("user-0007", 3, 1)
    assert (row["cpuSeconds"], row["gibSeconds"], row["peakMemoryBytes"]) == (100.0, 1000.0, 3 << 20)
    assert (row["currency"], row["costHere"], row["costInAzure"]) == ("EUR", pytest.approx(0.02), 2.0)
    assert report["total"].items() <= row.items()
    assert (report["spare"]["costHere"], report["droppedRecords"]) == (pytest.approx(0.0036), 2)
    (parameters,) = asked
    assert (parameters["by"], parameters["pool"]) == ("identifier", "team/ci")
    assert parameters["since"].startswith("20")


def test_usage_reports_unknown_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = UsageRow("day", 2, unmeasured=2, sources=(UsageSource.NONE,), session_hours=2)
    estimated = UsageRow("day", 2, cpu=1.0, sources=(UsageSource.PROCESSES,), unmeasured=1)
    answering(monkeypatch, "usage", UsageReport((unknown,), estimated, omitted=5, spare_cpu=1.0, dropped=3))
    result = run("usage", "--by", "day")
    assert result.stdout.count("no price set") == 4
    for text in ("5 more rows", "served no session", "1 sessions", "are estimates", "3 records", "GREENROOM_PRICES"):
        assert text in result.stderr, text
    answering(monkeypatch, "usage", UsageReport((), UsageRow()))
    assert "No session" in run("usage").stderr


@pytest.mark.parametrize("command", ["usage", "top"])
def test_names_that_others_chose_stay_text(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = UsageRow(HOSTILE, 1, session_hours=1)
    answering(monkeypatch, "usage", UsageReport((row,), row))
    answering(monkeypatch, "overview", overview(HOSTILE, HOSTILE))
    printed = output_of(command)
    assert "[bold red]" in printed
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", printed)
    assert printed.count("\n") <= 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["usage", "--since", "yesterday"], "--since must be"),
        (["usage", "--by", "code"], "must be one of identifier, pool, day"),
        (["usage", "--prices", "/nowhere"], "cannot be read"),
        (["usage", "--subscription", "11111111-2222-3333-4444-555555555555"], "Azure"),
        (["top", "--subscription", "11111111-2222-3333-4444-555555555555"], "Azure Monitor"),
        (["top", "--interval", "0"], "--interval must be"),
        (["top", "--interval", "nan"], "--interval must be"),
        (["usage", "--server", "http://127.0.0.1:1"], "No server is running"),
        (["top", "--server", "http://127.0.0.1:1"], "No server is running"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert message in " ".join(f"{result.exception} {result.stderr}".replace("│", " ").split())


# greenroom top


def overview(pool: str = "ci", session: str = "user-0007", *, cpu: float = 100.0, wall: float = 3660.0) -> Overview:
    usage = SessionUsage(wall, 3, 0, 0, GROUPS, cpu, 1000.0 * GIB, 3 << 20, 2)
    total = PoolUsage(2, wall, 3, 0, 0, GROUPS, cpu, 1000.0 * GIB, 3 << 20, memory=5 << 20, session_hours=4)
    status = PoolStatus(10, ready=1, executing=2, idle=3, waiting=1, wait_median=0.02, wait_max=1.5)
    return Overview(
        (PoolState(pool, ContainerType.PYTHON_LTS, status, total), PoolState("silent", ContainerType.SHELL)),
        (PresentSession(pool, session, usage, 4 << 20, 1),),
    )


def drawn(screen: Screen, width: int = 220, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(screen, end="")
    return captured.get()


def screen(*seen: Overview) -> Screen:
    shown = Screen("http://server", Prices.parse({}))
    for number, each in enumerate(seen):
        shown.take(each, 100.0 + 2 * number)
    return shown


def test_top_prints_one_plain_table_without_a_terminal(url: str) -> None:
    result = run("top", "--server", url)
    assert "\x1b" not in result.stdout
    pools, sessions = result.stdout.strip().split("\n\n")
    assert pools.splitlines()[1].split()[:3] == ["default", "PythonLTS", "1%"]
    assert sessions.splitlines()[1].split()[:2] == ["user-0007", "default"]
    assert "no price set" in pools
    assert "GREENROOM_PRICES" in result.stderr
    assert run("top", "--server", url, "--once").stdout.splitlines()[0] == pools.splitlines()[0]


def test_top_prints_json_for_programs(monkeypatch: pytest.MonkeyPatch, prices: str) -> None:
    answering(monkeypatch, "overview", overview())
    seen = json.loads(output_of("top", "--prices", prices, "--output", "json"))
    pool, silent = seen["pools"]
    assert (pool["name"], pool["saturation"], pool["status"]["waiting"]) == ("ci", 0.6, 1)
    assert (pool["costHere"], pool["costInAzure"]) == (pytest.approx(0.02), 2.0)
    assert (silent["status"], silent["saturation"], silent["costHereReason"]) == (None, None, "not measured")
    assert seen["sessions"][0]["usage"]["session_hours"] == 2


def test_top_can_show_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "overview", overview())
    assert "silent" not in output_of("top", "--pool", "CI")
    assert "user-0007" not in output_of("top", "--pool", "silent")
    assert "Pools: ci, silent" in str(run("top", "--pool", "other").exception)


def test_the_screen_shows_processor_shares_between_refreshes() -> None:
    assert "50%" not in drawn(screen(overview()))
    assert drawn(screen(overview(cpu=100.0), overview(cpu=101.0, wall=3662.0))).count(" 50%") == 2
    another = drawn(screen(overview(cpu=100.0), overview(cpu=101.0, wall=1.0)))  # a new session with the same name
    assert another.count(" 50%") == 1


def test_the_screen_fits_the_terminal() -> None:
    many = Overview(overview().pools, overview().sessions * 100)
    for width, height in ((220, 40), (80, 24), (40, 10), (10, 3)):
        lines = drawn(screen(many), width, height).splitlines()
        assert all(len(line) <= width for line in lines), width
        assert len(lines) <= max(height, 6)
    narrow = drawn(screen(overview()), 80, 24)
    assert "saturation" in narrow
    assert "60%" in narrow
    assert "no price set" in narrow
    assert "executing" not in narrow.splitlines()[2]


def test_the_screen_keeps_its_content_when_the_server_does_not_respond() -> None:
    shown = screen(overview())
    shown.error = f"No server is running {HOSTILE}"
    drawing = drawn(shown)
    assert "No server is running a[bold red]" in drawing
    assert "user-0007" in drawing
    shown.take(overview(), 103.0)
    assert "No server" not in drawn(shown)


class Terminal:
    """`greenroom top` on a terminal."""

    def __init__(self, url: str) -> None:
        self._leader, follower = pty.openpty()
        self.resize(24, 100)
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "greenroom", "top", "--server", url, "--interval", "0.2"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**environment, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(follower)
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, condition: Callable[[str], object]) -> None:
        """Read until the output since the last call meets a condition."""
        piece, deadline = "", time.monotonic() + 60
        while not condition(piece):
            assert time.monotonic() < deadline, piece
            if select.select([self._leader], [], [], 0.1)[0]:
                piece += os.read(self._leader, 65536).decode()
        self.shown += piece

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        with contextlib.suppress(OSError):  # its other end is closed
            while piece := os.read(self._leader, 65536):
                self.shown += piece.decode()
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._leader)


def widths_of_frames(shown: str) -> list[int]:
    """How wide each whole screen is that was drawn."""
    frames = [re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", frame) for frame in shown.split("\x1b[H")[1:-1]]
    return [max(map(len, frame.split("\r\n"))) for frame in frames]


@pytest.fixture
def terminal(url: str) -> Generator[Terminal, None, None]:
    shown = Terminal(url)
    try:
        yield shown
    finally:
        shown.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_top_refreshes_in_place_until_it_is_ended(terminal: Terminal, number: int, code: int) -> None:
    terminal.until(lambda shown: shown.count("user-0007") >= 3)
    assert "\x1b[?1049h" in terminal.shown  # the other screen, so that nothing scrolls away
    terminal.resize(24, 40)
    terminal.until(lambda shown: any(0 < width <= 40 for width in widths_of_frames(shown)))
    assert terminal.end(number) == code
    assert terminal.shown.endswith(("\x1b[?1049l\x1b[?25h", "\x1b[?25h\x1b[?1049l"))
    assert "Traceback" not in terminal.shown
