"""Files on this machine that callers name: if they cannot be read or written, Greenroom raises its own errors."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from greenroom import FileRefused, Image, InvalidRequest, Session, SessionPool
from greenroom.testing import memory_pool

files_module: Any = sys.modules["greenroom.sessions.files"]

EMOJI = "😀" * 63  # 252 bytes; a name has 255 at most


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    with memory_pool() as pool:
        yield pool


@pytest.fixture
def session(pool: SessionPool) -> Session:
    session = pool.session()
    session.upload(b"content", "a.txt")
    return session


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# Downloads


def test_a_name_of_252_bytes_can_be_downloaded_to(session: Session, tmp_path: Path) -> None:
    session.upload(b"emoji", EMOJI)
    assert session.download(EMOJI, tmp_path / EMOJI).read_bytes() == b"emoji"
    assert names_in(tmp_path) == [EMOJI]


def test_a_download_has_the_mode_that_the_umask_leaves(session: Session, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        session.download("a.txt", tmp_path / "a.txt")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_download_replaces_a_file_and_nothing_else(session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    assert session.download("a.txt", tmp_path / "file").read_bytes() == b"content"
    for name, number in (("directory", errno.EISDIR), ("fifo", errno.EINVAL)):
        with pytest.raises(FileRefused, match=rf"local file cannot be written: .*{name}") as caught:
            session.download("a.txt", tmp_path / name)
        assert caught.value.errno == number
    assert names_in(tmp_path) == ["directory", "fifo", "file"]


@pytest.mark.parametrize(
    ("name", "number"),
    [("missing/a.txt", errno.ENOENT), ("file/a.txt", errno.ENOTDIR), ("x" * 300, errno.ENAMETOOLONG)],
)
def test_an_unwritable_target_is_refused_before_the_download(
    pool: SessionPool, tmp_path: Path, name: str, number: int
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileRefused) as caught:
        pool.session("never-begun").download("a.txt", tmp_path / name)
    assert caught.value.errno == number
    assert pool.sessions() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_reported_and_leaves_nothing(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(self: Path, mode: str = "r", **options: Any) -> Any:
        if mode == "xb":
            real(self, mode).close()
            return real(Path("/dev/full"), "wb")
        return real(self, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FileRefused, match="No space left on device") as caught:
        session.download("a.txt", tmp_path / "a.txt")
    assert caught.value.errno == errno.ENOSPC
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["", "a\0b", "a\ud800b"])
def test_an_impossible_file_name_is_refused(session: Session, name: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: session.download("a.txt", name),
        lambda: session.upload(name),
        lambda: Image("figure.png", "image/png", b"").save(name),
    ]
    for use in uses:
        with pytest.raises(InvalidRequest, match="The local path must be the name of a file"):
            use()


def test_an_image_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="No such file or directory"):
        Image("figure.png", "image/png", b"").save(tmp_path / "missing" / "figure.png")


@pytest.mark.parametrize("limit", [-1, 1.5, "1", True, float("nan"), b"1"])
def test_a_limit_is_a_whole_number_of_bytes(session: Session, limit: Any) -> None:
    with pytest.raises(InvalidRequest, match="The limit must be a whole number of bytes"):
        session.download("a.txt", limit=limit)


# Uploads


def test_irregular_files_are_refused_without_blocking(session: Session, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for a writer
    for path in (tmp_path / "fifo", Path(os.devnull)):
        with pytest.raises(InvalidRequest, match="must be a regular file, not a device or a pipe"):
            session.upload(path, "b.txt")
    with pytest.raises(InvalidRequest, match=r"cannot be read: No such file"):
        session.upload(tmp_path / "none", "b.txt")
    assert session.download("a.txt") == b"content"


def test_a_file_that_is_deleted_while_it_is_read_is_uploaded_whole(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 2_000_000)
    real = files_module.open_to_read

    def gone(path: Path, **options: Any) -> Any:
        file = real(path, **options)
        path.unlink()
        return file

    monkeypatch.setattr(files_module, "open_to_read", gone)
    assert session.upload(path).size == 2_000_000


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that opens and cannot be read")
def test_a_file_that_cannot_be_read_to_its_end_is_named(session: Session) -> None:
    with pytest.raises(InvalidRequest, match=r"'/proc/self/mem' cannot be read: Input/output error"):
        session.upload("/proc/self/mem", "b.txt")


def test_a_file_over_the_limit_is_refused_before_a_session_starts(tmp_path: Path) -> None:
    (tmp_path / "big.csv").touch()
    os.truncate(tmp_path / "big.csv", 200 << 20)
    with memory_pool(file_limit="128Mi") as pool:
        session = pool.session("never-begun")
        rule = r"The file of 200 MiB is over the limit of 128 MiB \(the option file_limit\): '/mnt/data/big.csv'"
        with pytest.raises(FileRefused, match=rule):
            session.upload(tmp_path / "big.csv")
        with pytest.raises(FileRefused, match=r"The file of 134,217,729 bytes is over the limit of 128 MiB"):
            session.upload(bytes((128 << 20) + 1), "a.bin")
        assert pool.sessions() == []


class Source:
    """An open file of the caller's own."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def read(self, _size: int) -> Any:
        if isinstance(self.content, BaseException):
            raise self.content
        return self.content


@pytest.mark.parametrize("content", ["text", "", None, 5, [b"x"]])
def test_a_source_must_return_bytes(session: Session, content: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"must return bytes, not {type(content).__name__}"):
        session.upload(cast("Any", Source(content)), "b.txt")


def test_errors_of_the_callers_file_leave_the_call(session: Session) -> None:
    with pytest.raises(ZeroDivisionError):
        session.upload(cast("Any", Source(ZeroDivisionError())), "b.txt")


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_nothing_that_it_raises_ends_the_pool(session: Session, error: type[BaseException]) -> None:
    with pytest.raises(InvalidRequest, match=rf"must not raise {error.__name__}"):
        session.upload(cast("Any", Source(error())), "b.txt")
    assert session.download("a.txt") == b"content"


@pytest.mark.parametrize("source", [None, 5, object(), ["a"]])
def test_an_invalid_upload_source_is_named_by_its_type(session: Session, source: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"an open binary file, not {type(source).__name__}"):
        session.upload(source, "b.txt")


def test_a_file_without_a_name_must_be_given_one(session: Session, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with open(descriptor, "rb") as numbered:  # noqa: PTH123
        for source in (io.BytesIO(b"x"), numbered):
            with pytest.raises(InvalidRequest, match="must name a file below"):
                session.upload(source)


def test_code_is_at_most_16_mib(session: Session) -> None:
    for code in ("#" * (16 << 20) + "x", "#é" * (8 << 20)):
        with pytest.raises(InvalidRequest, match="The code must be at most 16 MiB"):
            session.execute(code)
    assert session.execute("#" * ((16 << 20) - 2) + "\n1").result == "1"


@pytest.mark.parametrize("path", ["a\ud800", "a\udcff.txt", "\udfff" * 10])
def test_half_of_a_surrogate_pair_is_not_part_of_a_path(session: Session, path: str) -> None:
    uses: list[Callable[[str], object]] = [
        session.download,
        session.files,
        session.file,
        session.delete_file,
        lambda path: session.upload(b"", path),
    ]
    for use in uses:
        with pytest.raises(InvalidRequest, match="4,096 bytes of UTF-8") as caught:
            use(path)
        str(caught.value).encode(sys.stdout.encoding)
