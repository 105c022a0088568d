"""A notebook, cell by cell in a session: its execution, its outputs, its end."""

from __future__ import annotations

import asyncio
import copy
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import nbformat
import pytest
from nbformat import NotebookNode

from greenroom import (
    Event,
    Execution,
    ExecutionError,
    GreenroomError,
    InvalidRequest,
    Output,
    Place,
    SandboxLost,
    Session,
    SessionPool,
)
from greenroom.backend import Backend
from greenroom.notebook import CellRun, arun_notebook, cell_outputs, run_notebook
from greenroom.sessions import OpenPool
from greenroom.testing import BareBackend, memory_pool

_nbformat: Any = nbformat  # its types are unknown in part


def code(source: str, *tags: str, **fields: Any) -> dict[str, Any]:
    metadata = {"tags": list(tags)} if tags else {}
    return {
        "cell_type": "code",
        "metadata": metadata,
        "source": source,
        "execution_count": None,
        "outputs": [],
        **fields,
    }


def text(source: str, kind: str = "markdown") -> dict[str, Any]:
    return {"cell_type": kind, "metadata": {"colour": "green"}, "source": source}


def notebook(*cells: dict[str, Any] | str, **metadata: Any) -> dict[str, Any]:
    """A notebook as JSON has it; plain strings are code."""
    whole = [code(cell) if isinstance(cell, str) else dict(cell) for cell in cells]
    for number, cell in enumerate(whole):
        cell.setdefault("id", f"cell-{number}")
    return {"cells": whole, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def outputs(ran: dict[str, Any]) -> list[list[str]]:
    """What each cell gave, in a word or two an output."""
    return [[_word(output) for output in cell.get("outputs", [])] for cell in ran["cells"]]


def _word(output: dict[str, Any]) -> str:
    match output["output_type"]:
        case "stream":
            return f"{output['name']} {output['text']}".strip()
        case "error":
            return f"error {output['ename']}"
        case kind:
            return f"{kind} {output['data']['text/plain']}"


STALE: dict[str, Any] = {
    "execution_count": 9,
    "outputs": [{"output_type": "stream", "name": "stdout", "text": "of another day"}],
}


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with memory_pool(interrupt_grace=0.5) as pool:
        yield pool


@pytest.fixture
def session(pool: SessionPool) -> Iterator[Session]:
    with pool.session() as session:
        yield session


# What comes back


def test_the_outputs_of_each_cell_are_in_the_notebook_in_the_order_in_which_they_came(session: Session) -> None:
    ran = run_notebook(notebook("print('before')\ndisplay('shown')\nprint('after')\n6 * 7"), session)
    assert ran["cells"][0]["outputs"] == [
        {"output_type": "stream", "name": "stdout", "text": "before\n"},
        {"output_type": "display_data", "data": {"text/plain": "'shown'"}, "metadata": {}},
        {"output_type": "stream", "name": "stdout", "text": "after\n"},
        {"output_type": "execute_result", "execution_count": 1, "data": {"text/plain": "42"}, "metadata": {}},
    ]


def test_variables_are_passed_between_cells_and_stay_in_the_session(session: Session) -> None:
    session.execute("start = 40")
    assert outputs(run_notebook(notebook("end = start + 2", "end"), session)) == [[], ["execute_result 42"]]
    assert session.execute("end").result == "42"


def test_an_error_has_its_name_value_and_traceback_by_lines(session: Session) -> None:
    (error,) = run_notebook(notebook("print(1)\n1 / 0"), session)["cells"][0]["outputs"][1:]
    assert (error["output_type"], error["ename"]) == ("error", "ZeroDivisionError")
    assert error["evalue"] == "division by zero"
    assert error["traceback"][-1] == "ZeroDivisionError: division by zero"
    assert not any("\n" in line for line in error["traceback"])


def test_code_cells_are_counted_and_nothing_else_is_touched(session: Session) -> None:
    given = notebook(text("# Title"), "1", text("raw", kind="raw"), code("  "), "2", authors=[{"name": "Ada"}])
    ran = run_notebook(given, session)
    assert [cell.get("execution_count") for cell in ran["cells"]] == [None, 1, None, None, 2]
    for cell, before in zip(ran["cells"], given["cells"], strict=True):
        if cell["cell_type"] == "code":
            cell.update(execution_count=None, outputs=[])
        assert cell == before
    assert ran["metadata"] == given["metadata"]


def test_the_source_is_not_changed(session: Session) -> None:
    given = notebook("1", code("2", **STALE))
    before = copy.deepcopy(given)
    run_notebook(given, session)
    assert given == before


def test_a_path_a_dict_and_a_node_give_the_same_valid_node(session: Session, tmp_path: Path) -> None:
    given = notebook("print('line 1')\nprint('line 2')", "display({'a': 1})")
    node = _nbformat.from_dict(given)
    path = tmp_path / "a notebook.ipynb"
    _nbformat.write(node, path)
    as_on_disk = json.loads(path.read_text())
    assert isinstance(as_on_disk["cells"][0]["source"], list)
    first, *others = [run_notebook(source, session) for source in (given, node, path, str(path), as_on_disk)]
    assert all(other == first for other in others)
    _nbformat.validate(first)
    assert isinstance(first, NotebookNode)
    assert _types(first) <= {NotebookNode, list, str, int, type(None)}


def test_an_older_notebook_comes_back_in_format_4(session: Session) -> None:
    old = _nbformat.v3.new_notebook(
        worksheets=[_nbformat.v3.new_worksheet(cells=[_nbformat.v3.new_code_cell("print('old')")])]
    )
    ran = run_notebook(old, session)
    assert ran["nbformat"] == 4
    assert outputs(ran) == [["stdout old"]]
    _nbformat.validate(ran)


@pytest.mark.parametrize("kernel", [{}, {"display_name": "Python 3"}, {"name": "conda-env", "language": "python"}])
def test_an_incomplete_kernelspec_is_completed(session: Session, kernel: dict[str, str]) -> None:
    result = run_notebook(notebook("1 + 1", kernelspec=kernel), session)
    assert outputs(result)
    assert result.metadata.kernelspec.items() >= kernel.items()
    assert {"name", "display_name"} <= result.metadata.kernelspec.keys()


def test_cells_without_an_identifier_get_one(session: Session) -> None:
    given = notebook("1", code("2", id="same"), code("3", id="same"))
    del given["cells"][0]["id"]
    ran = run_notebook(given, session)
    assert [cell["id"] for cell in ran["cells"]] == ["cell-1", "same", "cell-3"]


# What runs


@pytest.mark.parametrize("stop_on_error", [True, False])
def test_by_default_the_first_error_ends_it(session: Session, stop_on_error: bool) -> None:
    given = notebook("print(1)", "1 / 0", code("print(3)", **STALE))
    ran = run_notebook(given, session, stop_on_error=stop_on_error)
    assert outputs(ran) == [["stdout 1"], ["error ZeroDivisionError"], [] if stop_on_error else ["stdout 3"]]
    assert [cell["execution_count"] for cell in ran["cells"]] == [1, 2, None if stop_on_error else 3]


def test_an_exception_that_a_tag_announces_does_not_end_it(session: Session) -> None:
    ran = run_notebook(notebook(code("1 / 0", "raises-exception"), "print(2)"), session)
    assert outputs(ran) == [["error ZeroDivisionError"], ["stdout 2"]]


def test_a_timeout_ends_it_whatever_a_tag_announces(session: Session) -> None:
    given = notebook(code("print(1)\nimport time\ntime.sleep(60)", "raises-exception"), "print(2)")
    ran = run_notebook(given, session, timeout=4)
    assert outputs(ran) == [["stdout 1", "error TimeoutError"], []]


def test_a_cell_with_the_tag_skip_execution_is_unchanged(session: Session) -> None:
    ran = run_notebook(notebook(code("1 / 0", "skip-execution", **STALE), "print(2)"), session)
    assert outputs(ran) == [["stdout of another day"], ["stdout 2"]]
    assert [cell["execution_count"] for cell in ran["cells"]] == [9, 1]


def test_each_cell_has_the_timeout_for_itself(session: Session) -> None:
    wait = "import time\ntime.sleep(2.5)\nprint('done')"
    assert outputs(run_notebook(notebook(wait, wait, wait), session, timeout=6)) == [["stdout done"]] * 3


def test_a_notebook_that_keeps_writing_can_take_longer_than_its_idle_timeout(session: Session) -> None:
    talk = "import time\nfor step in range(8):\n    print(step, end='')\n    time.sleep(1)"
    assert outputs(run_notebook(notebook(talk), session, idle_timeout=6)) == [["stdout 01234567"]]


def test_a_silent_notebook_ends_with_its_output_so_far(session: Session) -> None:
    runs: list[CellRun] = []
    began = time.monotonic()
    ran = run_notebook(
        notebook("print('tick')\ndisplay('tack')\nimport time\ntime.sleep(200)", "print(2)"),
        session,
        idle_timeout=5,
        stop_on_error=False,
        on_cell=runs.append,
    )
    assert time.monotonic() - began < 100
    assert outputs(ran) == [["stdout tick", "display_data 'tack'", "error TimeoutError"], []]
    assert [run.execution.status for run in runs] == ["timed_out"]
    assert session.execute("'the session lives'").succeeded


def test_progress_is_reported_after_each_cell(session: Session) -> None:
    told: list[tuple[int, int, str, list[Any]]] = []

    def tell(run: CellRun) -> None:
        told.append((run.number, run.total, run.execution.status, list(run.cell["outputs"])))

    ran = run_notebook(notebook("print(1)", text("text"), "1 / 0", "print(3)"), session, on_cell=tell)
    first, _, second, _ = (cell.get("outputs", []) for cell in ran["cells"])
    assert told == [(1, 3, "succeeded", first), (2, 3, "failed", second)]


def test_an_exception_of_the_progress_callback_ends_the_run(session: Session) -> None:
    def refuse(run: CellRun) -> None:
        raise PermissionError(run.number)

    with pytest.raises(PermissionError, match="1"):
        run_notebook(notebook("first = 1", "second = 2"), session, on_cell=refuse)
    assert session.execute("'second' in globals()").result == "False"


# Two spellings


async def test_the_asynchronous_spelling_gives_the_same(session: Session) -> None:
    given = notebook("print(1)", "display(2)\n3")
    assert await arun_notebook(given, session) == await asyncio.to_thread(run_notebook, given, session)


async def test_the_blocking_spelling_works_where_a_loop_runs(session: Session) -> None:
    assert outputs(run_notebook(notebook("print(1)"), session)) == [["stdout 1"]]


async def test_cancelling_interrupts_the_cell_and_runs_no_other(session: Session) -> None:
    began = asyncio.Event()
    given = notebook("'began'", "import time\ntime.sleep(60)", "third = 3")
    task = asyncio.create_task(arun_notebook(given, session, on_cell=lambda _: began.set()))
    await began.wait()
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    execution = await session.aexecute("'third' in globals()", timeout=60)
    assert execution.result == "False"


def test_ctrl_c_interrupts_the_cell_and_runs_no_other(session: Session) -> None:
    def press(_: CellRun) -> None:
        threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        run_notebook(notebook("'began'", "import time\ntime.sleep(60)", "third = 3"), session, on_cell=press)
    assert session.execute("'third' in globals()", timeout=60).result == "False"


# What is refused


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        pytest.param({}, "must be a valid notebook", id="an empty dict"),
        pytest.param({"nbformat": 9, "cells": []}, "Unsupported nbformat version 9", id="a format of the future"),
        pytest.param({**notebook("1"), "metadata": 3}, "must be a valid notebook", id="metadata of the wrong type"),
        pytest.param({**notebook("1"), "cells": [3]}, "must be a valid notebook", id="a cell of the wrong type"),
        pytest.param(notebook(code("1", outputs=3)), "must be a valid notebook", id="outputs of the wrong type"),
        pytest.param(notebook("ran = 1", "'\ud800'"), "surrogates not allowed", id="half of a surrogate pair"),
        pytest.param(notebook("1", kernelspec={"name": "ir", "display_name": "R", "language": "R"}), "'R'", id="R"),
        pytest.param(notebook("1", language_info={"name": "julia"}), "'julia'", id="Julia"),
    ],
)
def test_an_invalid_notebook_is_refused_before_anything_runs(
    session: Session, source: dict[str, Any], rule: str
) -> None:
    with pytest.raises(InvalidRequest, match=rule):
        run_notebook(source, session)
    assert session.execute("'ran' in globals()").result == "False"


