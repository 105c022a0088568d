"""The least that one execution can take with a supervisor in between: three processes that only pass a line along.

The last one has IPython run it. Nothing is checked, limited, measured or interruptible.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

_WORKER = """
import contextlib, io, sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
answers = sys.stdout
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        shell.run_cell(line, store_history=True)
    print(repr(shown.getvalue()), file=answers, flush=True)
"""
_SUPERVISOR = """
import subprocess, sys

with subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=-1, stdout=-1, text=True) as worker:
    for line in sys.stdin:
        print(line, end="", file=worker.stdin, flush=True)
        print(worker.stdout.readline(), end="", flush=True)
    worker.stdin.close()
"""


@contextmanager
def bare() -> Generator[Callable[[str], str]]:
    """A function that runs a line of code and returns what IPython shows."""
    command = [sys.executable, "-c", _SUPERVISOR, _WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        write, read = supervisor.stdin, supervisor.stdout

        def execute(line: str) -> str:
            print(line, file=write, flush=True)
            return read.readline()

        yield execute
        write.close()
