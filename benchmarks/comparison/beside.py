"""Greenroom and its peers in the same run, each alternating with the others."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any, TypeAlias

from benchmarks.comparison.contestants import IMAGE, PEERS, Contestant, Greenroom, LeftOut, Peer
from benchmarks.comparison.measuring import memory, processes, seconds, wait_until_idle

import greenroom

Report: TypeAlias = Callable[[str], None]

PANDAS = "import pandas as pd\nprint(pd.DataFrame({'a': [1, 2, 3]}).a.sum())"
NEXT = "1+1"
FAILURES = (LeftOut, greenroom.GreenroomError)
_NEXT_PER_ROUND = 10
_SESSIONS, _EXECUTIONS = 20, 10
_WARM = 5
_IDLE_SESSIONS = 8


def quartiles(times: list[float]) -> list[float]:
    """Return the quartiles of times; of a single one, that one thrice."""
    return quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3


def contestants(pools: list[str], report: Report) -> tuple[list[Contestant], dict[str, str]]:
    """Return those that can take part here, and the reasons why others do not, by their names."""
    made: list[Contestant] = []
    left_out: dict[str, str] = {}
    makers: dict[str, Callable[[], Contestant]] = {pool: lambda pool=pool: Greenroom(pool) for pool in pools}
    makers |= {name: lambda name=name: Peer(name) for name in PEERS}
    for name, make in makers.items():
        report(name)
        contestant: Contestant | None = None
        try:
            contestant = make()
            contestant.open()
            contestant.run(PANDAS)
            contestant.close()
            made.append(contestant)
        except FAILURES as reason:
            left_out[name] = str(reason)
            if contestant is not None:
                contestant.leave()
    return made, left_out


def _in_turn(everyone: list[Contestant], left_out: dict[str, str], act: Callable[[Contestant], None]) -> None:
    """Have everyone act; one that fails takes no further part."""
    for contestant in tuple(everyone):
        try:
            act(contestant)
        except FAILURES as reason:
            left_out[contestant.name] = str(reason)
            everyone.remove(contestant)
            contestant.leave()


def first_and_next(
    everyone: list[Contestant], left_out: dict[str, str], rounds: int, report: Report
) -> dict[str, dict[str, Any]]:
    """Measure new sessions' first results of pandas, none warm, and next executions."""
    firsts: dict[str, list[float]] = {each.name: [] for each in everyone}
    nexts: dict[str, list[float]] = {each.name: [] for each in everyone}

    def first(contestant: Contestant) -> None:
        report(f"{contestant.name}: new sessions")
        began = time.perf_counter()
        contestant.open()
        contestant.run(PANDAS)
        firsts[contestant.name].append(time.perf_counter() - began)
        contestant.run(NEXT)

    def following(contestant: Contestant) -> None:
        report(f"{contestant.name}: next executions")
        nexts[contestant.name].append(seconds(lambda: contestant.run(NEXT)))

    for _ in range(rounds):
        _in_turn(everyone, left_out, first)
        for _ in range(_NEXT_PER_ROUND):
            _in_turn(everyone, left_out, following)
        _in_turn(everyone, left_out, lambda contestant: contestant.close())
    return {
        each.name: {
            "version": each.version,
            "first": quartiles(firsts[each.name]),
            "next": quartiles(nexts[each.name]),
        }
        for each in everyone
    }


