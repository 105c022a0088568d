"""Remove the Markdown fence that language models write around code, without touching the code."""

from __future__ import annotations

import re

from greenroom.adapters.descriptions import code_tool_of
from greenroom.models import ContainerType

# The first and the last line are fences, with only the name of the language on them. No useful program in any of the
# languages looks like this. The blanks are matched possessively (`*+`): two adjacent runs of blanks, as where no
# language is named, could otherwise be split in as many ways as there are blanks.
_FENCED = re.compile(
    r"""
    \s*
    (?P<fence>`{3,})[ \t]*+
    (?P<language>[A-Za-z0-9]*+)[ \t]*+\r?\n
    (?:(?P<code>.*?)\r?\n)?
    [ \t]*(?P=fence)`*
    \s*
    """,
    re.DOTALL | re.VERBOSE,
)


def strip_fence(code: str, container_type: ContainerType = ContainerType.PYTHON_LTS) -> str:
    """Return the code inside a Markdown fence if the whole of `code` is one fenced block, else `code` itself.

    The fence can name the language of the container type or none. Everything else stays as it is and fails as written,
    so that its author can see why: prose around a block, a block of another language, a fence that is not closed.
    """
    fenced = _FENCED.fullmatch(code)
    if fenced is None or fenced["language"].lower() not in {"", *code_tool_of(container_type).languages}:
        return code
    return fenced["code"] or ""
