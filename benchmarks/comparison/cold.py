"""The cost of a new container, step by step: from `docker run` to a Python session's first output."""

from __future__ import annotations

import contextlib
import subprocess
import time
import uuid
from collections.abc import Callable

from benchmarks.comparison.beside import quartiles
from benchmarks.comparison.contestants import IMAGE, Greenroom, LeftOut
from benchmarks.comparison.course import Course

_PYTHON = ("python3", "-I", "-B", "-u", "-c")  # as a session's worker is started
_WORKER = (
    "import sys; sys.path.insert(0, '/opt/greenroom'); from greenroom_runner.workers.python import prepare; prepare()"
)
_RUN = {
    "`docker run`, `echo`": ("echo", "1"),
    "`docker run`, Python": (*_PYTHON, "print(1)"),
    "`docker run`, Python with IPython's shell": (*_PYTHON, f"{_WORKER}; print(1)"),
}
REFERENCE = next(iter(_RUN))
SHELL, PYTHON = "a new shell session", "a new Python session"
_TIMEOUT = 60.0


def new_containers(pool: str, rounds: int, course: Course) -> dict[str, list[float]]:
    """Measure the quartiles of the time to the first output: of `docker run`, and of sessions without a warm sandbox.

    A shell session has a supervisor and no worker; `docker run` with IPython's shell has a worker's imports and no
    supervisor. So the steps show how long each of them takes.
    """
    times: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:

        def session(code: str, **options: object) -> Callable[[], float]:
            contestant = Greenroom(pool, **options)
            stack.callback(contestant.leave)
            return lambda: _first_output_of(contestant, code)

        steps = {
            **{what: lambda command=command: _first_byte(command) for what, command in _RUN.items()},
            SHELL: session("echo 1", container_type="Shell"),
            PYTHON: session("1", preload=()),
        }
        for number in range(rounds):
            if number and course.over():
                break
            course.report(f"{number + 1} of {rounds}")
            for what, step in steps.items():
                times.setdefault(what, []).append(step())
    return {what: quartiles(taken) for what, taken in times.items()}


def _first_output_of(contestant: Greenroom, code: str) -> float:
    began = time.perf_counter()
    contestant.open()
    contestant.run(code)
    took = time.perf_counter() - began
    contestant.close()
    return took


def _first_byte(command: tuple[str, ...]) -> float:
    name = f"greenroom-peer-{uuid.uuid4().hex[:12]}"
    program, *arguments = command
    run = [
        "docker",
        "run",
        "--rm",
        "--network=none",
        "--env",
        "HOME=/tmp",
        "--name",
        name,
        "--entrypoint",
        program,
        IMAGE,
        *arguments,
    ]
    try:
        began = time.perf_counter()
        with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            written = process.stdout.read(1)
            took = time.perf_counter() - began
            process.wait(_TIMEOUT)
    except BaseException:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=_TIMEOUT, check=False)
        raise
    if not written:
        raise LeftOut(f"docker run of {IMAGE} wrote nothing")
    return took