def at_once(
    everyone: list[Contestant], left_out: dict[str, str], rounds: int, report: Report
) -> dict[str, list[float]]:
    """Measure 20 sessions with 10 executions each, at the same time; in executions per second."""
    taking_part = [each for each in everyone if isinstance(each, Greenroom) or each.name == "ipykernel"]
    times: dict[str, list[float]] = {each.name: [] for each in taking_part}

    def start(contestant: Contestant) -> None:
        for number in range(_SESSIONS):
            report(f"{contestant.name}: session {number + 1} of {_SESSIONS}")
            contestant.open()
            contestant.run("1")
        contestant.run_in_each(NEXT, 1)

    def run(contestant: Contestant) -> None:
        report(f"{contestant.name}: {_SESSIONS} sessions at the same time")
        times[contestant.name].append(seconds(lambda: contestant.run_in_each(NEXT, _EXECUTIONS)))

    for act in (start, *[run] * rounds):
        _in_turn(taking_part, left_out, act)
    _in_turn(taking_part, left_out, lambda contestant: contestant.close())
    return {
        each.name: [_SESSIONS * _EXECUTIONS / took for took in reversed(quartiles(times[each.name]))]
        for each in taking_part
    }


def warm(everyone: list[Contestant], rounds: int, report: Report) -> dict[str, list[float]]:
    """Measure new sessions' first results of pandas, from warm sandboxes that no longer start or import."""
    engines = [each for each in everyone if isinstance(each, Greenroom)]
    times: dict[str, list[float]] = {}
    for _ in range(max(rounds // _WARM, 1)):
        for engine in engines:
            report(f"warm sessions of {engine.name}")
            others = processes()
            options: dict[str, Any] = {"ready_session_instances": _WARM, "max_concurrent_sessions": 2 * _WARM}
            with greenroom.connect(engine.url, **options) as pool:
                deadline = time.monotonic() + 120
                while pool.status().ready < _WARM and time.monotonic() < deadline:
                    time.sleep(0.1)
                wait_until_idle(others)
                times.setdefault(engine.name, []).extend(
                    seconds(lambda pool=pool: pool.session().execute(PANDAS).raise_for_error()) for _ in range(_WARM)
                )
    return {name: quartiles(taken) for name, taken in times.items()}


def idle_memory(everyone: list[Contestant], report: Report) -> dict[str, dict[str, float]]:
    """Measure the bytes that one more idle session costs, bare and with pandas."""
    engines = [each for each in everyone if isinstance(each, Greenroom)]
    found: dict[str, dict[str, float]] = {}
    for engine in engines:
        for what, modules, code in (("bare", (), "1"), ("pandas", ("numpy", "pandas"), "import pandas")):
            report(f"the memory of sessions of {engine.name}, {what}")
            others = processes()
            with greenroom.connect(
                engine.url, ready_session_instances=0, preload=modules, max_concurrent_sessions=_IDLE_SESSIONS + 1
            ) as pool:
                pool.session().execute(code).raise_for_error()
                wait_until_idle(others)
                before = memory(others)
                for _ in range(_IDLE_SESSIONS):
                    pool.session().execute(code).raise_for_error()
                wait_until_idle(others)
                after = memory(others)
            if before is not None and after is not None:
                found.setdefault(engine.name, {})[what] = (after - before) / _IDLE_SESSIONS
    return found


def cold_docker(pool: str, rounds: int, report: Report) -> dict[str, list[float]]:
    """Measure what a new container costs: `docker run` to its first byte, and a Greenroom session to its first output.

    A shell session has no interpreter to start, so the difference between the two kinds is Python and IPython.
    """
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint", "echo", IMAGE, "1"]

    times: dict[str, list[float]] = {"`docker run … echo`, to its first byte": []}

    def run() -> None:
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            next(iter(times.values())).append(time.perf_counter() - began)

    shell = Greenroom(pool, container_type="Shell")
    python = Greenroom(pool, preload=())
    try:
        for number in range(rounds):
            report(f"new containers, {number + 1} of {rounds}")
            run()
            for name, contestant, code in (
                ("a new shell session, to its first output", shell, "echo 1"),
                ("a new Python session, to its first output", python, "1"),
            ):

                def first(contestant: Greenroom = contestant, code: str = code) -> None:
                    contestant.open()
                    contestant.run(code)

                times.setdefault(name, []).append(seconds(first))
                contestant.close()
    finally:
        shell.leave()
        python.leave()
    return {name: quartiles(taken) for name, taken in times.items()}
