"""The conformance suite of files: what every session does with them."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from greenroom.errors import FileMissing, FileRefused, InvalidRequest
from greenroom.progress import Progress, ProgressTask
from greenroom.sessions import Session
from greenroom.testing.suite import Suite


class FileSuite(Suite):
    """Files: uploads, downloads, lists and refusals."""

    def test_an_upload_is_there_for_the_code(self, shared: Session) -> None:
        uploaded = shared.upload(b"a,b\n1,2\n", "table.csv")
        assert (uploaded.path, uploaded.size) == ("/mnt/data/table.csv", 8)
        read = shared.execute("with open('/mnt/data/table.csv') as f:\n    content = f.read()\ncontent")
        assert read.result == r"'a,b\n1,2\n'"

    def test_a_local_file_keeps_its_name(self, shared: Session, tmp_path: Path) -> None:
        local = tmp_path / "sales 2024.csv"
        local.write_bytes(b"x")
        assert shared.upload(local).path == "/mnt/data/sales 2024.csv"
        assert shared.upload(str(local), "renamed.csv").path == "/mnt/data/renamed.csv"
        with local.open("rb") as file:
            assert shared.upload(file).path == "/mnt/data/sales 2024.csv"

    def test_files_written_by_the_code_can_be_downloaded(self, shared: Session) -> None:
        shared.execute("with open('/mnt/data/out.bin', 'wb') as f:\n    _ = f.write(bytes(range(256)))")
        assert shared.download("out.bin") == bytes(range(256))

    def test_a_file_whose_name_is_not_utf_8_goes_by_the_listed_name(self, session: Session) -> None:
        session.execute("with open('/mnt/data/caf\\udce9.csv', 'w') as f: _ = f.write('old')")
        assert [file.path for file in session.files()] == ["/mnt/data/caf\\xe9.csv"]
        assert session.download("caf\\xe9.csv") == b"old"
        session.upload(b"new", "caf\\xe9.csv")
        read = session.execute("with open('/mnt/data/caf\\udce9.csv') as f:\n    content = f.read()\nprint(content)")
        assert read.stdout == "new\n"
        session.delete_file("caf\\xe9.csv")
        assert session.files() == []

    def test_a_download_can_go_to_a_local_file(self, shared: Session, tmp_path: Path) -> None:
        shared.upload(b"content", "a.txt")
        target = shared.download("a.txt", tmp_path / "local.txt")
        assert target.read_bytes() == b"content"
        assert list(tmp_path.iterdir()) == [target]

    def test_a_download_that_fails_leaves_no_local_file(self, shared: Session, tmp_path: Path) -> None:
        with pytest.raises(FileMissing):
            shared.download("missing.txt", tmp_path / "local.txt")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("size", [5, 3 << 20])
    def test_a_download_over_the_callers_limit_is_refused_whole(
        self, shared: Session, tmp_path: Path, size: int
    ) -> None:
        shared.upload(bytes(size), "a.bin")
        assert shared.download("a.bin", limit=size) == bytes(size)
        with pytest.raises(FileRefused, match=rf"over the limit of {size - 1:,} bytes.*a\.bin"):
            shared.download("a.bin", limit=size - 1)
        with pytest.raises(FileRefused, match="over the limit"):
            shared.download("a.bin", tmp_path / "local.bin", limit=size - 1)
        assert list(tmp_path.iterdir()) == []
        assert shared.download("a.bin", tmp_path / "local.bin", limit=size).stat().st_size == size

    def test_a_large_file_comes_back_as_it_was(self, session: Session) -> None:
        content = bytes(range(256)) * (12 << 12)
        session.upload(io.BytesIO(content), "large.bin")
        assert session.download("large.bin") == content

    def test_an_upload_replaces_a_file_of_the_same_name(self, shared: Session) -> None:
        shared.upload(b"one and more", "a.txt")
        shared.upload(b"two", "a.txt")
        assert shared.download("a.txt") == b"two"

    def test_names_can_contain_unicode_and_spaces(self, session: Session) -> None:
        name = "Größe & 売上 (1).csv"
        session.upload(b"x", name)
        assert [file.name for file in session.files()] == [name]
        assert session.download(name) == b"x"

    def test_uploads_make_the_directories_they_need(self, shared: Session) -> None:
        shared.upload(b"x", "a/b/c.txt")
        assert shared.download("/mnt/data/a/b/c.txt") == b"x"

    def test_a_list_has_names_sizes_and_times(self, session: Session) -> None:
        session.upload(b"12345", "five.txt")
        session.upload(b"1", "directory/one.txt")
        directory, five = session.files()
        assert (directory.name, directory.is_directory) == ("directory", True)
        assert (five.name, five.size, five.is_directory) == ("five.txt", 5, False)
        assert abs(datetime.now(UTC) - five.modified) < timedelta(minutes=5)

    def test_a_recursive_list_has_what_is_below(self, session: Session) -> None:
        session.upload(b"1", "directory/one.txt")
        assert [file.name for file in session.files(recursive=True)] == ["directory", "directory/one.txt"]
        assert [file.name for file in session.files("directory")] == ["directory/one.txt"]

    def test_metadata_of_one_file(self, shared: Session) -> None:
        shared.upload(b"123", "a.txt")
        assert shared.file("a.txt").size == 3
        with pytest.raises(FileMissing, match=r"b\.txt"):
            shared.file("b.txt")

    def test_a_file_can_be_deleted(self, session: Session) -> None:
        session.upload(b"x", "a.txt")
        session.delete_file("a.txt")
        assert session.files() == []
        with pytest.raises(FileMissing):
            session.delete_file("a.txt")

    def test_an_execution_lists_the_files_that_it_wrote(self, shared: Session) -> None:
        shared.upload(b"x", "old.txt")
        execution = shared.execute("f = open('/mnt/data/new.txt', 'w')\n_ = f.write('abc')\nf.close()")
        assert [(file.name, file.size) for file in execution.files] == [("new.txt", 3)]
        assert shared.execute("1").files == ()

    async def test_files_have_asynchronous_spellings(self, session: Session, tmp_path: Path) -> None:
        await session.aupload(b"x", "a.txt")
        assert await session.adownload("a.txt") == b"x"
        assert (await session.adownload("a.txt", tmp_path / "a")).read_bytes() == b"x"
        with pytest.raises(FileRefused):
            await session.adownload("a.txt", limit=0)
        assert [file.name for file in await session.afiles()] == ["a.txt"]
        assert (await session.afile("a.txt")).size == 1
        await session.adelete_file("a.txt")
        assert await session.afiles() == []

    def test_a_transfer_reports_its_progress(self, session: Session, tmp_path: Path) -> None:
        content = bytes(range(256)) * (9 << 12)
        (tmp_path / "large.bin").write_bytes(content)
        seen: list[Progress] = []
        session.upload(tmp_path / "large.bin", on_progress=seen.append)
        assert_progress(seen, "upload", "large.bin", len(content))
        assert {each.total for each in seen} == {len(content)}
        seen.clear()
        assert session.download("large.bin", on_progress=seen.append) == content
        assert_progress(seen, "download", "large.bin", len(content))
        seen.clear()
        session.download("large.bin", tmp_path / "back.bin", on_progress=seen.append)
        assert_progress(seen, "download", "large.bin", len(content))

    def test_a_directory_reports_its_progress_as_a_whole(self, session: Session, tmp_path: Path) -> None:
        for name, size in (("a", 3 << 20), ("b/c", 5 << 20), ("b/empty", 0)):
            (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "d" / name).write_bytes(bytes(size))
        seen: list[Progress] = []
        session.upload(tmp_path / "d", on_progress=seen.append)
        assert_progress(seen, "upload", "d", 8 << 20)
        assert {each.total for each in seen} == {8 << 20}
        seen.clear()
        session.download("d", tmp_path / "back", on_progress=seen.append)
        assert_progress(seen, "download", "d", 8 << 20)

    def test_a_transfer_ends_when_its_progress_function_raises(self, session: Session, tmp_path: Path) -> None:
        def give_up(progress: Progress) -> None:
            if progress.done:
                raise ConnectionError(f"enough after {progress.done}")

        session.upload(b"old", "a.bin")
        with pytest.raises(ConnectionError, match="enough"):
            session.download("a.bin", tmp_path / "local.bin", on_progress=give_up)
        session.upload(bytes(1 << 20), "large.bin")
        with pytest.raises(ConnectionError, match="enough"):
            session.upload(io.BytesIO(bytes(64 << 20)), "a.bin", on_progress=give_up)
        assert session.file("a.bin").size in {3, 64 << 20}, "whole, or not at all"
        assert [file.name for file in session.files()] == ["a.bin", "large.bin"]

    def test_files_work_while_code_runs(self, session: Session) -> None:
        events = session.stream("import time\nprint('begun')\ntime.sleep(30)")
        next(events)
        session.upload(b"x", "a.txt")
        assert session.download("a.txt") == b"x"
        events.close()

    # Directories

    def test_a_directory_goes_in_and_comes_back(self, session: Session, tmp_path: Path) -> None:
        local = tmp_path / "reports"
        contents = {"a.csv": b"1,2", ".hidden": b"h", "2024/Größe 売上.txt": b"", "2024/q1/deep.bin": bytes(300_000)}
        for name, content in contents.items():
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (local / name).write_bytes(content)
        (local / "empty").mkdir()
        (local / "link").symlink_to(local / "a.csv")
        (local / "outside").symlink_to("/etc")
        uploaded = session.upload(f"{local}/")
        assert (uploaded.path, uploaded.is_directory, uploaded.size) == ("/mnt/data/reports", True, 300_004)
        files = [file.name for file in session.files(recursive=True) if not file.is_directory]
        assert files == sorted(f"reports/{name}" for name in contents)
        target = session.download("reports", tmp_path / "back")
        assert target == tmp_path / "back"
        assert {
            str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()
        } == contents
        assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "reports"]

    def test_a_directory_can_go_to_and_come_from_any_place(self, session: Session, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d/x").write_bytes(b"1")
        session.upload(tmp_path / "d", "/mnt/data")
        session.upload(tmp_path / "d", "other/place")
        assert session.download("x") == session.download("other/place/x") == b"1"
        (tmp_path / "empty").mkdir()
        whole = session.download("/mnt/data", tmp_path / "empty")
        assert sorted(str(path.relative_to(whole)) for path in whole.rglob("*")) == [
            "other",
            "other/place",
            "other/place/x",
            "x",
        ]

    def test_a_directory_over_a_limit_is_refused_whole(self, session: Session, tmp_path: Path) -> None:
        for name in ("d/a", "d/b"):
            session.upload(bytes(10), name)
        with pytest.raises(FileRefused, match="directory is over the limit of 19 bytes"):
            session.download("d", tmp_path / "local", limit=19)
        assert list(tmp_path.iterdir()) == []
        assert len(list(session.download("d", tmp_path / "local", limit=20).iterdir())) == 2

    def test_a_directory_does_not_replace_what_is_there(self, session: Session, tmp_path: Path) -> None:
        session.upload(b"new", "d/a")
        (tmp_path / "local").mkdir()
        (tmp_path / "local/mine").write_bytes(b"kept")
        (tmp_path / "file").write_bytes(b"kept")
        for name in ("local", "file", "absent/local"):
            with pytest.raises(FileRefused):
                session.download("d", tmp_path / name)
        with pytest.raises(FileRefused, match="is a directory"):
            session.download("d/a", tmp_path / "local")
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "local", "mine"]

    def test_a_directory_that_cannot_be_uploaded_is_named(self, session: Session, tmp_path: Path) -> None:
        (tmp_path / "none/at/all").mkdir(parents=True)
        with pytest.raises(InvalidRequest, match="none' must contain at least one file"):
            session.upload(tmp_path / "none")
        (tmp_path / "none/a").write_bytes(b"x")
        with pytest.raises(InvalidRequest, match="path"):
            session.upload(tmp_path / "none", "../outside")
        assert session.files() == []

    # Refusals

    @pytest.mark.parametrize(
        "path", ["../etc/passwd", "/etc/passwd", "a/../../x", "/mnt/database", "", "/mnt/data", "a\0b"]
    )
    def test_a_path_outside_is_refused_by_name(self, shared: Session, path: str) -> None:
        with pytest.raises(InvalidRequest, match="path"):
            shared.download(path)
        with pytest.raises(InvalidRequest, match="path"):
            shared.upload(b"x", path)
        with pytest.raises(InvalidRequest, match="path"):
            shared.delete_file(path)

    def test_a_missing_file_is_named(self, shared: Session) -> None:
        with pytest.raises(FileMissing, match=r"/mnt/data/missing\.txt"):
            shared.download("missing.txt")
        with pytest.raises(FileMissing):
            shared.files("no/such/directory")

    def test_a_directory_is_not_a_file(self, shared: Session) -> None:
        shared.upload(b"x", "directory/a.txt")
        with pytest.raises(FileRefused, match="directory"):
            shared.download("directory")
        with pytest.raises(FileRefused, match="directory"):
            shared.upload(b"x", "directory")
        with pytest.raises(FileRefused, match="not empty"):
            shared.delete_file("directory")

    def test_a_local_file_that_cannot_be_read_is_named(self, shared: Session, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"absent\.csv"):
            shared.upload(tmp_path / "absent.csv")

    def test_an_upload_that_breaks_off_leaves_nothing(self, session: Session) -> None:
        class Broken(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > 300_000:
                    raise ConnectionError("gone")
                return super().read(size)

        session.upload(b"old", "a.bin")
        with pytest.raises(ConnectionError):
            session.upload(Broken(bytes(2_000_000)), "a.bin")
        assert session.download("a.bin") == b"old"
        assert [file.name for file in session.files()] == ["a.bin"]

    def test_symbolic_links_lead_nowhere(self, session: Session) -> None:
        session.execute("import os\nos.symlink('/etc', '/mnt/data/out')\nos.symlink('/etc/passwd', '/mnt/data/file')")
        with pytest.raises(FileRefused):
            session.download("file")
        with pytest.raises(FileRefused):
            session.download("out/passwd")
        with pytest.raises(FileRefused):
            session.upload(b"x", "out/new")
        session.upload(b"mine", "file")  # replaces the link
        assert session.download("file") == b"mine"

    def test_a_directory_comes_without_links_devices_and_pipes(self, session: Session, tmp_path: Path) -> None:
        session.execute(
            "import os\nos.mkdir('/mnt/data/d')\nos.symlink('/etc', '/mnt/data/d/etc')\n"
            "os.symlink('/etc/passwd', '/mnt/data/d/passwd')\nos.mkfifo('/mnt/data/d/pipe')\n"
            "os.symlink('nothing', '/mnt/data/d/dangling')\nopen('/mnt/data/d/kept', 'w').close()"
        )
        assert [path.name for path in session.download("d", tmp_path / "d").iterdir()] == ["kept"]

    def test_devices_and_pipes_do_not_block(self, session: Session) -> None:
        session.execute("import os\nos.mkfifo('/mnt/data/pipe')\nos.symlink('/dev/zero', '/mnt/data/zero')")
        with pytest.raises(FileRefused):
            session.download("pipe")
        with pytest.raises(FileRefused):
            session.download("zero")


def assert_progress(seen: list[Progress], task: ProgressTask, label: str, size: int) -> None:
    """Check the progress that a successful transfer reported."""
    assert {(each.task, each.label, each.unit) for each in seen} == {(task, label, "bytes")}
    counts = [each.done for each in seen]
    assert counts == sorted(counts)
    assert {each.total for each in seen} <= {None, size}
    assert (counts[-1], seen[-1].total) == (size, size)
