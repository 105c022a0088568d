"""The conformance suite of executions: what every session does with code."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from greenroom.errors import ExecutionFailed, ExecutionTimedOut, InvalidRequest
from greenroom.models import Execution, Output, StreamText
from greenroom.sessions import Session, SessionPool
from greenroom.testing.suite import Suite

_ENDLESS_CODE = "import time\nwhile True:\n    time.sleep(0.01)"


class ExecutionSuite(Suite):
    """Executions: their results, their order, their end."""

    # Results

    def test_variables_persist_between_executions(self, shared: Session) -> None:
        shared.execute("x = 41")
        assert shared.execute("x + 1").result == "42"

    def test_stdout_and_stderr_are_kept_apart(self, shared: Session) -> None:
        execution = shared.execute("import sys\nprint('out')\nprint('err', file=sys.stderr)")
        assert (execution.stdout, execution.stderr) == ("out\n", "err\n")
        assert execution.result is None

    def test_text_keeps_every_character(self, shared: Session) -> None:
        text = "naïve Ω 漢字 🦊 \u202e tab\tend"
        execution = shared.execute(f"print({text!r})\n{text!r}")
        assert execution.stdout == text + "\n"
        assert execution.result == repr(text)

    def test_an_error_is_data(self, shared: Session) -> None:
        execution = shared.execute("print('before')\n1/0")
        assert execution.status == "failed"
        assert execution.stdout == "before\n"
        assert execution.error is not None
        assert (execution.error.name, execution.error.value) == ("ZeroDivisionError", "division by zero")
        assert "1/0" in execution.error.traceback
        assert "\x1b" not in execution.error.traceback

    def test_a_syntax_error_is_data(self, shared: Session) -> None:
        execution = shared.execute("print('no'")
        assert execution.error is not None
        assert execution.error.name == "SyntaxError"
        assert execution.stdout == ""

    def test_raise_for_error_raises_what_failed(self, shared: Session) -> None:
        assert shared.execute("1").raise_for_error().result == "1"
        with pytest.raises(ExecutionFailed, match="ValueError: bad value") as caught:
            shared.execute("raise ValueError('bad value')").raise_for_error()
        assert caught.value.execution.status == "failed"

    def test_the_session_works_after_an_error(self, shared: Session) -> None:
        shared.execute("x = 1\nraise RuntimeError")
        assert shared.execute("x").result == "1"

    def test_sys_exit_fails_and_ends_nothing(self, shared: Session) -> None:
        shared.execute("x = 5")
        for code in ("raise SystemExit(3)", "import sys\nsys.exit(3)", "exit(3)", "quit(3)"):
            execution = shared.execute(code)
            assert (execution.status, execution.state_lost) == ("failed", False)
            assert execution.error is not None
            assert (execution.error.name, execution.error.value) == ("SystemExit", "3")
            assert execution.stderr == ""
        assert shared.execute("x").result == "5"

    def test_input_fails_immediately_with_the_reason(self, shared: Session) -> None:
        execution = shared.execute("input('name? ')")
        assert execution.error is not None
        assert "input() cannot be answered" in execution.error.value

    def test_displays_keep_their_order(self, shared: Session) -> None:
        execution = shared.execute("display('first')\ndisplay('second')\n'third'")
        assert [output.text for output in execution.outputs] == ["'first'", "'second'", "'third'"]
        assert [output.is_result for output in execution.outputs] == [False, False, True]

    def test_duration_is_that_of_the_code(self, shared: Session) -> None:
        assert shared.execute("import time\ntime.sleep(0.2)").duration >= 0.2

    # Rich outputs: pandas and matplotlib, and IPython itself, must be in the sandbox

    def test_a_figure_is_an_image_without_show(self, shared: Session) -> None:
        execution = shared.execute("import matplotlib.pyplot as plt\n_ = plt.plot([1, 3, 2])")
        (image,) = execution.images
        assert (image.name, image.mime) == ("figure-1.png", "image/png")
        assert image.data.startswith(b"\x89PNG")

    def test_figures_and_text_keep_their_order(self, shared: Session) -> None:
        code = "import matplotlib.pyplot as plt\nfor n in range(3):\n    print(n)\n    plt.plot([n])\n    plt.show()"
        events = [event for event in shared.stream(code) if not isinstance(event, Execution)]
        kinds = ["figure" if isinstance(event, Output) else event.text.strip() for event in events]
        assert [kind for kind in kinds if kind] == ["0", "figure", "1", "figure", "2", "figure"]

    def test_a_data_frame_has_html(self, shared: Session) -> None:
        execution = shared.execute("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
        assert "<table" in execution.outputs[-1].data["text/html"]
        assert execution.result == "   a\n0  1\n1  2"

    def test_magics_shell_commands_and_await_work(self, shared: Session) -> None:
        execution = shared.execute("import asyncio\nawait asyncio.sleep(0.01)\n!echo from the shell\n%pwd")
        assert execution.stdout.split() == ["from", "the", "shell"]
        assert execution.result == "'/mnt/data'"

    def test_output_of_subprocesses_and_threads_arrives_in_order(self, shared: Session) -> None:
        execution = shared.execute(
            "import subprocess, threading\n"
            "print('one')\n"
            "subprocess.run(['echo', 'two'])\n"
            "thread = threading.Thread(target=print, args=('three',))\n"
            "thread.start()\n"
            "thread.join()\n"
            "print('four')"
        )
        assert execution.stdout == "one\ntwo\nthree\nfour\n"

    def test_a_shell_command_runs_beside_the_code(self, shared: Session) -> None:
        shared.execute("x = 41\nwith open('/mnt/data/x.txt', 'w') as f:\n    _ = f.write('from the code')")
        execution = shared.shell("cat x.txt; exit 3")
        assert (execution.stdout, execution.exit_code, execution.state_lost) == ("from the code", 3, False)
        assert shared.execute("x + 1").result == "42"

    # Environment variables

    def test_variables_are_those_of_the_session_and_of_the_execution(self, pool: SessionPool) -> None:
        show = "import os, time; [os.environ.get(name) for name in 'ABC'], time.strftime('%Z', time.localtime(0))"
        with pool.session(env={"A": "a", "B": "b", "TZ": "Asia/Tokyo"}) as session:
            assert session.execute(show).result == "(['a', 'b', None], 'JST')"
            variables = {"B": "Ω", "C": "c", "TZ": "UTC"}
            once = session.execute(f"{show}; os.environ['A'] = 'changed'\n{show}", env=variables)
            assert once.result == "(['changed', 'Ω', 'c'], 'UTC')"
            assert session.execute(show).result == "(['changed', 'b', None], 'JST')", "and what they were before"
            session.execute("1/0", env={"B": "failed"})
            session.execute(_ENDLESS_CODE, env={"B": "interrupted"}, timeout=0.5)
            assert session.execute(show).result == "(['changed', 'b', None], 'JST')"
            session.execute("os._exit(1)")
            assert session.execute(show).result == "(['a', 'b', None], 'JST')", "a new worker has them, too"
            other = pool.session(session.identifier, env={"C": "other"})
            assert other.execute(show).result == "([None, None, 'other'], 'UTC')"

    # Streams

    def test_a_stream_yields_text_while_the_code_runs(self, shared: Session) -> None:
        events = shared.stream("import time\nprint('now')\ntime.sleep(3)\nprint('later')")
        began = time.monotonic()
        arrivals = [(time.monotonic() - began, event) for event in events]
        first = next(at for at, event in arrivals if isinstance(event, StreamText) and event.text.startswith("now"))
        assert arrivals[-1][0] - first > 0.3
        assert isinstance(arrivals[-1][1], Execution)
        assert arrivals[-1][1].stdout == "now\nlater\n"

    def test_leaving_a_stream_interrupts_the_code(self, shared: Session) -> None:
        for event in shared.stream(f"print('begun')\n{_ENDLESS_CODE}"):
            assert isinstance(event, StreamText)
            break
        assert shared.execute("'free'", timeout=60).result == "'free'"

    async def test_an_asynchronous_stream_yields_the_same(self, shared: Session) -> None:
        events = [event async for event in shared.astream("print('a')\n1 + 1")]
        assert isinstance(events[-1], Execution)
        assert events[-1].result == "2"
        assert any(isinstance(event, StreamText) for event in events)

    # Deadlines and cancellation

    def test_code_is_interrupted_at_its_deadline(self, shared: Session) -> None:
        shared.execute("x = 7")
        execution = shared.execute(f"print('begun')\n{_ENDLESS_CODE}", timeout=5)
        assert execution.status == "timed_out"
        assert execution.stdout == "begun\n"
        assert execution.error is not None
        assert "longer than 5 s" in execution.error.value
        with pytest.raises(ExecutionTimedOut):
            execution.raise_for_error()
        assert shared.execute("x").result == "7"

    @pytest.mark.parametrize(
        "code",
        [
            "import time\nwhile True:\n    try:\n        time.sleep(1)\n    except BaseException:\n        pass",
            "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(60)",
            "sum(range(10**14))",
        ],
        ids=["catches everything", "blocks every signal", "loops in C"],
    )
    def test_code_that_does_not_react_is_killed(self, session: Session, code: str) -> None:
        session.upload(b"kept", "kept.txt")
        session.execute("x = 1")
        execution = session.execute(code, timeout=5)  # it is running by then
        assert execution.status == "timed_out"
        assert execution.state_lost
        after = session.execute("'x' in globals(), open('/mnt/data/kept.txt').read()")
        assert after.result == "(False, 'kept')"

    async def test_cancelling_interrupts_the_code(self, shared: Session) -> None:
        await shared.aexecute("x = 8")
        task = asyncio.create_task(shared.aexecute(_ENDLESS_CODE))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await shared.aexecute("x", timeout=60)).result == "8"

    async def test_cancelling_one_in_the_queue_leaves_the_others(self, shared: Session) -> None:
        await shared.aexecute("ran = []")
        running = asyncio.create_task(shared.aexecute("import time\ntime.sleep(5)\nran.append(1)"))
        await asyncio.sleep(0.1)
        queued = asyncio.create_task(shared.aexecute("ran.append(2)"))
        await asyncio.sleep(0.1)
        queued.cancel()
        await running
        assert (await shared.aexecute("ran")).result == "[1]"

    # In the background

    def test_a_submitted_execution_runs_in_the_background(self, shared: Session) -> None:
        handle = shared.submit("import time\nprint('begun')\ntime.sleep(2)\n6 * 7")
        assert handle.status == "running"
        execution = handle.result(60)
        assert (execution.result, execution.stdout, handle.status) == ("42", "begun\n", "succeeded")

    def test_a_submitted_execution_can_be_cancelled(self, shared: Session) -> None:
        shared.execute("x = 9")
        handle = shared.submit(f"print('begun')\n{_ENDLESS_CODE}")
        queued = shared.submit("x = 0")
        time.sleep(3)  # until it has begun
        queued.cancel()
        handle.cancel()
        handle.cancel()
        execution = handle.result(60)
        assert (execution.status, execution.stdout) == ("cancelled", "begun\n")
        assert queued.status == "cancelled"
        assert shared.execute("x", timeout=60).result == "9"

    async def test_a_submitted_execution_can_be_awaited(self, shared: Session) -> None:
        handle = shared.submit("1/0")
        assert (await handle.aresult()).status == "failed"
        assert handle.result(0).error is not None

    # Crashes

    def test_an_exit_of_the_process_fails_and_the_next_execution_works(self, session: Session) -> None:
        session.upload(b"kept", "kept.txt")
        execution = session.execute("print('last words', flush=True)\nimport os\nos._exit(3)")
        assert execution.status == "failed"
        assert execution.state_lost
        assert execution.stdout == "last words\n"
        assert execution.error is not None
        assert "exited with code 3" in execution.error.value
        assert session.execute("open('/mnt/data/kept.txt').read()").result == "'kept'"

    def test_a_segmentation_fault_fails_and_the_next_execution_works(self, session: Session) -> None:
        execution = session.execute("import ctypes\nctypes.string_at(0)")
        assert execution.error is not None
        assert "SIGSEGV" in execution.error.value
        assert session.execute("1 + 1").result == "2"

    # Many at the same time

    def test_sessions_do_not_share_variables(self, pool: SessionPool) -> None:
        with pool.session() as one, pool.session() as other:
            one.execute("secret = 1")
            assert other.execute("'secret' in globals()").result == "False"

    def test_the_same_identifier_is_the_same_session(self, pool: SessionPool, shared: Session) -> None:
        shared.execute("x = 3")
        assert pool.session(shared.identifier).execute("x").result == "3"

    def test_executions_of_one_session_run_one_after_the_other(self, shared: Session) -> None:
        shared.execute("running = 0\nmost = 0")
        code = "import time\nrunning += 1\nmost = max(most, running)\ntime.sleep(0.02)\nrunning -= 1\n"
        with ThreadPoolExecutor(8) as threads:
            for execution in threads.map(shared.execute, [code] * 8):
                execution.raise_for_error()
        assert shared.execute("most, running").result == "(1, 0)"

    def test_parallel_sessions_are_not_mixed_up(self, pool: SessionPool) -> None:
        def ask(number: int) -> str | None:
            with pool.session() as session:
                session.execute(f"x = {number}")
                return session.execute("x * x").result

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(ask, range(8))) == [str(number * number) for number in range(8)]

    def test_one_pool_serves_blocking_code_threads_and_two_loops_at_the_same_time(self, pool: SessionPool) -> None:
        results: dict[str, str | None] = {}

        async def ask(name: str) -> None:
            async with pool.session() as session:
                results[name] = (await session.aexecute(f"{name!r}.upper()")).result

        def blocking() -> None:
            with pool.session() as session:
                results["thread"] = session.execute("'thread'.upper()").result

        threads = [
            threading.Thread(target=lambda: asyncio.run(ask("first"))),
            threading.Thread(target=lambda: asyncio.run(ask("second"))),
            threading.Thread(target=blocking),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == {"first": "'FIRST'", "second": "'SECOND'", "thread": "'THREAD'"}

    # The end of a session

    def test_a_deleted_session_starts_again(self, session: Session) -> None:
        session.execute("x = 1")
        session.upload(b"old", "old.txt")
        session.delete()
        session.delete()
        assert session.execute("'x' in globals()").result == "False"
        assert session.files() == []

    async def test_a_session_reports_its_times_without_starting(self, pool: SessionPool, session: Session) -> None:
        assert session.info() is None
        session.execute("1")
        info = await session.ainfo()
        assert info is not None
        assert info.identifier == session.identifier
        assert info.created <= info.last_used
        assert info.expires is None or info.expires > info.last_used
        assert info.identifier in {each.identifier for each in pool.sessions()}
        session.delete()
        assert session.info() is None

    # Bad input

    @pytest.mark.parametrize("identifier", ["abc", "x" * 129, "with space", "", "ümlaut", "new\nline"])
    def test_a_bad_identifier_is_refused_by_name(self, pool: SessionPool, identifier: str) -> None:
        with pytest.raises(InvalidRequest, match="4 to 128 characters"):
            pool.session(identifier)

    @pytest.mark.parametrize("code", ["", "  \n", "'\ud800'"])
    def test_code_that_is_empty_or_not_utf_8_is_refused(self, shared: Session, code: str) -> None:
        shared.execute("x = 1")
        with pytest.raises(InvalidRequest, match="code"):
            shared.execute(code)
        assert shared.execute("x").result == "1"

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
    def test_a_bad_timeout_is_refused(self, shared: Session, timeout: float) -> None:
        with pytest.raises(InvalidRequest, match="timeout"):
            shared.execute("1", timeout=timeout)
