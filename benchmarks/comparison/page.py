"""The tables of docs/performance.md, made from the results of a run: the block between two comments of the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.comparison.cold import PYTHON, REFERENCE
from benchmarks.comparison.contestants import KERNEL

Results: TypeAlias = dict[str, Any]

PATH = Path(__file__).parents[2] / "docs/performance.md"
_BUBBLEWRAP, _DOCKER = "Greenroom, bubblewrap", "Greenroom, docker"
_TIMES = "\N{MULTIPLICATION SIGN}"


def replaced(page: str, name: str, lines: Iterable[str]) -> str:
    """Return the page with other lines between the two comments with this name.

    Raises:
        ValueError: the page does not have these comments.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, found_too, after = rest.partition(end)
    if not found or not found_too:
        raise ValueError(f"{PATH.name} must have the comments {begin} and {end}")
    return before + "\n".join([begin, *lines, end]) + after


def block(results: Results) -> Iterator[str]:
    """Yield the lines of the tables of a run."""
    for section in (_introduction, _times, _printed, _memory, _containers, _budgets, _figures, _gaps):
        lines = [*section(results)]
        if lines:
            yield from (*lines, "")


def _introduction(results: Results) -> Iterator[str]:
    machine = results["machine"]
    yield (
        f"Measured on {results['date']} on {machine['processors']} processors "
        f"({machine['model'] or machine['architecture']}) with {machine['memory'] / 2**30:.0f} GiB, "
        f"Linux {machine['kernel']}, Python {results['python']}; the load was {machine['load']:.1f} at the start. "
        f"Each figure is a median, with its quartiles in parentheses. Ratios ({_TIMES}) compare it with "
        f"{KERNEL}'s figure in the same column and run, or for a warm session with {KERNEL}'s next execution."
    )


def _times(results: Results) -> Iterator[str]:
    times: dict[str, dict[str, list[float]]] = results["times"]
    at_once: dict[str, list[float]] = results["at_once"]
    yield (
        "| | new session, first result | first pandas result | the same, warm | next execution | "
        f"{results['at_once_sessions']} sessions {_TIMES} 10 executions in parallel |"
    )
    yield "|---|---:|---:|---:|---:|---:|"
    left_out: dict[str, str] = results["left_out"]
    following = times.get("next", {})
    for name, version in results["versions"].items():
        if name in left_out:
            continue
        cells = [
            _against(times.get("cold", {}), name),
            _against(times.get("pandas", {}), name),
            _ms(results["warm"].get("replaced", {}).get(name), following.get(KERNEL)),
            _against(following, name),
            _rate(at_once, name),
        ]
        yield f"| {f'{name} {version}'.strip()} | {' | '.join(cells)} |"
    for name, reason in left_out.items():
        yield f"| {name} | left out: {reason.replace('|', '/')} | | | | |"


def _printed(results: Results) -> Iterator[str]:
    output = results["growth"].get("output", {})
    largest = max((points[-1][0] for points in output.values()), default=0)
    columns: dict[str, dict[str, float]] = {
        f"{largest / 1e6:,.3g} MB of output": {
            name: points[-1][1] for name, points in output.items() if points[-1][0] == largest
        },
        **{f"{count:,} {what}": results["printing"].get(what, {}) for what, count in results["printed"].items()},
    }
    names = dict.fromkeys(name for times in columns.values() for name in times)
    if not names:
        return
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for name in names:
        cells = [_against({each: [took] * 3 for each, took in times.items()}, name) for times in columns.values()]
        yield f"| {name} | {' | '.join(cells)} |"


def _memory(results: Results) -> Iterator[str]:
    memory: dict[str, dict[str, dict[str, float]]] = results["memory"]
    if not memory:
        return
    yield "| memory of each additional idle session | bare | with pandas | PSS: first session | each additional one |"
    yield "|---|---:|---:|---:|---:|"
    for name in memory:
        cells = [
            _mb(memory, name, "bare", "each"),
            _mb(memory, name, "pandas", "each"),
            _mb(memory, name, "pandas", "pss_first"),
            _mb(memory, name, "pandas", "pss_each"),
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def _containers(results: Results) -> Iterator[str]:
    steps: dict[str, list[float]] = results.get("cold", {})
    if not steps:
        return
    yield "| time to the first output of a new container | | relative to `docker run` |"
    yield "|---|---:|---:|"
    for what, times in steps.items():
        yield f"| {what} | {_ms(times)} | {times[1] / steps[REFERENCE][1]:.2f} {_TIMES} |"


def _budgets(results: Results) -> Iterator[str]:
    """The budgets of Docker, if they were measured."""
    warm, at_once, steps = results["warm"], results["at_once"], results.get("cold", {})
    rows: list[tuple[str, str, float]] = []
    for kind, title in (("replaced", "warm session"), ("calm", "warm session, while no replacement starts")):
        if {_BUBBLEWRAP, _DOCKER} <= (of := warm.get(kind, {})).keys():
            rows.append((title, f"≤ 1.5 {_TIMES} bubblewrap's", of[_DOCKER][1] / of[_BUBBLEWRAP][1]))
    if {_DOCKER, KERNEL} <= at_once.keys():
        rows.append(("parallel sessions", f"≥ 2 {_TIMES} {KERNEL}'s", at_once[_DOCKER][1] / at_once[KERNEL][1]))
    if PYTHON in steps:
        rows.append(("cold start", f"≤ 1.3 {_TIMES} `docker run`", steps[PYTHON][1] / steps[REFERENCE][1]))
    if rows:
        yield "| Docker's budgets | target | measured |"
        yield "|---|---:|---:|"
        yield from (f"| {what} | {target} | {ratio:.2f} {_TIMES} |" for what, target, ratio in rows)


def _figures(_results: Results) -> Iterator[str]:
    yield "![New sessions and next executions of Greenroom and its peers](pictures/performance-peers.svg)"
    yield ""
    yield "![How times and memory grow with sessions, output, files and cells](pictures/performance-growth.svg)"


def _gaps(results: Results) -> Iterator[str]:
    for title, reason in results["ended_early"].items():
        yield f'- The part "{title}" is incomplete: {reason}.'


def _against(times: dict[str, list[float]], name: str) -> str:
    return _ms(times.get(name), None if name == KERNEL else times.get(KERNEL))


def _ms(times: list[float] | None, compared: list[float] | None = None) -> str:
    if times is None:
        return ""
    low, middle, high = (f"{1000 * each:,.3g}" if each < 1 else f"{1000 * each:,.0f}" for each in times)
    spread = "" if low == middle == high else f" ({low} to {high})"
    return f"{middle} ms{spread}{_ratio(times, compared)}"


def _rate(rates: dict[str, list[float]], name: str) -> str:
    if name not in rates:
        return ""
    return f"{rates[name][1]:,.0f} per second{_ratio(rates[name], None if name == KERNEL else rates.get(KERNEL))}"


def _ratio(figures: list[float], compared: list[float] | None) -> str:
    return "" if compared is None else f", {_times_as_large(figures[1] / compared[1])}"


def _times_as_large(ratio: float) -> str:
    return f"{ratio:,.0f} {_TIMES}" if ratio >= 100 else f"{ratio:.2g} {_TIMES}"


def _mb(memory: dict[str, dict[str, dict[str, float]]], name: str, what: str, figure: str) -> str:
    value = memory[name].get(what, {}).get(figure)
    if value is None:
        return ""
    compared = None if name == KERNEL else memory.get(KERNEL, {}).get(what, {}).get(figure)
    ratio = "" if not compared else f", {_times_as_large(value / compared)}"
    return f"{value / 1e6:.0f} MB{ratio}"
