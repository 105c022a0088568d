"""Code that breaks its own process, by mistake or on purpose: it gets an error, and its session continues.

Afterwards the session either still has its variables, or reports that they are gone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from greenroom import Execution, SandboxLost, Session, SessionPool
from greenroom.testing import engine_pool


@dataclass(frozen=True)
class Case:
    """Code, and its expected effects."""

    code: str
    error: str | None = None
    """A pattern for its name and value; `None` if the code succeeds."""
    stdout: str | None = None
    """`None`: it does not matter."""
    result: str | None = None
    """A pattern; `None` if there is none."""
    lost: bool | None = False
    """Whether it loses the variables, immediately or once the next execution begins; `None` if either is possible."""
    timeout: float = 20


_CRASHED = "WorkerCrashed: .* exited with code 1"
_STOPPED = r"TimeoutError: .* longer than 5 s and was "

CASES: dict[str, dict[str, Case]] = {
    "descriptors and streams": {
        "closes the standard ones": Case("import os\nfor number in 0, 1, 2: os.close(number)"),
        "prints to what it has closed": Case("import os\nos.close(1)\nprint('x')", "OSError: .*Bad file descriptor"),
        "closes all of them": Case("import os\nos.closerange(0, 4096)", _CRASHED, lost=True),
        "puts others into their places": Case(
            "import os\nends = os.pipe()\nfor number in range(3, 10): os.dup2(ends[1], number)", _CRASHED, lost=True
        ),
        "writes rubbish to all of them": Case(
            "import os\nfor number in range(3, 10):\n"
            "    try: os.write(number, b'\\xff' * 100)\n"
            "    except OSError: pass\n"
            "__import__('time').sleep(1)",
            r"WorkerCrashed: .*SIGKILL",
            lost=True,
        ),
        "reports a duration that no float can hold": Case(
            "import os, struct\nheader = b'{\"ev\":\"done\",\"duration\":' + b'9' * 4_000 + b'}'\n"
            "os.write(3, struct.pack('>II', len(header), 4) + header + b'null')\n__import__('time').sleep(5)",
            r"WorkerCrashed: .*SIGKILL",
            lost=True,
        ),
        "opens the standard ones by name": Case(
            "for name in 'stdout', 'stderr':\n    with open(f'/dev/{name}', 'w') as file: print('x', file=file)",
            stdout="x\n",
        ),
        "has no sys.stdout": Case("import sys\nsys.stdout = sys.stderr = None"),
        "has a number for sys.stdout": Case("import sys\nsys.stdout = sys.stderr = 3"),
        "closes sys.stdout": Case("import sys\nsys.stdout.close(); sys.stderr.close()"),
        "has a sys.stdout that raises": Case(
            "import sys\nclass Out:\n    def write(self, text): raise ValueError('no')\n"
            "sys.stdout, before = Out(), sys.stdout\n"
            "try: print('x')\nfinally: sys.stdout = before",
            "ValueError: no",
        ),
        "has a sys.stdout that exits at every touch": Case(
            "import sys\nclass Out:\n    def __getattribute__(self, name): raise SystemExit\nsys.stdout = Out()",
            _CRASHED,
            lost=True,
        ),
        "has a sys.stdout that never stops to flush": Case(
            "import sys\nclass Out:\n    def write(self, text): pass\n    def flush(self):\n        while True: pass\n"
            "sys.stdout = Out()",
            _STOPPED + "killed",
            lost=True,
            timeout=5,
        ),
        "writes what is no text": Case(
            "import os\n_ = os.write(1, bytes(range(256)))", stdout=bytes(range(256)).decode("utf-8", "replace")
        ),
        "prints half a surrogate pair": Case("print('a\\ud800b')", "UnicodeEncodeError: .*surrogates not allowed"),
        "has half a surrogate pair for its result": Case("'a\\ud800b'", result=r"'a\\ud800b'"),
    },
    "objects that show themselves": {
        "raise": Case("class Bad:\n    def __repr__(self): raise ValueError('no')\nBad()", "ValueError: no"),
        "exit": Case("class Bad:\n    def __repr__(self): raise SystemExit(3)\nBad()", "SystemExit: 3"),
        "never end": Case(
            "class Bad:\n    def __repr__(self):\n        while True: pass\nBad()", _STOPPED + "interrupted", timeout=5
        ),
        "are no text": Case("class Bad:\n    def __repr__(self): return 3\nBad()", "TypeError: .*non-string"),
        "are half a surrogate pair": Case(
            "class Bad:\n    def __repr__(self): return 'a\\ud800b'\nBad()", result="a.b"
        ),
        "are huge": Case(
            "class Bad:\n    def __repr__(self): return 'x' * 10**8\nBad()", result="<an output of 100000000 bytes"
        ),
        "raise in HTML": Case(
            "class Bad:\n    def __repr__(self): return 'x'\n    def _repr_html_(self): raise ValueError('no')\nBad()",
            "ValueError: no",
            result="x",
        ),
        "never end in HTML": Case(
            "class Bad:\n    def _repr_html_(self):\n        while True: pass\nBad()",
            "(KeyboardInterrupt|TimeoutError): ",
            result="",
            timeout=5,
        ),
        "are no text in HTML": Case(
            "class Bad:\n    def __repr__(self): return 'plain'\n    def _repr_html_(self): return object()\nBad()",
            result="plain",
        ),
        "are huge in HTML": Case(
            "class Bad:\n    def _repr_html_(self): return 'x' * 10**8\nBad()", result="<an output of 1000"
        ),
        "are a circle": Case(
            "class Bad:\n    def _repr_mimebundle_(self, **_):\n"
            "        circle = {}; circle['a'] = circle\n        return {'application/json': circle}\nBad()",
            "RecursionError: ",
        ),
        "are many": Case(
            "for number in range(500): display(number)\n'last'", result="'last'", timeout=60
        ),
    },
    "errors": {
        "with a huge message": Case("raise ValueError('x' * 10**7)", "ValueError: x{10000}"),
        "with a huge traceback": Case(
            "def fail(depth):\n    try:\n        fail(depth - 1) if depth else 1/0\n"
            "    except Exception as error:\n        raise ValueError('y' * 10**5) from error\nfail(30)",
            "ValueError: y{10000}",
        ),
        "with a huge name": Case("raise type('E' * 10**6, (Exception,), {})('x')", "E{200}: x"),
        "that raise when asked": Case(
            "class Bad(Exception):\n    def __str__(self): raise ValueError('no')\nraise Bad", "Bad: <unprintable>"
        ),
        "that never answer when asked": Case(
            "class Bad(Exception):\n    def __str__(self):\n        while True: pass\nraise Bad",
            _STOPPED + "(killed|interrupted)",
            lost=None,
            timeout=5,
        ),
        "a recursion": Case("def recurse(): recurse()\nrecurse()", "RecursionError: "),
        "a recursion without a limit": Case(
            "import sys\nsys.setrecursionlimit(10**9)\ndef recurse(): recurse()\nrecurse()",
            "(TimeoutError|MemoryError|WorkerCrashed): ",
            lost=None,
            timeout=5,
        ),
        "of a kind of its own": Case("class Own(BaseException): pass\nraise Own('x')", "Own: x"),
        "a sys.excepthook that is none": Case("import sys\nsys.excepthook = None\n1/0", "ZeroDivisionError: "),
    },
    "ends": {
        "sys.exit()": Case("import sys\nsys.exit()", "SystemExit: "),
        "sys.exit(3)": Case("import sys\nsys.exit(3)", "SystemExit: 3"),
        "raise SystemExit": Case("raise SystemExit('bye')", "SystemExit: bye"),
        "exit": Case("exit", "SystemExit: "),
        "quit()": Case("quit()", "SystemExit: "),
        "ask_exit": Case("get_ipython().ask_exit()", "SystemExit: "),
        "raise KeyboardInterrupt": Case("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine"),
        "its own SIGINT": Case(
            "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(10)", "KeyboardInterrupt: "
        ),
        "a SIGINT that it ignores": Case(
            "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)",
            _STOPPED + "killed",
            lost=True,
            timeout=5,
        ),
        "os._exit at its exit": Case("import atexit, os\n_ = atexit.register(os._exit, 7)"),
        "its exit before the time": Case(
            "import atexit, os\natexit.register(os._exit, 7)\natexit._run_exitfuncs()",
            "WorkerCrashed: .* exited with code 7",
            lost=True,
        ),
        "an alarm": Case(
            "import signal, time\nsignal.alarm(1)\ntime.sleep(10)", "WorkerCrashed: .*SIGALRM", lost=True
        ),
        "abort": Case("import os\nos.abort()", "WorkerCrashed: .*SIGABRT", lost=True),
        "SIGTERM for its whole group": Case(
            "import os, signal\nos.killpg(0, signal.SIGTERM)", "WorkerCrashed: .*SIGTERM", lost=True
        ),
        "SIGSTOP": Case(
            "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", _STOPPED + "killed", lost=True, timeout=5
        ),
        "a kill of what runs it": Case(
            "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "PermissionError: "
        ),
        "a thread dump on its way out": Case(
            "import faulthandler, time\nfaulthandler.dump_traceback_later(0.1, exit=True)\ntime.sleep(10)",
            _CRASHED,
            lost=True,
        ),
    },
    "questions to nobody": {
        "input()": Case("input('Your name? ')", r"EOFError: input\(\) cannot be answered"),
        "getpass": Case("import getpass\ngetpass.getpass()", r"EOFError: input\(\) cannot be answered"),
        "sys.stdin": Case("import sys\nsys.stdin.read()", result="''"),
        "breakpoint()": Case("def f():\n    breakpoint()\n    return 1\nf()", "EOFError: .*not interactive"),
        "pdb": Case("import pdb\npdb.set_trace()", "EOFError: .*not interactive"),
        "%debug": Case("%debug"),
        "%pdb": Case("%pdb on\n1/0", "ZeroDivisionError: "),
    },
    "what everything stands on": {
        "builtins that are none": Case(
            "import builtins\nfor name in ('len', 'isinstance', 'str', 'dict'): setattr(builtins, name, None)",
            _CRASHED,
            lost=True,
        ),
        "builtins that are gone": Case("import builtins\nbuiltins.__dict__.clear()", _CRASHED, lost=True),
        "json": Case("import json\njson.dumps = json.loads = json.encoder = None"),
        "os.write and os.read": Case("import os\nos.write = os.read = os.getpid = None"),
        "threading": Case("import threading\nthreading.Lock = threading.current_thread = threading.main_thread = None"),
        "socket": Case("import socket\nsocket.socket.send = socket.socket.sendall = None", _CRASHED, lost=True),
        "no modules": Case("import sys\nsys.modules.clear()"),
        "modules that are none": Case(
            "import sys\nfor name in list(sys.modules): sys.modules[name] = None", "(WorkerCrashed|None)", lost=None
        ),
        "sys.displayhook": Case("import sys\nsys.displayhook = None\n1", "TypeError: "),
        "sys.settrace": Case("import sys\nsys.settrace(lambda *_: 1/0)", "ZeroDivisionError: ", lost=None),
        "an audit hook": Case(
            "import sys\ndef refuse(event, _):\n    if event == 'compile': raise OSError\nsys.addaudithook(refuse)",
            lost=True,
        ),
        "an event loop that is closed": Case("import asyncio\nasyncio.get_event_loop().close()"),
        "no garbage collection": Case("import gc\ngc.disable()"),
        "a shell without run_cell": Case("get_ipython().run_cell = None", lost=True),
        "a shell without a history": Case("get_ipython().history_manager = None", "AssertionError: ", lost=True),
        "a shell that transforms all code to an exit": Case(
            "class Exit:\n    def visit(self, node): raise SystemExit\nget_ipython().ast_transformers.append(Exit())",
            lost=True,
        ),
        "a shell that exits before all code": Case(
            "def leave(*_): raise SystemExit\nget_ipython().events.register('pre_run_cell', leave)", lost=True
        ),
    },
    "limits that it sets itself": {
        "no descriptors": Case("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))", lost=None),
        "no memory": Case("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))", lost=None),
        "no files": Case("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"),
        "no processes": Case("import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (0, 0))"),
        "a second of processor time": Case(
            "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
            "WorkerCrashed: .*(SIGKILL|SIGXCPU)",
            lost=True,
        ),
    },
    "files": {
        "a directory that is gone": Case(
            "import os\nos.mkdir('/mnt/data/gone'); os.chdir('/mnt/data/gone'); os.rmdir('/mnt/data/gone')"
        ),
        "/mnt/data deleted": Case("import shutil\nshutil.rmtree('/mnt/data', ignore_errors=True)"),
        "/mnt/data renamed": Case("import os\nos.rename('/mnt/data', '/mnt/gone')", "(OSError|PermissionError): "),
        "/mnt/data shut": Case("import os\nos.chmod('/mnt/data', 0)", "PermissionError: "),
    },
}  # fmt: skip


GVISOR = "docker:?runtime=runsc"
UNLIKE_LINUX: dict[str, str] = {}


ENGINES = ["bubblewrap:", "docker:", GVISOR]
OF_THE_KERNEL = {"descriptors and streams", "ends"}
"""Differences on another kernel; all other results are the same on every engine."""


@pytest.fixture(scope="module", params=ENGINES)
def pool(request: pytest.FixtureRequest) -> Iterator[SessionPool]:
    with engine_pool(request.param, preload=(), memory="1Gi", ready_session_instances=2) as pool:
        yield pool


@pytest.fixture
def session(pool: SessionPool) -> Iterator[Session]:
    with pool.session() as session:
        yield session


@pytest.mark.parametrize(
    ("pool", "case"),
    [
        pytest.param(engine, case, id=f"{engine}-{topic} - {name}")
        for engine in ENGINES
        for topic, cases in CASES.items()
        if engine == "bubblewrap:" or (engine == GVISOR and topic in OF_THE_KERNEL)
        for name, case in cases.items()
    ],
    indirect=["pool"],
)
def test_the_code_gets_an_error_and_the_session_continues(
    request: pytest.FixtureRequest, session: Session, case: Case
) -> None:
    engine, _, name = request.node.callspec.id.partition("-")
    if engine == GVISOR and name in UNLIKE_LINUX:
        request.applymarker(pytest.mark.xfail(reason=UNLIKE_LINUX[name], raises=SandboxLost, strict=True))
    session.execute("before = 1").raise_for_error()
    execution = session.execute(case.code, timeout=case.timeout)
    assert re.match(case.error or "None", told(execution), re.DOTALL)
    assert re.match(case.result or "None", str(execution.result), re.DOTALL)
    assert case.stdout in {None, execution.stdout}
    lost = execution.state_lost
    after = session.execute("print('out')\n'before' in globals()")
    if after.state_lost:  # it was ended by processes or threads that the code had left
        assert not lost, "once is enough"
        lost = True
    if after.error is not None:
        assert lost, told(after)
        after = session.execute("print('out')\n'before' in globals()")
    assert (after.stdout, after.result) == ("out\n", str(not lost))
    assert case.lost in {None, lost}


def told(execution: Execution) -> str:
    """The error's name and value, in Python's format."""
    return f"{execution.error.name}: {execution.error.value}" if execution.error is not None else "None"


# Activity after the end of the code


def test_text_that_a_thread_prints_later_is_in_the_next_execution(session: Session) -> None:
    execution = session.execute(
        "import threading, time\n"
        "go, gone = threading.Event(), threading.Event()\n"
        "def later():\n    go.wait()\n    print('later')\n    gone.set()\n"
        "threading.Thread(target=later).start()\nprint('now')"
    )
    assert execution.stdout == "now\n"
    assert session.execute("1").stdout == ""
    assert session.execute("go.set()\n_ = gone.wait(60)\nprint('next')").stdout == "later\nnext\n"


def test_a_fork_that_continues_with_the_code_sends_nothing(session: Session) -> None:
    execution = session.execute("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint(pid > 0)\npid > 0")
    assert (execution.stdout, execution.result) == ("False\nTrue\n", "True")
    assert session.execute("pid > 0").result == "True"


def test_a_process_that_outlives_its_code_can_write_and_ends_with_the_session(session: Session) -> None:
    session.execute(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        open('/mnt/data/pid', 'w').write(str(os.getpid()))\n"
        "        while not os.path.exists('/mnt/data/go'): time.sleep(0.05)\n"
        "        os.write(1, b'from afar\\n')\n"
        "        open('/mnt/data/said', 'w').close()\n"
        "        time.sleep(1000)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "while not os.path.exists('/mnt/data/pid'): time.sleep(0.05)"
    ).raise_for_error()
    wait = "while not os.path.exists('/mnt/data/said'): time.sleep(0.05)\ntime.sleep(0.5)"
    assert session.execute(f"open('/mnt/data/go', 'w').close()\n{wait}", timeout=60).stdout == "from afar\n"
    alive = "os.path.exists('/proc/' + open('/mnt/data/pid').read())"
    assert session.execute(alive).result == "True"
    assert session.execute("os._exit(1)").state_lost
    assert session.execute(f"import os\n{alive}").result == "False", "with the worker, all that it left has gone"


def test_an_alarm_after_the_end_is_reported_by_the_next_execution(session: Session) -> None:
    session.execute("before = 1\nimport signal\n_ = signal.setitimer(signal.ITIMER_REAL, 4)").raise_for_error()
    time.sleep(6)
    execution = session.execute("'before' in globals()")
    assert (execution.state_lost, execution.result) == (True, "False")


# Session state, however unusual


def test_names_that_hide_the_builtins_are_variables_like_others(session: Session) -> None:
    session.execute("print = len = None").raise_for_error()
    execution = session.execute("print('x')")
    assert told(execution) == "TypeError: 'NoneType' object is not callable"
    assert session.execute("del print, len\nprint(len('abc'))").stdout == "3\n"


def test_a_reset_clears_the_variables_and_keeps_the_session(session: Session) -> None:
    session.execute("before = 1")
    assert session.execute("%reset -f").succeeded
    execution = session.execute("print('out')\n'before' in globals()")
    assert (execution.stdout, execution.result, execution.state_lost) == ("out\n", "False", False)


def test_a_replaced_stdout_stays_in_place(session: Session) -> None:
    session.execute("import io, sys\nbefore, sys.stdout = sys.stdout, io.StringIO()\nprint('kept')")
    assert session.execute("print('too')").stdout == ""
    session.execute("kept, sys.stdout = sys.stdout.getvalue(), before")
    assert session.execute("print(kept)").stdout == "kept\ntoo\n\n"


def test_a_huge_traceback_is_cut(session: Session) -> None:
    execution = session.execute(
        "def fail(depth):\n"
        "    try:\n"
        "        fail(depth - 1) if depth else 1/0\n"
        "    except Exception as error:\n"
        "        raise ValueError(depth) from error\n"
        "fail(200)"
    )
    assert execution.error is not None
    assert len(execution.error.traceback) == 50_000
    assert len(execution.error.summary) <= 10_000
    assert "fail" in execution.error.summary


# Text in pieces


def test_a_single_print_arrives_in_one_piece(session: Session) -> None:
    """print() writes its text and its newline separately."""
    session.execute("import time")
    pieces = [stream(session, "print('x')") for _ in range(20)]
    assert pieces.count(["x\n"]) > 0, "not each, as the machine may be busy"
    assert len(stream(session, "for number in range(1000): print(number)")) < 500


def test_separate_writes_arrive_separately(session: Session) -> None:
    session.execute("import time")
    pieces = stream(session, "for number in range(3):\n    print(number, end='')\n    time.sleep(2)")
    assert pieces == ["0", "1", "2"]


def test_text_keeps_its_order_among_displays(session: Session) -> None:
    pieces = stream(session, "for number in range(5):\n    print(number)\n    display(-number)")
    assert "".join(pieces) == "0\n01\n-12\n-23\n-34\n-4"


def stream(session: Session, code: str) -> list[str]:
    return [event.text for event in session.stream(code) if not isinstance(event, Execution)]
