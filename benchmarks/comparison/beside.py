"""Greenroom and its peers in the same run, in alternation."""

from __future__ import annotations

import time
from statistics import median, quantiles
from typing import Any

from benchmarks.comparison.contestants import KERNEL, Contestant, Greenroom, all_of, closed_after, in_turn
from benchmarks.comparison.course import Course
from benchmarks.comparison.measuring import Reading, processes, reading, seconds, wait_until_idle

import greenroom

FIRST = "1"
PANDAS = "import pandas as pd\nprint(pd.DataFrame({'a': [1, 2, 3]}).a.sum())"
NEXT = "1+1"
PRINTED = {
    "prints": "for number in range({count}): print(number)",
    "displays": "from IPython.display import HTML, display\n"
    "for number in range({count}): display(HTML(f'<b>{{number}}</b>'))",
}
_NEXT_PER_ROUND = 10
_WARM = 5


def quartiles(times: list[float]) -> list[float]:
    """Return the quartiles of times; for a single time, that time three times."""
    return quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3


def leave_out_unable(everyone: list[Contestant], left_out: dict[str, str], course: Course) -> dict[str, str]:
    """Have everyone compute with pandas, so that the rest is measured with warm caches; return their versions."""

    def try_out(contestant: Contestant) -> None:
        contestant.open()
        contestant.run(PANDAS)

    with closed_after(everyone, left_out, course):
        in_turn(everyone, left_out, course, try_out)
    return {each.name: each.version for each in everyone}


def first_and_next(
    everyone: list[Contestant], left_out: dict[str, str], rounds: int, course: Course
) -> dict[str, dict[str, list[float]]]:
    """Measure new sessions, none warm, to their first result and their first pandas result; and further executions."""
    times: dict[str, dict[str, list[float]]] = {what: {} for what in ("cold", "pandas", "next")}

    def first(contestant: Contestant, what: str, code: str) -> None:
        began = time.perf_counter()
        contestant.open()
        contestant.run(code)
        times[what].setdefault(contestant.name, []).append(time.perf_counter() - began)
        contestant.run(NEXT)

    def following(contestant: Contestant) -> None:
        times["next"].setdefault(contestant.name, []).append(seconds(lambda: contestant.run(NEXT)))

    for _ in range(rounds):
        if course.over():
            break
        for what, code in (("cold", FIRST), ("pandas", PANDAS)):
            with closed_after(everyone, left_out, course):
                in_turn(everyone, left_out, course, lambda each, what=what, code=code: first(each, what, code))
                for _ in range(_NEXT_PER_ROUND if what == "pandas" else 0):
                    in_turn(everyone, left_out, course, following)
    return {
        what: {name: quartiles(taken) for name, taken in by_name.items() if name not in left_out}
        for what, by_name in times.items()
    }


def at_once(
    everyone: list[Contestant], left_out: dict[str, str], rounds: int, count: int, course: Course
) -> dict[str, list[float]]:
    """Measure this many sessions with 10 executions each, at the same time; in executions per second."""
    executions = 10
    taking_part = [each for each in everyone if isinstance(each, Greenroom) or each.name == KERNEL]
    times: dict[str, list[float]] = {}

    def start(contestant: Contestant) -> None:
        for number in range(count):
            course.report(f"{contestant.name}, session {number + 1} of {count}")
            contestant.open()
            contestant.run("1")
        contestant.run_in_each(NEXT, 1)

    def run(contestant: Contestant) -> None:
        took = seconds(lambda: contestant.run_in_each(NEXT, executions))
        times.setdefault(contestant.name, []).append(took)

    with closed_after(taking_part, left_out, course):
        in_turn(taking_part, left_out, course, start)
        for number in range(rounds):
            if number and course.over():
                break
            in_turn(taking_part, left_out, course, run)
    return {name: [count * executions / took for took in reversed(quartiles(taken))] for name, taken in times.items()}


