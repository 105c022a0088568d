"""The same cells in Jupyter (nbclient and ipykernel) and in a session, with their results in one comparable form."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import struct
import subprocess
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, cast

import nbformat
import pytest
from nbclient import NotebookClient

from greenroom import Execution, Output, Session, StreamText
from greenroom.models import DATA_DIR
from greenroom.testing import engine_pool

_nbformat: Any = nbformat.v4  # its types are unknown in part

# ipykernel names a cell like a file that does not exist. For such, IPython 9 has only a plain traceback, with the
# line that a frame is at instead of the one that raised. So tracebacks are compared with those of cells that have
# IPython's names, as ours have, and everything else with ipykernel's own names.
_IPYTHONS_NAMES = (
    "_compiler = type(get_ipython().compile); _own_names = _compiler.get_code_name; "
    "_compiler.get_code_name = __import__('IPython.core.compilerop').core.compilerop.CachingCompiler.get_code_name"
)
_OWN_NAMES = "_compiler.get_code_name = _own_names"
_WARM_UP = "import altair, matplotlib.pyplot, pandas, plotly.express"

# What may differ, and what stands for it in both.
_NORMAL = [
    (re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]"), ""),  # colours: Jupyter has a terminal's, we have none
    (re.compile(r"(?<![\w/])~/"), f"{Path.home()}/"),  # the home directory, which the sandbox does not have
    (re.compile(r"\b0x[0-9a-f]+"), "0x…"),
    (re.compile(r"\d+(\.\d+)?(e\+\d+)? (ns|μs|ms|s)\b"), "… s"),  # what %time measures
    (re.compile(r"\b\d+ runs?, [\d,]+ loops? each"), "… runs"),  # how often %timeit measures it
    (re.compile(r"\bThread-\d+"), "Thread-…"),
    (re.compile(r"\(\d+ times\)"), "(… times)"),  # how deep a recursion came
    (re.compile(r"\b(altair-viz-|display_id=)[0-9a-f]{32}"), r"\1…"),
    (re.compile(r"<dc:date>.*?</dc:date>"), "<dc:date>…</dc:date>"),  # in matplotlib's SVG
    (re.compile(r"<ipython-input-\d+-\w+>|/tmp/ipykernel_\d+/\d+\.py"), "<cell>"),
    (re.compile(r"\(\d+\.py, line"), "(<cell>, line"),
    # Advice for a terminal, which is not there.
    (re.compile(r"^\S{1,300}:\d+: UserWarning: To exit: use [^\n]*\n  warn[^\n]*\n", re.MULTILINE), ""),
]
_TRACEBACK = re.compile(r"-{75}\n.*?\n\n(?=[\w.]+: )", re.DOTALL)
_BLANK_LINES = re.compile(r"\n(\s*\n)+")  # without colours, IPython's tracebacks have fewer of them


@dataclass
class Story:
    """What came of a cell."""

    parts: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    """In order: text as stdout or stderr, rich outputs as display or result."""
    error: tuple[str, str, str] | None = None
    """Name, value, traceback."""
    error_is_last: bool = True
    """Whether no output came after the error."""

    def of(self, *kinds: str) -> list[Any]:
        return [content for kind, content in self.parts if kind in kinds]

    def in_all(self) -> dict[str, Any]:
        """What is there in the end."""
        story: dict[str, Any] = {
            "stdout": "".join(self.of("stdout")),
            "stderr": "".join(self.of("stderr")),
            "outputs": self.of("display", "result"),
            "result": [data["data"].get("text/plain") for data in self.of("result")],
        }
        if self.error is not None:
            name, value, traceback = self.error
            story["error"] = (name, value)
            story["traceback"] = _BLANK_LINES.sub("\n", traceback)
        return _normal(story)

    def without_frames(self) -> Story:
        """The same, with no more of a traceback than its last line: the rest depends on the names of cells."""
        parts = [
            (kind, _TRACEBACK.sub("", _plain(content)) if kind == "stderr" else content) for kind, content in self.parts
        ]
        error = self.error and (*self.error[:2], "")
        return Story(parts, error, self.error_is_last)

    def in_order(self) -> list[Any]:
        """How it came: the text between rich outputs. Between two of these, stdout and stderr have no order."""
        told: list[Any] = [{"stdout": "", "stderr": ""}]
        for kind, content in self.parts:
            if kind in {"stdout", "stderr"}:
                told[-1][kind] += content
            else:
                told += [(kind, content), {"stdout": "", "stderr": ""}]
        return _normal(told)


class Jupyter:
    """The original: a kernel with a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._client: Any = NotebookClient(
            _nbformat.new_notebook(),
            allow_errors=True,
            timeout=100,
            resources={"metadata": {"path": str(directory)}},
            on_cell_executed=self._keep_reply,
        )
        self._kernel = self._client.setup_kernel(
            # With this variable, ipykernel does not capture the output of C code and subprocesses.
            env={name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
            # Its process repeats all captured output on its own terminal.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._reply: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._kernel.__enter__()
        return self

    @contextlib.contextmanager
    def ipythons_names(self) -> Generator[None, None, None]:
        """Within it, cells are named as IPython names them."""
        self._execute(_IPYTHONS_NAMES, store_history=False)
        yield
        self._execute(_OWN_NAMES, store_history=False)

    def __exit__(self, *error: object) -> None:
        self._kernel.__exit__(*error)

    def run(self, code: str) -> Story:
        story = Story()
        errors: list[tuple[int, tuple[str, str, str]]] = []
        for output in self._execute(code, store_history=True):
            match output.output_type:
                case "stream":
                    story.parts.append((output.name, output.text))
                case "error":
                    error = (output.ename, output.evalue, "\n".join(output.traceback))
                    errors.append((len(story.parts), error))
                    story.parts.append(("stderr", error[2] + "\n"))
                case kind:
                    content = {"data": output.data, "metadata": output.metadata}
                    story.parts.append(("result" if kind == "execute_result" else "display", content))
        if self._reply["status"] == "error":
            if errors:  # the last one has ended the cell; earlier ones are text, as it has handled them
                place, story.error = errors[-1]
                del story.parts[place]
                story.error_is_last = place == len(story.parts)
            else:  # IPython prints usage errors as text
                story.error = (self._reply["ename"], self._reply["evalue"], "\n".join(self._reply["traceback"]))
        return story

    def _execute(self, code: str, *, store_history: bool) -> list[Any]:
        cells: Any = self._client.nb.cells
        cells.append(_nbformat.new_code_cell(code))
        self._client.execute_cell(cells[-1], len(cells) - 1, store_history=store_history)
        return cells[-1].outputs

    def _keep_reply(self, *, execute_reply: dict[str, Any], **_: object) -> None:
        self._reply = execute_reply["content"]


class Same(Protocol):
    def __call__(self, *cells: str, tracebacks: bool = False) -> None:
        """Check that cells, one after the other, give in a session what they give in Jupyter."""
        ...


class Differing(Protocol):
    def __call__(self, cells: Sequence[str]) -> dict[int, set[str]]:
        """Return what differs between a session and Jupyter, by the number of the cell, from 1."""
        ...


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    directory = tmp_path_factory.mktemp("jupyter")
    _NORMAL.append((re.compile(re.escape(str(directory))), DATA_DIR))
    with Jupyter(directory) as jupyter:
        jupyter.run(_WARM_UP)
        yield jupyter
    _NORMAL.pop()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with engine_pool("bubblewrap:") as pool:
        session = pool.session()
        session.execute(_WARM_UP).raise_for_error()
        yield session


@pytest.fixture
def same_as_in_jupyter(jupyter: Jupyter, session: Session) -> Same:
    def check(*cells: str, tracebacks: bool = False) -> None:
        with jupyter.ipythons_names() if tracebacks else contextlib.nullcontext():
            for code in cells:
                original = jupyter.run(code)
                streamed, whole = run_in(session, code)
                if not tracebacks:
                    original, streamed, whole = (each.without_frames() for each in (original, streamed, whole))
                assert whole.in_all() == original.in_all()
                if streamed.in_all() == whole.in_all():  # else something was taken back, which a stream cannot do
                    assert streamed.in_order() == original.in_order()

    return check


@pytest.fixture
def differing_from_jupyter(jupyter: Jupyter, session: Session) -> Differing:
    def compare(cells: Sequence[str]) -> dict[int, set[str]]:
        differences: dict[int, set[str]] = {}
        for number, code in enumerate(cells, 1):
            original = jupyter.run(code)
            _, ours = run_in(session, code)
            expected, got = original.without_frames().in_all(), ours.without_frames().in_all()
            names = {name for name in (expected | got) if expected.get(name) != got.get(name)} - {"traceback"}
            if original.error_is_last != ours.error_is_last:
                names.add("place of the error")
            if names:
                differences[number] = names
        return differences

    return compare


def run_in(session: Session, code: str) -> tuple[Story, Story]:
    """A cell's results as they were streamed, and as the execution has them in the end."""
    events = list(session.stream(code))
    execution = events[-1]
    assert isinstance(execution, Execution)
    end: list[Any] = [
        StreamText("stdout", execution.stdout),
        StreamText("stderr", execution.stderr),
        *execution.outputs,
    ]
    error = execution.error and (execution.error.name, execution.error.value, execution.error.traceback)
    whole = Story(list(_parts(end)), error, execution.error is None or execution.parts[-1] is execution.error)
    assert whole.of("result")[-1:] == [] or whole.of("result")[-1]["data"].get("text/plain", "") == execution.result
    return Story(list(_parts(events)), error), whole


def _parts(events: Iterable[object]) -> Iterator[tuple[str, Any]]:
    for event in events:
        match event:
            case StreamText(stream, text):
                yield stream, text
            case Output(data, metadata, is_result):
                yield "result" if is_result else "display", {"data": data, "metadata": metadata}
            case _:
                pass


def _plain(text: str) -> str:
    return _NORMAL[0][0].sub("", text)


def _normal(value: Any) -> Any:
    """The value with what may differ put aside."""
    match value:
        case str():
            for pattern, replacement in _NORMAL:
                value = pattern.sub(replacement, value)
            return value
        case {"image/png": str(content), **others}:
            return {"image/png": _png(content), **_normal(others)}
        case dict():
            return {key: _normal(item) for key, item in cast("dict[str, Any]", value).items()}
        case list() | tuple():
            return [_normal(item) for item in cast("list[Any]", value)]
        case _:
            return value


def _png(content: str) -> str:
    """A picture by its size; its bytes may depend on the machine."""
    data = base64.b64decode(content, validate=True)
    assert data.startswith(b"\x89PNG\r\n\x1a\n"), data[:20]
    assert data.endswith(b"IEND\xaeB`\x82"), data[-20:]
    return "a PNG of {} x {}".format(*struct.unpack(">II", data[16:24]))
