"""The examples of the README and of the documentation work as described."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import agent_framework.openai
import pytest
from agent_framework import AgentSession, FunctionInvocationContext

from greenroom import PoolFull, SessionPool
from greenroom.testing import ScriptedBackend
from greenroom_agent_framework import GreenroomTools

from .doubles import ScriptedClient, agent_with, call, play, results

ROOT = Path(__file__).parents[3]
README, PAGE = (
    re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    for path in (ROOT / "packages/agent_framework/README.md", ROOT / "docs/agent-framework.md")
)
CHART = "import pandas as pd; sales = pd.read_csv('/mnt/data/sales.csv'); sales.plot(); print(sales['sales'].sum())"


@pytest.fixture
def page() -> dict[str, Any]:
    """What the page's examples define."""
    names: dict[str, Any] = {}
    exec("\n".join(PAGE), names)
    return names


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_example_answers_and_saves_the_chart(
    sandboxes: SessionPool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = ScriptedClient(play([call("run_python", code=CHART)], "Their sum is 40."))

    def scripted_client(_: str) -> ScriptedClient:
        return client

    monkeypatch.setitem(vars(agent_framework.openai), "OpenAIChatClient", scripted_client)
    monkeypatch.setattr("greenroom.connect", lambda: sandboxes)
    monkeypatch.setattr(sandboxes, "close", lambda: None)
    (example,) = README
    exec(example, {})
    assert capsys.readouterr().out == "Their sum is 40.\n"
    assert (folder / "figure-1.png").read_bytes().startswith(b"\x89PNG")


async def test_an_agent_analyses_a_file(page: dict[str, Any], sandboxes: SessionPool, folder: Path) -> None:
    assert (await page["analyse"](sandboxes, ScriptedClient(), CHART)).startswith("stdout:\n40")
    assert (folder / "figure-1.png").read_bytes().startswith(b"\x89PNG")


async def test_a_restored_session_continues(page: dict[str, Any], sandboxes: SessionPool) -> None:
    assert await page["converse"](sandboxes, ScriptedClient()) == "result:\n42"


async def test_the_stream_example_prints_executions(
    page: dict[str, Any], sandboxes: SessionPool, capsys: pytest.CaptureFixture[str]
) -> None:
    await page["stream"](sandboxes, ScriptedClient(), "6 * 7")
    assert capsys.readouterr().out == "succeeded []\nresult:\n42"


async def test_figures_are_sent_in_a_users_message(page: dict[str, Any], sandboxes: SessionPool) -> None:
    code = "import matplotlib.pyplot as plt; plt.plot([1, 2]);"
    client = ScriptedClient(play([call("run_python", code=code)], "I see."))
    agent = page["with_figures"](sandboxes, client)
    session = agent.create_session()
    async with GreenroomTools(pool=sandboxes).session_for(session):
        await agent.run("Draw.", session=session)
    assert [content.type for content in client.seen[-1].contents] == ["text", "data"]


async def test_output_is_shown_while_code_runs(
    page: dict[str, Any], sandboxes: SessionPool, capsys: pytest.CaptureFixture[str]
) -> None:
    await page["run_and_show"](sandboxes, ScriptedClient(), "import time; print('one'); time.sleep(0.2); print('two')")
    assert capsys.readouterr().out == "one\ntwo\n"


async def test_a_run_without_a_session_ends_its_own(page: dict[str, Any], sandboxes: SessionPool) -> None:
    before = len(await sandboxes.asessions())
    assert await page["ask_once"](sandboxes, ScriptedClient(), "6 * 7") == "result:\n42"
    assert len(await sandboxes.asessions()) == before


async def test_a_middleware_sees_the_functions_that_code_calls(page: dict[str, Any], sandboxes: SessionPool) -> None:
    seen: list[str] = []

    @agent_framework.function_middleware
    async def audit(context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
        seen.append(context.function.name)
        await call_next()

    code = "sum(get_orders(customer)[0]['total'] for customer in (1, 2))"
    assert await page["count"](sandboxes, ScriptedClient(), code, audit) == "result:\n30"
    assert seen == ["run_python", "get_orders", "get_orders"]


def asking(*codes: str) -> ScriptedClient:
    """A model that wants to run this, and then says what it has read."""
    return ScriptedClient(
        lambda messages: "\n".join(results(messages)) or [call("run_python", code=code) for code in codes]
    )


@pytest.mark.parametrize(("may_run", "answer"), [(True, "result:\n42"), (False, "Error: Tool call")])
async def test_code_is_approved_first(page: dict[str, Any], sandboxes: SessionPool, may_run: bool, answer: str) -> None:
    seen: list[str] = []

    def decide(code: str) -> bool:
        seen.append(code)
        return may_run

    assert (await page["ask_first"](sandboxes, asking("6 * 7"), "Go.", decide)).startswith(answer)
    assert seen == ["6 * 7"]


async def test_a_run_waits_for_a_person_as_text(page: dict[str, Any], sandboxes: SessionPool) -> None:
    stored = await page["begin"](sandboxes, asking("6 * 7"), "Go.")
    assert await page["go_on"](sandboxes, asking(), stored, True) == "result:\n42"
    await GreenroomTools(pool=sandboxes).session_for(json.loads(stored)["session"]["session_id"]).adelete()


async def test_a_person_edits_code(
    page: dict[str, Any], sandboxes: SessionPool, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await page["edit"](sandboxes, asking("9 * 9"), "Go.", "6 * 7")
    assert answer.replace("\n", " ") == "The user changed the code to: 6 * 7 result: 42"
    assert capsys.readouterr().out == "9 * 9\n6 * 7\n"


async def test_a_rule_approves_code_that_only_computes(page: dict[str, Any], sandboxes: SessionPool) -> None:
    tools, session = GreenroomTools(pool=sandboxes), AgentSession()
    async with tools.session_for(session):
        response = await page["with_rule"](sandboxes, asking("6 * 7")).run("Go.", session=session)
        assert response.text == "result:\n42"
    response = await page["with_rule"](sandboxes, asking("import os; os.listdir()")).run("Go.", session=AgentSession())
    assert len(response.user_input_requests) == 1


async def test_a_model_takes_a_file_and_hands_one_over(
    page: dict[str, Any], sandboxes: SessionPool, folder: Path
) -> None:
    (folder / "data").mkdir()
    (folder / "data/sales.csv").write_bytes(b"month,sales\n1,10\n")
    script = play([call("upload_file", name="sales.csv")], [call("download_file", path="sales.csv")], "Done.")
    client = ScriptedClient(script)
    assert await page["report"](sandboxes, client, "Copy it.") == {"sales.csv": b"month,sales\n1,10\n"}


async def test_a_full_pool_ends_the_run_with_its_advice(
    page: dict[str, Any], pool: SessionPool, backend: ScriptedBackend
) -> None:
    backend.answer = PoolFull("All 2 sessions are taken.", sessions=2, retry_after=9)
    answer = await page["answer_or_wait"](agent_with(GreenroomTools(pool=pool)), AgentSession(), "1")
    assert answer == "All sessions are taken. Try again in 9 seconds."
