"""Faults that integrations of code sandboxes have, by name, where an agent's loop could bring them back.

The adapter suite looks for all of them in the tools alone.
"""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path

import pytest
from agent_framework import AgentSession

from greenroom import Execution, ExecutionError, Output, PoolFull, SessionPool
from greenroom.testing import ENDLESS_CODE, ScriptedBackend
from greenroom_agent_framework import GreenroomTools, executions

from .doubles import ScriptedClient, agent_with, call, play, results

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 100


async def test_a_failure_that_looks_like_a_success(pool: SessionPool, backend: ScriptedBackend) -> None:
    backend.answer = Execution("1", "failed", stdout="fine so far", error=ExecutionError("KeyError", "'year'"))
    client = ScriptedClient()
    await agent_with(GreenroomTools(session=pool.session()), client=client).run("table['year']")
    assert results(client.seen)[-1].startswith("The code failed")


async def test_a_full_pool_whose_advice_is_dropped(pool: SessionPool, backend: ScriptedBackend) -> None:
    backend.answer = PoolFull("All 5 sessions are taken.", sessions=5, retry_after=30)
    with pytest.raises(Exception, match="All 5 sessions are taken") as raised:
        await agent_with(GreenroomTools(session=pool.session())).run("1")
    assert isinstance(raised.value.__cause__, PoolFull)
    assert raised.value.__cause__.retry_after == 30


async def test_code_that_runs_without_end(sandboxes: SessionPool) -> None:
    tools = GreenroomTools(pool=sandboxes, session_per_call=True, timeout=1)
    response = await agent_with(tools).run(ENDLESS_CODE)
    assert [execution.status for execution in executions(response.messages)] == ["timed_out"]


async def test_a_schema_that_leaks_internal_parameters(pool: SessionPool, tmp_path: Path) -> None:
    client = ScriptedClient()
    await agent_with(GreenroomTools(pool=pool, uploads=tmp_path), client=client).run("1", session=AgentSession())
    schemas = {tool.name: tool.to_json_schema_spec()["function"]["parameters"] for tool in client.tools}
    assert {name: (list(each["properties"]), each.get("required", [])) for name, each in schemas.items()} == {
        "run_python": (["code"], ["code"]),
        "list_files": (["directory"], []),
        "read_file": (["path"], ["path"]),
        "download_file": (["path"], ["path"]),
        "upload_file": (["name"], ["name"]),
    }


async def test_images_that_are_stripped_or_shown_as_text(pool: SessionPool, backend: ScriptedBackend) -> None:
    encoded = base64.b64encode(PNG).decode()
    backend.answer = Execution("1", "succeeded", outputs=(Output({"image/png": encoded}, is_result=True),))
    client = ScriptedClient()
    response = await agent_with(GreenroomTools(session=pool.session()), client=client).run("figure")
    (result,) = client.seen[-1].contents
    assert [(item.type, item.media_type) for item in result.items or ()] == [("text", None), ("data", "image/png")]
    assert result.result == response.text == "figures:\nfigure-1.png"


async def test_sessions_that_are_never_deleted(pool: SessionPool, backend: ScriptedBackend) -> None:
    tools, session = GreenroomTools(pool=pool), AgentSession()
    async with tools.session_for(session):
        await agent_with(tools).run("1", session=session)
    await tools.session_for("another").adelete()
    assert backend.deleted == [*backend.identifiers, tools.session_for("another").identifier]


async def test_whole_programs_in_the_log(pool: SessionPool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await agent_with(GreenroomTools(pool=pool)).run("password = 'hunter2'", session=AgentSession())
    assert "hunter2" not in caplog.text


async def test_a_stored_conversation_that_holds_what_the_application_got(
    pool: SessionPool, backend: ScriptedBackend
) -> None:
    tools, session = GreenroomTools(pool=pool, images=False), AgentSession()
    picture = Output({"image/png": base64.b64encode(PNG).decode()})
    backend.answer = Execution("1", "succeeded", outputs=(picture,))
    await agent_with(tools).run("1", session=session)
    assert "figure-1.png" in json.dumps(session.to_dict())
    assert picture.data["image/png"] not in json.dumps(session.to_dict())


async def test_local_files_within_reach_of_the_model(
    pool: SessionPool, backend: ScriptedBackend, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    uploads = tmp_path / "uploads"
    (uploads / "nested").mkdir(parents=True)
    (uploads / "link.txt").symlink_to(secret)
    names = ("../secret.txt", str(secret), "link.txt", "nested", "nested/../../secret.txt", ".", "", "\0")
    script = play(*([call("upload_file", name=name)] for name in names), "Done.")
    tools = GreenroomTools(session=pool.session(), uploads=uploads)
    response = await agent_with(tools, script).run("Take it.")
    assert [result.endswith("Provided: none.") for result in results(response.messages)] == [True] * len(names)
    assert backend.contents == {}
