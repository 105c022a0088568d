"""Code that a worker runs before its session's, which then does less for the first time."""

from __future__ import annotations

import sys
from collections.abc import Iterator

_BASIC = ("1 / 0", "1 + 1")
_FIRST_USES = {
    "pandas": "import pandas\ndisplay(pandas.DataFrame({'a': [1, 2]}).groupby('a').size().to_frame().describe())",
}
"""By module: code whose imports would otherwise happen in each session."""


def rehearsed() -> Iterator[str]:
    """Yield the cells."""
    yield from _BASIC
    yield from (code for name, code in _FIRST_USES.items() if name in sys.modules)