def test_a_file_that_is_not_a_notebook_is_refused_by_its_name(session: Session, tmp_path: Path) -> None:
    (tmp_path / "text.ipynb").write_text("no JSON")
    for name in ("text.ipynb", "missing.ipynb", "."):
        with pytest.raises(InvalidRequest, match=name):
            run_notebook(tmp_path / name, session)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_an_idle_timeout_is_positive(session: Session, value: float) -> None:
    with pytest.raises(InvalidRequest, match="idle timeout"):
        run_notebook(notebook("1"), session, idle_timeout=value)


def test_without_nbformat_the_import_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "greenroom.notebook")
    monkeypatch.setitem(sys.modules, "nbformat", None)
    with pytest.raises(ImportError, match=r"pip install 'greenroom\[notebook\]'"):
        __import__("greenroom.notebook")


# What goes to a sandbox, and what may come from it


@dataclass
class Scripted(BareBackend):
    """Answers each execution with what comes next in the script, and remembers what was to be run."""

    script: list[Execution | GreenroomError]
    heard: list[str] = field(default_factory=list[str])

    async def execute(
        self, identifier: str, code: str, *, on_event: Callable[[Event], None] | None, **_: Any
    ) -> Execution:
        del identifier, on_event
        self.heard.append(code)
        answer = self.script.pop(0)
        if isinstance(answer, GreenroomError):
            raise answer
        return answer


