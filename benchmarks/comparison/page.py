"""The tables of docs/performance.md, made from the results of a run: the block between two comments of the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "docs/performance.md"
_PEER = "ipykernel"  # to which ratios are given


def with_block(page: str, results: dict[str, Any]) -> str:
    """Return the page with the block of the comparison made anew.

    Raises:
        ValueError: the page has no such block.
    """
    return replaced(page, "make bench", _block(results))


def replaced(page: str, name: str, block: Iterable[str]) -> str:
    """Return the page with other lines between the two comments of a name.

    Raises:
        ValueError: the page has no such comments.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{PATH.name} must have the comments {first} and {last}")
    return before + "\n".join([first, *block, last]) + after


def _block(results: dict[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield (
        f"Measured on {results['date']} on {machine['processors']} processors "
        f"({machine['model'] or machine['architecture']}) with {machine['memory'] / 2**30:.0f} GiB, "
        f"Linux {machine['kernel']}, Python {results['python']}. The load was {machine['load']:.1f} at the start."
    )
    yield ""
    yield "| | new session, first pandas result | next execution | 20 sessions at once | next, to ipykernel's |"
    yield "|---|---:|---:|---:|---:|"
    peers, at_once, warm = results["peers"], results["at_once"], results["warm"]
    reference = peers.get(_PEER)
    for name, figures in peers.items():
        rate = f"{at_once[name][1]:,.0f} per second" if name in at_once else ""
        ratio = "" if reference is None else _times(figures["next"][1] / reference["next"][1])
        title = f"{name} {figures['version']}".strip()
        yield f"| {title} | {_ms(figures['first'])} | {_ms(figures['next'])} | {rate} | {ratio} |"
        if name in warm:
            yield f"| {title}, from a warm pool | {_ms(warm[name])} | | | |"
    for name, reason in results["left_out"].items():
        yield f"| {name} | left out: {reason} | | | |"
    yield ""
    if results["cold"]:
        yield "| a new container, in turn | median (quartiles) | to `docker run` |"
        yield "|---|---:|---:|"
        first = next(iter(results["cold"].values()))[1]
        for name, times in results["cold"].items():
            yield f"| {name} | {_ms(times)} | {_times(times[1] / first)} |"
        yield ""
    if results["memory"]:
        yield "| memory of one more idle session | bare | pandas loaded |"
        yield "|---|---:|---:|"
        for name, taken in results["memory"].items():
            yield f"| {name} | {_mb(taken.get('bare'))} | {_mb(taken.get('pandas'))} |"
        yield ""
    yield "![New sessions and next executions of Greenroom and its peers](pictures/performance-peers.svg)"
    yield ""
    yield "![How times and memory grow with sessions, output, files and cells](pictures/performance-growth.svg)"
    for what in results["growth"]["ended_early"]:
        yield ""
        yield f"The series {what}"


def _ms(times: list[float]) -> str:
    low, middle, high = (f"{1000 * each:,.3g}" if each < 1 else f"{1000 * each:,.0f}" for each in times)
    return f"{middle} ms ({low} to {high})"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} \N{MULTIPLICATION SIGN}"


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:.0f} MB"
