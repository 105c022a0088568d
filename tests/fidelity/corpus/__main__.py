"""Runs the corpus in Jupyter and in sessions, and writes the result to docs/fidelity.md."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter

import greenroom

from . import page, sources
from .comparing import Comparison, Outcome, compare

NEEDED = 0.99


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # those of jupyter_client and zmq
    corpus = sources.load()
    comparisons: list[Comparison] = []
    with greenroom.connect("bubblewrap:") as pool:
        for document in (document for source in corpus for document in source.documents()):
            new = list(compare(document, pool))
            comparisons += new
            count = Counter(comparison.outcome.value for comparison in new)
            print(document.name, *(f"{number} {outcome}" for outcome, number in count.items()), sep=", ", flush=True)
            for comparison in new:
                if comparison.outcome is Outcome.DIFFERENT and page.reason(comparison) == page.UNEXPLAINED:
                    _show(comparison)
    page.write(corpus, comparisons)
    print(f"{page.share(comparisons):.2%} of the cells are equal but for tracebacks: see {page.PATH}")
    sys.exit(page.share(comparisons) < NEEDED)


def _show(comparison: Comparison) -> None:
    print(f"  cell {comparison.number}: {comparison.document.cells[comparison.number - 1]!r}")
    for name in comparison.jupyter | comparison.session:
        jupyter, session = (told.get(name) for told in (comparison.jupyter, comparison.session))
        if jupyter != session:
            print(f"    {name} in Jupyter: {json.dumps(jupyter)[:1000]}")
            print(f"    {name} in session: {json.dumps(session)[:1000]}")


if __name__ == "__main__":
    main()
