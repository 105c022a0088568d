"""Sandboxes forked from a template are like new ones, share nothing that can be written, and end like new ones."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import within

from greenroom import EngineUnavailable, SandboxLost, Session, SessionPool
from greenroom.engines.bubblewrap import cgroups
from greenroom.testing import engine_pool

LOOK = Path(__file__).with_name("look.ipy").read_text()
# Modules imported in a template, as a session's first code would have imported them.
_EARLY = {"modules"}

RANDOM = """
import json, multiprocessing, numpy, os, random, secrets, ssl, tempfile, uuid
print(json.dumps([
    random.random(), numpy.random.random(), numpy.random.default_rng().random(), str(uuid.uuid4()), str(uuid.uuid1()),
    secrets.token_hex(), ssl.RAND_bytes(8).hex(), os.path.basename(tempfile.mktemp()), os.urandom(8).hex(),
    next(tempfile._get_candidate_names()), bytes(multiprocessing.current_process().authkey).hex(),
    str(random.Random().random()), str(numpy.random.randn()),
]))
"""

STARTS_A_THREAD = """
import os, threading, time
def start():
    threading.Thread(target=time.sleep, args=[9999], daemon=True).start()
os.register_at_fork(after_in_child=start)
"""

STARTS_A_PROCESS = """
import os
def start():
    if os.getpid() == 1:
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "9999")
os.register_at_fork(after_in_child=start)
"""

TEMPLATE = b"greenroom_runner.template"
_KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "uts")


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with engine_pool("bubblewrap:", ready_session_instances=0, max_concurrent_sessions=20) as pool:
        yield pool


@pytest.fixture(scope="module")
def fresh() -> Iterator[SessionPool]:
    with engine_pool("bubblewrap:?fork=off", ready_session_instances=0) as pool:
        yield pool


def told(session: Session, code: str) -> Any:
    return json.loads(session.execute(code).raise_for_error().stdout)


def templates() -> set[int]:
    """The templates of this process: bubblewrap programs below it."""
    found: set[int] = set()
    for started in _children(os.getpid()):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{started}/comm").read_text() == "bwrap\n":
                commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in _children(started)}
                found |= {child for child, command in commands.items() if TEMPLATE in command}
    return found


def _children(process: int) -> set[int]:
    found: set[int] = set()
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found.update(map(int, (thread / "children").read_text().split()))
    return found


def is_forked(session: Session) -> bool:
    return told(session, f"print('true' if {TEMPLATE} in open('/proc/self/cmdline', 'rb').read() else 'false')")


def test_a_forked_sandbox_behaves_like_a_new_one(pool: SessionPool, fresh: SessionPool) -> None:
    with pool.session() as first, pool.session() as forked, fresh.session() as new:
        first.execute("1")  # the first sandbox of a template is forked before the modules are imported
        new.execute("1").raise_for_error()
        forked.execute("1").raise_for_error()
        assert is_forked(forked)
        assert not is_forked(new)
        check_looks(told(forked, LOOK), told(new, LOOK))


@pytest.mark.parametrize("engine", ["bubblewrap:", "bubblewrap:?fork=off"])
def test_a_sandbox_that_was_kept_ready_is_like_a_new_one(engine: str, fresh: SessionPool) -> None:
    with engine_pool(engine, ready_session_instances=1, max_concurrent_sessions=1) as pool, fresh.session() as new:
        assert within(60, lambda: pool.status().ready == 1)
        session = pool.session()
        session.execute("1").raise_for_error()
        new.execute("1").raise_for_error()
        assert told(session, "import json, sys; print(json.dumps('pandas' in sys.modules))") is True
        new.execute("import json, sys").raise_for_error()
        check_looks(told(session, LOOK), told(new, LOOK))


def check_looks(found: dict[str, Any], expected: dict[str, Any]) -> None:
    differing = {
        name: (found[name], expected[name]) for name in expected.keys() - _EARLY if found[name] != expected[name]
    }
    assert not differing
    assert set(expected["modules"]) <= set(found["modules"])


def test_two_sandboxes_never_draw_the_same(pool: SessionPool) -> None:
    drawn: list[list[Any]] = []
    with ExitStack() as stack:
        for _ in range(4):
            session = stack.enter_context(pool.session())
            drawn.append(told(session, RANDOM))
            session.execute("import os; os._exit(1)")  # the next worker is forked from the same supervisor
            drawn.append(told(session, RANDOM))
    for kind in zip(*drawn, strict=True):
        assert len(set(kind)) == len(drawn), kind


def test_an_ended_worker_is_forked_again(pool: SessionPool) -> None:
    with pool.session() as session:
        session.execute("import os; os._exit(1)")
        assert is_forked(session)
        assert session.execute("import pandas; pandas.Series([1, 2]).sum().item()").result == "3"


def test_sandboxes_share_no_files_terminals_or_memory(pool: SessionPool) -> None:
    with pool.session() as one, pool.session() as other:
        one.execute(
            "import os, pty, shutil\n"
            "for place in ('/tmp', '/mnt/data', '/dev/shm', '/tmp/home'): open(f'{place}/mine', 'w').write('1')\n"
            "ends = pty.openpty()\nshared = __import__('mmap').mmap(-1, 4096)\nshared[0] = 1"
        ).raise_for_error()
        found = told(
            other,
            "import json, os\n"
            "print(json.dumps([[name for place in ('/tmp', '/mnt/data', '/dev/shm', '/tmp/home')"
            " for name in os.listdir(place) if name == 'mine'], os.listdir('/dev/pts'),"
            " sorted(name for name in os.listdir('/proc') if name.isdigit())]))",
        )
    assert found == [[], ["ptmx"], ["1", "2"]]


def test_an_event_loop_is_the_sessions_own(pool: SessionPool) -> None:
    code = "import asyncio\nawait asyncio.sleep(0.01)\nasyncio.get_running_loop() is asyncio.get_event_loop()"
    with ExitStack() as stack:
        sessions = [stack.enter_context(pool.session()) for _ in range(3)]
        running = [session.submit(code) for session in sessions]
        assert [each.result().result for each in running] == ["True"] * 3


def test_threads_that_libraries_start_again_do_not_matter(caplog: pytest.LogCaptureFixture) -> None:
    multiply = "import numpy; (numpy.ones((300, 300)) @ numpy.ones((300, 300)))[0, 0].item()"
    with engine_pool("bubblewrap:", preload=["numpy"], cpu=2, ready_session_instances=0) as pool:
        for _ in range(3):
            with pool.session() as session:
                assert session.execute(multiply).result == "300.0"
                assert is_forked(session)
    assert not caplog.records


def module(python: Path, name: str) -> Path:
    """The file of a module for an interpreter."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return python.parents[1] / "lib" / version / "site-packages" / f"{name}.py"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=[9999], daemon=True).start()", "1 threads"),
        ("kept = open('/tmp/kept', 'w')", "files open: /tmp/kept"),
        ("open('/tmp/kept', 'w').close()\nkept = open('/tmp/kept')", "files open: /tmp/kept"),
        ("kept = open('/proc/cpuinfo')", "files open: /proc/cpuinfo"),  # of the template's own /proc
        ("import fcntl\nkept = open('/usr/bin/env')\nfcntl.flock(kept, fcntl.LOCK_SH)", "files open: /usr/bin/env"),
        ("import os\nkept = os.open('/usr', os.O_RDONLY)", "files open: /usr"),
        ("import os\nkept = os.open('/usr/bin/env', os.O_PATH)", "files open: /usr/bin/env"),
        ("import os\nkept = os.memfd_create('kept')", "files open: /memfd:kept"),
        ("import os\nkept = os.pipe()", "files open: pipe:"),
        ("import mmap\nkept = mmap.mmap(-1, 4096)", "forks would share: /dev/zero"),
        ("import multiprocessing\nkept = multiprocessing.Lock()", "forks would share: /dev/shm/sem."),
        ("import subprocess\nkept = subprocess.Popen(['sleep', '9999'])", "1 processes"),
        (STARTS_A_THREAD, "start 1 threads in each fork"),
        (STARTS_A_PROCESS, "start 1 processes in each fork"),
    ],
)
def test_modules_that_a_fork_would_break_prevent_forking(
    code: str, reason: str, python: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module(python, "left_behind").write_text(code)
    url = f"bubblewrap:?python={python}"
    with engine_pool(url, preload=["left_behind"], ready_session_instances=0) as pool:
        for _ in range(4):
            with pool.session() as session:
                assert session.execute("import left_behind; 6 * 7").result == "42"
        with pool.session() as session:
            assert not is_forked(session)
    assert [reason in record.getMessage() for record in caplog.records] == [True]


READS = """
import os
file = open(__file__, "rb", buffering=0)
file.read(2)
os.set_inheritable(file.fileno(), True)
other = open("/usr/bin/env", "rb")
"""

FILES = """
import json, os, re, reads
links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
kept = sorted(re.sub(r"\\d+", "N", os.readlink(link)) for link in links if os.path.exists(link))
contents = os.pread(reads.other.fileno(), 4, 0).decode("latin-1")
print(json.dumps([reads.file.tell(), os.get_inheritable(reads.file.fileno()), contents, kept]))
"""


def test_files_that_modules_have_opened_for_reading_are_each_forks_own(
    python: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module(python, "reads").write_text(READS)
    url = f"bubblewrap:?python={python}"
    with (
        engine_pool(url, preload=["reads"], ready_session_instances=0) as pool,
        engine_pool(f"{url}&fork=off", preload=["reads"], ready_session_instances=0) as fresh,
        ExitStack() as stack,
    ):
        stack.enter_context(pool.session()).execute("1")  # before the modules are imported
        one, other, new = (stack.enter_context(each.session()) for each in (pool, pool, fresh))
        expected = told(new, FILES)
        assert expected[:3] == [2, True, "\x7fELF"]
        assert told(one, FILES) == expected
        one.execute("reads.file.read()").raise_for_error()
        assert told(other, FILES) == expected
        assert is_forked(one)
        assert is_forked(other)
        assert "reads.py" not in one.shell("ls -l /proc/self/fd/").stdout
        one.execute("import os; os._exit(1)")  # the next worker is forked from the same supervisor
        assert told(one, FILES) == expected
    assert not caplog.records


def test_a_session_outlives_the_replacement_of_a_file_that_its_modules_keep_open(
    python: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = module(python, "data")
    data.write_text("old")
    module(python, "reads").write_text(f"file = open({str(data)!r})")
    read = "import json, os, reads; print(json.dumps(os.pread(reads.file.fileno(), 9, 0).decode()))"
    url = f"bubblewrap:?python={python}"
    with engine_pool(url, preload=["reads"], ready_session_instances=0) as pool, pool.session() as session:
        pool.session().execute("1")
        session.upload(b"kept", "kept.txt")
        assert told(session, read) == "old"
        assert is_forked(session)
        data.with_name("newer").write_text("new")
        data.with_name("newer").rename(data)
        session.execute("import os; os._exit(1)")
        assert told(session, read) == "old"
        assert session.download("kept.txt") == b"kept"
        with pool.session() as later:
            assert told(later, read) == "new"
            assert not is_forked(later)
    assert [record.getMessage().endswith("data.py (it has been replaced).") for record in caplog.records] == [True]


def test_files_that_nothing_uses_any_more_do_not_prevent_forking(
    python: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_a_cycle = "import gc\ngc.disable()\nkept = [open('/usr/bin/env')]\nkept.append(kept)\ndel kept"
    module(python, "reads").write_text(in_a_cycle)
    with engine_pool(f"bubblewrap:?python={python}", preload=["reads"], ready_session_instances=0) as pool:
        pool.session().execute("1")
        with pool.session() as session:
            assert is_forked(session)
    assert not caplog.records


def test_no_ended_sandbox_is_kept_for_a_module_that_waits_for_children(python: Path) -> None:
    module(python, "waits").write_text("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_DFL)")
    others = templates()
    with engine_pool(f"bubblewrap:?python={python}", preload=["waits"], ready_session_instances=0) as pool:
        for _ in range(3):
            with pool.session() as session:
                assert is_forked(session)
        (template,) = templates() - others
        assert within(30, lambda: not _children(template))


@pytest.mark.parametrize("runs", [False, True], ids=["idle", "while code runs"])
def test_a_killed_template_ends_its_sessions_and_is_replaced(runs: bool) -> None:
    others = templates()
    with engine_pool("bubblewrap:", preload=(), ready_session_instances=0) as pool:
        session = pool.session()
        assert session.execute("kept = 1\nkept").result == "1"
        (template,) = templates() - others
        events = session.stream("print(1, flush=True)\nimport time; time.sleep(600)") if runs else None
        if events is not None:
            next(events)
        os.kill(template, signal.SIGKILL)
        if events is not None:
            with pytest.raises(SandboxLost):
                list(events)
        assert within(30, lambda: not Path(f"/proc/{template}").exists())
        with contextlib.suppress(SandboxLost):  # unless something has already reported it
            session.execute("1")
        assert session.execute("'kept' in globals()").result == "False"
        (other,) = templates() - others
        assert other != template
        assert is_forked(session)


def test_a_template_that_does_not_survive_is_abandoned(python: Path, caplog: pytest.LogCaptureFixture) -> None:
    module(python, "ends_all").write_text("import os, sys\nif 'template' in sys.orig_argv[5]: os._exit(3)")
    url = f"bubblewrap:?python={python}"
    with engine_pool(url, preload=["ends_all"], ready_session_instances=0) as pool:
        for _ in range(6):
            # The first are forked before the import, and end with the template, also while they start.
            with pool.session() as session, contextlib.suppress(SandboxLost, EngineUnavailable):
                session.execute("6 * 7")
        with pool.session() as session:
            assert session.execute("6 * 7").result == "42"
            assert not is_forked(session)
    assert caplog.records


def _kept() -> dict[str, Any]:
    gc.collect()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    groups = [
        place for place, _, _ in os.walk(cgroups.MOUNT) if re.search(rf"/greenroom-\w+-{os.getpid()}-[^/]+$", place)
    ]
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "mounts": [mount for mount in mounts if "docker" not in mount],  # containers can start meanwhile
        "groups": sorted(groups),
    }


def test_nothing_is_left_of_sessions_or_of_a_pool() -> None:
    others, before = templates(), _kept()
    with engine_pool("bubblewrap:", preload=(), ready_session_instances=0) as pool:
        with pool.session() as session:
            session.execute("1")
        while_open = _kept()
        for _ in range(5):
            with ExitStack() as stack:
                for _ in range(4):
                    stack.enter_context(pool.session()).execute("1").raise_for_error()
        assert within(30, lambda: _kept() == while_open), (_kept(), while_open)
        (template,) = templates() - others
        sandboxes = Path(f"/proc/{template}/task/{template}/children").read_text().split()
        assert sandboxes == []
        names = [str(descriptor.readlink()) for descriptor in Path(f"/proc/{template}/fd").iterdir()]
        own = [name for name in names if "/libffi.so" not in name]  # which some versions of libffi keep open
        assert len(own) == 5  # the standard streams, its socket, its namespace
    assert within(30, lambda: _kept() == before), (_kept(), before)
    assert templates() == others


def _namespaces(process: Path) -> set[str]:
    found: set[str] = set()
    for kind in _KINDS:
        with contextlib.suppress(OSError):
            found.add(str(Path(process, "ns", kind).readlink()))
    return found


def test_each_sandbox_has_its_own_namespaces() -> None:
    look = f"import json, os\nprint(json.dumps([os.readlink(f'/proc/self/ns/{{kind}}') for kind in {_KINDS}]))"
    others = templates()
    with engine_pool("bubblewrap:", preload=(), ready_session_instances=0) as pool:
        with pool.session() as session, pool.session() as neighbour:
            own, neighbours = set(told(session, look)), set(told(neighbour, look))
            (template,) = templates() - others
            assert len(own) == len(_KINDS)
            assert not own & neighbours
            assert not (own | neighbours) & _namespaces(Path(f"/proc/{template}"))
        assert within(30, lambda: not _children(template))  # nothing else holds their namespaces: see above