@pytest.fixture
def scripted() -> Iterator[Callable[..., Session]]:
    """Makes sessions of a scripted backend."""
    pools: list[SessionPool] = []

    def make(backend: Scripted) -> Session:
        async def make_backend() -> Backend:
            return cast("Backend", backend)

        pools.append(SessionPool(OpenPool.open(make_backend)))
        return pools[-1].session()

    yield make
    for pool in pools:
        pool.close()


def test_nothing_but_the_sources_of_code_cells_reaches_the_sandbox(scripted: Callable[..., Session]) -> None:
    backend = Scripted([Execution("1", "succeeded"), Execution("2", "succeeded")])
    given = notebook(
        "first\n", text("secret"), code("", **STALE), code("skipped", "skip-execution"), "second", secret="metadata"
    )
    run_notebook(given, scripted(backend))
    assert backend.heard == ["first\n", "second"]


def test_invalid_bundles_become_text(scripted: Callable[..., Session]) -> None:
    hostile = Output(
        {"text/plain": 5, "text/html": None, "image/png": {"a": 1}, "application/vnd.x+json": {"a": [1]}},
        {"any": {"thing": 1}},
    )
    ran = run_notebook(notebook("x"), scripted(Scripted([Execution("1", "succeeded", outputs=(hostile,))])))
    _nbformat.validate(ran)
    (output,) = ran["cells"][0]["outputs"]
    assert output["data"] == {
        "text/plain": "5",
        "text/html": "null",
        "image/png": '{"a": 1}',
        "application/vnd.x+json": {"a": [1]},
    }