def warm(pools: list[str], rounds: int, course: Course) -> dict[str, dict[str, list[float]]]:
    """Measure new sessions' first pandas results, from warm sandboxes that no longer start or import.

    The first figures are for five sessions one after another, while the pool starts sandboxes to replace them;
    the second are for a pool that is at its maximum, so that nothing starts at the same time.
    """
    times: dict[str, dict[str, list[float]]] = {"replaced": {}, "calm": {}}
    for number in range(rounds):
        if number and course.over():
            break
        for what, most in (("replaced", 2 * _WARM), ("calm", _WARM)):
            for url in pools:
                name = Greenroom.name_of(url)
                course.report(name)
                others = processes()
                options: dict[str, Any] = {"ready_session_instances": _WARM, "max_concurrent_sessions": most}
                with greenroom.connect(url, **options) as pool:
                    deadline = time.monotonic() + 60
                    while pool.status().ready < _WARM and time.monotonic() < deadline:
                        time.sleep(0.1)
                    wait_until_idle(others, timeout=10)
                    times[what].setdefault(name, []).extend(
                        seconds(lambda pool=pool: pool.session().execute(PANDAS).raise_for_error())
                        for _ in range(_WARM)
                    )
    return {what: {name: quartiles(taken) for name, taken in by_name.items()} for what, by_name in times.items()}


def printing(
    pools: list[str], peers: list[str], counts: dict[str, int], rounds: int, course: Course
) -> dict[str, dict[str, float]]:
    """Measure short prints and displays; the median seconds by output and contestant.

    Args:
        pools: Greenroom's pools.
        peers: the peers that keep a session.
        counts: how many times each of `PRINTED` is printed.
        rounds: the number of rounds.
        course: receives the progress.
    """
    times: dict[str, dict[str, list[float]]] = {what: {} for what in counts}
    left_out: dict[str, str] = {}

    def start(contestant: Contestant) -> None:
        contestant.open()
        for code in PRINTED.values():
            contestant.run(code.format(count=1))

    def run(contestant: Contestant, what: str, count: int) -> None:
        took = seconds(lambda: contestant.run(PRINTED[what].format(count=count)))
        times[what].setdefault(contestant.name, []).append(took)

    with all_of(pools, peers, left_out, preload=(), output_limit=64 << 20) as everyone:
        in_turn(everyone, left_out, course, start)
        for number in range(rounds):
            if number and course.over():
                break
            for what, count in counts.items():
                in_turn(everyone, left_out, course, lambda each, what=what, count=count: run(each, what, count))
    return {what: {name: median(taken) for name, taken in by_name.items()} for what, by_name in times.items()}


def idle_memory(
    pools: list[str], peers: list[str], count: int, course: Course
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure the memory of each additional idle session, bare and with pandas, by name.

    With pandas, there are two more figures, which show why shared pages are not counted: the proportional share (PSS)
    of the first session, and of each additional one.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}

    def measure(contestant: Contestant, what: str, code: str) -> None:
        others = processes()
        readings: list[Reading] = []
        for more in (0, 1, count):
            for _ in range(more):
                contestant.open()
                contestant.run(code)
            wait_until_idle(others, timeout=20)
            if (now := reading(others)) is None:
                return
            readings.append(now)
        contestant.close()
        none, one, many = readings
        figures = found.setdefault(contestant.name, {})[what] = {"each": (many.kept - one.kept) / count}
        if what == "pandas":
            figures |= {"pss_first": one.pss - none.pss, "pss_each": (many.pss - one.pss) / count}

    for what, preload, code in (("bare", (), FIRST), ("pandas", ("numpy", "pandas"), "import pandas")):
        for url, peer in [*((pool, None) for pool in pools), *((None, peer) for peer in peers)]:
            if course.over():
                break
            course.report(f"{what}, {url or peer}")
            left_out: dict[str, str] = {}
            with all_of(
                [url] if url else [],
                [peer] if peer else [],
                left_out,
                preload=preload,
                max_concurrent_sessions=count + 1,
            ) as everyone:
                in_turn(everyone, left_out, course, lambda each, what=what, code=code: measure(each, what, code))
    return found
