"""The same notebooks by nbclient with ipykernel, and by `greenroom.notebook` in a sandbox: the same outputs."""

from __future__ import annotations

import base64
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import nbformat
import pytest
from nbclient import NotebookClient

from greenroom import SessionPool
from greenroom.notebook import run_notebook
from greenroom.testing import engine_pool

ROOT = Path(__file__).parents[2]
REAL = ROOT / "notebooks" / "input" / "life_expectancy.ipynb"
DATA = ROOT / "examples" / "data" / "gapminder.csv"

_nbformat: Any = nbformat  # its types are unknown in part

EVERYTHING: list[tuple[str, ...]] = [
    ("print('one')", "print('two')", "3"),
    ("import sys", "print('error', file=sys.stderr)", "print('output')"),
    ("print('before')", "display('shown')", "print('between')", "display('again')", "'result'"),
    ("None",),
    ("total = 6 * 7", "total;"),
    ("import pandas as pd", "df = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})", "df"),
    ("import matplotlib.pyplot as plt", "plt.plot([1, 3, 2])", "print('printed before the figure')"),
    ("for n in (1, 2):", "    plt.figure(figsize=(n, 1))", "    plt.plot(n)", "    plt.show()", "    print(n)"),
    ("from IPython.display import HTML, JSON", "display(HTML('<b>b</b>'), HTML('<i>i</i>'))", "JSON({'a': [1]})"),
    ("!echo from a subprocess",),
    ("%%capture captured", "print('not shown')"),
    ("captured.stdout",),
    ("import asyncio", "await asyncio.sleep(0.01)", "'awaited'"),
    ("from IPython.display import clear_output", "print('old'); display('old')", "clear_output()", "print('new')"),
    ("clear_output(wait=True)", "display('kept')"),
    ("handle = display('first', display_id=True)", "handle.update('second')", "print('after')"),
    ("import plotly.graph_objects as go", "go.Figure(go.Bar(x=['a'], y=[1]))"),
]  # fmt: skip
FAILING: list[tuple[str, ...]] = [
    ("print('so far')", "1 / 0"),
    ("def f(n):", "    return [n][n]", "display('shown')", "f(3)"),
    ("this is no Python",),
    ("import nosuchmodule",),
    ("class Überfehler(Exception): pass", "raise Überfehler('schön')"),
    ("import matplotlib.pyplot as plt", "plt.plot([1, 2])", "1 / 0"),
    ("import warnings", "warnings.filterwarnings('always', message='To exit')", "raise SystemExit('enough')"),
    ("try: 1 / 0", "except Exception: get_ipython().showtraceback()", "print('goes on')", "[][1]"),
    ("%tb", "%tb", "print('goes on')"),
    ("class Bad:", "    def __repr__(self): raise ValueError('bad repr')"),
    ("display(Bad(), 'good')", "print('goes on')", "Bad()"),
    ("%config InteractiveShell.ast_node_interactivity = 'all'",),
    ("Bad()", "print('between')", "Bad()", "display('after')"),
    ("%config InteractiveShell.ast_node_interactivity = 'last_expr'",),
    ("print('gone')", "display(Bad())", "clear_output()", "1 / 0"),
    ("%%capture captured", "display(Bad())", "1 / 0"),
    ("!false", "%nosuchmagic"),
]
UPDATES: list[tuple[str, ...]] = [
    ("bar = display('0 %', display_id=True)", "print('working')", "bar.update('50 %')", "print('so far')"),
    ("from IPython.display import clear_output, display, update_display", "display('a', display_id='name')", "1"),
    ("update_display('b', display_id='name')", "bar.update({'done': 100})", "bar.update('100 %')"),
    ("display('c', display_id='name')", "print('twice')", "display('d', display_id='name')"),
    ("update_display('nowhere', display_id='unknown')", "display('cleared', display_id='cleared')", "clear_output()"),
    ("update_display('back', display_id='cleared')", "print('nothing')"),
    ("for step in range(3):", "    clear_output(wait=True)", "    display(step, display_id='name')"),
    ("update_display('e', display_id='name', metadata={'a': 1})", "bar.display('again')", "bar.update('new')"),
]


def notebook(*cells: tuple[str, ...], tags: tuple[str, ...] = ()) -> Any:
    new = _nbformat.v4
    return new.new_notebook(cells=[new.new_code_cell("\n".join(cell), metadata={"tags": list(tags)}) for cell in cells])


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with engine_pool("bubblewrap:") as pool:
        yield pool


