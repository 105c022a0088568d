"""The blocking and the asynchronous form of each call take the same arguments."""

from __future__ import annotations

import inspect

import pytest

from greenroom.adapters import CODE_TOOLS, TOOLS
from llama_index.tools.greenroom import GreenroomToolSpec


@pytest.mark.parametrize("name", [*TOOLS, *(tool.name for tool in CODE_TOOLS.values()), "session_for"])
def test_twins_have_equal_signatures(name: str) -> None:
    one, other = (inspect.signature(getattr(GreenroomToolSpec, each)) for each in (name, f"a{name}"))
    assert one == other
