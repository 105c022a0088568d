"""Through our own server, an execution has the same fields as in a pool of this machine, all of them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

import greenroom
from greenroom import Execution, Output, Session, StreamText
from greenroom.testing import engine_pool
from greenroom.testing.server import serving

from .test_like_jupyter import NOTEBOOKS, TOPICS, cells_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks/input/life_expectancy.ipynb"
OPTIONS: dict[str, Any] = {"preload": (), "ready_session_instances": 0}

# What differs between two runs of the same code on one machine.
_VARYING = [
    re.compile(r"\b0x[0-9a-f]+"),
    re.compile(r"\d+(\.\d+)?(e[-+]\d+)? ?(ns|μs|µs|ms|s|seconds)\b"),
    re.compile(r"\b\d+ loops?\b|\(\d+ times\)|Thread-\d+"),
    re.compile(r"\b[0-9a-f]{32}\b|greenroom-[0-9a-z_]+|user:x:\d+:\d+"),
    re.compile(r"<dc:date>.*?</dc:date>|\b[mpch][0-9a-f]{10}\b"),  # in matplotlib's SVG
]

MORE: dict[str, tuple[str, ...]] = {
    "figures and a result": (
        "import matplotlib.pyplot as plt\nfor n in range(3):\n    plt.plot([n, 1])\n    plt.show()\nplt.plot([2])\n'end'",
    ),
    "a figure, its text and a table": (
        "import pandas as pd\ntable = pd.DataFrame({'a': [1, 2]})\ndisplay(table)\nprint('between')\ntable.plot()",
    ),
    "an update of an earlier display": ("handle = display('before', display_id=True)", "handle.update('after')\n1"),
    "output that is cleared": ("from IPython.display import clear_output\nprint('a')\nclear_output()\nprint('b')",),
    "metadata": ("display({'text/plain': 'x', 'application/json': {'a': [1.5]}}, raw=True, metadata={'b': {'c': 1}})",),
    "files": ("for n in range(120):\n    open(f'file-{n}.txt', 'w').write('x' * n)",),
    "too much text": ("print('x' * 3_000_000)",),
    "too large a display": ("from IPython.display import HTML\ndisplay(HTML('x' * (20 << 20)))\n1",),
    "an error with a cause": (
        "def f():\n    1 / 0\ntry:\n    f()\nexcept ZeroDivisionError as error:\n    raise KeyError('x') from error",
    ),
    "an exit of the process": ("print('last words', flush=True)\nimport os\nos._exit(3)", "1"),
}


@pytest.fixture(scope="module")
def sessions() -> Iterator[tuple[Session, Session]]:
    """One in a pool of this machine, one through a server; the same code runs in both from the beginning."""
    with ExitStack() as stack:
        local = stack.enter_context(engine_pool("bubblewrap:", **OPTIONS))
        served = stack.enter_context(greenroom.connect(stack.enter_context(serving("bubblewrap:", **OPTIONS))))
        yield local.session(), served.session()


@pytest.mark.parametrize("topic", [*TOPICS, "more"])
def test_cells_have_the_same_fields(sessions: tuple[Session, Session], topic: str) -> None:
    for name, cells in (MORE if topic == "more" else TOPICS[topic]).items():
        for code in (cells,) if isinstance(cells, str) else cells:
            compare(sessions, code, name)


def test_notebooks_have_the_same_fields(sessions: tuple[Session, Session]) -> None:
    for path in NOTEBOOKS:
        for code in cells_of(path):
            compare(sessions, code, path.stem)
    for session in sessions:
        session.upload(ROOT / "examples/data/gapminder.csv")
    cells: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            compare(sessions, "".join(cell["source"]), NOTEBOOK.stem)


def test_ends_have_the_same_fields(sessions: tuple[Session, Session]) -> None:
    compare(sessions, "print('begun')\nimport time\ntime.sleep(60)", "time is up", timeout=0.5)
    compare(
        sessions, "while True:\n    try:\n        time.sleep(1)\n    except BaseException: pass", "killed", timeout=0.5
    )


def compare(sessions: tuple[Session, Session], code: str, name: str, timeout: float | None = None) -> None:
    local, served = (list(session.stream(code, timeout=timeout)) for session in sessions)
    expected, got = local[-1], served[-1]
    assert isinstance(expected, Execution)
    assert isinstance(got, Execution)
    for field in dataclasses.fields(Execution):
        if field.name not in {"id", "duration", "cpu", "peak_memory"}:
            name_of_values = "parts" if field.name == "places" else field.name  # measured times change the places
            values = [_comparable(getattr(each, name_of_values)) for each in (got, expected)]
            assert values[0] == values[1], f"{name}: {field.name} of {code!r:.200}"
    assert _told(served) == _told(local), f"{name}: events of {code!r:.200}"
    assert _numbers(served) == _numbers(local), f"{name}: outputs that were events of {code!r:.200}"


def _told(events: Iterable[object]) -> list[Any]:
    """What a stream told: its rich outputs in order, and its text."""
    texts = {"stdout": "", "stderr": ""}
    outputs: list[Any] = []
    for event in events:
        if isinstance(event, StreamText):
            texts[event.stream] += event.text
        elif isinstance(event, Output):
            outputs.append(_comparable(event))
    return [*outputs, _comparable(texts)]


def _numbers(events: list[Any]) -> list[int | None]:
    """Which event each output of the execution was: the same object."""
    numbers = {id(event): number for number, event in enumerate(each for each in events if isinstance(each, Output))}
    return [numbers.get(id(output)) for output in events[-1].outputs]


def _comparable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return _comparable({name: each for name, each in fields.items() if name != "modified"})
    match value:
        case str():
            for pattern in _VARYING:
                value = pattern.sub("…", value)
            return value
        case dict():
            return {key: _comparable(each) for key, each in cast("dict[str, Any]", value).items()}
        case list() | tuple():
            return [_comparable(each) for each in cast("list[Any]", value)]
        case _:
            return value
