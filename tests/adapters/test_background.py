"""Code that runs while the model does something else, and sessions that begin afresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from greenroom import InvalidRequest, SessionPool
from greenroom.adapters import ToolAnswer, Toolset
from greenroom.testing import engine_pool, wait_until

WAITING = "import os, time\nprint('waiting', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)\n7"


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with engine_pool("bubblewrap:", preload=()) as pool:
        yield pool


@pytest.fixture
def call(pool: SessionPool) -> Iterator[Callable[..., ToolAnswer[Any]]]:
    tools = Toolset("framework", "x", pool=pool, background=True, reset=True)
    name = uuid4().hex

    def call(tool: str, of: str = "", **arguments: Any) -> ToolAnswer[Any]:
        return tools.call(name + of, tool, **arguments)

    yield call
    tools.session_for(name).delete()


def started(call: Callable[..., ToolAnswer[Any]], code: str) -> str:
    text = call("start_execution", code=code).text
    assert text.startswith("The execution ")
    return text.split()[2]


async def test_code_in_the_background_is_looked_at_until_it_ends(
    call: Callable[..., ToolAnswer[Any]], pool: SessionPool
) -> None:
    number = started(call, WAITING)
    await wait_until(lambda: "output so far:\nwaiting" in call("look_at_execution", execution_id=number).text)
    assert not call("look_at_execution", execution_id=number).failed
    (session,) = pool.sessions()
    pool.session(session.identifier).upload(b"", "go")
    await wait_until(lambda: "is running" not in call("look_at_execution", execution_id=number).text)
    answer = call("look_at_execution", execution_id=number)
    assert answer.text.startswith("stdout:\nwaiting\n\nresult:\n7")
    assert answer.artifact.result == "7"


def test_code_in_the_background_is_stopped_and_variables_stay(call: Callable[..., ToolAnswer[Any]]) -> None:
    call("run_python", code="kept = 5")
    number = started(call, WAITING)
    for _ in range(2):
        assert call("stop_execution", execution_id=number).artifact.status == "cancelled"
    assert call("run_python", code="kept").text == "result:\n5"


def test_no_other_conversation_sees_an_execution(call: Callable[..., ToolAnswer[Any]]) -> None:
    number = started(call, "1")
    for name in ("look_at_execution", "stop_execution"):
        answer = call(name, of="other", execution_id=number)
        assert answer.failed
        assert answer.text == f"The execution must be one that was started here (none), not '{number}'."


def test_executions_that_have_not_ended_are_bounded(call: Callable[..., ToolAnswer[Any]]) -> None:
    numbers = [started(call, WAITING) for _ in range(16)]
    assert "Stop one of them" in call("start_execution", code="1").text
    for number in reversed(numbers):
        call("stop_execution", execution_id=number)
    started(call, "1")


def test_a_reset_session_starts_afresh(call: Callable[..., ToolAnswer[Any]]) -> None:
    number = started(call, "x = 1")
    assert call("run_python", code="x").text == "result:\n1"
    assert not call("reset_session").failed
    assert "NameError" in call("run_python", code="x").text
    assert call("look_at_execution", execution_id=number).failed


def test_they_need_sessions_that_last(pool: SessionPool) -> None:
    for option in ("background", "reset"):
        options: dict[str, Any] = {"session_per_call": True, option: True}
        with pytest.raises(InvalidRequest, match=f"cannot be combined with {option}=True"):
            Toolset("framework", "x", pool=pool, **options)
