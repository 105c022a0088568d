"""How applications give their pool to the tools of each framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenroom import InvalidRequest
from greenroom.testing import ScriptedBackend, scripted_pool

TOOLS = {
    "langchain": ("langchain_greenroom", "GreenroomTool"),
    "deepagents": ("langchain_greenroom.deepagents", "GreenroomSandbox"),
    "llamaindex": ("llama_index.tools.greenroom", "GreenroomToolSpec"),
    "semantic-kernel": ("greenroom_semantic_kernel", "GreenroomPlugin"),
    "agent-framework": ("greenroom_agent_framework", "GreenroomTools"),
}


@pytest.fixture(params=TOOLS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    module, name = TOOLS[request.param]
    return getattr(pytest.importorskip(module), name)


def test_a_pool_can_be_given_by_position_or_by_name(make: Callable[..., Any]) -> None:
    with scripted_pool(ScriptedBackend()) as pool:
        make(pool)
        make(pool=pool)


def test_an_argument_that_is_not_a_pool_is_refused_immediately(make: Callable[..., Any]) -> None:
    with pytest.raises((InvalidRequest, ValueError), match=r"greenroom\.connect|SessionPool"):
        make(pool="docker:")


@pytest.mark.parametrize("config", [None, {}, {"configurable": None}, {"configurable": {}}])
def test_langchains_classic_call_is_refused_like_any_without_a_conversation(config: Any) -> None:
    tool = pytest.importorskip("langchain_greenroom").GreenroomTool
    backend = ScriptedBackend()
    with scripted_pool(backend) as pool:
        for call in (lambda: tool(pool).run("1", config=config), lambda: tool(pool).invoke("1", config)):
            with pytest.raises(InvalidRequest, match=r"Nothing was run: .*thread_id"):
                call()
    assert backend.runs == []
