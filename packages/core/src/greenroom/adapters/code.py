"""Remove the Markdown fence that language models write around code, without touching the code."""

from __future__ import annotations

import re

# The first and the last line are fences, with nothing on them but the name of the language. A backtick outside of a
# string is not Python, so no valid program looks like this. The blanks are matched possessively (`*+`): two adjacent
# runs of blanks, as where no language is named, could otherwise be split in as many ways as there are blanks.
_FENCED = re.compile(
    r"""
    \s*
    (?P<fence>`{3,})[ \t]*+
    (?:python3?|py3?|ipython3?)?[ \t]*+\r?\n
    (?:(?P<code>.*?)\r?\n)?
    [ \t]*(?P=fence)`*
    \s*
    """,
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)


def strip_fence(code: str) -> str:
    """Return the code inside a Markdown fence if the whole of `code` is one fenced block, else `code` itself.

    The fence can name Python or no language. Everything else stays as it is and fails as written, so that
    its author can see why: prose around a block, a block of another language, a fence that is not closed.
    """
    fenced = _FENCED.fullmatch(code)
    return (fenced["code"] or "") if fenced else code
