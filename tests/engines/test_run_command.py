"""`greenroom run` with real sandboxes: how it ends, what a script sees, and the prompt on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenroom.testing import engine_pool

_GREENROOM = [sys.executable, "-m", "greenroom"]
_ON_ITS_TERMINAL = (
    "import fcntl, runpy, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "sys.argv = ['greenroom', *sys.argv[1:]]; runpy.run_module('greenroom', run_name='__main__')"
)
_LIMIT = 60.0


@pytest.fixture(scope="module", autouse=True)
def _needs_bubblewrap() -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()


def run(*arguments: str | Path, **options: str) -> subprocess.CompletedProcess[str]:
    command = [*_GREENROOM, "run", "--pool", "bubblewrap:?timeout=30&preload=", *arguments]
    environment = {**os.environ, **options}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT, env=environment)


def test_a_crash_is_one_line() -> None:
    ended = run("-c", "import os; os._exit(4)")
    assert ended.returncode == 1
    assert ended.stderr == "WorkerCrashed: The process that ran the code exited with code 4.\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs control groups")
def test_code_that_ran_out_of_memory_has_its_own_exit_code() -> None:
    ended = run("-c", "data = [bytearray(b'x' * (1 << 20)) for _ in range(1024)]", GREENROOM_MEMORY="512Mi")
    assert ended.returncode == 137, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("MemoryError: The code exceeded the session's memory limit")


def test_a_script_finds_its_arguments_and_its_file(tmp_path: Path) -> None:
    script = tmp_path / "a script.py"
    script.write_bytes(
        "#!/usr/bin/env python\n# -*- coding: latin-1 -*-\nfrom __future__ import annotations\nimport sys\n"
        "print(sys.argv[1:], sys.argv[0].endswith('a script.py'), __name__)\n"
        "print(__file__, 'läuft' in open(__file__, encoding='latin-1').read())\n1/0\n".encode("latin-1")
    )
    ended = run(script, "hello", "--timeout", "", "-o", "ü")
    assert ended.stdout.splitlines() == [
        "['hello', '--timeout', '', '-o', 'ü'] True __main__",
        "/mnt/data/a script.py True",
    ]
    assert ended.returncode == 1
    assert "Cell In[1], line 7" in ended.stderr
    assert run("-c", "import sys; print(sys.argv)", "a", "-b").stdout == "['-c', 'a', '-b']\n"


def test_a_script_can_come_through_a_pipe(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["/bin/sh", "-c", f"echo 'print(6 * 7)' > '{fifo}'"]):
        assert run(fifo).stdout == "42\n"


class Terminal:
    """A command on a separate terminal."""

    def __init__(self, *arguments: str) -> None:
        self._end, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, b"\x18\x00\xc8\x00\x00\x00\x00\x00")  # 24 lines of 200 characters
        environment = {**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_ITS_TERMINAL, *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env=environment,
            start_new_session=True,
        )
        os.close(child)
        self._seen = ""

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def read_until(self, pattern: str) -> str:
        """Return the output so far, including the pattern; what follows is kept."""
        deadline = time.monotonic() + _LIMIT
        while (found := re.search(pattern, self._seen)) is None:
            assert select.select([self._end], [], [], max(deadline - time.monotonic(), 0))[0], self._seen
            self._seen += os.read(self._end, 1 << 16).decode().replace("\r", "")
        before, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return before

    def answer(self, *lines: str) -> str:
        """Return the output between typed lines and the next prompt."""
        for line in lines[:-1]:
            self.type(f"{line}\n")
            self.read_until(r"\.\.\. $")
        self.type(f"{lines[-1]}\n")
        return self.read_until(r"\n>>> $").removeprefix(lines[-1]).removesuffix(">>> ").strip("\n")

    def wait(self) -> int:
        return self.process.wait(_LIMIT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal("run", "--pool", "bubblewrap:?preload=", "-o", str(tmp_path / "out"))
    yield terminal
    terminal.close()


def test_a_terminal_is_a_prompt_over_one_session(terminal: Terminal, tmp_path: Path) -> None:
    assert "Ctrl-D" in terminal.read_until(r">>> $")
    assert terminal.answer("x = 20") == ""
    assert terminal.answer("x + 1") == "21"
    assert terminal.answer("for n in range(2):", "    print(n)", "") == "0\n1"
    assert terminal.answer("(x +", " 2)") == "22"
    assert terminal.answer("text = '''a", "b'''; text") == "'a\\nb'"
    assert terminal.answer("import asyncio; await asyncio.sleep(0, 'awaited')") == "'awaited'"
    assert terminal.answer("async def f():", "    return 'called'", "") == ""
    assert terminal.answer("await f()") == "'called'"
    assert terminal.answer("!echo shell").strip() == "shell"
    assert terminal.answer("%%writefile a.txt", "content", "").startswith("Writing a.txt")
    assert (tmp_path / "out" / "a.txt").read_text().strip() == "content"
    assert "SyntaxError" in terminal.answer("x = = 1")
    assert "ZeroDivisionError" in terminal.answer("x / 0")
    assert terminal.answer("print('without an end', end='')") == "without an end"
    assert terminal.answer("") == ""

    terminal.type("while True: pass\n\n")
    terminal.read_until("pass\n")
    time.sleep(0.5)
    terminal.type("\x03")
    assert "KeyboardInterrupt" in terminal.read_until(r"\n>>> $")
    terminal.type("half a line\x03")
    terminal.read_until(r"KeyboardInterrupt\n>>> $")
    assert terminal.answer("x") == "20"
    terminal.type("\x10\n")  # Ctrl-P: the previous line
    assert terminal.read_until(r"\n20\n>>> $")

    draw = "import matplotlib.pyplot as plt; _ = plt.plot([{}])"
    if "No module" not in terminal.answer(draw.format(1)):
        assert terminal.answer(draw.format(2)).count("saved") == 1
        assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["figure-1.png", "figure-2.png"]
    assert "All variables are lost" in terminal.answer("import os; os._exit(1)")
    assert "NameError" in terminal.answer("x")
    terminal.type("\x04")
    assert terminal.wait() == 0


def test_exit_ends_the_prompt_with_its_code(terminal: Terminal) -> None:
    terminal.read_until(r">>> $")
    terminal.type("exit(3)\n")
    assert terminal.wait() == 3


def test_ctrl_c_ends_a_program_with_a_line(tmp_path: Path) -> None:
    terminal = Terminal("run", "--pool", "bubblewrap:?preload=", "-c", "print('here')\nwhile True: pass")
    try:
        terminal.read_until("here\n")
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert terminal.read_until("Interrupted.\n").endswith("^CInterrupted.\n")
    finally:
        terminal.close()
