"""The conformance suite of limits: they are enforced and reported, and the session continues."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom.errors import FileRefused, InvalidRequest, PoolFull, SandboxLost
from greenroom.sessions import Session, SessionPool
from greenroom.testing.suite import Suite

MIB = 1 << 20


def fork_bomb(most: int) -> str:
    """Return code that forks until it fails, prints the error and whether it had fewer children, and ends them."""
    return (
        "import os, time\nchildren = []\ntry:\n    while True:\n        pid = os.fork()\n"
        "        if pid == 0:\n            time.sleep(600)\n        children.append(pid)\n"
        f"except OSError as error:\n    print(type(error).__name__, len(children) < {most})\n"
        "for pid in children:\n    os.kill(pid, 9)\n    os.waitpid(pid, 0)"
    )


class LimitSuite(Suite):
    """Limits on memory, disk, processes, output and files.

    The pool has `LimitSuite.options`.
    """

    options: ClassVar[Mapping[str, Any]] = {
        "memory": "512Mi",
        "disk": "32Mi",
        "pids": 64,
        "output_limit": 100_000,
        "display_limit": MIB,
        "file_limit": 2 * MIB,
        "max_concurrent_sessions": 4,
        "ready_session_instances": 0,
        "acquire_timeout": 1,
    }

    @pytest.fixture(autouse=True)
    def works_afterwards(self, session: Session) -> Iterator[None]:
        """Whatever the test did, its session replies."""
        yield
        assert session.execute("6 * 7", timeout=30).result == "42"

    def test_memory_that_runs_out_ends_the_code_and_says_so(self, session: Session) -> None:
        session.upload(b"kept", "kept.txt")
        execution = session.execute("x = bytearray(4 << 30)\nx[::4096] = b'x' * len(x[::4096])")
        assert execution.status == "failed"
        assert execution.error is not None
        assert execution.error.name == "MemoryError"
        assert session.download("kept.txt") == b"kept"

    def test_a_command_out_of_memory_fails_and_spares_the_variables(self, session: Session) -> None:
        session.execute("x = 1")
        execution = session.shell(["python3", "-c", "x = bytearray(4 << 30)\nx[::4096] = b'x' * len(x[::4096])"])
        assert execution.status == "failed"
        assert session.execute("x").result == "1"

    def test_memory_of_many_processes_counts_together(self, session: Session) -> None:
        code = (
            "import multiprocessing, time\n"
            "def take(_):\n    x = b'x' * (100 << 20)\n    time.sleep(1)\n    return len(x)\n"
            "with multiprocessing.get_context('fork').Pool(12) as pool:\n"
            "    print(sum(pool.map(take, range(12), chunksize=1)))"
        )
        with contextlib.suppress(SandboxLost):  # on a slow machine, code at its limit may not notice the interrupt
            assert session.execute(code, timeout=5).status != "succeeded"

    def test_a_fork_bomb_ends_at_the_limit_of_processes(self, session: Session) -> None:
        assert session.execute(fork_bomb(100)).stdout == "BlockingIOError True\n"

    def test_a_full_disk_is_an_error_of_the_code(self, session: Session) -> None:
        code = "f = open('/mnt/data/big', 'wb')\nfor _ in range(64):\n    f.write(bytes(1 << 20))"
        execution = session.execute(code)
        assert execution.error is not None
        assert "No space left" in execution.error.value
        session.execute("import os\ntry:\n    f.close()\nexcept OSError: pass\nos.remove('/mnt/data/big')")

    def test_an_upload_to_a_full_disk_is_refused_whole(self, session: Session) -> None:
        session.execute("open('/mnt/data/big', 'wb').write(bytes(31 << 20))")
        with pytest.raises(FileRefused, match=r"disk is full; it has 32 MiB \(the option disk\).*more\.bin"):
            session.upload(bytes(2 * MIB), "more.bin")
        assert [file.name for file in session.files()] == ["big"]

    def test_output_over_the_limit_is_cut_and_the_code_goes_on(self, session: Session) -> None:
        execution = session.execute("for n in range(100_000):\n    print('0123456789')\nx = 'at the end'")
        assert execution.succeeded
        assert len(execution.stdout) == 100_000
        assert execution.truncated == 100_000 * 11 - 100_000
        assert "exceeded the limit" in execution.text_for_model()
        assert session.execute("x").result == "'at the end'"

    def test_rich_output_over_the_limit_is_left_out(self, session: Session) -> None:
        execution = session.execute("from IPython.display import HTML\ndisplay(HTML('x' * (2 << 20)))\n1")
        assert execution.succeeded
        assert [output.text for output in execution.outputs] == ["1"]
        assert execution.truncated > 2 * MIB

    def test_a_file_over_the_limit_is_refused_whole(self, session: Session) -> None:
        with pytest.raises(FileRefused, match=r"over the limit of 2 MiB \(the option file_limit\).*big\.bin"):
            session.upload(bytes(2 * MIB + 1), "big.bin")
        assert session.files() == []
        session.upload(bytes(2 * MIB), "fits.bin")
        session.execute("open('/mnt/data/big.bin', 'wb').write(bytes(3 << 20))")
        with pytest.raises(FileRefused, match="over the limit"):
            session.download("big.bin")

    def test_a_full_pool_reports_how_many_sessions_it_has(self, pool: SessionPool, session: Session) -> None:
        session.execute("1")
        others = [pool.session() for _ in range(3)]
        try:
            for other in others:
                other.execute("1")
            with pytest.raises(PoolFull, match="4 of 4 sessions") as caught:
                pool.session().execute("1")
            assert caught.value.sessions == 4
            assert caught.value.retry_after is not None
            assert caught.value.retry_after > 0
            others[0].delete()
            assert pool.session(others[0].identifier).execute("2").result == "2"
        finally:
            for other in others:
                other.delete()

    def test_a_session_may_have_a_memory_of_its_own(self, pool: SessionPool) -> None:
        with pool.session("small", memory="256Mi") as small, pool.session("large", memory="512Mi") as large:
            take = "x = b'x' * (400 << 20)\nlen(x) >> 20"
            assert large.execute(take).result == "400"
            execution = small.execute(take, timeout=20)
            assert execution.error is not None
            assert execution.error.name in {"MemoryError", "TimeoutError"}
        with pytest.raises(InvalidRequest, match="at most its pool's 512 MiB, not 1 GiB"):
            pool.session("larger", memory="1Gi").execute("1")  # a server reports it on first use
