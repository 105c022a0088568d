"""If system calls cannot be filtered, no sandbox starts unless an option allows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from greenroom.testing import engine_pool

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64" or shutil.which("setarch") is None,
    reason="There is no other processor to pretend.",
)


@pytest.fixture(autouse=True, scope="module")
def bubblewrap() -> None:
    """Skip if bubblewrap is missing and not required."""
    with engine_pool("bubblewrap:", ready_session_instances=0):
        pass


_PROGRAM = """
import logging, sys, greenroom
logging.basicConfig(format="%(message)s")
pool = f"bubblewrap:?ready_session_instances=0&preload=&{sys.argv[1]}"
try:
    with greenroom.session(pool) as session:
        status = session.execute("open('/proc/self/status').read()").raise_for_error().result
        print(eval(status).partition("Seccomp:")[2].split()[0], "NoNewPrivs:\\t1" in eval(status))
except greenroom.EngineUnavailable as error:
    print(error)
"""


def run(option: str, *, command: tuple[str, ...] = ("setarch", "linux32")) -> subprocess.CompletedProcess[str]:
    """Open a pool and a session in a process that, by default, sees a processor that the filter does not support."""
    program = [*command, sys.executable, "-c", _PROGRAM, option]
    return subprocess.run(program, check=True, capture_output=True, text=True, timeout=120)


def test_an_unknown_processor_is_refused_with_the_option_that_allows_it() -> None:
    refusal = run("").stdout
    assert "no system call filter for the processor i686" in refusal
    assert "allow_unfiltered=True" in refusal


def test_the_option_starts_sandboxes_without_the_filter_and_warns() -> None:
    ended = run("allow_unfiltered=true")
    assert ended.stdout.split() == ["0", "True"], "no filter, and all other measures"
    assert "Sandboxes run without a system call filter" in ended.stderr


def test_the_option_does_not_remove_an_available_filter() -> None:
    ended = run("allow_unfiltered=true", command=())
    assert ended.stdout.split() == ["2", "True"]
    assert "filter" not in ended.stderr
