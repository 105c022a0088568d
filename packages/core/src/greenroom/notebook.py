"""Run Jupyter notebooks cell by cell in a session, and return them with their outputs.

Only the sources of the code cells reach the sandbox. Needs nbformat (`pip install 'greenroom[notebook]'`), which
reads older formats and validates notebooks.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from greenroom.errors import InvalidRequest
from greenroom.models import Execution, ExecutionError, Output, StreamText
from greenroom.runner.protocol import MAX_OUTPUTS
from greenroom.sessions import Session
from greenroom.sessions.background import BackgroundLoop
from greenroom.sessions.rules import check_timeout

try:
    import nbformat
    from nbformat import NotebookNode
except ImportError as error:
    raise ImportError("greenroom.notebook needs nbformat. Install it: pip install 'greenroom[notebook]'") from error

_nbformat: Any = nbformat  # its types are unknown in part

NotebookSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""A local path, or the notebook itself: a `dict` as JSON has it, or a node of nbformat."""

_JSON_MIME = re.compile(r"application/(.*\+)?json")


@dataclass(frozen=True, slots=True)
class CellRun:
    """A cell that has run, for the progress of a notebook."""

    number: int
    """Counts from 1 to `total`."""
    total: int
    """How many cells there are to run."""
    cell: Mapping[str, Any]
    """As it is in the notebook, with its outputs."""
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

    An exception of a cell is data, as everywhere: an output of the kind `error`. The tags `raises-exception`
    (continue after an exception of this cell) and `skip-execution` (leave this cell as it is) have the same meaning
    as in nbclient. A cell that was not reached has no outputs.

    Args:
        source: the notebook; it is not changed.
        session: runs the cells; they find its variables and files, and the session keeps theirs.
        timeout: the time limit of each cell in seconds; by default the session's.
        idle_timeout: how many seconds a cell can go without writing or showing anything; by default there is no limit
            but `timeout`. A notebook that has fallen silent ends there, whatever the value of `stop_on_error`. Where
            the pool does not stream, a cell is silent until its end.
        stop_on_error: whether the first cell that does not succeed is the last one.
        on_cell: called after each cell that ran, in a thread of its own; its exception ends the run.

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
    count = 0
    for number, cell in enumerate(cells, 1):
        if idle_timeout is not None and count == 0:
            await session.afiles()  # the start of a sandbox is not a cell's silence
        events, execution = await _run(cell["source"], session, timeout, idle_timeout)
        fell_silent = execution is None
        if execution is None:
            execution = _silence(events, idle_timeout)
        count += 1
        cell["execution_count"] = count
        cell["outputs"] = list(_outputs(events, execution, count))
        if execution.state_lost:
            count = 0  # Python has restarted
        if on_cell is not None:
            on_cell(CellRun(number, len(cells), cell, execution))
        if fell_silent or (stop_on_error and not _can_continue(cell, execution)):
            break
    return _nbformat.from_dict(notebook)


def _read(source: NotebookSource) -> dict[str, Any]:
    """A copy of the notebook in nbformat 4, with each cell's source in one piece."""
    name = "The notebook" if isinstance(source, Mapping) else f"The notebook {os.fspath(source)!r}"
    try:
        text = json.dumps(source) if isinstance(source, Mapping) else Path(source).read_bytes()
        node = _nbformat.convert(_nbformat.reader.reads(text), 4)
        _identify(node)
        if isinstance(kernel := node.metadata.get("kernelspec"), dict):  # some programs leave out half of it
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
    """Give each cell an identifier of its own, which programs that write notebooks tend to forget."""
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
    """Whether the next cell can run: after an exception that the cell's tag announces, not after a timeout or crash."""
    foreseen = execution.status == "failed" and not execution.state_lost and "raises-exception" in _tags(cell)
    return execution.succeeded or foreseen


def _tags(cell: Mapping[str, Any]) -> Sequence[str]:
    return cell["metadata"].get("tags", [])


async def _run(
    code: str, session: Session, timeout: float | None, idle_timeout: float | None
) -> tuple[list[StreamText | Output], Execution | None]:
    """The outputs of a cell, in order, and its execution; `None` if it fell silent and was interrupted."""
    events: list[StreamText | Output] = []
    shown = 0
    execution: Execution | None = None
    async with aclosing(session.astream(code, timeout=timeout)) as stream:
        while True:
            idle_timer = asyncio.timeout(idle_timeout)
            try:
                async with idle_timer:
                    event = await anext(stream, None)
            except TimeoutError:
                if idle_timer.expired():
                    return events, None
                raise
            match event:
                case None:
                    return events, execution
                case Execution():
                    execution = event
                case StreamText():
                    events.append(event)
                case Output():
                    events.append(event)
                    shown += 1
                    if shown == 2 * MAX_OUTPUTS:  # most have been replaced or cleared
                        events = list(_without_the_first_outputs(events, MAX_OUTPUTS))
                        shown = MAX_OUTPUTS


