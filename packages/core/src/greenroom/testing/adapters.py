"""What every adapter to a framework does, whatever the framework calls it."""

from __future__ import annotations

import asyncio
import base64
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal
from uuid import uuid4

import pytest

from greenroom.adapters import TOOLS, describe_run_python
from greenroom.errors import EngineUnavailable, InvalidRequest, PoolClosed, PoolFull, SandboxLost
from greenroom.models import Execution, ExecutionError, Output
from greenroom.sessions import Session, SessionPool
from greenroom.testing.memory import memory_pool
from greenroom.testing.scripted import ENDLESS_CODE, ScriptedBackend, scripted_pool, wait_until
from greenroom.testing.suite import Suite

_PNG = b"\x89PNG\r\n\x1a\n and the rest of a picture"
_JPEG = b"\xff\xd8\xff and the rest of another"
_SVG = b"<svg/>"


@dataclass(frozen=True)
class ToolDescription:
    """What a model is told about a tool."""

    text: str
    parameters: Mapping[str, Mapping[str, Any]]
    """The JSON schema of each parameter, by name."""


@dataclass(frozen=True)
class ToolResult:
    """What came of a call, taken out of the framework's form."""

    text: str
    """Everything that the model reads."""
    failed: bool | None
    """Whether the framework's result is marked as a failure; `None` where a framework has no such mark."""
    figures: tuple[tuple[str, bytes], ...] = ()
    """What the model sees: mime types and contents."""
    execution: Execution | None = None
    """What the application gets of `run_python`."""
    download: tuple[str, bytes] | None = None
    """What the application gets of `download_file`: mime type and content."""


class AdapterDriver(ABC):
    """Uses the tools of an adapter as its framework does; a few lines for each framework."""

    shows_figures: ClassVar[bool] = True
    """Whether results of tools can carry pictures in this framework."""

    @abstractmethod
    def __init__(self, **options: Any) -> None:
        """Make the tools, with the options that all adapters know: `pool`, `session`, `session_per_call`,
        `uploads`, `timeout` and `budget`. Figures are shown to the model where they can be."""

    @abstractmethod
    def tools(self) -> Mapping[str, ToolDescription]:
        """What a model is told, by the tool's name."""

    @abstractmethod
    async def call(self, conversation: str | None, tool: str, /, **arguments: str) -> ToolResult:
        """Call a tool from a conversation; `None` stands for a call of which nobody says whose it is.

        It raises what the adapter raises, without the framework's wrapping.
        """

    @abstractmethod
    def session(self, conversation: str) -> Session:
        """The session of a conversation, as an application gets it."""

    async def run(self, conversation: str | None, code: str) -> ToolResult:
        """Call `run_python`."""
        return await self.call(conversation, "run_python", code=code)


