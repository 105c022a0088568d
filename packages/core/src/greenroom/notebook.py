"""Run Jupyter notebooks cell by cell in a session, and return them with their outputs.

Only the sources of the code cells reach the sandbox. Needs nbformat (`pip install 'greenroom[notebook]'`), which
reads older formats and validates notebooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from greenroom.errors import InvalidRequest
from greenroom.models import Event, Execution, ExecutionError, Output, StreamText
from greenroom.sessions import Session
from greenroom.sessions.background import BackgroundLoop
from greenroom.sessions.rules import check_timeout
from greenroom.sessions.session import begin

try:
    import nbformat
    from nbformat import NotebookNode
except ImportError as error:
    raise ImportError("greenroom.notebook needs nbformat. Install it: pip install 'greenroom[notebook]'") from error

_nbformat: Any = nbformat  # its types are partly unknown

NotebookSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""A local path, or the notebook itself: a `dict` in JSON's form, or an nbformat node."""

_JSON_MIME = re.compile(r"application/(.*\+)?json")


@dataclass(frozen=True, slots=True)
class CellRun:
    """A cell that has run, for the progress of a notebook."""

    number: int
    """The cell's position, from 1 to `total`."""
    total: int
    """How many cells there are to run."""
    cell: Mapping[str, Any]
    """The cell in the notebook, with its outputs."""
    execution: Execution


def run_notebook(
    source: NotebookSource,
    session: Session,
    *,
    timeout: float | None = None,
    idle_timeout: float | None = None,
    stop_on_error: bool = True,
    on_cell: Callable[[CellRun], None] | None = None,
) -> NotebookNode:
    """Run a notebook's code cells in a session, and return the notebook with their outputs.

    An exception in a cell is data, as everywhere: an output of type `error`. The tags `raises-exception`
    (continue after an exception of this cell) and `skip-execution` (leave this cell as it is) have the same meaning
    as in nbclient. A cell that was not reached has no outputs.

    Args:
        source: the notebook; it is not changed.
        session: runs the cells. They see its variables and files, and the session keeps those of the cells.
        timeout: the time limit of each cell in seconds; by default the session's.
        idle_timeout: how many seconds a cell can run without output; by default only `timeout` applies. If a cell
            exceeds it, the notebook ends there, whatever the value of `stop_on_error`. If the pool does not stream, a
            cell has no output until its end.
        stop_on_error: whether the first cell that does not succeed is the last one.
        on_cell: called after each cell that ran, in a separate thread; its exception ends the run.

    Returns:
        The notebook as nbformat's `NotebookNode`, valid by nbformat 4.

    Raises:
        InvalidRequest: the source is not a notebook, cannot be read, or is not in Python; nothing was run.
        GreenroomError: the session cannot run the next cell; see `Session.execute`.
    """
    loop = BackgroundLoop("greenroom notebook")
    try:
        return loop.run(
            arun_notebook(
                source,
                session,
                timeout=timeout,
                idle_timeout=idle_timeout,
                stop_on_error=stop_on_error,
                on_cell=on_cell,
            )
        )
    finally:
        loop.close()


async def arun_notebook(
    source: NotebookSource,
    session: Session,
    *,
    timeout: float | None = None,
    idle_timeout: float | None = None,
    stop_on_error: bool = True,
    on_cell: Callable[[CellRun], None] | None = None,
) -> NotebookNode:
    """As `run_notebook`; `on_cell` is called on the running loop. Cancelling it interrupts the running cell."""
    check_timeout(idle_timeout, most=None, name="idle timeout")
    notebook = await asyncio.to_thread(_read, source)
    cells = [cell for cell in notebook["cells"] if _is_to_run(cell)]
    for cell in cells:
        cell["execution_count"], cell["outputs"] = None, []
    outputs = _Outputs()
    count = 0
    for number, cell in enumerate(cells, 1):
        if idle_timeout is not None and count == 0:
            await session.afiles()  # the start of the sandbox must not count for a cell's idle timeout
        execution, fell_silent = await _run(cell["source"], session, timeout, idle_timeout)
        count += 1
        cell["execution_count"] = count
        cell["outputs"] = outputs.of(execution, count)
        if execution.state_lost:
            count = 0  # Python has restarted
        if on_cell is not None:
            on_cell(CellRun(number, len(cells), cell, execution))
        if fell_silent or (stop_on_error and not _can_continue(cell, execution)):
            break
    return _nbformat.from_dict(notebook)


def cell_outputs(execution: Execution, execution_count: int) -> list[dict[str, Any]]:
    """Return the outputs of a cell that ran as this execution, in the form of nbformat 4.

    For programs that run cells one by one, with `Session.submit` or `Session.stream`. Updates of an earlier cell's
    output are not included; they are in the execution's `updates`.

    Args:
        execution: the execution of the cell's source.
        execution_count: the cell's number, which its result also gets.
    """
    return list(_outputs(execution, execution_count))


def _read(source: NotebookSource) -> dict[str, Any]:
    """Return a copy of the notebook in nbformat 4, with each cell's source in one string."""
    name = "The notebook" if isinstance(source, Mapping) else f"The notebook {os.fspath(source)!r}"
    try:
        text = json.dumps(source) if isinstance(source, Mapping) else Path(source).read_bytes()
        node = _nbformat.convert(_nbformat.reader.reads(text), 4)
        _identify(node)
        if isinstance(kernel := node.metadata.get("kernelspec"), dict):  # some programs write only half of it
            node.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", **kernel}
        # A copy without nbformat's types, and without text that no file can hold, such as halves of surrogate pairs.
        notebook: dict[str, Any] = json.loads(json.dumps(node, ensure_ascii=False).encode())
        _nbformat.validate(notebook)
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be read: {error.strerror}.") from error
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError, _nbformat.ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidRequest(f"{name} must be a valid notebook: {reason:.300}") from error
    metadata = notebook["metadata"]
    language = metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get("language")
    if language not in (None, "python"):
        raise InvalidRequest(f"{name} must be written in Python, not {language!r:.100}.")
    return notebook


