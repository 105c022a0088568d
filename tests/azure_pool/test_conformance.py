"""The conformance suites through the Azure client against our server: both contracts, over each engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from greenroom import Execution, SessionPool, StreamText, connect
from greenroom.testing import ExecutionSuite, FileSuite, IsolationSuite, LimitSuite
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving

_AT_THE_END = "the service answers at the end of an execution, so its events come then"
_ONE_VALUE = "the contract has one value for an execution: its last expression or a picture"
_NOT_TOLD = "the contract does not tell it"

_EXECUTION = {
    "test_displays_keep_their_order": _ONE_VALUE,
    "test_figures_and_text_keep_their_order": _ONE_VALUE,
    "test_a_data_frame_has_html": _ONE_VALUE,
    "test_a_stream_yields_text_while_the_code_runs": _AT_THE_END,
    "test_variables_are_those_of_the_session_and_of_the_execution": "sessions in Azure have no variables of their own",
}
_EXECUTION_NOT_RUN = {"test_leaving_a_stream_interrupts_the_code": _AT_THE_END}
_FILES = {"test_an_execution_lists_the_files_that_it_wrote": _NOT_TOLD}
_FILES_NOT_RUN = {"test_files_work_while_code_runs": _AT_THE_END}
_LIMITS = {
    "test_output_over_the_limit_is_cut_and_the_code_goes_on": _NOT_TOLD,
    "test_rich_output_over_the_limit_is_left_out": _NOT_TOLD,
    "test_a_session_may_have_a_memory_of_its_own": "all sessions of a pool in Azure have the same",
}
_NO_QUOTES = "the legacy contract has a string as it is, where IPython prints its quotes"
_NO_SHELL = "the legacy contract has no shell commands"
_NO_DIRECTORIES = "the legacy contract has no directories below /mnt/data"


class _Flat:
    engine = "bubblewrap:"
    api_version = "2025-10-02-preview"
    options: ClassVar[Mapping[str, Any]] = {"preload": ()}

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        with ExitStack() as stack:
            with skipping_without(cls.engine):
                url = stack.enter_context(serving(cls.engine, **cls.options))
            yield stack.enter_context(connect(url, api_version=cls.api_version))


class TestExecution(_Flat, ExecutionSuite):
    known_differences = {
        **_EXECUTION,
        "test_a_submitted_execution_can_be_cancelled": "the contract cannot cancel an asynchronous execution",
    }
    not_run = _EXECUTION_NOT_RUN


def test_a_shell_command_runs_over_http() -> None:
    with serving("bubblewrap:", container_type="Shell") as url, connect(url) as pool, pool.session() as session:
        execution = session.shell("cat; echo err >&2; exit 3", stdin="words")
        assert (execution.status, execution.exit_code) == ("failed", 3)
        assert (execution.stdout, execution.stderr) == ("words", "err\n")
        assert session.shell(["printf", "%s", "$HOME"]).stdout == "$HOME"
        assert session.shell("yes | head -c 100000").stdout == "y\n" * 50_000
        late = session.shell("echo begun; sleep 200", timeout=5)
        assert (late.status, late.stdout, late.exit_code) == ("timed_out", "begun\n", None)
        assert [type(event) for event in session.stream_shell("echo a")] == [StreamText, Execution]


class TestFiles(_Flat, FileSuite):
    known_differences = _FILES
    not_run = _FILES_NOT_RUN


class TestLimits(_Flat, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": ()}
    known_differences = _LIMITS


class TestIsolation(_Flat, IsolationSuite):
    pass


class _Legacy(_Flat):
    api_version = "2024-02-02-preview"


class TestExecutionLegacy(_Legacy, ExecutionSuite):
    known_differences = {
        **_EXECUTION,
        "test_text_keeps_every_character": _NO_QUOTES,
        "test_magics_shell_commands_and_await_work": _NO_QUOTES,
        "test_a_shell_command_runs_beside_the_code": _NO_SHELL,
        "test_an_exit_of_the_process_fails_and_the_next_execution_works": _NO_QUOTES,
        "test_one_pool_serves_blocking_code_threads_and_two_loops_at_the_same_time": _NO_QUOTES,
        "test_a_submitted_execution_can_be_cancelled": _AT_THE_END,
    }
    not_run = _EXECUTION_NOT_RUN


class TestFilesLegacy(_Legacy, FileSuite):
    known_differences = {
        **_FILES,
        "test_an_upload_is_there_for_the_code": _NO_QUOTES,
        "test_uploads_make_the_directories_they_need": _NO_DIRECTORIES,
        "test_a_list_has_names_sizes_and_times": _NO_DIRECTORIES,
        "test_a_recursive_list_has_what_is_below": _NO_DIRECTORIES,
        "test_a_missing_file_is_named": _NO_DIRECTORIES,
        "test_a_directory_is_not_a_file": _NO_DIRECTORIES,
        "test_symbolic_links_lead_nowhere": _NO_DIRECTORIES,
        "test_a_directory_goes_in_and_comes_back": _NO_DIRECTORIES,
        "test_a_directory_can_go_to_and_come_from_any_place": _NO_DIRECTORIES,
        "test_a_directory_reports_its_progress_as_a_whole": _NO_DIRECTORIES,
        "test_a_directory_over_a_limit_is_refused_whole": _NO_DIRECTORIES,
        "test_a_directory_does_not_replace_what_is_there": _NO_DIRECTORIES,
        "test_a_directory_comes_without_links_devices_and_pipes": _NO_DIRECTORIES,
    }
    not_run = _FILES_NOT_RUN


class TestLimitsLegacy(_Legacy, LimitSuite):
    options: ClassVar[Mapping[str, Any]] = {**LimitSuite.options, "preload": ()}
    known_differences = {
        **_LIMITS,
        "test_a_command_out_of_memory_fails_and_spares_the_variables": _NO_SHELL,
    }


class TestExecutionOverDocker(TestExecution):
    engine = "docker:"


class TestFilesOverDocker(TestFiles):
    engine = "docker:"


class TestExecutionLegacyOverDocker(TestExecutionLegacy):
    engine = "docker:"


class TestFilesLegacyOverDocker(TestFilesLegacy):
    engine = "docker:"
