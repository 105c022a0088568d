"""Writes docs/fidelity.md."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import greenroom

from .comparing import Comparison, Outcome
from .sources import Source, digest

PATH = Path(__file__).parents[3] / "docs" / "fidelity.md"
UNEXPLAINED = "not explained"

_REASONS = Path(__file__).with_name("differences.toml")


def reason(comparison: Comparison) -> str:
    """Why a cell differs, or `UNEXPLAINED`."""
    reasons: dict[str, dict[str, str]] = tomllib.loads(_REASONS.read_text())
    return reasons.get(comparison.document.name, {}).get(str(comparison.number), UNEXPLAINED)


def share(comparisons: Sequence[Comparison]) -> float:
    """The part of the compared cells that are equal but for the text of tracebacks, from 0 to 1."""
    count = Counter(comparison.outcome for comparison in comparisons)
    same = count[Outcome.EQUAL] + count[Outcome.TRACEBACK]
    return same / (same + count[Outcome.DIFFERENT])


def write(sources: Sequence[Source], comparisons: Sequence[Comparison]) -> None:
    text = Path(__file__).with_suffix(".md.template").read_text()
    for name, content in {
        "digest": f"`{digest()}`",
        "versions": _versions(),
        "share": f"{share(comparisons) * 100:.2f} %",
        "totals": "\n".join(_totals(comparisons)),
        "differences": "\n".join(_differences(comparisons)) or "None.",
        "sources": "\n".join(_sources(sources, comparisons)),
    }.items():
        text = text.replace(f"<!-- {name} -->", content)
    PATH.write_text(text)


def _versions() -> str:
    names = ("IPython", "ipykernel", "numpy", "pandas", "matplotlib")
    return ", ".join(
        [f"Greenroom {greenroom.__version__}", *(f"{name} {importlib.metadata.version(name)}" for name in names)]
    )


def _totals(comparisons: Sequence[Comparison]) -> Iterator[str]:
    kinds = {
        "notebooks": [one for one in comparisons if not one.document.recorded],
        "recorded examples": [one for one in comparisons if one.document.recorded],
    }
    rows = [[kind, *_counts(ours)] for kind, ours in kinds.items()]
    return _table(["", "documents", "cells", *(outcome.value for outcome in Outcome)], rows)


def _differences(comparisons: Sequence[Comparison]) -> Iterator[str]:
    different = [one for one in comparisons if one.outcome is Outcome.DIFFERENT]
    if not different:
        return iter(())
    rows = [[one.document.source, one.document.path, str(one.number), reason(one)] for one in different]
    return _table(["source", "document", "cell", "reason"], rows)


def _sources(sources: Sequence[Source], comparisons: Sequence[Comparison]) -> Iterator[str]:
    rows: list[list[str]] = []
    for source in sources:
        ours = [one for one in comparisons if one.document.source == source.name]
        rows.append([source.name, f"`{source.version}`", source.licence, source.copyright, *_counts(ours)[:2]])
    return _table(["source", "commit or version", "licence", "copyright", "documents", "cells"], rows)


def _counts(comparisons: Sequence[Comparison]) -> list[str]:
    documents = {one.document.name for one in comparisons}
    count = Counter(one.outcome for one in comparisons)
    return [str(number) for number in (len(documents), len(comparisons), *(count[outcome] for outcome in Outcome))]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
