"""The files of a session stay below their directory, whatever the session's code makes of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenroom.runner.files import FileTree, Upload


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[FileTree]:
    (tmp_path / "data").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text("secret")
    tree = FileTree(str(tmp_path / "data"))
    yield tree
    tree.close()


def put(tree: FileTree, path: str, content: bytes) -> None:
    upload = Upload(tree, path)
    try:
        upload.write(content)
        upload.finish()
    finally:
        upload.close()


@pytest.mark.parametrize("path", ["/mnt/data/../outside/secret.txt", "/mnt/database", "/etc/passwd", "relative"])
def test_a_path_that_leads_out_is_refused(tree: FileTree, path: str) -> None:
    with pytest.raises(PermissionError):
        tree.entry(path)


def test_no_race_with_a_link_leads_out(tree: FileTree, tmp_path: Path) -> None:
    """A thread swaps a directory for a link to another, as fast as it can, while we write and read through it."""
    inside, outside = tmp_path / "data/here", tmp_path / "outside"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):  # an upload has made the directory at the same moment
                shutil.rmtree(inside, ignore_errors=True)
                inside.symlink_to(outside)
                inside.unlink()
                inside.mkdir()

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(2000):
            with contextlib.suppress(OSError):
                put(tree, "/mnt/data/here/new.txt", b"x")
            with pytest.raises(OSError):  # noqa: PT011  not there, or the directory is not
                tree.entry("/mnt/data/here/secret.txt")
    finally:
        stop.set()
        swapper.join()
    assert [file.name for file in outside.iterdir()] == ["secret.txt"]


def test_a_deep_tree_and_many_files_do_not_end_the_walk(tree: FileTree, tmp_path: Path) -> None:
    deep = tmp_path / "data"
    for _ in range(120):
        deep = deep / "d"
        deep.mkdir()
    assert len(tree.entries("/mnt/data", recursive=True)) == 50
    for number in range(100):
        (tmp_path / f"data/{number}").touch()
    assert tree.snapshot(50) is None
    assert tree.snapshot(1000) is not None


def test_a_name_that_is_no_text_is_listed(tree: FileTree, tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/data/\xff\xfe"))).touch()
    assert [entry["path"] for entry in tree.entries("/mnt/data", recursive=False)] == ["/mnt/data/??"]


def test_an_upload_that_is_given_up_leaves_nothing(tree: FileTree, tmp_path: Path) -> None:
    upload = Upload(tree, "/mnt/data/a/b.txt")
    upload.write(b"half")
    upload.close()
    upload.close()
    assert [path.name for path in (tmp_path / "data/a").iterdir()] == []