def _identify(node: Any) -> None:
    """Give each cell a unique identifier, which programs that write notebooks often omit."""
    if node.nbformat_minor < 5:  # these formats have no identifiers
        return
    seen: set[str] = set()
    for number, cell in enumerate(node.cells, 1):
        if cell.setdefault("id", f"cell-{number}") in seen:
            cell["id"] = f"cell-{number}"
        seen.add(cell["id"])


def _is_to_run(cell: Mapping[str, Any]) -> bool:
    return cell["cell_type"] == "code" and bool(cell["source"].strip()) and "skip-execution" not in _tags(cell)


def _can_continue(cell: Mapping[str, Any], execution: Execution) -> bool:
    """Whether the next cell can run: yes after an exception that the cell's tag allows, not after a timeout or
    crash."""
    foreseen = execution.status == "failed" and not execution.state_lost and "raises-exception" in _tags(cell)
    return execution.succeeded or foreseen


def _tags(cell: Mapping[str, Any]) -> Sequence[str]:
    return cell["metadata"].get("tags", [])


async def _run(
    code: str, session: Session, timeout: float | None, idle_timeout: float | None
) -> tuple[Execution, bool]:
    """Run a cell, and return whether it exceeded the idle timeout and was interrupted."""
    if idle_timeout is None:
        return await session.aexecute(code, timeout=timeout), False
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()

    def note(_: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(arrived.set)

    handle = begin(session, code, timeout, note)
    ended = asyncio.create_task(handle.aresult())
    ended.add_done_callback(lambda _: arrived.set())
    try:
        while not ended.done():
            arrived.clear()
            async with asyncio.timeout(idle_timeout):
                await arrived.wait()
        return ended.result(), False
    except TimeoutError:
        await handle.acancel()
        execution = await ended
        if execution.status != "cancelled":  # it has just ended
            return execution, False
        return _silence(execution, idle_timeout), True
    finally:
        if not ended.done():
            ended.cancel()
            await handle.acancel()


def _silence(execution: Execution, idle_timeout: float) -> Execution:
    """Return the execution of a cell that exceeded the idle timeout, with its output so far."""
    error = ExecutionError("TimeoutError", f"The cell had no output for {idle_timeout} seconds.")
    places = (replace(place, error=error) if place.error == execution.error else place for place in execution.places)
    return replace(execution, status="timed_out", error=error, places=tuple(places))


class _Outputs:
    """The outputs of cells in the form of a notebook."""

    def __init__(self) -> None:
        self._displays: dict[str, list[dict[str, Any]]] = {}  # by name: every output that shows it

    def of(self, execution: Execution, count: int) -> list[dict[str, Any]]:
        """A cell's outputs; those of earlier cells are updated.

        Between two other outputs, standard output and error are one piece each: their order is not deterministic, and
        two runs with the same output should give the same notebook.
        """
        outputs = list(_outputs(execution, count))
        self._update(execution.updates)
        self._update(execution.outputs)
        rich = [output for output in outputs if "data" in output]
        for shown, output in zip(execution.outputs, rich, strict=True):
            if shown.display_id is not None:
                self._displays.setdefault(shown.display_id, []).append(output)
        return outputs

    def _update(self, shown: Iterable[Output]) -> None:
        for each in shown:
            for output in self._displays.get(each.display_id or "", ()):
                output.update(_content(each))


def _outputs(execution: Execution, count: int) -> Iterator[dict[str, Any]]:
    texts: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def streams() -> Iterator[dict[str, Any]]:
        for name, pieces in texts.items():
            if text := "".join(pieces):
                yield {"output_type": "stream", "name": name, "text": text}
            pieces.clear()

    for part in execution.parts:
        match part:
            case StreamText(stream, text):
                texts[stream].append(text)
            case Output(is_result=True):
                yield from streams()
                yield {"output_type": "execute_result", "execution_count": count, **_content(part)}
            case Output():
                yield from streams()
                yield {"output_type": "display_data", **_content(part)}
            case ExecutionError(name, value, traceback) if not _is_in_stderr(part, execution):
                yield from streams()
                lines = (traceback or f"{name}: {value}").split("\n")
                yield {"output_type": "error", "ename": name, "evalue": value, "traceback": lines}
            case _:
                pass
    yield from streams()


def _is_in_stderr(error: ExecutionError, execution: Execution) -> bool:
    """Whether the error has already been printed, as IPython does for wrong usage of a magic."""
    return not error.traceback and f"{error.name}: {error.value}" in execution.stderr


def _content(output: Output) -> dict[str, Any]:
    return {"data": _bundle(output.data), "metadata": dict(output.metadata)}


def _bundle(data: Mapping[str, Any]) -> dict[str, Any]:
    """A mime bundle that is valid in nbformat, whatever the sandbox sent."""
    return {
        mime: content if isinstance(content, str) or _JSON_MIME.fullmatch(mime) else json.dumps(content)
        for mime, content in data.items()
    }
