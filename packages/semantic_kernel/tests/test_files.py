"""The functions for a session's files."""

from pathlib import Path

import pytest
from semantic_kernel import Kernel

from greenroom import InvalidRequest, Session, SessionPool
from greenroom_semantic_kernel import DownloadText, GreenroomPlugin


@pytest.fixture
def session(pool: SessionPool) -> Session:
    return pool.session()


@pytest.fixture
def plugin(session: Session, tmp_path: Path) -> GreenroomPlugin:
    (tmp_path / "sales.csv").write_text("year,sum\n2025,7\n")
    return GreenroomPlugin(session=session, uploads=tmp_path)


async def test_files_are_listed_with_their_sizes(plugin: GreenroomPlugin, session: Session) -> None:
    await session.aupload(b"12345", "reports/q1.csv")
    assert await plugin.list_files() == "/mnt/data/reports/q1.csv (5 bytes)"


async def test_an_empty_session_says_that_there_are_no_files(plugin: GreenroomPlugin) -> None:
    assert await plugin.list_files() == "There are no files."


async def test_a_text_file_is_read(plugin: GreenroomPlugin, session: Session) -> None:
    await session.aupload("Größe: 7".encode(), "notes.txt")
    assert await plugin.read_file("notes.txt") == "Größe: 7"


async def test_of_a_long_text_file_the_middle_is_left_out(session: Session) -> None:
    await session.aupload(b"begin" + b"." * 10_000 + b"end", "long.txt")
    text = await GreenroomPlugin(session=session, budget=500).read_file("long.txt")
    assert text.startswith("begin")
    assert text.endswith("end")
    assert len(text) <= 500


@pytest.mark.parametrize(
    ("content", "answer"),
    [(b"", "is empty"), (b"\xff\xfe\x00", "not a text file"), (b"." * (1 << 20) + b".", "over the limit")],
    ids=["empty", "binary", "large"],
)
async def test_a_file_that_cannot_be_read_is_answered(
    plugin: GreenroomPlugin, session: Session, content: bytes, answer: str
) -> None:
    await session.aupload(content, "odd.bin")
    assert answer in await plugin.read_file("odd.bin")


@pytest.mark.parametrize("path", ["no.txt", "../etc/passwd", "/etc/passwd", "", "a\0b"])
async def test_a_path_without_a_file_is_answered(plugin: GreenroomPlugin, path: str) -> None:
    for answer in (await plugin.read_file(path), await plugin.download_file(path)):
        assert answer.startswith(("The session has no file", "The path"))


async def test_a_download_brings_the_application_the_bytes_and_the_model_a_note(
    plugin: GreenroomPlugin, session: Session
) -> None:
    await session.aupload(b"\x89PNG", "charts/trend.png")
    text = await plugin.download_file("charts/trend.png")
    assert isinstance(text, DownloadText)
    assert text == "The user has /mnt/data/charts/trend.png (4 bytes)."
    assert (text.download.file.name, text.download.mime, text.download.data) == (
        "charts/trend.png",
        "image/png",
        b"\x89PNG",
    )


async def test_a_download_over_the_limit_is_answered(plugin: GreenroomPlugin, session: Session) -> None:
    await session.aupload(b"." * ((20 << 20) + 1), "huge.bin")
    assert "over the limit" in await plugin.download_file("huge.bin")


async def test_a_provided_file_is_uploaded(plugin: GreenroomPlugin, session: Session) -> None:
    assert await plugin.upload_file("sales.csv") == "The file is at /mnt/data/sales.csv (16 bytes)."
    assert await session.adownload("sales.csv") == b"year,sum\n2025,7\n"


async def test_a_name_that_is_not_provided_is_answered_with_those_that_are(plugin: GreenroomPlugin) -> None:
    assert await plugin.upload_file("sale.csv") == ("The user has provided no file 'sale.csv'. There are: sales.csv.")


def test_what_cannot_be_done_is_not_offered(session: Session, pool: SessionPool, tmp_path: Path) -> None:
    def offered(plugin: object) -> set[str]:
        return set(Kernel().add_plugin(plugin).functions)

    always = {"run_python", "list_files", "read_file", "download_file"}
    assert offered(GreenroomPlugin(session=session)) == always
    assert offered(GreenroomPlugin(session=session, uploads=tmp_path)) == always | {"upload_file"}
    assert offered(GreenroomPlugin(pool=pool, session_per_call=True)) == {"run_python"}


def test_uploads_must_be_a_directory(session: Session, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no directory"):
        GreenroomPlugin(session=session, uploads=tmp_path / "missing")


def test_uploads_do_not_go_with_a_session_per_call(pool: SessionPool, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="goes without uploads"):
        GreenroomPlugin(pool=pool, session_per_call=True, uploads=tmp_path)
