"""The files of a session: everything below one directory, and nothing outside it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom.runner import files
from greenroom.runner.files import Download, FileTree, Transfers, Upload

SECRET = b"of the host"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What `/mnt/data` stands for, beside a directory that is none of a session's business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def tree(root: Path) -> Iterator[FileTree]:
    tree = FileTree(str(root))
    yield tree
    tree.close()


def put(tree: FileTree, path: str, content: bytes = b"new") -> dict[str, Any]:
    upload = Upload(tree, path)
    try:
        upload.write(content)
        return upload.finish()
    finally:
        upload.close()


def get(tree: FileTree, path: str) -> bytes:
    download = Download(tree, path)
    try:
        return download.read(1 << 20)
    finally:
        download.close()


USES: dict[str, Callable[[FileTree, str], object]] = {
    "upload": put,
    "download": get,
    "list": lambda tree, path: tree.entries(path, recursive=True),
    "stat": lambda tree, path: tree.entry(path),
    "delete": lambda tree, path: tree.delete(path),
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


def descriptors() -> int:
    return len(names_in(Path("/proc/self/fd")))


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def refused(*numbers: int) -> pytest.RaisesExc[OSError]:
    """An OSError with one of these numbers is raised."""
    return pytest.raises(OSError, check=lambda error: error.errno in numbers)


# Up, down, lists


def test_an_upload_comes_down_again(tree: FileTree, root: Path) -> None:
    entry = put(tree, "/mnt/data/a.csv", b"1,2\n")
    assert (entry["path"], entry["size"], entry["directory"]) == ("/mnt/data/a.csv", 4, False)
    assert abs(entry["modified"] / 1e9 - time.time()) < 60
    assert get(tree, "/mnt/data/a.csv") == b"1,2\n"
    assert (root / "a.csv").read_bytes() == b"1,2\n"


def test_an_upload_makes_the_directories_it_needs(tree: FileTree, root: Path) -> None:
    put(tree, "/mnt/data/a/b/c.txt")
    assert (root / "a/b/c.txt").read_bytes() == b"new"


def test_an_upload_is_not_there_until_it_is_complete(tree: FileTree, root: Path) -> None:
    (root / "a").write_bytes(b"old")
    upload = Upload(tree, "/mnt/data/a")
    upload.write(b"half")
    assert get(tree, "/mnt/data/a") == b"old"
    assert [entry["path"] for entry in tree.entries("/mnt/data", recursive=True)] == ["/mnt/data/a"]
    upload.write(b" and half")
    upload.finish()
    assert get(tree, "/mnt/data/a") == b"half and half"
    assert names_in(root) == ["a"]


def test_an_abandoned_upload_leaves_nothing(tree: FileTree, root: Path) -> None:
    upload = Upload(tree, "/mnt/data/a")
    upload.write(b"half")
    upload.close()
    upload.close()
    assert names_in(root) == []


def test_a_download_does_not_change_when_another_file_takes_the_name(tree: FileTree) -> None:
    put(tree, "/mnt/data/a", b"the old one")
    download = Download(tree, "/mnt/data/a")
    put(tree, "/mnt/data/a", b"the new one")
    assert download.entry["size"] == 11
    assert download.read(100) == b"the old one"
    download.close()


def test_a_list_is_sorted_and_goes_deeper_only_when_asked(tree: FileTree) -> None:
    for path in ("b", "a/deep/er", "c"):
        put(tree, f"/mnt/data/{path}")

    def listed(path: str, *, recursive: bool) -> list[str]:
        return [entry["path"].removeprefix("/mnt/data/") for entry in tree.entries(path, recursive=recursive)]

    assert listed("/mnt/data", recursive=False) == ["a", "b", "c"]
    assert listed("/mnt/data", recursive=True) == ["a", "a/deep", "a/deep/er", "b", "c"]
    assert listed("/mnt/data/a", recursive=True) == ["a/deep", "a/deep/er"]
    assert [entry["directory"] for entry in tree.entries("/mnt/data", recursive=False)] == [True, False, False]


def test_a_file_and_an_empty_directory_can_be_deleted(tree: FileTree, root: Path) -> None:
    put(tree, "/mnt/data/a/b")
    with refused(errno.ENOTEMPTY):
        tree.delete("/mnt/data/a")
    tree.delete("/mnt/data/a/b")
    tree.delete("/mnt/data/a")
    assert names_in(root) == []


def test_a_snapshot_shows_what_has_changed(tree: FileTree, root: Path) -> None:
    put(tree, "/mnt/data/a/same")
    put(tree, "/mnt/data/other")
    before = tree.snapshot(100)
    put(tree, "/mnt/data/other", b"changed")
    put(tree, "/mnt/data/new")
    after = tree.snapshot(100)
    assert before is not None
    assert after is not None
    assert set(before) == {"/mnt/data/a/same", "/mnt/data/other"}
    assert {path for path, mark in after.items() if before.get(path) != mark} == {"/mnt/data/other", "/mnt/data/new"}
    assert tree.snapshot(3) is None, "there are more than three entries"


@every_use
def test_a_file_that_does_not_exist_is_missing(tree: FileTree, use: Callable[[FileTree, str], object]) -> None:
    if use is put:
        return
    for path in ("/mnt/data/none", "/mnt/data/none/at/all"):
        with pytest.raises(FileNotFoundError):
            use(tree, path)


# Ways out


@every_use
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/mnt/database",
        "/mnt",
        "",
        "a",
        "/mnt/data/../outside/secret",
        "/mnt/data/a/../../outside/secret",
        "/mnt/data/..",
        "//mnt/data/a",
    ],
)
def test_a_path_out_of_the_session_is_refused(
    tree: FileTree, root: Path, use: Callable[[FileTree, str], object], path: str
) -> None:
    (root / "a").mkdir()
    with pytest.raises(PermissionError):
        use(tree, path)
    assert (root.parent / "outside" / "secret").read_bytes() == SECRET


@every_use
@pytest.mark.parametrize("path", ["link/secret", "deep/link/secret", "link/new/secret", "chain/secret", "up/outside"])
def test_a_link_on_the_way_is_not_followed(
    tree: FileTree, root: Path, use: Callable[[FileTree, str], object], path: str
) -> None:
    (root / "deep").mkdir()
    (root / "link").symlink_to(root.parent / "outside")
    (root / "deep" / "link").symlink_to("../../outside")
    (root / "chain").symlink_to("link")
    (root / "up").symlink_to("..")
    with refused(errno.ENOTDIR, errno.ELOOP):
        use(tree, f"/mnt/data/{path}")
    assert names_in(root.parent / "outside") == ["secret"]
    assert (root.parent / "outside" / "secret").read_bytes() == SECRET


def test_a_link_at_the_end_is_treated_as_the_link_it_is(tree: FileTree, root: Path) -> None:
    secret = root.parent / "outside" / "secret"
    (root / "link").symlink_to(secret)
    with refused(errno.ELOOP):
        get(tree, "/mnt/data/link")
    assert tree.entry("/mnt/data/link")["size"] == len(str(secret)), "that of the link"
    put(tree, "/mnt/data/link", b"in its place")
    assert not (root / "link").is_symlink()
    (root / "other").symlink_to(secret)
    tree.delete("/mnt/data/other")
    assert secret.read_bytes() == SECRET


def test_a_list_does_not_go_through_links(tree: FileTree, root: Path) -> None:
    (root / "link").symlink_to(root.parent / "outside")
    (root / "loop").symlink_to(root)
    assert [entry["path"] for entry in tree.entries("/mnt/data", recursive=True)] == [
        "/mnt/data/link",
        "/mnt/data/loop",
    ]
    assert tree.snapshot(100) is not None


def test_no_race_between_a_directory_and_a_link_escapes(tree: FileTree, root: Path) -> None:
    """A thread makes the directory a link to the outside and back, as quickly as it can."""
    way, outside = root / "way", root.parent / "outside"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):  # an upload has made the directory at the same moment
                shutil.rmtree(way, ignore_errors=True)
                way.symlink_to(outside)
                way.unlink()
                way.mkdir()
                (way / "secret").write_bytes(b"of the session")

    def use(name: str) -> str:
        try:
            found = USES[name](tree, "/mnt/data/way" if name == "list" else "/mnt/data/way/secret")
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        assert found != SECRET
        return "done"

    def met(outcomes: Counter[str]) -> bool:
        return bool(outcomes["done"]) and bool(outcomes["ENOTDIR"] + outcomes["ELOOP"])

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes: Counter[str] = Counter()
    try:
        began = time.monotonic()
        while time.monotonic() < began + 0.7 or (not met(outcomes) and time.monotonic() < began + 30):
            outcomes.update(map(use, USES))
    finally:
        stop.set()
        swapper.join()
    assert met(outcomes), "some were lucky, and some met the link"
    assert names_in(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == SECRET


# Files that are not regular


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_only_regular_files_are_read_and_nothing_blocks(tree: FileTree, root: Path, kind: str) -> None:
    match kind:
        case "fifo":
            os.mkfifo(root / "it")
        case "directory":
            (root / "it").mkdir()
        case _:
            directory = os.open(root, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{directory}/it")  # the path itself may be too long for a socket
            os.close(directory)
    before = descriptors()
    with refused(errno.EINVAL, errno.EISDIR, errno.ENXIO):
        get(tree, "/mnt/data/it")
    assert descriptors() == before
    assert tree.entry("/mnt/data/it")["path"] == "/mnt/data/it"
    assert len(tree.entries("/mnt/data", recursive=True)) == 1


def test_a_fifo_is_replaced_and_not_written_to(tree: FileTree, root: Path) -> None:
    os.mkfifo(root / "it")
    put(tree, "/mnt/data/it", b"content")
    assert (root / "it").read_bytes() == b"content"


def test_a_directory_is_in_the_way_of_an_upload(tree: FileTree, root: Path) -> None:
    (root / "it").mkdir()
    for path in ("/mnt/data/it", "/mnt/data", "/mnt/data/"):
        with pytest.raises(IsADirectoryError):
            put(tree, path)
    assert names_in(root) == ["it"]
    (root / "it" / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        put(tree, "/mnt/data/it/file/below")


# Odd trees


def test_a_tree_can_be_deeper_than_a_list(tree: FileTree, root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(120):
        os.mkdir("d" * 100, dir_fd=here)
        deeper = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    before = descriptors()
    assert len(tree.entries("/mnt/data", recursive=True)) == 50
    assert tree.snapshot(1000) == {}
    assert descriptors() == before


def test_a_list_of_too_many_files_is_refused(tree: FileTree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MAX_ENTRIES", 20)
    for number in range(20):
        (root / str(number)).touch()
    assert len(tree.entries("/mnt/data", recursive=False)) == 20
    (root / "one more").touch()
    with refused(errno.E2BIG):
        tree.entries("/mnt/data", recursive=False)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda name: name not in {".", ".."}
)


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names)
def test_any_valid_file_name_round_trips(tree: FileTree, name: str) -> None:
    path = f"/mnt/data/{name}"
    assert put(tree, path)["path"] == path
    assert path in [entry["path"] for entry in tree.entries("/mnt/data", recursive=False)]
    assert tree.entry(path)["size"] == 3
    assert get(tree, path) == b"new"
    tree.delete(path)


def test_a_name_that_is_not_text_is_listed_harmlessly(tree: FileTree, root: Path) -> None:
    (root / os.fsdecode(b"bad-\xff\xfe")).touch()
    (root / "good").touch()
    listed = [entry["path"] for entry in tree.entries("/mnt/data", recursive=False)]
    assert listed == ["/mnt/data/bad-\\xff\\xfe", "/mnt/data/good"]
    json.dumps(listed).encode()
    snapshot = tree.snapshot(10)
    assert snapshot is not None
    assert list(snapshot) != []


def test_a_name_that_is_not_text_is_found_as_it_is_listed(tree: FileTree, root: Path) -> None:
    (root / os.fsdecode(b"d\xfcr")).mkdir()
    (root / os.fsdecode(b"d\xfcr/\xff\x80")).write_bytes(b"old")
    directory, file = (entry["path"] for entry in tree.entries("/mnt/data", recursive=True))
    assert (directory, file) == ("/mnt/data/d\\xfcr", "/mnt/data/d\\xfcr/\\xff\\x80")
    assert get(tree, file) == b"old"
    put(tree, file)
    [real] = root.rglob("*/*")
    assert (bytes(real.relative_to(root)), real.read_bytes()) == (b"d\xfcr/\xff\x80", b"new")
    (root / "d\\xfcr").mkdir()
    assert tree.entries(directory, recursive=False) == [], "the name itself comes before what it stands for"
    tree.delete(directory)
    tree.delete(file)
    tree.delete(directory)
    assert tree.entries("/mnt/data", recursive=True) == []


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_a_directory_closed_by_the_code_hides_no_other(tree: FileTree, root: Path, mode: int) -> None:
    (root / "shut").mkdir()
    (root / "shut" / "inside").touch()
    (root / "visible").touch()
    (root / "shut").chmod(mode)
    root.chmod(0o777)
    user = os.geteuid()
    if user == 0:  # whom no mode stops
        os.chown(root / "shut", 65534, -1)
        os.seteuid(65534)
    try:
        listed = [entry["path"] for entry in tree.entries("/mnt/data", recursive=True)]
        snapshot = tree.snapshot(10)
    finally:
        os.seteuid(user)
        (root / "shut").chmod(0o700)
    assert set(listed) >= {"/mnt/data/shut", "/mnt/data/visible"}
    assert snapshot is not None
    assert "/mnt/data/visible" in snapshot


def test_a_name_that_is_too_long_leaves_nothing_open(tree: FileTree) -> None:
    before = descriptors()
    for use in USES.values():
        with refused(errno.ENAMETOOLONG):
            use(tree, "/mnt/data/" + "x" * 300)
    assert descriptors() == before


@every_use
def test_no_descriptor_stays_open(tree: FileTree, root: Path, use: Callable[[FileTree, str], object]) -> None:
    (root / "a").mkdir()
    (root / "a" / "file").write_bytes(b"x")
    before = descriptors()
    for path in ("/mnt/data/a/file", "/mnt/data/a/none", "/mnt/data/a", "/mnt/data/a/file/x", "/etc"):
        with contextlib.suppress(OSError):
            use(tree, path)
    assert descriptors() == before


# What the host asks


class Host:
    """Asks as the host does."""

    def __init__(self, transfers: Transfers) -> None:
        self.transfers = transfers

    def ask(self, op: str, body: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        header, content = self.transfers.answer({"op": op, "id": 7, **fields}, body)
        assert (header.pop("ev"), header.pop("id")) == ("reply", 7)
        return header, content


@pytest.fixture
def host(tree: FileTree) -> Host:
    return Host(Transfers(tree))


def test_an_upload_and_a_download_in_pieces(host: Host) -> None:
    assert host.ask("open", path="/mnt/data/a", mode="w") == ({"file": 1}, b"")
    assert host.ask("write", b"one ", file=1) == ({}, b"")
    assert host.ask("write", b"two", file=1) == ({}, b"")
    assert host.ask("finish", file=1)[0]["entry"]["size"] == 7
    assert host.ask("close", file=1) == ({}, b"")
    header, _ = host.ask("open", path="/mnt/data/a", mode="r")
    assert (header["file"], header["entry"]["path"]) == (2, "/mnt/data/a")
    assert [host.ask("read", file=2, size=4)[1] for _ in range(3)] == [b"one ", b"two", b""]
    assert host.ask("close", file=2) == ({}, b"")
    assert json.loads(host.ask("list", path="/mnt/data", recursive=False)[1])[0]["path"] == "/mnt/data/a"
    assert host.ask("stat", path="/mnt/data/a")[0]["entry"]["size"] == 7
    assert host.ask("delete", path="/mnt/data/a") == ({}, b"")
    assert host.ask("list", path="/mnt/data", recursive=False) == ({}, b"[]")


@pytest.mark.parametrize(
    ("op", "fields", "number"),
    [
        ("open", {"path": "/mnt/data/none", "mode": "r"}, errno.ENOENT),
        ("open", {"path": "/etc/passwd", "mode": "r"}, errno.EACCES),
        ("open", {"path": "/mnt/data", "mode": "w"}, errno.EISDIR),
        ("read", {"file": 9, "size": 1}, errno.EBADF),
        ("write", {"file": 9}, errno.EBADF),
        ("finish", {"file": 9}, errno.EBADF),
        ("list", {"path": "/mnt/data/none", "recursive": True}, errno.ENOENT),
        ("stat", {"path": "/mnt/data/none"}, errno.ENOENT),
        ("delete", {"path": "/mnt/data/none"}, errno.ENOENT),
        ("format", {}, errno.ENOSYS),
    ],
)
def test_a_refusal_is_returned_as_an_errno(host: Host, op: str, fields: dict[str, Any], number: int) -> None:
    assert host.ask(op, **fields) == ({"errno": number}, b"")


def test_a_file_is_read_or_written_as_it_was_opened(host: Host) -> None:
    host.ask("open", path="/mnt/data/a", mode="w")
    assert host.ask("read", file=1, size=1) == ({"errno": errno.EBADF}, b"")
    host.ask("finish", file=1)
    host.ask("open", path="/mnt/data/a", mode="r")
    for op in ("write", "finish"):
        assert host.ask(op, file=2) == ({"errno": errno.EBADF}, b"")


def test_an_ended_upload_accepts_no_more_data(host: Host) -> None:
    host.ask("open", path="/mnt/data/a", mode="w")
    host.ask("finish", file=1)
    assert "errno" in host.ask("write", b"more", file=1)[0]
    assert "errno" in host.ask("finish", file=1)[0]
    host.ask("close", file=1)
    assert host.ask("close", file=1) == ({}, b""), "closing is idempotent"


def test_the_number_of_open_files_is_limited(host: Host) -> None:
    before = descriptors()
    opened = [host.ask("open", path="/mnt/data/a", mode="w")[0] for _ in range(70)]
    assert opened.count({"errno": errno.EMFILE}) == 6
    for number in range(1, 65):
        host.ask("close", file=number)
    assert descriptors() == before
    assert "file" in host.ask("open", path="/mnt/data/a", mode="w")[0]
    host.ask("close", file=65)


def test_one_read_is_bounded(host: Host, root: Path) -> None:
    (root / "big").write_bytes(bytes(3 << 20))
    host.ask("open", path="/mnt/data/big", mode="r")
    assert len(host.ask("read", file=1, size=1 << 30)[1]) == 1 << 20