def test_a_pool_that_does_not_stream_gives_the_same_result(scripted: Callable[..., Session]) -> None:
    shown = (Output({"text/plain": "shown"}), Output({"text/plain": "result"}, is_result=True))
    execution = Execution("1", "succeeded", stdout="out", stderr="err", outputs=shown)
    ran = run_notebook(notebook("x"), scripted(Scripted([execution])))
    assert outputs(ran) == [["stdout out", "stderr err", "display_data shown", "execute_result result"]]


def test_between_two_displays_each_stream_is_in_one_piece(scripted: Callable[..., Session]) -> None:
    shown = Output({"text/plain": "shown"})
    execution = Execution(
        "1", "succeeded", stdout="ace", stderr="bd", outputs=(shown,), places=(Place(2, 1, output=0),)
    )
    ran = run_notebook(notebook("x"), scripted(Scripted([execution])))
    assert outputs(ran) == [["stdout ac", "stderr b", "display_data shown", "stdout e", "stderr d"]]


def test_after_a_crash_the_count_restarts_with_python(scripted: Callable[..., Session]) -> None:
    crash = Execution(
        "1", "failed", stdout="last words", error=ExecutionError("WorkerCrashed", "It is gone."), state_lost=True
    )
    fine = Execution("2", "succeeded", outputs=(Output({"text/plain": "1"}, is_result=True),))
    given = notebook("fine", code("crash", "raises-exception"), "fine")
    ran = run_notebook(given, scripted(Scripted([fine, crash, fine])), stop_on_error=False)
    assert [cell["execution_count"] for cell in ran["cells"]] == [1, 2, 1]
    assert ran["cells"][1]["outputs"][1]["traceback"] == ["WorkerCrashed: It is gone."]
    stopped = run_notebook(given, scripted(Scripted([fine, crash, fine])))
    assert stopped["cells"][2]["execution_count"] is None, "the tag announces an exception, not a crash"


def test_a_sandbox_that_is_lost_raises(scripted: Callable[..., Session]) -> None:
    runs: list[CellRun] = []
    backend = Scripted([Execution("1", "succeeded", stdout="done"), SandboxLost("It is gone.")])
    with pytest.raises(SandboxLost):
        run_notebook(notebook("1", "2", "3"), scripted(backend), on_cell=runs.append)
    assert [run.execution.stdout for run in runs] == ["done"]
    assert backend.heard == ["1", "2"]


def _types(value: Any) -> set[type]:
    match value:
        case dict():
            items = cast("dict[str, Any]", value)
            return {type(items)}.union(*map(_types, items.values()))  # pyright: ignore[reportUnknownArgumentType]
        case list():
            return {list}.union(*map(_types, cast("list[Any]", value)))
        case _:
            return {type(value)}


def test_an_execution_gives_the_outputs_of_a_cell(session: Session) -> None:
    source = "import sys\nprint('one')\nprint('two', file=sys.stderr)\ndisplay('three')\n4"
    (cell,) = run_notebook(notebook(source), session)["cells"]
    assert cell_outputs(session.execute(source), 1) == cell["outputs"]
    failed = cell_outputs(session.execute("print('five')\n1 / 0"), 2)
    assert [output["output_type"] for output in failed] == ["stream", "error"]