def _without_the_first_outputs(events: Iterable[StreamText | Output], number: int) -> Iterator[StreamText | Output]:
    for event in events:
        if isinstance(event, Output) and number > 0:
            number -= 1
        else:
            yield event


def _silence(events: Sequence[StreamText | Output], idle_timeout: float | None) -> Execution:
    """The execution of a cell that fell silent, with the output so far."""
    return Execution(
        id=uuid.uuid4().hex,
        status="timed_out",
        stdout=_text(events, "stdout"),
        stderr=_text(events, "stderr"),
        outputs=tuple(event for event in events if isinstance(event, Output)),
        error=ExecutionError("TimeoutError", f"The cell showed nothing for {idle_timeout} seconds."),
    )


def _outputs(events: Sequence[StreamText | Output], execution: Execution, count: int) -> Iterator[dict[str, Any]]:
    """A cell's outputs in the form of a notebook.

    Between two rich outputs, standard output and error come in one piece each: their order is not certain, and two
    runs with the same output should result in the same notebook.
    """
    texts: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def streams() -> Iterator[dict[str, Any]]:
        for name, pieces in texts.items():
            if text := "".join(pieces):
                yield {"output_type": "stream", "name": name, "text": text}
            pieces.clear()

    for part in _as_it_stands(events, execution):
        if isinstance(part, StreamText):
            texts[part.stream].append(part.text)
            continue
        yield from streams()
        content = {"data": _bundle(part.data), "metadata": dict(part.metadata)}
        if part.is_result:
            yield {"output_type": "execute_result", "execution_count": count, **content}
        else:
            yield {"output_type": "display_data", **content}
    yield from streams()
    if (error := execution.error) is not None and not _is_in_stderr(error, execution):
        traceback = error.traceback or f"{error.name}: {error.value}"
        yield {
            "output_type": "error",
            "ename": error.name,
            "evalue": error.value,
            "traceback": traceback.split("\n"),
        }


def _is_in_stderr(error: ExecutionError, execution: Execution) -> bool:
    """Whether the error has been printed already, as IPython does with the wrong use of a magic."""
    return not error.traceback and f"{error.name}: {error.value}" in execution.stderr


def _as_it_stands(events: Sequence[StreamText | Output], execution: Execution) -> Iterator[StreamText | Output]:
    """The events, corrected by the finished execution.

    Only the execution knows which outputs `clear_output` removed, their order, and which displays were replaced: these
    appear where their last content came. Where a pool does not stream, the execution alone has the outputs.
    """
    final = {"stdout": execution.stdout, "stderr": execution.stderr}
    cleared = {name: max(len(_text(events, name)) - len(text), 0) for name, text in final.items()}
    seen = dict.fromkeys(final, 0)
    outputs = execution.outputs
    places = {id(output): place for place, output in reversed(list(enumerate(outputs)))}
    begun = 0
    for event in events:
        if isinstance(event, StreamText):
            # A piece can hold text from before a `clear_output` and from after it.
            gone = min(cleared[event.stream], len(event.text))
            cleared[event.stream] -= gone
            seen[event.stream] += len(event.text) - gone
            yield StreamText(event.stream, event.text[gone:])
        elif (place := places.get(id(event), -1)) >= begun:
            yield from outputs[begun : place + 1]
            begun = place + 1
    yield StreamText("stdout", final["stdout"][seen["stdout"] :])
    yield StreamText("stderr", final["stderr"][seen["stderr"] :])
    yield from outputs[begun:]


def _text(events: Sequence[StreamText | Output], stream: str) -> str:
    return "".join(event.text for event in events if isinstance(event, StreamText) and event.stream == stream)


def _bundle(data: Mapping[str, Any]) -> dict[str, Any]:
    """A mime bundle that is valid in nbformat, whatever the sandbox sent."""
    return {
        mime: content if isinstance(content, str) or _JSON_MIME.fullmatch(mime) else json.dumps(content)
        for mime, content in data.items()
    }
