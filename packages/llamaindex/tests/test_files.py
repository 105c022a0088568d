"""The tools for files, in both spellings."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Protocol

import pytest

from greenroom import FileMissing, SessionPool
from llama_index.tools.greenroom import Download, GreenroomToolSpec

if TYPE_CHECKING:
    from pathlib import Path

    from llama_index.core.tools import ToolOutput

    from greenroom.testing import ScriptedBackend

CONTENT = b"region,total\nnorth,1\n"


class Call(Protocol):
    async def __call__(self, tool: str, **arguments: str) -> ToolOutput: ...


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    """A directory that holds `sales.csv`."""
    directory = tmp_path / "uploads"
    directory.mkdir()
    (directory / "sales.csv").write_bytes(CONTENT)
    return directory


@pytest.fixture(params=["call", "acall"])
def call(pool: SessionPool, uploads: Path, request: pytest.FixtureRequest) -> Call:
    spec = GreenroomToolSpec(session=pool.session("files"), uploads=uploads, budget=500)
    tools = {tool.metadata.get_name(): tool for tool in spec.to_tool_list()}

    async def run(tool: str, **arguments: str) -> ToolOutput:
        output = getattr(tools[tool], request.param)(**arguments)
        return await output if inspect.isawaitable(output) else output

    return run


async def test_the_model_lists_the_files_of_its_session(call: Call, backend: ScriptedBackend) -> None:
    assert (await call("list_files")).content == "There are no files."
    backend.contents["files"] = {"/mnt/data/a.csv": b"12345", "/mnt/data/charts/b.png": b""}
    output = await call("list_files")
    assert output.content == "/mnt/data/a.csv (5 bytes)\n/mnt/data/charts/b.png (0 bytes)"
    assert output.raw_output.artifact == [
        await backend.file("files", path) for path in ("/mnt/data/a.csv", "/mnt/data/charts/b.png")
    ]


async def test_the_model_hands_a_file_over_as_bytes_with_a_mime_type(call: Call, backend: ScriptedBackend) -> None:
    backend.contents["files"] = {"/mnt/data/report.csv": CONTENT}
    output = await call("download_file", path="report.csv")
    assert "region" not in output.content
    download = output.raw_output.artifact
    assert isinstance(download, Download)
    assert (download.file.name, download.mime, download.data) == ("report.csv", "text/csv", CONTENT)


async def test_a_wrong_name_is_answered_with_the_existing_names(call: Call) -> None:
    output = await call("upload_file", name="sale.csv")
    assert isinstance(output.exception, FileMissing)
    assert "sales.csv" in output.content
