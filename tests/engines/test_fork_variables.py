"""Variables of a pool and its sessions have the same effect in forked sandboxes as in new ones, not in templates."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.processes import descendants

from greenroom import Session, SessionPool
from greenroom.testing import engine_pool

from .test_fork import is_forked, module, templates, told

# What variables determine when the interpreter, the C library or a module starts, or later.
LOOK = """
import json, locale, os, subprocess, sys, time
import matplotlib, pandas
program = "import os, sys; print([sys.path, sys.flags, sorted(os.environ.items())])"
def output(*command):
    return sorted(subprocess.run(command, capture_output=True, text=True).stdout.splitlines())
print(json.dumps([
    dict(os.environ), sys.path, sys.flags, time.tzname, time.localtime(0).tm_hour, locale.setlocale(locale.LC_ALL),
    locale.getpreferredencoding(), matplotlib.get_backend(), matplotlib.matplotlib_fname(),
    pandas.get_option("future.infer_string"),
    str(pandas.Series(["a"]).dtype), str(pandas.Timestamp(0, tz="dateutil/:")),
    len(os.listdir("/proc/self/task")), output(sys.executable, "-c", program), output("env"), "startup" in globals(),
]))
"""

PRELOAD = ("numpy", "pandas", "matplotlib.pyplot")

STARTED = {
    "PYTHONPATH": "/mnt/data",
    "PYTHONSTARTUP": "/mnt/data/start.py",
    "PYTHONHASHSEED": "5",
    "PYTHONOPTIMIZE": "1",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.perturb=1",
}


def seen(url: str, env: dict[str, str]) -> tuple[Any, bool]:
    """Return what a session of a pool sees, and whether its sandbox was forked."""
    with engine_pool(url, env=env, preload=PRELOAD, ready_session_instances=0) as pool:
        for _ in range(len(PRELOAD) + 1):  # a template can fork one before each module, and one before its rehearsal
            with pool.session() as early:
                early.execute("1").raise_for_error()
        with pool.session() as session:
            session.upload(b"startup = 1", path="start.py")
            return told(session, LOOK), is_forked(session)


@pytest.mark.parametrize(
    ("env", "forked"),
    [
        ({}, True),
        ({"TOKEN": "secret", "TZ": "Asia/Tokyo", "HTTPS_PROXY": "http://proxy:1", "LANGSMITH_API_KEY": "a"}, True),
        (STARTED, True),
        ({"LANG": "C", "LC_ALL": "POSIX"}, False),
        ({"MPLBACKEND": "agg"}, False),
        ({"PANDAS_FUTURE_INFER_STRING": "0"}, False),
        ({"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}, False),
    ],
    ids=["none", "read later", "read at the start of a program", "locale", "matplotlib", "pandas", "OpenBLAS"],
)
def test_variables_count_as_in_a_new_sandbox(
    env: dict[str, str], forked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found, is_fork = seen("bubblewrap:", env)
    expected, _ = seen("bubblewrap:?fork=off", env)
    assert found == expected
    assert is_fork is forked
    told_about = [record.getMessage().rpartition("sets: ")[2] for record in caplog.records]
    assert told_about == ([] if forked else [f"{', '.join(sorted(env))}."])


def test_a_module_that_iterates_over_all_variables_may_have_read_each(
    python: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module(python, "reads_all").write_text("import os\ntoken = dict(os.environ).get('TOKEN')")
    env = {"TOKEN": "secret"}
    with engine_pool(f"bubblewrap:?python={python}", preload=["reads_all"], env=env, ready_session_instances=0) as pool:
        for _ in range(3):
            with pool.session() as session:
                assert session.execute("import reads_all; reads_all.token").result == "'secret'"
    assert ["read variables that env sets: TOKEN" in record.getMessage() for record in caplog.records] == [True]


def holds(process: int, secret: str) -> bool:
    """Whether the memory of a process, including its environment, contains a text."""
    sought = secret.encode()
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            place, permissions, *_ = line.split()
            if not permissions.startswith("rw"):
                continue
            begin, end = (int(part, 16) for part in place.split("-"))
            memory.seek(begin)
            if sought in (memory.read(end - begin) or b""):
                return True
    return False


def sandbox_of(session: Session, template: int) -> set[int]:
    """The processes of a forked session, which are below its template."""
    name = told(session, "import json, os\nprint(json.dumps(os.readlink('/proc/self/ns/pid')))")
    below = descendants(template)
    return {each for each in below if str(Path(f"/proc/{each}/ns/pid").readlink()) == name}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read the memory of a sandbox")
def test_no_template_and_no_sibling_has_the_values() -> None:
    of_pool, of_session = (os.urandom(16).hex() for _ in range(2))
    others = templates()
    with ExitStack() as stack:
        pool: SessionPool = stack.enter_context(
            engine_pool("bubblewrap:", env={"POOLS": of_pool}, preload=(), ready_session_instances=0)
        )
        one = stack.enter_context(pool.session("values-0001", env={"OWN": of_session}))
        other = stack.enter_context(pool.session("values-0002"))
        assert one.execute("import os; os.environ['OWN']").result == repr(of_session)
        assert other.execute("import os; os.environ['POOLS'], 'OWN' in os.environ").result == f"({of_pool!r}, False)"
        (template,) = templates() - others
        mine, theirs = sandbox_of(one, template), sandbox_of(other, template)
        assert len(mine) == len(theirs) == 2
        assert any(holds(process, of_session) for process in mine)
        assert any(holds(process, of_pool) for process in theirs)
        assert not any(holds(process, of_session) for process in {template, *theirs})
        assert not holds(template, of_pool)
