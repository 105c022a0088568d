"""Call `functions` in a session: their source runs like any other code, and their result is a display."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from greenroom.models import Execution

_MIME = "application/vnd.greenroom.answer+json"

NODE_INVENTORY = Path(__file__).with_name("inventory.js").read_text(encoding="utf-8")
"""JavaScript that displays Node's version and packages, like `functions.take_inventory` for Python."""

# In its own namespace, so that it neither sees nor changes the session's variables.
_PROGRAM = """
(lambda scope: exec({source!r}, scope))({{"__name__": "greenroom"}})
"""
_SOURCE = """
from __future__ import annotations
from typing import Any

{function}

class Answer:
    def _repr_mimebundle_(self, **_):
        return {{"{mime}": answer}}

answer = {name}(*{arguments!r})
display(Answer())
"""


def program(function: Callable[..., dict[str, Any]], *arguments: str | float) -> str:
    """Return code that calls the function and displays its result."""
    source = _SOURCE.format(
        function=inspect.getsource(function), name=function.__name__, arguments=arguments, mime=_MIME
    )
    return _PROGRAM.format(source=source)


def result_of(execution: Execution) -> dict[str, Any] | None:
    """Return the function's result, or `None` if it did not return. The sandbox chose its content, so no type can be
    trusted."""
    for output in reversed(execution.outputs):
        answer = output.data.get(_MIME)
        if isinstance(answer, dict):
            return cast("dict[str, Any]", answer)
    return None
