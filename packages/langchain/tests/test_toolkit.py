"""The tools for files: their results, and the files that they keep out of reach."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from greenroom import FileRefused, PoolFull, SessionPool
from langchain_greenroom import GreenroomToolkit
from langchain_greenroom.files import DownloadFileTool, ReadFileTool

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_core.messages import ToolMessage
    from langchain_core.tools import BaseTool

    from greenroom.testing import ScriptedBackend

CONFIG: Any = {"configurable": {"thread_id": "ann"}}


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    directory = tmp_path / "uploads"
    directory.mkdir()
    (directory / "sales.csv").write_text("month,sales\n1,10\n")
    (tmp_path / "secret.txt").write_text("secret")
    return directory


@pytest.fixture
def toolkit(pool: SessionPool, uploads: Path) -> GreenroomToolkit:
    return GreenroomToolkit(pool=pool, uploads=uploads)


@pytest.fixture(params=["sync", "async"])
def use(request: pytest.FixtureRequest, toolkit: GreenroomToolkit) -> Any:
    tools = {tool.name: tool for tool in toolkit.get_tools()}

    async def use(name: str, /, **arguments: str) -> ToolMessage:
        call = {"type": "tool_call", "id": "1", "name": name, "args": arguments}
        return await tools[name].ainvoke(call, CONFIG) if request.param == "async" else tools[name].invoke(call, CONFIG)

    return use


def by_name(toolkit: GreenroomToolkit) -> dict[str, BaseTool]:
    return {tool.name: tool for tool in toolkit.get_tools()}


def test_the_directory_has_to_exist(pool: SessionPool, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        GreenroomToolkit(pool=pool, uploads=tmp_path / "nowhere")


def test_the_settings_reach_the_tool_that_runs_python(pool: SessionPool) -> None:
    tool: Any = by_name(GreenroomToolkit(pool=pool, timeout=5, budget=600, images=True))["run_python"]
    assert (tool.timeout, tool.budget, tool.images) == (5, 600, True)


async def test_all_tools_of_a_conversation_share_its_session(
    use: Any, toolkit: GreenroomToolkit, backend: ScriptedBackend
) -> None:
    await use("upload_file", name="sales.csv")
    await use("run_python", code="x")
    assert backend.runs == [("langchain.ann", "x", None)]
    assert list(backend.contents) == ["langchain.ann"]
    with toolkit.conversation("ann"):
        toolkit.session_for("ann").upload(b"from the application", "notes.txt")
        assert (await use("read_file", path="notes.txt")).content == "from the application"
    assert backend.contents == {}


async def test_listing_names_files_with_their_sizes(use: Any) -> None:
    assert (await use("list_files")).content == "There are no files."
    await use("upload_file", name="sales.csv")
    message = await use("list_files")
    assert message.content == "/mnt/data/sales.csv (17 bytes)"
    assert [file.size for file in message.artifact] == [17]


async def test_a_download_reaches_the_application_as_a_standard_file_block(use: Any) -> None:
    await use("upload_file", name="sales.csv")
    message = await use("download_file", path="sales.csv")
    assert message.content == "/mnt/data/sales.csv (17 bytes) was sent to the user."
    assert message.artifact == {
        "type": "file",
        "base64": base64.b64encode(b"month,sales\n1,10\n").decode(),
        "mime_type": "text/csv",
        "extras": {"filename": "sales.csv"},
    }


@pytest.mark.parametrize(("tool", "option"), [(ReadFileTool, "read_limit"), (DownloadFileTool, "download_limit")])
async def test_a_file_over_the_limit_is_not_fetched(pool: SessionPool, tool: type[BaseTool], option: str) -> None:
    session = pool.session("ours")
    session.upload(b"12345", "a.txt")
    small = tool(session=session, **{option: 4})
    assert "over the limit of 4 bytes" in small.invoke({"path": "a.txt"})
    assert "over the limit of 4 bytes" in await small.ainvoke({"path": "a.txt"})
    assert "over the limit of 4 bytes" not in tool(session=session, **{option: 5}).invoke({"path": "a.txt"})


async def test_a_full_disk_is_retryable_and_a_full_pool_is_not(
    use: Any, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(backend, "upload", refuse)
    error: Exception = FileRefused("The disk is full.")
    message = await use("upload_file", name="sales.csv")
    assert (message.status, message.content) == ("error", "The disk is full.")
    error = PoolFull("full", sessions=1)
    with pytest.raises(PoolFull):
        await use("upload_file", name="sales.csv")
