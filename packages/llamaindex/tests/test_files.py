"""The tools for files, in both spellings."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Protocol

import pytest

from greenroom import FileMissing, FileRefused, SessionPool
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


async def test_the_model_reads_a_text_and_of_a_long_one_its_ends(call: Call, backend: ScriptedBackend) -> None:
    backend.contents["files"] = {"/mnt/data/short": "größer".encode(), "/mnt/data/long": b"x" * 9_000}
    assert (await call("read_file", path="short")).content == "größer"
    text = (await call("read_file", path="/mnt/data/long")).content
    assert len(text) <= 500
    assert "characters left out" in text


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing.csv", "missing.csv"),
        ("picture.png", "not a text file"),
        ("huge.log", "over the limit"),
        ("../../etc/passwd", "/mnt/data"),
    ],
)
async def test_a_file_that_cannot_be_read_is_a_result_that_says_why(
    call: Call, backend: ScriptedBackend, path: str, reason: str
) -> None:
    backend.contents["files"] = {"/mnt/data/picture.png": b"\x89PNG", "/mnt/data/huge.log": bytes(2 << 20)}
    output = await call("read_file", path=path)
    assert output.is_error
    assert reason in output.content


async def test_the_model_hands_a_file_over_as_bytes_with_a_mime_type(call: Call, backend: ScriptedBackend) -> None:
    backend.contents["files"] = {"/mnt/data/report.csv": CONTENT}
    output = await call("download_file", path="report.csv")
    assert "region" not in output.content
    download = output.raw_output.artifact
    assert isinstance(download, Download)
    assert (download.file.name, download.mime, download.data) == ("report.csv", "text/csv", CONTENT)


async def test_a_file_that_is_too_large_to_hand_over_is_refused_before_it_is_fetched(
    call: Call, backend: ScriptedBackend
) -> None:
    backend.contents["files"] = {"/mnt/data/all.zip": bytes((20 << 20) + 1)}
    output = await call("download_file", path="all.zip")
    assert isinstance(output.exception, FileRefused)


async def test_the_model_puts_a_provided_file_into_its_session(call: Call, backend: ScriptedBackend) -> None:
    output = await call("upload_file", name="sales.csv")
    assert output.content == f"The file is at /mnt/data/sales.csv ({len(CONTENT)} bytes)."
    assert backend.contents["files"] == {"/mnt/data/sales.csv": CONTENT}


async def test_a_wrong_name_gets_the_names_that_there_are(call: Call) -> None:
    output = await call("upload_file", name="sale.csv")
    assert isinstance(output.exception, FileMissing)
    assert "sales.csv" in output.content


def test_the_application_uploads_bytes_to_the_session_of_the_tools(pool: SessionPool, backend: ScriptedBackend) -> None:
    spec = GreenroomToolSpec(session=pool.session("files"))
    spec.session_for().upload(CONTENT, "sales.csv")
    assert "/mnt/data/sales.csv" in spec.list_files()[0].model_dump_json()


def test_only_what_the_application_provides_for_has_a_tool(pool: SessionPool, uploads: Path) -> None:
    def names(spec: GreenroomToolSpec) -> list[str]:
        return [tool.metadata.get_name() for tool in spec.to_tool_list()]

    assert names(GreenroomToolSpec(pool)) == ["run_python", "list_files", "read_file", "download_file"]
    assert names(GreenroomToolSpec(pool, uploads=uploads))[-1] == "upload_file"
    assert names(GreenroomToolSpec(pool, session_per_call=True)) == ["run_python"]
