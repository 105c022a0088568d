"""What language models write around code, and how to take it off without touching the code."""

from __future__ import annotations

import re

# The first and the last line are fences, and nothing else is on them but the name of the language. A backtick
# is not Python outside of a string, so no valid program looks like this. The blanks give nothing back (`*+`): two
# runs of blanks side by side, as where no language is named, could share them in as many ways as there are blanks.
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

    The fence may name Python or no language. Everything else stays as it is and fails as written, so that
    its writer can see why: prose around a block, a block of another language, a fence that is not closed.
    """
    fenced = _FENCED.fullmatch(code)
    return (fenced["code"] or "") if fenced else code
