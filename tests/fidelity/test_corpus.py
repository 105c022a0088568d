"""What docs/fidelity.md reports is the corpus as it is listed; `make fidelity` runs it."""

from __future__ import annotations

import re
from pathlib import Path

from .corpus import sources

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"


def test_every_source_has_a_licence_and_a_fixed_version() -> None:
    for source in sources.load():
        assert source.licence, source.name
        assert source.copyright, source.name
        assert bool(source.distribution) != bool(re.fullmatch(r"[0-9a-f]{40}", source.commit)), source.name


def test_the_page_is_of_this_list_and_of_enough_cells() -> None:
    page = PAGE.read_text()
    assert sources.digest() in page, "docs/fidelity.md must be of the list as it is: run `make fidelity`"
    share = re.search(r"([\d.]+) % of the compared cells", page)
    assert share is not None
    assert float(share[1]) >= 99
    totals = dict(re.findall(r"^\| (notebooks|recorded examples) \| (\d+ \| \d+) \|", page, re.MULTILINE))
    documents, _ = totals["notebooks"].split(" | ")
    _, cells = totals["recorded examples"].split(" | ")
    assert int(documents) >= 20
    assert int(cells) >= 200