class AdapterSuite(Suite):
    """An adapter's tools: what they are, whose session they work in, what the model and the application get.

    Other integrations of code sandboxes have faults; the tests that begin with `test_no_` keep them away.

    A subject has a driver; its pool may be one of real sandboxes::

        class TestAdapter(AdapterSuite):
            driver = MyDriver
    """

    driver: ClassVar[type[AdapterDriver]]

    not_for_blocking_calls: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "test_a_cancelled_call_interrupts_its_code_and_keeps_the_session",
            "test_a_session_per_call_is_deleted_when_its_call_is_cancelled",
            "test_no_call_blocks_the_loop_or_takes_a_thread",
        ),
        "a blocking call takes its thread and cannot be cancelled",
    )
    """`not_run` of a subject whose driver puts blocking calls into threads."""

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        """Where the code of these tests runs."""
        with memory_pool() as pool:
            yield pool

    @pytest.fixture(autouse=True)
    def leaves_no_session(self, pool: SessionPool) -> Iterator[None]:
        """Delete what a test has begun."""
        before = {info.identifier for info in pool.sessions()}
        yield
        for identifier in {info.identifier for info in pool.sessions()} - before:
            pool.session(identifier).delete()

    @pytest.fixture
    def adapter(self, pool: SessionPool, uploads: Path) -> AdapterDriver:
        """The subject, with the defaults and a directory to upload from."""
        return self.driver(pool=pool, uploads=uploads)

    @pytest.fixture
    def ann(self) -> str:
        """A conversation."""
        return f"ann-{uuid4().hex}"

    @pytest.fixture
    def bob(self) -> str:
        """Another."""
        return f"bob-{uuid4().hex}"

    @pytest.fixture
    def uploads(self, tmp_path: Path) -> Path:
        """A directory that holds `sales.csv`, beside a file that is nobody's business."""
        directory = tmp_path / "uploads"
        directory.mkdir()
        (directory / "sales.csv").write_bytes(b"month,sales\n1,10\n")
        (tmp_path / "secret.txt").write_text("secret")
        return directory

    @pytest.fixture
    def backend(self) -> ScriptedBackend:
        """What the scripted pool says."""
        return ScriptedBackend()

    @pytest.fixture
    def scripted(self, backend: ScriptedBackend) -> Iterator[AdapterDriver]:
        """The subject over a pool that does as it is told."""
        with scripted_pool(backend) as pool:
            yield self.driver(pool=pool)

    # What a model is told

    def test_the_tools_are_the_same_in_every_framework(self, adapter: AdapterDriver) -> None:
        told = {name: tool.text for name, tool in adapter.tools().items()}
        assert told == {**TOOLS, "run_python": describe_run_python(figures_seen=self.driver.shows_figures)}

    def test_no_schema_leaks_internal_parameters(self, adapter: AdapterDriver) -> None:
        assert {name: set(tool.parameters) for name, tool in adapter.tools().items()} == {
            "run_python": {"code"},
            "list_files": {"directory"},
            "read_file": {"path"},
            "download_file": {"path"},
            "upload_file": {"name"},
        }
        for tool in adapter.tools().values():
            for schema in tool.parameters.values():
                assert schema["type"] == "string"
                assert schema["description"]

    def test_what_cannot_work_is_not_offered(self, pool: SessionPool, uploads: Path) -> None:
        assert set(self.driver(pool=pool).tools()) == set(TOOLS) - {"upload_file"}
        assert set(self.driver(pool=pool, session_per_call=True).tools()) == {"run_python"}
        with pytest.raises(ValueError, match="goes without uploads"):
            self.driver(pool=pool, session_per_call=True, uploads=uploads)

    def test_a_model_is_told_whether_its_variables_last(self, adapter: AdapterDriver, pool: SessionPool) -> None:
        assert "are kept from call to call" in adapter.tools()["run_python"].text
        text = self.driver(pool=pool, session_per_call=True).tools()["run_python"].text
        assert "Each call starts afresh" in text
        assert "are kept from" not in text

    # Whose session a call works in

    async def test_variables_and_files_last_as_long_as_the_conversation(self, adapter: AdapterDriver, ann: str) -> None:
        await adapter.run(ann, "x = 41\nwith open('/mnt/data/a.txt', 'w') as f:\n    n = f.write('kept')")
        result = await adapter.run(ann, "with open('/mnt/data/a.txt') as f:\n    print(f.read(), x + 1)")
        assert result.text == "stdout:\nkept 42"
        assert (await adapter.call(ann, "read_file", path="a.txt")).text == "kept"

    async def test_no_two_conversations_share_a_session(self, adapter: AdapterDriver, ann: str, bob: str) -> None:
        await adapter.run(ann, "secret = 42\nwith open('/mnt/data/a.txt', 'w') as f:\n    n = f.write('secret')")
        assert "NameError" in (await adapter.run(bob, "secret")).text
        assert (await adapter.call(bob, "list_files")).text == "There are no files."
        assert (await adapter.run(ann, "secret")).text == "result:\n42"

    async def test_conversations_run_at_the_same_time(self, adapter: AdapterDriver, ann: str) -> None:
        async def converse(name: str) -> str:
            await adapter.run(name, f"me = {name!r}\nimport time\ntime.sleep(0.1)")
            return (await adapter.run(name, "print(me, end='')")).text

        names = [f"{ann}-{number}" for number in range(5)]
        assert await asyncio.gather(*map(converse, names)) == [f"stdout:\n{name}" for name in names]

    async def test_calls_of_one_conversation_at_once_share_its_session(self, adapter: AdapterDriver, ann: str) -> None:
        await asyncio.gather(*(adapter.run(ann, f"x{number} = {number}") for number in range(4)))
        assert (await adapter.run(ann, "x0 + x1 + x2 + x3")).text == "result:\n6"

    async def test_a_conversation_is_found_again_by_other_tools_over_the_pool(
        self, adapter: AdapterDriver, pool: SessionPool, ann: str
    ) -> None:
        await adapter.run(ann, "x = 7")
        assert (await self.driver(pool=pool).run(ann, "x")).text == "result:\n7"

    async def test_no_name_of_a_conversation_injects_a_parameter_or_is_taken_for_another(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        names = ["a", "A", "a&x=1", "../a", "a b", "Grüße", "x" * 1000, "\n"]
        for name in names:
            await scripted.run(name, "1")
        assert len(set(backend.identifiers)) == len(names)
        assert set("".join(backend.identifiers)) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-~")

    async def test_the_application_works_in_the_same_session(self, adapter: AdapterDriver, ann: str) -> None:
        await adapter.session(ann).aupload(b"from the application", "notes.txt")
        assert (await adapter.call(ann, "read_file", path="notes.txt")).text == "from the application"

    async def test_deleting_a_session_is_one_call(self, adapter: AdapterDriver, ann: str, bob: str) -> None:
        await adapter.run(ann, "x = 1")
        await adapter.run(bob, "x = 2")
        await adapter.session(ann).adelete()
        assert "NameError" in (await adapter.run(ann, "x")).text
        assert (await adapter.run(bob, "x")).text == "result:\n2"

    async def test_no_session_outlives_its_conversation(
        self, adapter: AdapterDriver, pool: SessionPool, ann: str
    ) -> None:
        async with adapter.session(ann) as session:
            await adapter.run(ann, "1")
            assert session.identifier in {info.identifier for info in await pool.asessions()}
        assert session.identifier not in {info.identifier for info in await pool.asessions()}

    async def test_without_a_conversation_a_call_is_refused_instead_of_shared(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        for conversation in (None, ""):
            with pytest.raises(InvalidRequest, match="names no conversation"):
                await scripted.run(conversation, "1")
            with pytest.raises(InvalidRequest, match="names no conversation"):
                await scripted.call(conversation, "list_files")
        assert backend.runs == []

    async def test_a_fixed_session_serves_every_call(
        self, pool: SessionPool, session: Session, ann: str, bob: str
    ) -> None:
        adapter = self.driver(session=session)
        await adapter.run(ann, "x = 1")
        await adapter.run(None, "x += 1")
        assert (await adapter.run(bob, "x")).text == "result:\n2"
        assert adapter.session(bob).identifier == session.identifier

    async def test_a_session_per_call_is_new_and_deleted_after_it(self, pool: SessionPool, ann: str) -> None:
        adapter = self.driver(pool=pool, session_per_call=True)
        before = {info.identifier for info in await pool.asessions()}
        await adapter.run(ann, "x = 1")
        assert "NameError" in (await adapter.run(ann, "x")).text
        assert (await adapter.run(None, "2")).text == "result:\n2"
        assert {info.identifier for info in await pool.asessions()} <= before
        with pytest.raises(InvalidRequest, match="ends with its call"):
            adapter.session(ann)

    async def test_a_session_per_call_is_deleted_when_its_call_cannot_be_served(self, backend: ScriptedBackend) -> None:
        backend.answer = PoolFull("full", sessions=1)
        with scripted_pool(backend) as pool, pytest.raises(PoolFull):
            await self.driver(pool=pool, session_per_call=True).run(None, "1")
        assert backend.deleted == backend.identifiers

    async def test_a_session_per_call_is_deleted_when_its_call_is_cancelled(self, backend: ScriptedBackend) -> None:
        with scripted_pool(backend) as pool:
            adapter = self.driver(pool=pool, session_per_call=True)
            running = asyncio.create_task(adapter.run(None, ENDLESS_CODE))
            await wait_until(lambda: bool(backend.runs))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert backend.deleted == backend.identifiers
        assert len(backend.deleted) == 1

    def test_options_that_make_no_sense_are_refused_at_once(self, pool: SessionPool, tmp_path: Path) -> None:
        nonsense: list[dict[str, Any]] = [
            {},
            {"pool": pool, "session": pool.session()},
            {"session": pool.session(), "session_per_call": True},
            {"pool": pool, "uploads": tmp_path / "nowhere"},
            {"pool": pool, "budget": 0},
            *({"pool": pool, "timeout": timeout} for timeout in (0, -1, float("inf"), float("nan"), 1e6)),
        ]
        for options in nonsense:
            with pytest.raises(ValueError, match=r"Pass either|from a pool|director|budget|timeout"):
                self.driver(**options)

    # Executions

    async def test_the_text_is_the_one_made_for_models(self, adapter: AdapterDriver, ann: str) -> None:
        result = await adapter.run(ann, "print('shown')\n6 * 7")
        assert result.execution is not None
        assert (result.execution.stdout, result.execution.result) == ("shown\n", "42")
        assert result.text == result.execution.text_for_model()
        assert not result.failed

    async def test_code_that_fails_can_be_mended(self, adapter: AdapterDriver, ann: str) -> None:
        result = await adapter.run(ann, "print('so far')\nx = undefined")
        assert result.failed is not False
        assert result.text.startswith("The code failed.")
        assert "so far" in result.text
        assert "NameError: name 'undefined' is not defined" in result.text
        assert result.execution is not None
        assert result.execution.status == "failed"
        assert (await adapter.run(ann, "x = 'mended'\nx")).text == "result:\n'mended'"

    @pytest.mark.parametrize("status", ["failed", "timed_out", "cancelled"])
    async def test_no_failure_looks_like_a_success(
        self, scripted: AdapterDriver, backend: ScriptedBackend, status: Literal["failed", "timed_out", "cancelled"]
    ) -> None:
        error = ExecutionError("Error", "it broke")
        backend.answer = Execution("1", status, stdout="fine so far\n", error=error)
        result = await scripted.run("ann", "1")
        assert result.failed is not False
        assert not result.text.startswith("stdout")
        assert "it broke" in result.text
        assert result.execution == backend.answer

    async def test_a_warning_is_no_failure(self, scripted: AdapterDriver, backend: ScriptedBackend) -> None:
        backend.answer = Execution("1", "succeeded", stderr="careful\n")
        result = await scripted.run("ann", "1")
        assert (result.failed or False, result.text) == (False, "stderr:\ncareful")

    async def test_what_is_no_code_is_the_models_to_mend(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        for code in ("", " \n", "```python\n```", "\ud800"):
            result = await scripted.run("ann", code)
            assert result.failed is not False
            assert result.text.startswith("The code")
            assert result.execution is None
        assert backend.runs == []

    @pytest.mark.parametrize("fence", ["```", "```py", "```python"])
    async def test_no_fence_becomes_code(self, adapter: AdapterDriver, ann: str, fence: str) -> None:
        assert (await adapter.run(ann, f"{fence}\nprint('```')\n```")).text == "stdout:\n```"

    async def test_no_clean_up_mangles_code(self, scripted: AdapterDriver, backend: ScriptedBackend) -> None:
        codes = ["python_version = 3", "py = 1\npy", "  x = `1`", "s = '''\n```py\n1\n```\n'''", "```python\nx"]
        for code in codes:
            await scripted.run("ann", code)
        assert backend.codes == codes

    async def test_a_text_keeps_to_its_budget(self, pool: SessionPool, ann: str) -> None:
        adapter = self.driver(pool=pool, budget=300)
        result = await adapter.run(
            ann, "print('word ' * 10_000)\nwith open('long.txt', 'w') as f: f.write('x' * 9_000)"
        )
        read = await adapter.call(ann, "read_file", path="long.txt")
        for text in (result.text, read.text):
            assert len(text) <= 300
            assert "characters left out" in text
        assert result.execution is not None
        assert len(result.execution.stdout) == 50_001

    async def test_a_timeout_ends_the_code_and_not_the_session(
        self, adapter: AdapterDriver, pool: SessionPool, ann: str
    ) -> None:
        await adapter.run(ann, "x = 5")
        result = await self.driver(pool=pool, timeout=0.5).run(ann, ENDLESS_CODE)
        assert result.failed is not False
        assert result.execution is not None
        assert result.execution.status == "timed_out"
        assert (await adapter.run(ann, "x")).text == "result:\n5"

    async def test_no_limit_on_time_but_the_callers(self, backend: ScriptedBackend) -> None:
        with scripted_pool(backend) as pool:
            await self.driver(session=pool.session()).run(None, "1")
            await self.driver(session=pool.session(timeout=100)).run(None, "1")
            await self.driver(session=pool.session(timeout=100), timeout=7).run(None, "1")
        assert backend.timeouts == [None, 100, 7]

    async def test_a_cancelled_call_interrupts_its_code_and_keeps_the_session(
        self, adapter: AdapterDriver, pool: SessionPool, ann: str
    ) -> None:
        await adapter.run(ann, "x = 7")
        code = f"with open('begun', 'w') as f: pass\n{ENDLESS_CODE}"
        running = asyncio.create_task(adapter.run(ann, code))
        async with asyncio.timeout(30):
            while not await adapter.session(ann).afiles():  # noqa: ASYNC110  another process begins
                await asyncio.sleep(0.02)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert (await adapter.run(ann, "x")).text == "result:\n7"

    async def test_no_call_blocks_the_loop_or_takes_a_thread(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        running = [asyncio.create_task(scripted.run(f"user-{number}", ENDLESS_CODE)) for number in range(50)]
        await wait_until(lambda: len(backend.runs) == 50)  # more than a default executor has threads
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await wait_until(lambda: len(backend.interrupted) == 50)

    async def test_no_program_is_logged(
        self, scripted: AdapterDriver, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        await scripted.run("ann", "password = 'hunter2'")
        assert len(backend.runs) == 1
        assert "hunter2" not in caplog.text

    # Figures

    async def test_no_figure_is_stripped_or_shown_as_text(self, adapter: AdapterDriver, ann: str) -> None:
        code = _shows({"image/png": _encoded(_PNG)}, {"image/jpeg": _encoded(_JPEG)}, {"image/svg+xml": _SVG.decode()})
        result = await adapter.run(ann, code)
        assert result.execution is not None
        assert [(image.mime, image.data) for image in result.execution.images] == [
            ("image/png", _PNG),
            ("image/jpeg", _JPEG),
            ("image/svg+xml", _SVG),
        ]
        assert result.text == "figures:\nfigure-1.png, figure-2.jpg, figure-3.svg"  # and no base64
        seen = (("image/png", _PNG), ("image/jpeg", _JPEG))
        assert result.figures == (seen if self.driver.shows_figures else ())

    async def test_figures_of_code_that_fails_are_kept(self, adapter: AdapterDriver, ann: str) -> None:
        result = await adapter.run(ann, _shows({"image/png": _encoded(_PNG)}) + "\nundefined")
        assert result.failed is not False
        assert "figure-1.png" in result.text
        assert bool(result.figures) == self.driver.shows_figures

    async def test_a_picture_that_is_none_reaches_no_model(self, adapter: AdapterDriver, ann: str) -> None:
        code = _shows({"image/png": _encoded(b"no picture")}, {"image/png": "no base64"}, {"image/webp": "Grüße"})
        result = await adapter.run(ann, code)
        assert result.figures == ()
        assert result.execution is not None
        assert result.execution.images == ()

    async def test_no_number_or_size_of_figures_makes_a_provider_refuse_the_conversation(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        pictures = [_PNG + bytes(4_000_000), *(_PNG + str(number).encode() for number in range(30))]
        outputs = tuple(Output({"image/png": _encoded(picture)}) for picture in pictures)
        backend.answer = Execution("1", "succeeded", outputs=outputs)
        result = await scripted.run("ann", "plot()")
        assert "figure-1.png, figure-2.png" in result.text
        assert "figure-31.png" in result.text
        assert [data for _, data in result.figures] == (pictures[1:11] if self.driver.shows_figures else [])
        assert result.execution is not None
        assert [image.data for image in result.execution.images] == pictures

    # Files

    async def test_the_model_lists_all_files_with_their_sizes(self, adapter: AdapterDriver, ann: str) -> None:
        assert (await adapter.call(ann, "list_files")).text == "There are no files."
        await adapter.session(ann).aupload(b"12345", "a.csv")
        await adapter.session(ann).aupload(b"1", "charts/b.png")
        everything = "/mnt/data/a.csv (5 bytes)\n/mnt/data/charts/b.png (1 bytes)"
        assert (await adapter.call(ann, "list_files")).text == everything
        assert (await adapter.call(ann, "list_files", directory="charts")).text == "/mnt/data/charts/b.png (1 bytes)"

    @pytest.mark.parametrize(
        ("content", "text", "mendable"),
        [
            ("größer".encode(), "größer", False),
            (b"", "The file is empty.", False),
            (_PNG, "is not a text file in UTF-8", True),
            (bytes((1 << 20) + 1), "is over the limit of 1048576 bytes", True),
        ],
        ids=["text", "empty", "binary", "large"],
    )
    async def test_the_model_reads_a_text_file(
        self, adapter: AdapterDriver, ann: str, content: bytes, text: str, mendable: bool
    ) -> None:
        await adapter.session(ann).aupload(content, "file")
        result = await adapter.call(ann, "read_file", path="file")
        assert text in result.text
        assert result.failed in {mendable, None}

    async def test_the_model_hands_over_a_file_as_bytes_with_a_mime_type(
        self, adapter: AdapterDriver, ann: str
    ) -> None:
        await adapter.session(ann).aupload(_PNG, "charts/trend.png")
        result = await adapter.call(ann, "download_file", path="/mnt/data/charts/trend.png")
        assert result.text == f"The user has /mnt/data/charts/trend.png ({len(_PNG)} bytes)."
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
        assert "is over the limit of 20971520 bytes" in result.text

    async def test_a_file_that_grows_after_its_size_was_asked_is_refused(
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

    @pytest.mark.parametrize("path", ["missing.csv", "../etc/passwd", "/etc/passwd", "", "a\0b"])
    async def test_a_path_without_a_file_is_the_models_to_mend(
        self, adapter: AdapterDriver, ann: str, path: str
    ) -> None:
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
            assert result.text.startswith("The user has provided no file")
            assert result.text.endswith("There are: sales.csv.")
        assert await adapter.session(ann).afiles() == []

    # What no model can mend

    async def test_no_advice_of_a_full_pool_is_dropped(self, ann: str, bob: str) -> None:
        with memory_pool(max_concurrent_sessions=1, ready_session_instances=0, acquire_timeout=0.1) as pool:
            adapter = self.driver(pool=pool)
            await adapter.run(ann, "1")
            with pytest.raises(PoolFull, match="1 of 1 sessions") as caught:
                await adapter.run(bob, "1")
            assert caught.value.retry_after is not None
            with pytest.raises(PoolFull):
                await adapter.call(bob, "list_files")
            assert (await adapter.run(ann, "2")).text == "result:\n2"

    @pytest.mark.parametrize("error", [EngineUnavailable("Start Docker."), PoolClosed("The pool is closed.")], ids=repr)
    async def test_what_no_model_can_mend_is_raised(
        self, scripted: AdapterDriver, backend: ScriptedBackend, error: Exception
    ) -> None:
        backend.answer = error
        with pytest.raises(type(error)) as caught:
            await scripted.run("ann", "1")
        assert caught.value is error

    async def test_a_lost_sandbox_is_a_result_as_the_next_call_begins_a_new_session(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        backend.answer = SandboxLost("The sandbox is lost; the next use of the identifier begins a new session.")
        result = await scripted.run("ann", "1")
        assert result.text == str(backend.answer)
        assert result.failed is not False
        assert result.execution is None


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _shows(*bundles: Mapping[str, str]) -> str:
    """Code that displays them."""
    return (
        "class Shown:\n"
        "    def __init__(self, bundle): self.bundle = bundle\n"
        "    def _repr_mimebundle_(self, **_): return self.bundle\n"
        f"for bundle in {bundles!r}: display(Shown(bundle))"
    )