def by_nbclient(source: Any, directory: Path) -> Any:
    """Run it as Jupyter does, in a directory with the data."""
    (directory / DATA.name).write_bytes(DATA.read_bytes())
    client: Any = NotebookClient(source, timeout=100, resources={"metadata": {"path": str(directory)}})
    # With that variable, ipykernel does not capture the output of subprocesses.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    # The kernel repeats all captured output on its own terminal.
    client.execute(env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return client.nb


def by_greenroom(source: Any, pool: SessionPool) -> Any:
    with pool.session() as session:
        session.upload(DATA)
        return run_notebook(source, session)


def assert_same(source: Any, pool: SessionPool, directory: Path) -> None:
    ours = by_greenroom(source, pool)
    original = by_nbclient(source, directory)
    _nbformat.validate(ours)
    assert len(ours["cells"]) == len(original["cells"])
    for cell, expected in zip(ours["cells"], original["cells"], strict=True):
        assert cell["source"] == expected["source"]
        assert cell.get("execution_count") == expected.get("execution_count")
        assert told(cell) == told(expected), cell["source"]


def test_a_real_notebook_gives_the_same_result_as_in_jupyter(pool: SessionPool, tmp_path: Path) -> None:
    assert_same(_nbformat.read(REAL, as_version=4), pool, tmp_path)


def test_everything_that_a_cell_shows_is_the_same_as_in_jupyter(pool: SessionPool, tmp_path: Path) -> None:
    assert_same(notebook(*EVERYTHING), pool, tmp_path)


def test_errors_are_the_same_as_in_jupyter(pool: SessionPool, tmp_path: Path) -> None:
    assert_same(notebook(EVERYTHING[13], *FAILING, tags=("raises-exception",)), pool, tmp_path)


def test_an_updated_display_has_its_last_content_wherever_it_stands(pool: SessionPool, tmp_path: Path) -> None:
    assert_same(notebook(*UPDATES), pool, tmp_path)


# What may differ, and what stands for it in both.
_NORMAL = [
    (re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]"), ""),  # colours: Jupyter has a terminal's, we have none
    (re.compile(r"\b0x[0-9a-f]+"), "0x…"),
    (re.compile(r"(<ipython-input-\d+-\w+>|\b\d+\.py), line"), "the cell, line"),
]


SILENT = {
    "an earlier display": (("shown = display('one', display_id='d')", "shown.update('two')"), [["two"], []]),
    "its own display": (("display('one', display_id='d').update('two'); print('end')",), [["two", "end"]]),
    "a clearance": (
        ("from IPython.display import clear_output\nprint('a'); display('b'); clear_output(); print('c')",),
        [["c"]],
    ),
    "a clearance with the next output": (
        ("from IPython.display import clear_output\nprint('a'); clear_output(wait=True); display('b')",),
        [["b"]],
    ),
}


@pytest.mark.parametrize(("cells", "expected"), SILENT.values(), ids=SILENT)
def test_a_silent_cell_has_the_same_updates_and_clears_as_in_jupyter(
    pool: SessionPool, cells: tuple[str, ...], expected: list[list[str]]
) -> None:
    *earlier, last = cells
    source = notebook(*((each,) for each in earlier), (f"{last}\nimport time\ntime.sleep(60)",))
    with pool.session() as session:
        ran = run_notebook(source, session, idle_timeout=5)
    shown = [
        [
            str(output.get("text") or output.get("ename") or output["data"]["text/plain"]).strip("'\n")
            for output in cell["outputs"]
        ]
        for cell in ran["cells"]
        if cell["cell_type"] == "code"
    ]
    *before, ended = expected
    assert shown == [*before, [*ended, "TimeoutError"]]


def told(cell: Any) -> list[Any]:
    """A cell's outputs; between two rich ones, stdout and stderr in one piece each."""
    parts: list[Any] = [{"stdout": "", "stderr": ""}]
    for output in cell.get("outputs", []):
        match output["output_type"]:
            case "stream":
                parts[-1][output["name"]] += _normal(output["text"])
                continue
            case "error":  # nbclient's kernel names files that do not exist, so the frames differ
                part = [_normal(output[key]) for key in ("ename", "evalue")]
                part.append("\n".join(_normal(output["traceback"])).strip().splitlines()[-1])
            case kind:
                part = (kind, output.get("execution_count"), _normal(output["data"]), _normal(output["metadata"]))
        parts += [part, {"stdout": "", "stderr": ""}]
    return parts


def _normal(value: Any) -> Any:
    match value:
        case str():
            for pattern, replacement in _NORMAL:
                value = pattern.sub(replacement, value)
            return value
        case {"image/png": str(content), **others}:  # its bytes may depend on the machine
            size = struct.unpack(">II", base64.b64decode(content)[16:24])
            return {"image/png": size, **_normal(others)}
        case dict():
            return {key: _normal(item) for key, item in cast("dict[str, Any]", value).items()}
        case list() | tuple():
            return [_normal(item) for item in cast("list[Any]", value)]
        case _:
            return value
