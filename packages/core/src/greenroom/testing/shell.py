"""The conformance suite of shell commands: what every session does with them, whatever its container type."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from greenroom.errors import ExecutionFailed, InvalidRequest
from greenroom.models import Execution, StreamText
from greenroom.sessions import Session, SessionPool
from greenroom.testing.suite import Suite

_SLEEPING = "grep -sxh sleep /proc/[0-9]*/comm"
"""A command that writes a line per `sleep` process."""


class ShellSuite(Suite):
    """Shell commands: their results, their limits, their end.

    The pool has `ShellSuite.options`.
    """

    options: ClassVar[Mapping[str, Any]] = {"preload": (), "output_limit": 100_000, "interrupt_grace": 3}

    # Results

    def test_a_command_has_both_streams_and_an_exit_code(self, shared: Session) -> None:
        execution = shared.shell("echo out; echo err >&2; exit 3")
        assert (execution.stdout, execution.stderr, execution.exit_code) == ("out\n", "err\n", 3)
        assert execution.status == "failed"
        assert execution.error is not None
        assert execution.error.name == "ExitCode"
        assert "exit code 3" in execution.text_for_model()
        with pytest.raises(ExecutionFailed, match="exit code 3"):
            execution.raise_for_error()

    def test_a_command_without_an_error_succeeds(self, shared: Session) -> None:
        execution = shared.shell("true").raise_for_error()
        assert (execution.status, execution.exit_code, execution.result) == ("succeeded", 0, None)
        assert "exit code 0" in execution.text_for_model()

    def test_a_command_runs_in_its_own_login_shell(self, shared: Session) -> None:
        assert shared.shell("pwd; shopt -q login_shell && echo login").stdout == "/mnt/data\nlogin\n"
        shared.shell("cd /tmp; x=1; export y=2; umask 0; trap 'echo bye' EXIT")
        assert shared.shell('pwd; echo "[$x$y]"').stdout == "/mnt/data\n[]\n"
        leader = "set -- $(cat /proc/$$/stat); echo $(($5 == $$)) $(($6 == $$))"
        assert shared.shell(leader).stdout == "1 1\n", "a process group and a session of its own"

    def test_files_persist_and_are_listed(self, session: Session) -> None:
        session.upload(b"b\na\n", "in.txt")
        execution = session.shell("sort in.txt > sorted.txt; mkdir d; echo x > d/x")
        assert [file.name for file in execution.files] == ["sorted.txt", "d/x"]
        assert session.download("sorted.txt") == b"a\nb\n"
        assert session.shell("true").files == ()

    @pytest.mark.parametrize(
        ("command", "code"),
        [("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255), ("no-such-program", 127), ("/mnt/data", 126)],
    )
    def test_the_exit_code_is_as_in_a_shell(self, shared: Session, command: str, code: int) -> None:
        assert shared.shell(command).exit_code == code

    def test_a_syntax_error_is_data(self, shared: Session) -> None:
        execution = shared.shell("echo 'no")
        assert execution.exit_code == 2
        assert "unexpected EOF" in execution.stderr

    def test_text_keeps_every_character(self, shared: Session) -> None:
        text = "naïve Ω 漢字 🦊 $HOME `x` \\n \"q\" 'q' \u202e \x01 tab\tend"
        assert shared.shell(["printf", "%s", text]).stdout == text
        assert shared.shell("cat", stdin=text).stdout == text
        assert shared.shell("printf '%s' 'Ω\n漢'").stdout == "Ω\n漢"
        assert shared.shell(r"printf '\377\000'").stdout == "\ufffd\0"

    def test_a_list_is_a_program_with_its_arguments(self, shared: Session) -> None:
        execution = shared.shell(["printf", "%s|", "a b", "", "$HOME", "*", "-n"])
        assert execution.stdout == "a b||$HOME|*|-n|"
        assert shared.shell(["no-such-program"]).exit_code == 127
        long = shared.shell(["echo", "x" * 200_000])  # Linux takes no argument of 128 KiB
        assert long.exit_code == 126
        assert "too long" in long.stderr  # Linux names the list of arguments, gVisor a file's name

    def test_standard_input_is_given_or_empty(self, shared: Session) -> None:
        assert shared.shell("cat; echo end").stdout == "end\n"
        assert shared.shell('read -r line; echo "<$line>"; cat', stdin="one\ntwo\n").stdout == "<one>\ntwo\n"
        assert shared.shell("wc -c", stdin=bytes(3 << 20)).stdout.strip() == str(3 << 20)
        assert shared.shell(["sha256sum"], stdin=bytes(range(256))).stdout.startswith("40aff2e9d2d8922e")
        assert shared.shell("head -c 1", stdin=b"x" * (1 << 20)).stdout == "x"

    def test_a_command_can_be_longer_than_an_argument(self, shared: Session) -> None:
        command = f"x='{'y' * 300_000}'\necho ${{#x}}\ncat\nexit 5"
        execution = shared.shell(command, stdin="input")
        assert (execution.stdout, execution.exit_code) == ("300000\ninput", 5)

    def test_a_shell_keeps_to_the_sandboxes_rules(self, shared: Session) -> None:
        status = shared.shell("cat /proc/self/oom_score_adj; grep -E 'Seccomp:|CapEff' /proc/self/status").stdout
        assert status == "1000\nCapEff:\t0000000000000000\nSeccomp:\t2\n"
        descriptors = "for fd in {0..99}; do [ -e /proc/self/fd/$fd ] && echo $fd; done; true"
        assert shared.shell(descriptors).stdout.split() == ["0", "1", "2"]
        assert shared.shell("kill -9 1").exit_code != 0
        assert shared.shell("echo x > /usr/x || echo refused").stdout == "refused\n"

    def test_a_shell_gains_no_privileges(self, shared: Session) -> None:
        assert shared.shell("grep NoNewPrivs /proc/self/status").stdout == "NoNewPrivs:\t1\n"

    # Variables

    def test_variables_are_those_of_the_session_and_of_the_command(self, pool: SessionPool) -> None:
        show = 'echo "$A|$B|$C"; date -d @0 +%Z'
        with pool.session(env={"A": "a b", "B": "'$x\n\"", "TZ": "Asia/Tokyo"}) as session:
            assert session.shell(show).stdout == "a b|'$x\n\"|\nJST\n"
            once = session.shell(show, env={"B": "Ω", "C": "c", "TZ": "UTC"})
            assert once.stdout == "a b|Ω|c\nUTC\n"
            assert session.shell(show).stdout == "a b|'$x\n\"|\nJST\n", "and what they were before"
            other = pool.session(session.identifier, env={"C": "other"})
            assert other.shell(show).stdout == "||other\nUTC\n"

    def test_the_path_of_a_command_can_be_set(self, session: Session) -> None:
        session.shell("mkdir bin; printf '#!/bin/sh\necho mine' > bin/tool; chmod +x bin/tool")
        path = "/mnt/data/bin:/usr/local/bin:/usr/bin:/bin"
        assert session.shell("tool", env={"PATH": path}).stdout == "mine\n"
        assert session.shell(["tool"], env={"PATH": path}).stdout == "mine\n"
        assert session.shell("tool").exit_code == 127

    # Streams

    def test_a_stream_yields_text_while_the_command_runs(self, shared: Session) -> None:
        events = shared.stream_shell("echo now; sleep 3; echo later >&2; exit 4")
        began = time.monotonic()
        arrivals = [(time.monotonic() - began, event) for event in events]
        first = next(at for at, event in arrivals if isinstance(event, StreamText) and event.text == "now\n")
        last = arrivals[-1][1]
        assert arrivals[-1][0] - first > 0.3
        assert isinstance(last, Execution)
        assert (last.stdout, last.stderr, last.exit_code) == ("now\n", "later\n", 4)

    def test_leaving_a_stream_stops_the_command(self, shared: Session) -> None:
        for event in shared.stream_shell("echo begun; sleep 600"):
            assert isinstance(event, StreamText)
            break
        assert shared.shell("echo free", timeout=60).stdout == "free\n"
        assert shared.shell(_SLEEPING).stdout == ""

    async def test_the_asynchronous_spellings_do_the_same(self, shared: Session) -> None:
        assert (await shared.ashell("cat; exit 1", stdin="x")).exit_code == 1
        events = [event async for event in shared.astream_shell(["echo", "a"])]
        assert isinstance(events[-1], Execution)
        assert events[-1].stdout == "a\n"
        assert any(isinstance(event, StreamText) for event in events)

    # Limits

    def test_a_command_is_stopped_at_its_deadline(self, shared: Session) -> None:
        execution = shared.shell("echo begun; sleep 600 & sleep 600", timeout=5)
        assert (execution.status, execution.stdout, execution.exit_code) == ("timed_out", "begun\n", None)
        assert execution.error is not None
        assert "The command ran for longer than 5 seconds and was stopped" in execution.error.value
        assert shared.shell(_SLEEPING).stdout == "", "its whole process group"

    def test_a_command_can_clean_up_at_its_deadline(self, shared: Session) -> None:
        command = "trap 'echo cleaned; exit 0' TERM; echo begun; while true; do sleep 0.05; done"
        execution = shared.shell(command, timeout=5)
        assert (execution.status, execution.stdout) == ("timed_out", "begun\ncleaned\n")

    @pytest.mark.parametrize(
        "command",
        [
            "trap '' TERM INT HUP; while true; do sleep 1; done",
            "(trap '' TERM; while true; do sleep 1; done) & sleep 60",
            "kill -STOP $$",
        ],
        ids=["ignores signals", "a child ignores signals", "is stopped"],
    )
    def test_a_command_that_does_not_react_is_killed(self, shared: Session, command: str) -> None:
        execution = shared.shell(command, timeout=3)
        assert execution.status == "timed_out"
        assert shared.shell(_SLEEPING).stdout == ""

    async def test_cancelling_stops_the_command(self, shared: Session) -> None:
        task = asyncio.create_task(shared.ashell("sleep 600"))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await shared.ashell(_SLEEPING, timeout=60)).stdout == ""

    def test_output_over_the_limit_is_cut_and_the_command_continues(self, shared: Session) -> None:
        execution = shared.shell("yes 0123456789 | head -n 100000; echo end > end.txt")
        assert execution.succeeded
        assert len(execution.stdout) == 100_000
        assert execution.truncated == 100_000 * 11 - 100_000
        assert [file.name for file in execution.files] == ["end.txt"]

    def test_background_processes_continue_and_their_output_is_dropped(self, shared: Session) -> None:
        noisy = "(for i in $(seq 20); do echo noise; echo noise >&2; sleep 0.05; done; echo done > noise.txt) &"
        assert shared.shell(f"{noisy} echo fg", timeout=60).status == "succeeded"
        quiet = shared.shell("sleep 0.3; echo quiet")
        assert (quiet.stdout, quiet.stderr) == ("quiet\n", "")
        waiting = shared.shell("until [ -e noise.txt ]; do sleep 0.05; done; cat noise.txt", timeout=60)
        assert waiting.stdout == "done\n"
        shared.shell("rm noise.txt")

    def test_many_commands_do_not_affect_background_processes(self, session: Session) -> None:
        started = [session.shell("sleep 600 & echo $!").stdout.strip() for _ in range(20)]
        # Until the shell in the background has become `sleep`, or has ended.
        wait = f"until [ $({_SLEEPING} | wc -l) = {{}} ]; do sleep 0.05; done"
        assert session.shell(wait.format(20), timeout=60).succeeded
        assert session.shell(f"kill {' '.join(started)}").succeeded
        assert session.shell(wait.format(0), timeout=60).succeeded

    def test_commands_and_files_work_one_after_the_other(self, shared: Session) -> None:
        events = shared.stream_shell("echo begun; until [ -s beside.txt ]; do sleep 0.05; done; cat beside.txt")
        next(events)
        shared.upload(b"beside", "beside.txt")
        (*_, last) = events
        assert isinstance(last, Execution)
        assert last.stdout == "begun\nbeside"

    def test_sessions_do_not_see_each_other(self, pool: SessionPool, shared: Session) -> None:
        shared.shell("echo secret > secret.txt")
        with pool.session() as other:
            assert other.shell("cat secret.txt").exit_code == 1

    # Bad input

    @pytest.mark.parametrize(
        "command", ["", "  \n", "a\0b", "'\ud800'", [], [""], ["echo", "\0"], ["echo", 5], 5, None, b"ls", {"a": 1}]
    )
    def test_a_bad_command_is_refused(self, shared: Session, command: Any) -> None:
        with pytest.raises(InvalidRequest, match="The command"):
            shared.shell(command)

    def test_other_bad_arguments_are_refused(self, shared: Session) -> None:
        for stdin in (5, ["a"], "\ud800", bytes((16 << 20) + 1)):
            untyped: Any = stdin
            with pytest.raises(InvalidRequest, match="The stdin"):
                shared.shell("cat", stdin=untyped)
        with pytest.raises(InvalidRequest, match="at most 16 MiB"):
            shared.shell("#" * ((16 << 20) + 1))
        for timeout in (0, -1, float("nan"), float("inf"), 1e9):
            with pytest.raises(InvalidRequest, match="timeout"):
                shared.shell("true", timeout=timeout)


class ShellPoolSuite(Suite):
    """Pools of type Shell, whose executions are commands. The pool has `ShellPoolSuite.options`."""

    options: ClassVar[Mapping[str, Any]] = {"container_type": "Shell", "output_limit": 100_000, "interrupt_grace": 1}

    def test_an_execution_is_a_command(self, shared: Session) -> None:
        execution = shared.execute("echo out; echo err >&2; pwd; exit 3")
        assert (execution.stdout, execution.stderr, execution.exit_code) == ("out\n/mnt/data\n", "err\n", 3)
        assert execution.status == "failed"
        assert not execution.state_lost

    def test_state_is_files(self, shared: Session) -> None:
        shared.execute("x=1; cd /tmp; echo kept > /mnt/data/kept.txt")
        assert shared.execute('echo "[$x]"; pwd; cat kept.txt').stdout == "[]\n/mnt/data\nkept\n"

    def test_no_worker_runs(self, shared: Session) -> None:
        assert shared.execute("set -- /proc/[0-9]*; echo $#").stdout == "2\n", "process 1 and the shell"

    def test_executions_stream_and_can_be_submitted(self, shared: Session) -> None:
        events = list(shared.stream("echo a; sleep 0.1; echo b"))
        assert "".join(event.text for event in events if isinstance(event, StreamText)) == "a\nb\n"
        handle = shared.submit("echo begun; sleep 600")
        time.sleep(0.3)
        handle.cancel()
        assert handle.result(60).status == "cancelled"
        assert shared.submit("echo next").result(60).stdout == "next\n"

    def test_an_execution_is_stopped_at_its_deadline(self, shared: Session) -> None:
        execution = shared.execute("echo begun; sleep 600", timeout=5)
        assert (execution.status, execution.stdout) == ("timed_out", "begun\n")

    def test_killing_everything_ends_nothing_else(self, shared: Session) -> None:
        shared.execute("kill -9 -1")
        assert shared.execute("echo alive").stdout == "alive\n"
