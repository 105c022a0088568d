"""The application's functions that a model's code can call: their description for models, and the search for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from greenroom.errors import InvalidRequest
from greenroom.text import check_budget
from greenroom.tools import Tool, ToolStub
from greenroom.tools.definitions import ToolLike, definitions_of

FUNCTIONS_BUDGET = 4_000
"""The default maximum number of characters of the functions in a description."""
SEARCH = "search_functions"
"""The function with which code finds functions that the description omits."""

_INTRODUCTION = (
    "The code can call these functions, which run in the application, with or without await; "
    "asyncio.gather runs several at the same time. A failed call raises ToolError."
)
_MOST_FOUND = 10
_LONGEST_DESCRIPTION = 1_000


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions that a model's code can call."""

    stubs: tuple[ToolStub, ...]
    """All of them, without the search function."""
    text: str
    """The text for the description of the tool that runs code; empty if there are no functions."""
    search: Tool | None
    """The function with which code finds functions by words; `None` if the text contains all of them."""

    def with_search(self, tools: Iterable[ToolLike]) -> list[ToolLike]:
        """Return the functions that code can call: the tools, and the search function if there is one."""
        return [*tools, *([] if self.search is None else [self.search])]


def read_functions(tools: Iterable[ToolLike] | None, budget: int = FUNCTIONS_BUDGET) -> Functions:
    """Return functions with the description that a model reads.

    Args:
        tools: functions, or `Tool`s.
        budget: the maximum number of characters of the text. Code finds functions for which there is no room with the
            function `search_functions`, which the text names.

    Raises:
        InvalidRequest: one of them cannot be a function in a session.
    """
    budget = check_budget(budget)
    stubs = tuple(each.stub for each in definitions_of(tools or ()).values())
    if not stubs:
        return Functions((), "", None)
    entries = [_entry(stub) for stub in stubs]
    text = "\n".join([_INTRODUCTION, *entries])
    if len(text) <= budget:
        return Functions(stubs, text, None)
    if any(stub.name == SEARCH for stub in stubs):
        raise InvalidRequest(
            f"A function must not have the name {SEARCH!r} if the functions take more than {budget:,} characters."
        )
    search = _search(stubs)
    hint = f"{SEARCH}(query: str) -> list[str]\n    Find functions by words: their signatures and descriptions."
    shown: list[str] = []
    for entry in entries:
        more = f"There are {len(entries)} in total; print({SEARCH}('…')) finds the others."
        if len("\n".join([_INTRODUCTION, *shown, entry, hint, more])) > budget:
            break
        shown.append(entry)
    more = f"There are {len(entries)} in total; print({SEARCH}('…')) finds the others."
    return Functions(stubs, "\n".join([_INTRODUCTION, *shown, hint, more]), search)


def _entry(stub: ToolStub) -> str:
    description = " ".join(stub.description.split())[:_LONGEST_DESCRIPTION]
    return f"{stub.signature}\n    {description}" if description else stub.signature


def _search(stubs: Sequence[ToolStub]) -> Tool:
    words = [
        (_words(stub.name), _words(f"{stub.description} {' '.join(each.name for each in stub.parameters)}"))
        for stub in stubs
    ]

    def search(arguments: dict[str, Any]) -> list[str]:
        wanted = _words(arguments["query"])
        scores = [sum(3 * _matches(word, names) + _matches(word, others) for word in wanted) for names, others in words]
        best = sorted(range(len(stubs)), key=lambda n: -scores[n])
        return [_entry(stubs[n]) for n in best if scores[n]][:_MOST_FOUND]

    return Tool(
        name=SEARCH,
        description="Find functions by words: their signatures and descriptions, best match first.",
        parameters={
            "type": "object",
            "properties": {"query": {"type": "string", "maxLength": 200}},
            "required": ["query"],
            "additionalProperties": False,
        },
        handler=search,
        returns={"type": "array", "items": {"type": "string"}},
    )


def _words(text: str) -> frozenset[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return frozenset(word for word in re.split(r"[\W_]+", spaced.lower()) if len(word) > 1)


def _matches(word: str, others: frozenset[str]) -> bool:
    """Whether one of the others equals the word or begins with it: `order` finds `orders`."""
    return any(each.startswith(word) or (len(each) > 3 and word.startswith(each)) for each in others)
