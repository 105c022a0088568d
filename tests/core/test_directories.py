"""Directories of a session that lists whatever it likes, and directories of all kinds on their way there and back."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom import FileMissing, FileRefused, InvalidRequest, RemoteFile
from greenroom.sessions import directories
from greenroom.testing import ScriptedBackend, memory_pool, scripted_pool

MOMENT = datetime(2026, 11, 1, tzinfo=UTC)

names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."} and len(name.encode()) < 200 and not name.startswith(".greenroom-upload-")
)
trees = st.dictionaries(st.lists(names, min_size=1, max_size=4).map(tuple), st.binary(max_size=100), max_size=8)


@settings(max_examples=examples(40), deadline=None)
@given(tree=trees)
def test_any_directory_round_trips(tree: dict[tuple[str, ...], bytes]) -> None:
    prefixes = {parts[:count] for parts in tree for count in range(1, len(parts))}
    files = {"/".join(parts): content for parts, content in tree.items() if parts not in prefixes}
    with (
        TemporaryDirectory() as directory,
        memory_pool(ready_session_instances=0) as pool,
        pool.session() as session,
    ):
        local = Path(directory, "local")
        for name, content in files.items():
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (local / name).write_bytes(content)
        if not files:
            return
        assert session.upload(local, "there").size == sum(map(len, files.values()))
        back = session.download("there", Path(directory, "back"))
        assert {str(path.relative_to(back)): path.read_bytes() for path in back.rglob("*") if path.is_file()} == files


class Hostile(ScriptedBackend):
    """Lists what it was given, whatever was asked for, and has a file under each name."""

    def __init__(self, *entries: RemoteFile) -> None:
        super().__init__()
        self.entries = list(entries)
        self.sizes = 3
        self.error: Exception | None = None

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        return self.entries

    async def file(self, identifier: str, path: str) -> RemoteFile:
        return entry(path, directory=True)

    async def download(self, identifier: str, path: str, **options: Any) -> AsyncGenerator[bytes, None]:
        if path == "/mnt/data/d":
            raise FileRefused(errno.EISDIR, "it is a directory", path)
        if self.error is not None:
            raise self.error
        for _ in range(self.sizes):
            yield b"x"


def entry(path: str, *, directory: bool = False) -> RemoteFile:
    return RemoteFile(path, 1, MOMENT, directory)


HOSTILE = [
    "/mnt/data/d/../../../escaped", "/mnt/data/d/..", "/mnt/data/d/.", "/mnt/data/d/", "/mnt/data/d", "/etc/passwd",
    "/mnt/data/dd/x", "/mnt/data/d//x", "/mnt/data/d/a/../../x", "/mnt/data/d/a\0b", "/mnt/data/d/\ud800", "", "x",
    "/mnt/data/d/" + "x" * 5000, "/mnt/data/d/" + "x/" * 60 + "x",
]  # fmt: skip


@pytest.mark.parametrize("directory", [False, True], ids=["file", "directory"])
@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: repr(path[:40]))
def test_a_hostile_name_is_not_found(tmp_path: Path, path: str, directory: bool) -> None:
    place = tmp_path / "a/b"
    place.mkdir(parents=True)
    backend = Hostile(entry("/mnt/data/d/ok"), entry(path, directory=directory))
    with scripted_pool(backend) as pool, pytest.raises(FileRefused):
        pool.session().download("d", place / "local")
    assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")] == ["a", "a/b"]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a/b", "a/b/c", "B"]), st.booleans()), max_size=6))
def test_a_list_that_contradicts_itself_is_refused_or_kept_whole(listed: list[tuple[str, bool]]) -> None:
    entries = [entry(f"/mnt/data/d/{name}", directory=directory) for name, directory in listed]
    with TemporaryDirectory() as place, scripted_pool(Hostile(*entries)) as pool:
        try:
            target = pool.session().download("d", Path(place, "local"))
        except FileRefused:
            assert list(Path(place).iterdir()) == []
        else:
            kept = {str(path.relative_to(target)) for path in target.rglob("*")}
            assert kept >= {name for name, _ in listed}


def test_a_directory_has_its_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "DOWNLOAD_LIMIT", 100)
    backend = Hostile(*(entry(f"/mnt/data/d/{number}") for number in range(50)))
    with scripted_pool(backend) as pool:
        with pytest.raises(FileRefused, match="over the limit of 100 bytes"):
            pool.session().download("d", tmp_path / "local")
        assert list(tmp_path.iterdir()) == []
        assert pool.session().download("d", tmp_path / "local", limit=150).is_dir()


def test_a_file_deleted_meanwhile_is_left_out_but_a_failure_is_raised(tmp_path: Path) -> None:
    backend = Hostile(entry("/mnt/data/d/a"))
    with scripted_pool(backend) as pool:
        backend.error = FileMissing(errno.ENOENT, "gone", "a")
        assert list(pool.session().download("d", tmp_path / "gone").iterdir()) == []
        backend.error = FileRefused(errno.EIO, "broken", "a")
        with pytest.raises(FileRefused, match="broken"):
            pool.session().download("d", tmp_path / "broken")
        assert [path.name for path in tmp_path.iterdir()] == ["gone"]


async def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    class Endless(Hostile):
        async def download(self, identifier: str, path: str, **options: Any) -> AsyncGenerator[bytes, None]:
            if path == "/mnt/data/d":
                raise FileRefused(errno.EISDIR, "it is a directory", path)
            yield b"x"
            if path.endswith("b"):
                await asyncio.Event().wait()

    with scripted_pool(Endless(entry("/mnt/data/d/a"), entry("/mnt/data/d/b"))) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await pool.session().adownload("d", tmp_path / "local")
        pool.sessions()  # the pool's loop has got so far
        for _ in range(1200):
            if not list(tmp_path.iterdir()):
                break
            await asyncio.sleep(0.05)
        assert list(tmp_path.iterdir()) == []


def test_arguments_over_the_limits_are_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "MAX_FILES", 3)
    backend = ScriptedBackend()
    backend.file_limit = 10
    (tmp_path / "many").mkdir()
    for number in range(4):
        (tmp_path / "many" / str(number)).write_bytes(b"x")
    (tmp_path / "large").mkdir()
    (tmp_path / "large/a").write_bytes(b"x")
    (tmp_path / "large/b").write_bytes(bytes(11))
    (tmp_path / "deep").joinpath(*["d"] * 50).mkdir(parents=True)
    (tmp_path / "deep").joinpath(*["d"] * 50, "x").write_bytes(b"x")
    (tmp_path / "named").mkdir()
    (tmp_path / "named/caf\udce9").write_bytes(b"x")
    with scripted_pool(backend) as pool:
        session = pool.session()
        with pytest.raises(InvalidRequest, match="at most 3 files"):
            session.upload(tmp_path / "many")
        with pytest.raises(FileRefused, match="11 bytes is over the limit of 10 bytes"):
            session.upload(tmp_path / "large")
        with pytest.raises(InvalidRequest, match="more than 50 directories deep"):
            session.upload(tmp_path / "deep")
        with pytest.raises(InvalidRequest, match="UTF-8"):
            session.upload(tmp_path / "named")
    assert not any(backend.contents.values())


class Replacing(ScriptedBackend):
    """Has a part of the local directory replaced by a link while the first file is uploaded."""

    def __init__(self, replaced: Path, outside: Path) -> None:
        super().__init__()
        self._replaced, self._outside = replaced, outside

    async def upload(self, identifier: str, path: str, chunks: AsyncIterator[bytes], **options: Any) -> RemoteFile:
        if not self._replaced.is_symlink():
            self._replaced.rename(self._replaced.with_name("away"))
            self._replaced.symlink_to(self._outside)
        return await super().upload(identifier, path, chunks)


@pytest.mark.parametrize("part", ["local/b", "local/b/c", "local/b/c/file"])
def test_a_link_that_takes_the_place_of_a_directory_is_not_followed(tmp_path: Path, part: str) -> None:
    for top in ("local", "outside"):
        (tmp_path / top / "b/c").mkdir(parents=True)
        (tmp_path / top / "b/c/file").write_bytes(top.encode())
    (tmp_path / "local/a").write_bytes(b"first")
    backend = Replacing(tmp_path / part, tmp_path / part.replace("local", "outside"))
    with scripted_pool(backend) as pool, pool.session("there") as session:
        with pytest.raises(InvalidRequest, match="/b/c/file' cannot be read"):
            session.upload(tmp_path / "local", "there")
        assert backend.contents["there"] == {"/mnt/data/there/a": b"first"}


def test_the_directory_itself_can_be_a_link_and_is_unchanged(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for file in ("a", "b"):
            (tmp_path / name / file).write_bytes(name.encode())
    (tmp_path / "link").symlink_to("one")
    backend = Replacing(tmp_path / "one", tmp_path / "other")
    with scripted_pool(backend) as pool, pool.session("there") as session:
        session.upload(tmp_path / "link", "there")
        assert set(backend.contents["there"].values()) == {b"one"}
