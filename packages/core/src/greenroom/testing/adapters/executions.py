"""Tests of the results, for the model and the application, of code that ran, failed or could not run."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Literal

import pytest

from greenroom.adapters import CODE_TOOLS
from greenroom.errors import EngineUnavailable, PoolClosed, PoolFull, SandboxLost
from greenroom.models import ContainerType, Execution, ExecutionError, Output, StreamText
from greenroom.sessions import SessionPool
from greenroom.testing.adapters.base import AdapterSuiteBase
from greenroom.testing.adapters.driver import AdapterDriver
from greenroom.testing.memory import memory_pool
from greenroom.testing.scripted import ENDLESS_CODE, ScriptedBackend, scripted_pool, wait_until

_PNG = b"\x89PNG\r\n\x1a\n and the rest of a picture"
_JPEG = b"\xff\xd8\xff and the rest of another"
_SVG = b"<svg/>"


class ExecutionTests(AdapterSuiteBase):
    """Results, figures, cancellation, and errors that are raised."""

    async def test_the_text_is_the_one_made_for_models(self, adapter: AdapterDriver, ann: str) -> None:
        result = await adapter.run(ann, "print('shown')\n6 * 7")
        assert result.execution is not None
        assert (result.execution.stdout, result.execution.result) == ("shown\n", "42")
        assert result.text == result.execution.text_for_model()
        assert not result.failed

    async def test_failed_code_can_be_corrected(self, adapter: AdapterDriver, ann: str) -> None:
        result = await adapter.run(ann, "print('so far')\nx = undefined")
        assert result.failed is not False
        assert result.text.startswith("The code failed.")
        assert "so far" in result.text
        assert "NameError: name 'undefined' is not defined" in result.text
        assert result.execution is not None
        assert result.execution.status == "failed"
        assert (await adapter.run(ann, "x = 'corrected'\nx")).text == "result:\n'corrected'"

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

    async def test_a_warning_is_not_a_failure(self, scripted: AdapterDriver, backend: ScriptedBackend) -> None:
        backend.answer = Execution("1", "succeeded", stderr="careful\n")
        result = await scripted.run("ann", "1")
        assert (result.failed or False, result.text) == (False, "stderr:\ncareful")

    async def test_invalid_code_is_a_retryable_tool_error(
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

    @pytest.mark.parametrize(
        ("container_type", "languages", "others"),
        [
            (ContainerType.NODE_LTS, ("", "js", "JavaScript", "node"), ("python", "bash")),
            (ContainerType.SHELL, ("", "bash", "sh", "Shell"), ("python", "js")),
        ],
    )
    async def test_code_is_that_of_the_container_type(
        self, container_type: ContainerType, languages: tuple[str, ...], others: tuple[str, ...]
    ) -> None:
        tool = CODE_TOOLS[container_type]
        backend = ScriptedBackend(container_type)
        with scripted_pool(backend) as pool:
            adapter = self.driver(pool=pool)
            for language in (*languages, *others):
                result = await adapter.call("ann", tool.name, **{tool.parameter: f"```{language}\nls\n```"})
                assert (result.text, result.failed or False) == ("stdout:\nran", False)
                assert result.execution == backend.answer
            assert backend.codes == [*("ls" for _ in languages), *(f"```{language}\nls\n```" for language in others)]
            assert set(backend.identifiers) == {adapter.session("ann").identifier}
            assert (await adapter.call("ann", tool.name, **{tool.parameter: " "})).text.startswith("The code")

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

    async def test_no_time_limit_but_the_callers(self, backend: ScriptedBackend) -> None:
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
        await wait_until(lambda: len(backend.runs) == 50)  # more than the number of threads in a default executor
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await wait_until(lambda: len(backend.interrupted) == 50)

    async def test_on_output_gets_each_piece_of_output(self, backend: ScriptedBackend) -> None:
        backend.answer = Execution("1", "succeeded", stdout="one\ntwo\n")
        pieces: list[StreamText | Output] = []

        def collect(output: StreamText | Output, _: object) -> None:
            pieces.append(output)

        with scripted_pool(backend) as pool:
            adapter = self.driver(pool=pool, on_output=collect)
            result = await adapter.run("ann", "1")
        assert pieces == [StreamText("stdout", "one\n"), StreamText("stdout", "two\n")]
        assert result.text == "stdout:\none\ntwo"

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

    async def test_an_invalid_picture_is_not_sent_to_a_model(self, adapter: AdapterDriver, ann: str) -> None:
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

    # Errors

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
    async def test_errors_that_are_not_retryable_are_raised(
        self, scripted: AdapterDriver, backend: ScriptedBackend, error: Exception
    ) -> None:
        backend.answer = error
        with pytest.raises(type(error)) as caught:
            await scripted.run("ann", "1")
        assert caught.value is error

    async def test_a_lost_sandbox_is_a_result_as_the_next_call_starts_a_new_session(
        self, scripted: AdapterDriver, backend: ScriptedBackend
    ) -> None:
        backend.answer = SandboxLost("The sandbox was lost; the next use of the identifier starts a new session.")
        result = await scripted.run("ann", "1")
        assert result.text == str(backend.answer)
        assert result.failed is not False
        assert result.execution is None


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _shows(*bundles: Mapping[str, str]) -> str:
    """Return code that displays these bundles."""
    return (
        "class Shown:\n"
        "    def __init__(self, bundle): self.bundle = bundle\n"
        "    def _repr_mimebundle_(self, **_): return self.bundle\n"
        f"for bundle in {bundles!r}: display(Shown(bundle))"
    )
