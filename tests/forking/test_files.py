"""The files of a copy, where they change or cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from greenroom.runner.workers.copying.files import size_of_files, write_files


def written(root: Path, most: int, meanwhile: Path | None = None) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    """The contents that are written, by name, and what is left out; the file `meanwhile` grows with each piece."""
    contents: dict[str, bytes] = {}
    left_out: list[tuple[str, str]] = []
    names: list[str] = []

    def write(entry: Any) -> None:
        if isinstance(entry, dict):
            name = str(cast("dict[str, Any]", entry)["name"])
            names.append(name)
            contents[name] = b""
        elif entry:
            contents[names[-1]] += entry
            if meanwhile is not None and meanwhile.stat().st_size < 50_000_000:
                with meanwhile.open("ab") as file:
                    file.write(entry)

    write_files(write, lambda name, reason: left_out.append((name, reason)), most, str(root))
    return contents, left_out


def test_a_file_that_grows_is_copied_as_it_was(tmp_path: Path) -> None:
    growing = tmp_path / "growing"
    growing.write_bytes(b"g" * 3_000_000)
    (tmp_path / "other").write_bytes(b"o")
    contents, left_out = written(tmp_path, size_of_files(str(tmp_path)), growing)
    assert contents == {"growing": b"g" * 3_000_000, "other": b"o"}
    assert not left_out


def test_only_the_file_that_has_grown_too_large_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "grown").write_bytes(b"g" * 3_000_000)
    (tmp_path / "other").write_bytes(b"o")
    contents, left_out = written(tmp_path, 1_000_000)
    assert contents == {"other": b"o"}
    assert left_out == [(str(tmp_path / "grown"), "it is larger than first measured")]


def test_the_size_covers_what_empty_files_take(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"empty{number}").touch()
    assert size_of_files(str(tmp_path)) > 10 * 100
