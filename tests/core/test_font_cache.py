"""The font cache is shown to sandboxes only where no other user can change it."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greenroom.engines.bubblewrap import font_cache

OTHER = 12_345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")


@contextmanager
def umask(mask: int) -> Generator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "cache"))
    return font_cache.place("/usr/bin/python3")


async def write(directory: Path) -> int:
    (directory / "fontlist.json").write_text("{}")
    return 0


def shown(target: Path) -> list[str] | None:
    """What sandboxes would see."""
    opened = font_cache.descriptor(target)
    if opened is None:
        return None
    try:
        return os.listdir(opened)  # noqa: PTH208  a descriptor
    finally:
        os.close(opened)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
async def test_its_directories_are_private_whatever_the_umask(target: Path, mask: int) -> None:
    with umask(mask):
        await font_cache.make(target, write)
    assert shown(target) == ["fontlist.json"]
    for directory in list(target.parents)[:3]:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in target.parent.iterdir()] == [target.name]


async def test_existing_files_stay_and_nothing_runs(target: Path) -> None:
    await font_cache.make(target, write)

    async def fail(_directory: Path) -> int:
        raise AssertionError("it is there already")

    await font_cache.make(target, fail)
    assert shown(target) == ["fontlist.json"]


async def test_a_directory_that_others_could_write_to_becomes_private(target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.parent.chmod(0o777)
    await font_cache.make(target, write)
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert shown(target) == ["fontlist.json"]


@pytest.mark.parametrize("level", ["target", "parent"])
async def test_a_link_is_not_shown(target: Path, tmp_path: Path, level: str) -> None:
    secret = tmp_path / "secret"
    (secret / target.name).mkdir(parents=True)
    target.parent.parent.mkdir(parents=True)
    if level == "parent":
        target.parent.symlink_to(secret)
        with pytest.raises(OSError):  # noqa: PT011  ENOTDIR or ELOOP
            await font_cache.make(target, write)
    else:
        target.parent.mkdir()
        target.symlink_to(secret)
        await font_cache.make(target, write)
    assert shown(target) is None
    assert list((secret / target.name).iterdir()) == []


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
@pytest.mark.parametrize("level", ["target", "parent"])
async def test_a_directory_that_others_can_write_to_is_not_shown(target: Path, level: str, mode: int) -> None:
    await font_cache.make(target, write)
    (target if level == "target" else target.parent).chmod(mode)
    assert shown(target) is None


@as_root
@pytest.mark.parametrize("level", ["target", "parent"])
async def test_a_directory_of_another_user_is_not_shown(target: Path, level: str) -> None:
    await font_cache.make(target, write)
    os.chown(target if level == "target" else target.parent, OTHER, OTHER)
    assert shown(target) is None


@as_root
async def test_a_directory_of_another_user_is_left_alone(target: Path) -> None:
    target.parent.mkdir(parents=True)
    os.chown(target.parent, OTHER, OTHER)
    with pytest.raises(PermissionError):
        await font_cache.make(target, write)
    assert list(target.parent.iterdir()) == []


def test_a_relative_cache_directory_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert font_cache.place("/usr/bin/python3").is_relative_to(Path.home() / ".cache")
