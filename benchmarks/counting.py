"""Instructions counted by callgrind for `telemetry.py --instructions`, unaffected by other work on the machine.

A second Python under callgrind makes the executions; `callgrind_control` counts them batch by batch. Another pool has
its runner under callgrind, too, in separate namespaces, and shows what the sandbox adds. Instructions of the kernel
are not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from greenroom.backend import Backend
from greenroom.engines.base import RUNNER_SOURCE, Engine, SandboxSpec
from greenroom.engines.bubblewrap.sandbox import BubblewrapSandbox, StartedProcess
from greenroom.local import PoolSettings
from greenroom.local.pool import LocalPool
from greenroom.models import ContainerType
from greenroom.sessions import OpenPool, SessionPool

_CALLGRIND = ("valgrind", "--quiet", "--tool=callgrind")
_START = "import sys; sys.path.insert(0, '/mnt/runner'); from greenroom_runner.supervisor import main; main()"
_END = 120.0  # seconds for a process under callgrind to write its counts


def missing() -> str | None:
    """Return the required program that is missing here."""
    return next((name for name in ("valgrind", "callgrind_control", "bwrap") if shutil.which(name) is None), None)


class Counted:
    """A Python under callgrind that runs batches by name; a context manager."""

    def __init__(self, *arguments: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="greenroom-counting-")
        out = Path(self._folder.name, "out")
        self._process = subprocess.Popen(
            [*_CALLGRIND, "--instr-atstart=no", f"--callgrind-out-file={out}", sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        self._out = out

    def __enter__(self) -> Self:
        self._answer()
        self._control("--instr=on")
        return self

    def __exit__(self, *_: object) -> None:
        with self._process, self._folder:
            self._process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
            try:
                self._process.wait(_END)
            finally:
                self._process.kill()

    def count(self, batch: str, size: int) -> float:
        """Run a batch; return its number of instructions, divided by `size`."""
        self._order(batch, size)  # the code of the first rounds is compiled by callgrind, and specialized by Python
        self._control("--zero")
        self._order(batch, size)
        before = set(self._dumps())
        self._control("--dump")
        (dump,) = set(self._dumps()) - before
        return total(dump) / size

    def _dumps(self) -> Iterator[Path]:
        return self._out.parent.glob(f"{self._out.name}.*")

    def _order(self, batch: str, size: int) -> None:
        print(batch, size, file=self._process.stdin, flush=True)
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit("The counted process has ended.")

    def _control(self, option: str) -> None:
        subprocess.run(["callgrind_control", option, str(self._process.pid)], capture_output=True, check=True)


def total(dump: Path) -> int:
    """Return the instructions in a callgrind file; a killed process has none."""
    return sum(int(line.split()[1]) for line in dump.read_text().splitlines() if line.startswith("totals:"))


class _Sandbox(BubblewrapSandbox):
    async def kill(self) -> None:
        """Let it end by itself, so that callgrind writes its file."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _END)
        finally:
            await super().kill()


class _CountedEngine(Engine):
    """The runner under callgrind: its code is ours, so namespaces only serve to end it, and it is not isolated."""

    name = "counted"

    def __init__(self, out: Path) -> None:
        self._out = out

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        pass

    async def start(self, spec: SandboxSpec) -> BubblewrapSandbox:
        process = await asyncio.create_subprocess_exec(
            *("bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--die-with-parent", "--ro-bind", "/", "/"),
            *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/mnt", "--dir", "/mnt/data"),
            *("--ro-bind", str(RUNNER_SOURCE), "/mnt/runner/greenroom_runner", "--bind", str(self._out), "/mnt/out"),
            *(*_CALLGRIND, "--vgdb=no", "--trace-children=yes", "--callgrind-out-file=/mnt/out/%p"),
            *(sys.executable, "-I", "-c", _START, json.dumps({"container_type": spec.container_type})),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        return _Sandbox(StartedProcess(process), None)

    async def sweep(self) -> int:
        return 0

    async def close(self) -> None:
        pass


def of_sandbox(code: str, size: int) -> float:
    """Return the instructions of supervisor and worker for one execution of this code."""
    few, many = _of_life(code, size), _of_life(code, 3 * size)
    return (many - few) / (2 * size)


def _of_life(code: str, count: int) -> int:
    with tempfile.TemporaryDirectory(prefix="greenroom-counting-") as folder:
        out = Path(folder)
        out.chmod(0o777)
        settings = PoolSettings.parse({"preload": (), "ready_session_instances": 0})

        async def backend() -> Backend:
            return await LocalPool.open(_CountedEngine(out), settings)

        with contextlib.closing(SessionPool(OpenPool.open(backend))) as pool:
            session = pool.session()
            for _ in range(count):
                session.execute(code)
            session.execute("import os\nos._exit(0)")  # the worker: if it were killed, its counts would be lost
        return sum(total(dump) for dump in out.iterdir())
