"""Agents that wait for a person, and go on in another process; the middleware that asks is the released one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import greenroom
from greenroom.testing.server import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROCESS = '''
import json, pickle, sys
from pathlib import Path
from langchain import agents
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
import greenroom
from langchain_greenroom.middleware import GreenroomMiddleware

url, checkpoints, asked, code, decision = sys.argv[1:]
path = Path(checkpoints)
made = []

class Model(GenericFakeChatModel):
    messages: object = None
    disable_streaming: bool = True
    def bind_tools(self, tools, **_):
        return self
    def _generate(self, messages, *_, **__):
        calls = [{"name": "run_python", "args": {"code": code}, "id": "call-1"}]
        turn = AIMessage("Done.") if isinstance(messages[-1], ToolMessage) else AIMessage("", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=turn)])

@tool
def send_mail(to: str) -> str:
    """Send a mail."""
    made.append(to)
    return "sent"

saver = InMemorySaver()
if path.exists():
    storage, writes, blobs = pickle.loads(path.read_bytes())
    for thread, spaces in storage.items():
        for space, kept in spaces.items():
            saver.storage[thread][space] = kept
    saver.writes.update(writes)
    saver.blobs.update(blobs)
mode = "per_call" if asked == "send_mail" else "batched"
with greenroom.connect(url) as pool:
    middleware = [
        GreenroomMiddleware(pool=pool, tools=[send_mail]),
        HumanInTheLoopMiddleware(interrupt_on={asked: True}, interrupt_mode=mode),
    ]
    agent = agents.create_agent(Model(), middleware=middleware, checkpointer=saver)
    answer = json.loads(decision) if mode == "per_call" else {"decisions": [json.loads(decision)]}
    given = Command(resume=answer) if path.exists() else {"messages": [HumanMessage("Go on.")]}
    state = agent.invoke(given, {"configurable": {"thread_id": "ann"}})
storage = {thread: dict(spaces) for thread, spaces in saver.storage.items()}
path.write_bytes(pickle.dumps((storage, dict(saver.writes), dict(saver.blobs))))
results = [[each.text, each.status] for each in state["messages"] if isinstance(each, ToolMessage)]
print(json.dumps({"made": made, "asked": [each.value for each in state.get("__interrupt__", ())], "results": results}))
'''

MAILS = "x = 1\nsend_mail(to='ann')\nsend_mail(to='bob')\nx + 1"
APPROVE = {"type": "approve"}


class Application:
    """An application that is started anew for each decision."""

    def __init__(self, url: str, checkpoints: Path, asked: str, code: str) -> None:
        self._arguments = [url, str(checkpoints), asked, code]

    def run(self, decision: Any = None) -> dict[str, Any]:
        command = [sys.executable, "-c", PROCESS, *self._arguments, json.dumps(decision)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving("bubblewrap:", preload=()) as url:
        yield url


@pytest.fixture
def application_of(server: str, tmp_path: Path) -> Callable[..., Application]:
    """Makes an application over the server."""

    def application(asked: str, code: str) -> Application:
        return Application(server, tmp_path / "checkpoints", asked, code)

    return application


@pytest.fixture
def left(server: str) -> Iterator[greenroom.SessionPool]:
    """What the applications left on the server."""
    with greenroom.connect(server) as pool:
        yield pool
        pool.session("langchain.ann").delete()


@pytest.mark.usefixtures("left")
def test_over_a_server_the_code_continues_in_the_next_process(application_of: Callable[..., Application]) -> None:
    application = application_of("send_mail", MAILS)
    begun = application.run()
    assert [each["args"] for each in begun["asked"]] == [{"to": "ann"}]
    assert begun["made"] == []
    second = application.run(APPROVE)
    assert second["made"] == ["ann"]
    assert [each["args"] for each in second["asked"]] == [{"to": "bob"}]
    last = application.run(APPROVE)
    assert last == {"made": ["bob"], "asked": [], "results": [["result:\n2", "success"]]}


def test_over_a_local_pool_the_model_reads_which_calls_were_made(tmp_path: Path) -> None:
    application = Application("bubblewrap:?preload=", tmp_path / "checkpoints", "send_mail", MAILS)
    assert [each["args"] for each in application.run()["asked"]] == [{"to": "ann"}]
    told = application.run(APPROVE)
    ((text, status),) = told["results"]
    assert text.startswith("The session ended while the code waited for a person's decision")
    assert text.endswith("\n- send_mail(to='ann'): waiting, not made")
    assert (status, told["made"]) == ("error", [])


@pytest.mark.parametrize(
    ("decision", "told", "reached"),
    [
        (APPROVE, ["result:\n42", "success"], True),
        (
            {"type": "edit", "edited_action": {"name": "run_python", "args": {"code": "edited = 7\nedited"}}},
            ["result:\n7", "success"],
            True,
        ),
        ({"type": "reject", "message": "No."}, ["with reason: No.", "error"], False),
        ({"type": "respond", "message": "It is 43."}, ["It is 43.", "success"], False),
    ],
    ids=["approve", "edit", "reject", "respond"],
)
def test_a_person_decides_about_code_before_it_runs(
    application_of: Callable[..., Application],
    left: greenroom.SessionPool,
    decision: dict[str, Any],
    told: list[str],
    reached: bool,
) -> None:
    application = application_of("run_python", "proposed = 42\nproposed")
    begun = application.run()
    ((request,),) = [each["action_requests"] for each in begun["asked"]]
    assert request["args"] == {"code": "proposed = 42\nproposed"}
    assert left.sessions() == []
    done = application.run(decision)
    ((text, status),) = done["results"]
    assert [text[-len(told[0]) :], status] == told
    assert bool(left.sessions()) == reached
    if reached:
        ran = left.session("langchain.ann").execute("sorted({'proposed', 'edited'} & {*globals()})")
        assert ran.result == f"['{'edited' if decision['type'] == 'edit' else 'proposed'}']"
