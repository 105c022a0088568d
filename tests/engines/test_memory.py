"""The conformance suites over the engine in memory: everything above engines, in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.server.served import memory_backend

from greenroom import SessionPool
from greenroom.testing import ExecutionSuite, FileSuite, ParkSuite, ToolLimitSuite, ToolSuite, memory_pool

_NO_IPYTHON = "it runs plain Python"
_NO_PROCESS = "its code shares this process"


@pytest.fixture(scope="class")
def memory() -> Iterator[SessionPool]:
    with memory_pool() as pool:
        yield pool


class TestExecution(ExecutionSuite):
    known_differences = {
        "test_a_figure_is_an_image_without_show": _NO_IPYTHON,
        "test_figures_and_text_keep_their_order": _NO_IPYTHON,
        "test_a_data_frame_has_html": _NO_IPYTHON,
        "test_magics_shell_commands_and_await_work": _NO_IPYTHON,
        "test_output_of_subprocesses_and_threads_arrives_in_order": _NO_PROCESS,
        "test_variables_are_those_of_the_session_and_of_the_execution": _NO_PROCESS,
    }
    not_run = {
        "test_code_that_does_not_react_is_killed": _NO_PROCESS,
        "test_an_exit_of_the_process_fails_and_the_next_execution_works": _NO_PROCESS,
        "test_a_segmentation_fault_fails_and_the_next_execution_works": _NO_PROCESS,
    }

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, memory: SessionPool) -> SessionPool:
        return memory


class TestTools(ToolSuite):
    known_differences = {
        "test_a_call_can_be_awaited_at_the_top": _NO_IPYTHON,
        "test_fifty_gathered_calls_at_the_top": _NO_IPYTHON,
    }

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, memory: SessionPool) -> SessionPool:
        return memory


class TestToolLimits(ToolLimitSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, memory: SessionPool) -> SessionPool:
        return memory


class TestParking(ParkSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with memory_pool(**ParkSuite.options) as pool:
            yield pool


class TestFiles(FileSuite):
    known_differences = {
        "test_symbolic_links_lead_nowhere": "only open() knows of /mnt/data",
        "test_devices_and_pipes_do_not_block": "only open() knows of /mnt/data",
        "test_a_directory_comes_without_links_devices_and_pipes": "only open() knows of /mnt/data",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, memory: SessionPool) -> SessionPool:
        return memory


def test_missing_figures_cause_a_warning(memory: SessionPool) -> None:
    pytest.importorskip("matplotlib")
    with pytest.warns(UserWarning, match="shows no figures"), memory.session() as session:
        session.execute("import matplotlib.pyplot as plt")


async def test_an_interrupt_before_the_code_has_started_ends_it() -> None:
    pool = await memory_backend()
    try:
        await pool.execute("session", "x = 42", timeout=None, on_event=None)
        for _ in range(50):
            running = asyncio.create_task(pool.execute("session", "while True: pass", timeout=None, on_event=None))
            while (await pool.status()).executing != 1:  # noqa: ASYNC110
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
        ended = await pool.execute("session", "x", timeout=None, on_event=None)
        assert ended.result == "42"
    finally:
        await pool.close()
