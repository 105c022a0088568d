"""Tests of the tools for files."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenroom.models import ContainerType
from greenroom.testing.adapters.base import AdapterSuiteBase
from greenroom.testing.adapters.driver import AdapterDriver
from greenroom.testing.scripted import ScriptedBackend, scripted_pool

_PNG = b"\x89PNG\r\n\x1a\n and the rest of a picture"


class FileTests(AdapterSuiteBase):
    """Listing, reading, downloading and uploading."""

    async def test_the_model_lists_all_files_with_their_sizes(self, adapter: AdapterDriver, ann: str) -> None:
        assert (await adapter.call(ann, "list_files")).text == "There are no files."
        await adapter.session(ann).aupload(b"12345", "a.csv")
        await adapter.session(ann).aupload(b"1", "charts/b.png")
        everything = "/mnt/data/a.csv (5 bytes)\n/mnt/data/charts/b.png (1 bytes)"
        assert (await adapter.call(ann, "list_files")).text == everything
        assert (await adapter.call(ann, "list_files", directory="charts")).text == "/mnt/data/charts/b.png (1 bytes)"

    @pytest.mark.parametrize(
        ("content", "text", "retryable"),
        [
            ("größer".encode(), "größer", False),
            (b"", "The file is empty.", False),
            (_PNG, "is not a UTF-8 text file", True),
            (bytes((1 << 20) + 1), "is over the limit of 1 MiB", True),
        ],
        ids=["text", "empty", "binary", "large"],
    )
    async def test_the_model_reads_a_text_file(
        self, adapter: AdapterDriver, ann: str, content: bytes, text: str, retryable: bool
    ) -> None:
        await adapter.session(ann).aupload(content, "file")
        result = await adapter.call(ann, "read_file", path="file")
        assert text in result.text
        assert result.failed in {retryable, None}

    @pytest.mark.parametrize(
        ("container_type", "means"),
        [(ContainerType.NODE_LTS, "JavaScript"), (ContainerType.SHELL, "a command")],
    )
    async def test_the_model_reads_any_other_file_with_the_language_of_the_container_type(
        self, container_type: ContainerType, means: str
    ) -> None:
        with scripted_pool(ScriptedBackend(container_type)) as pool:
            adapter = self.driver(pool=pool)
            assert adapter.tools()["read_file"].text.endswith(f"read that part with {means}.")
            await adapter.session("ann").aupload(_PNG, "binary")
            assert (await adapter.call("ann", "read_file", path="binary")).text.endswith(f"Read it with {means}.")
            await adapter.session("ann").aupload(bytes((1 << 20) + 1), "large")
            text = (await adapter.call("ann", "read_file", path="large")).text
            assert text.endswith(f"Read the part that you need with {means}.")

    async def test_the_model_hands_over_a_file_as_bytes_with_a_mime_type(
        self, adapter: AdapterDriver, ann: str
    ) -> None:
        await adapter.session(ann).aupload(_PNG, "charts/trend.png")
        result = await adapter.call(ann, "download_file", path="/mnt/data/charts/trend.png")
        assert result.text == f"/mnt/data/charts/trend.png ({len(_PNG)} bytes) was sent to the user."
        assert result.download == ("image/png", _PNG)
        assert not result.failed

    async def test_a_file_that_is_too_large_to_hand_over_is_not_fetched(
        self, scripted: AdapterDriver, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fetched(*_: object) -> None:
            raise AssertionError("the file was fetched")

        monkeypatch.setattr(backend, "download", fetched)
        await scripted.session("ann").aupload(bytes((20 << 20) + 1), "all.zip")
        result = await scripted.call("ann", "download_file", path="all.zip")
        assert "is over the limit of 20 MiB" in result.text

    async def test_a_file_that_grows_after_its_size_was_read_is_refused(
        self, scripted: AdapterDriver, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = backend.file

        async def as_before(identifier: str, path: str) -> object:
            return await file(identifier, f"{path}.before")

        session = scripted.session("ann")
        await session.aupload(b"small", "log.before")
        await session.aupload(bytes((1 << 20) + 1), "log")
        backend.contents[session.identifier]["/mnt/data/log.before.before"] = b"small"
        monkeypatch.setattr(backend, "file", as_before)
        assert "over the limit" in (await scripted.call("ann", "read_file", path="log")).text

    async def test_controls_in_a_file_are_visible(self, adapter: AdapterDriver, ann: str) -> None:
        await adapter.session(ann).aupload(b"a,b\r\n1,\x002\r\n", "nul.csv")
        assert (await adapter.call(ann, "read_file", path="nul.csv")).text.strip() == "a,b\n1,\\x002"

    @pytest.mark.parametrize("path", ["missing.csv", "../etc/passwd", "/etc/passwd", "", "a\0b"])
    async def test_a_wrong_path_is_a_retryable_tool_error(self, adapter: AdapterDriver, ann: str, path: str) -> None:
        for tool in ("read_file", "download_file"):
            result = await adapter.call(ann, tool, path=path)
            assert result.failed is not False
            assert "missing.csv" in result.text or "must" in result.text
            assert result.download is None
        outside = await adapter.call(ann, "list_files", directory="/etc")
        assert "The path must be below /mnt/data" in outside.text

    async def test_the_model_uploads_a_file_that_the_application_provides(
        self, adapter: AdapterDriver, ann: str
    ) -> None:
        result = await adapter.call(ann, "upload_file", name="sales.csv")
        assert result.text == "The file is at /mnt/data/sales.csv (17 bytes)."
        assert await adapter.session(ann).adownload("sales.csv") == b"month,sales\n1,10\n"

    @pytest.mark.parametrize(
        "name", ["../secret.txt", "secret.txt", "link.txt", "nested", "nested/../../secret.txt", ".", "", "\0"]
    )
    async def test_no_other_local_file_is_within_reach_of_the_model(
        self, adapter: AdapterDriver, uploads: Path, ann: str, name: str
    ) -> None:
        (uploads / "link.txt").symlink_to(uploads.parent / "secret.txt")
        (uploads / "nested").mkdir()
        for wanted in (name, str(uploads.parent / name) if name and name != "\0" else name):
            result = await adapter.call(ann, "upload_file", name=wanted)
            assert result.failed is not False
            assert result.text.startswith("The user did not provide a file")
            assert result.text.endswith("Provided: sales.csv.")
        assert await adapter.session(ann).afiles() == []
