"""Cells have the same results in a session as in Jupyter; `conftest` defines what is compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from greenroom import Session

from .conftest import Jupyter, Story, run_in

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client", "ignore::DeprecationWarning:zmq")

# By topic and by what a cell is about. Several cells run one after the other, each of them compared.
TOPICS: dict[str, dict[str, str | tuple[str, ...]]] = {
    "values": {
        "an expression": "1 + 1",
        "nothing for None": "None",
        "nothing after a semicolon": "1 + 1;",
        "several statements": "total = 3\ntotal\ntotal + 1",
        "the last expression alone": "1\n'second'\nfor n in range(3): n",
        "what has many lines": "{number: 'x' * 20 for number in range(10)}",
        "of every kind": "[b'bytes', ..., 1e100, float('nan'), 10**30, {1}, range(3), int, print, 'naïve ✓ 😀']",
        "kept as _, __ and Out": ("'one'", "'two'", "_, __, Out[max(Out)], In[-2], _i"),
        "deleted": ("gone = 1", "del gone\ngone"),
        "every expression if asked for": (
            "%config InteractiveShell.ast_node_interactivity = 'all'",
            "1\n'two'\n3;",
            "%config InteractiveShell.ast_node_interactivity = 'last_expr'",
        ),
        "before text that follows": (
            "%config InteractiveShell.ast_node_interactivity = 'all'",
            "1\nprint('text')\n2\nprint('more')",
            "%config InteractiveShell.ast_node_interactivity = 'last'",
            "for number in range(2):\n    number\n    print('text')",
            "%config InteractiveShell.ast_node_interactivity = 'last_expr'",
            "exec(compile('3', 'x', 'single')); print('text')",
            "get_ipython().run_cell('4'); print('text')",
            "def write(*_): print('text of a hook', flush=True)\nget_ipython().events.register('post_run_cell', write)",
            "5",
            "get_ipython().events.unregister('post_run_cell', write)\nget_ipython().events.register('post_execute', write)",
            "6",
            "get_ipython().events.unregister('post_execute', write)",
            "import asyncio\nawait asyncio.sleep(0)\n7",
            "print('text')\nawait asyncio.sleep(0, 8)",
        ),
    },
    "definitions": {
        "a class and its pickle": (
            "import pickle\n"
            "class Point:\n"
            "    def __init__(self, x): self.x = x\n"
            "    def __eq__(self, other): return self.x == other.x",
            "pickle.loads(pickle.dumps(Point(3))) == Point(3), Point.__module__",
        ),
        "a dataclass": "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: int = 1\n    b: 'str' = 'b'\nPair()",
        "a generator": "def count():\n    yield 1\n    return 2\ncounter = count()\nnext(counter), list(counter)",
        "the source of a function": 'import inspect\ndef twice(x):\n    """Docs."""\n    return 2 * x\ninspect.getsource(twice)',
        "the names of the module": "__name__, __doc__, {'In', 'Out', 'exit', 'get_ipython'} <= globals().keys()",
        "processes by fork": (
            "import multiprocessing\ndef square(x): return x * x",
            "with multiprocessing.get_context('fork').Pool(2) as processes:\n    print(processes.map(square, range(5)))",
            "def tell(): print('from the child', flush=True)\n"
            "child = multiprocessing.get_context('fork').Process(target=tell)\n"
            "child.start(); child.join(); child.exitcode",
        ),
    },
    "text": {
        "print": "print('a'); print('b', end=''); print('c')\n'd'",
        "stderr": "import sys\nprint('error', file=sys.stderr); print('output')",
        "a warning": "import warnings\nwarnings.warn('careful')",
        "a warning in a function": (
            "def risky():\n    warnings.warn('deep', DeprecationWarning, stacklevel=1)",
            "risky()",
        ),
        "logging": "import logging\nlogging.warning('number %s', 1); logging.info('unheard')",
        # Jupyter gets output that does not come from Python a moment later.
        "of a subprocess": "import subprocess, time\nsubprocess.run('echo out; echo err >&2', shell=True); time.sleep(0.5)",
        "of a subprocess, captured": "subprocess.run('echo out; echo err >&2', shell=True, capture_output=True, text=True)",
        "of os.system": "import os\nos.system('echo out; echo err >&2'); time.sleep(0.5)",
        "of file descriptors": "os.write(1, b'raw\\n'); os.write(2, b'raw error\\n'); time.sleep(0.5)",
        "of C code": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.puts(b'from C'); libc.fflush(None); time.sleep(0.5)",
        "of a thread": (
            "import threading\n"
            "thread = threading.Thread(target=print, args=('from a thread',))\n"
            "thread.start(); thread.join(); print('from the main one')"
        ),
        "unicode, control characters": "print('naïve ✓ 漢字 😀 \\u202e \\x00 \\x07 \\x1b[31mred\\x1b[0m')",
        "carriage returns": "for n in range(3): print(n, end='\\r')\nprint('done')",
        "a very long line": "print('x' * 200_000)",
        "redirected": "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as text: print('a')\ntext.getvalue()",
        "a progress bar": "for n in range(3): print(f'{n}/3', end='\\r', file=sys.stderr, flush=True)",
        "help": "help(len)",
    },
    "shell and magics": {
        "!command": "!echo out; echo err >&2",
        "!command with variables": "name = 'world'\n!echo hello {name} $name",
        "!command into a list": "lines = !echo one; echo two\nlines",
        "the exit code of !command": ("!exit 3", "_exit_code"),
        "%%bash": "%%bash\necho out\necho err >&2",
        "%%bash that fails": "%%bash\necho before\nexit 3",
        "%%python3": "%%python3\nprint('another process')",
        "%time": "%time sum(range(10))",
        "%%time": "%%time\n'value'",
        "%%timeit": "%%timeit -n1 -r1\npass",
        "%%capture": (
            "%%capture captured\nprint('hidden'); display('shown'); 'value'",
            "captured.stdout, len(captured.outputs)",
            "captured.show()",
        ),
        "%pwd and %cd": ("%pwd", "%cd /", "%cd -"),
        "%%writefile and back": ("%%writefile notes.txt\none\ntwo", "open('notes.txt').read()", "%cat notes.txt", "!ls n*"),
        "%run": ("%%writefile script.py\nprint('in a script'); answer = 42", "%run script.py", "answer"),
        "%who": ("%reset -f", "number, text = 1, 'one'\nimport math", "%who", "%whos"),
        "%history": ("'first'", "%history -n 1-3"),
        "%env": ("%env GREETING=hello", "%env GREETING", "!echo $GREETING"),
        "%precision": ("%precision 3", "3.14159265", "%precision"),
        "%%html and others": ("%%html\n<b>bold</b>", "%%markdown\n# title", "%%latex\n$x$", "%%javascript\n1"),
        "unknown ones": ("%nosuchmagic", "%%nosuchmagic\n1"),
        "get_ipython()": "get_ipython().run_line_magic('pwd', ''), get_ipython().execution_count > 1",
    },
    "async": {
        "top-level await": "import asyncio\nawait asyncio.sleep(0.01)\nprint('slept')\n'value'",
        "async for and comprehension": (
            "async def count():\n    for n in range(3): yield n",
            "async for n in count(): print(n)\n[n async for n in count()]",
        ),
        "tasks": (
            "async def later(n):\n    await asyncio.sleep(0.01 * n)\n    print(n)\n    return n",
            "await asyncio.gather(later(2), later(1))",
        ),
        "a task from one cell to the next": (
            "go = asyncio.Event()\nasync def wait():\n    await go.wait()\n    return 'went'",
            "task = asyncio.create_task(wait())\nawait asyncio.sleep(0)",
            "go.set()\nawait task",
        ),
        "an error in a coroutine": ("async def fail():\n    raise ValueError('no')", "await fail()"),
        "a timeout": "async with asyncio.timeout(0.01):\n    await asyncio.sleep(5)",
    },
    "display": {
        "in order with text": (
            "from IPython.display import *\n"
            "print('one'); display('two'); print('three'); print('four', file=__import__('sys').stderr)\n"
            "display(HTML('<b>five</b>')); print('six')\n'seven'"
        ),
        "of every type": "display(HTML('<i>h</i>'), Markdown('# m'), JSON({'a': [1, None]}), Latex('$l$'), Math('m'), Code('x = 1'))",
        "of media": "display(IFrame('http://localhost', 10, 10), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'), ProgressBar(3))",
        "of a picture": (
            "import base64\n"
            "dot = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')",
            "Image(dot, width=20)",
            "display(Image(dot))",
        ),
        "of raw mime types": "display({'text/plain': 'p', 'application/x-custom+json': {'a': [1, 2]}}, metadata={'m': 1}, raw=True)",
        "by an object's methods": (
            "class Rich:\n"
            "    def __repr__(self): return 'plain'\n"
            "    def _repr_html_(self): return '<i>rich</i>'\n"
            "    def _repr_png_(self): return None\n"
            "    def _repr_json_(self): return {'a': 1}, {'expanded': True}\n"
            "Rich()"
        ),
        "by a mime bundle": (
            "class Bundle:\n"
            "    def _repr_mimebundle_(self, include=None, exclude=None):\n"
            "        return {'text/plain': 'plain', 'text/x-custom': 'c'}, {'text/x-custom': {'k': 1}}\n"
            "Bundle()"
        ),
        "by _ipython_display_": (
            "class Loud:\n    def _ipython_display_(self): print('before'); display('shown')\nLoud()"
        ),
        "with an id, updated": (
            "handle = display('first', display_id='place')\ndisplay('other')\nhandle.update('second')",
            "handle.update('third')",
            "update_display('fourth', display_id='place')",
            "handle",
        ),
        "with a random id": "display('shown', display_id=True)",
        "cleared": "print('gone'); display('gone'); clear_output(); print('stays')",
        "cleared when more comes": "print('gone'); clear_output(wait=True); print('stays'); display('stays')",
        "cleared when nothing comes": "print('stays'); clear_output(wait=True)",
        "not cleared by an update": "h = display('old', display_id='kept'); clear_output(wait=True); h.update('new')",
    },
    "tables": {
        "a DataFrame": ("import pandas as pd\ntable = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})", "table", "table.describe()"),
        "categories too wide for a terminal": "pd.cut(range(0, 100, 9), [0, 18, 25, 35, 60, 100])",
        "a Series": "table['a']",
        "a Styler": "table.style.format('{}').set_uuid('fixed')",
        "a wide one": "pd.DataFrame({f'column {n}': range(2) for n in range(30)})",
        "a wide one, printed": "print(_)",
        "a long one": "pd.DataFrame({'a': range(100)})",
        "info": "table.info()",
        "an array": "import numpy as np\nnp.arange(12).reshape(3, 4)",
    },
    "figures": {
        "without show": "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])",
        "without show, nor result": "plt.plot([1, 2, 3]);",
        "with show, in order with text": (
            "for width in (1, 2):\n"
            "    print('before', width)\n"
            "    plt.figure(figsize=(width, 1)); plt.plot([1, 2]); plt.show()\n"
            "    print('after', width)"
        ),
        "two at the end": "plt.figure(figsize=(1, 2)); plt.figure(figsize=(2, 1)); print('first'); 'second'",
        "as the last expression": "figure, axes = plt.subplots(figsize=(2, 2))\naxes.bar([1, 2], [3, 4])\nfigure",
        "again": "figure",
        "displayed and closed": "display(figure); plt.close('all')",
        "closed before the end": "plt.figure(); plt.close()",
        "saved": "figure.savefig('figure.png'); __import__('os').path.getsize('figure.png') > 100",
        "before an error": "plt.figure(figsize=(1, 1)); plt.plot([1]); 1/0",
        "of pandas": "pd.DataFrame({'a': [1, 3, 2]}).plot(figsize=(2, 2))",
        "after %matplotlib inline": ("%matplotlib inline", "plt.figure(figsize=(2, 1)); plt.plot([1, 2]); plt.show()"),
        "as SVG": (
            "%config InlineBackend.figure_format = 'svg'",
            "plt.rcParams['svg.hashsalt'] = 'fixed'; plt.figure(figsize=(1, 1)); plt.plot([1, 2]); plt.show()",
            "%config InlineBackend.figure_format = 'png'",
        ),
        "for retina screens": (
            "%config InlineBackend.figure_format = 'retina'",
            "plt.figure(figsize=(1, 1)); plt.plot([1, 2]); plt.show()",
            "%config InlineBackend.figure_format = 'png'",
        ),
        "the backend": "import matplotlib\nmatplotlib.get_backend(), plt.isinteractive(), plt.rcParams['figure.dpi']",
    },
    "charts": {
        "plotly": ("import plotly.express as px\nline = px.line(x=[1, 2], y=[2, 1])", "line"),
        "plotly with show": "print('before'); line.show(); print('after')",
        "altair": (
            "import altair as alt\n"
            "bars = alt.Chart(pd.DataFrame({'x': [1, 2], 'y': [3, 4]})).mark_bar().encode(x='x', y='y')",
            "bars",
            "bars.show()",
        ),
        "pillow": "from PIL import Image as Picture\nPicture.new('RGB', (3, 2), 'red')",
    },
    "errors": {
        "in nested functions": ("def outer():\n    inner()\ndef inner():\n    raise KeyError('key')", "outer()"),
        "after some output": "print('before')\n1/0\nprint('after')",
        "chained by from": "try:\n    1/0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('after') from error",
        "chained in an except": "try:\n    1/0\nexcept ZeroDivisionError:\n    raise RuntimeError('during')",
        "not chained": "try:\n    1/0\nexcept ZeroDivisionError:\n    raise RuntimeError('plain') from None",
        "of syntax": ("x = = 1", "def f(:\n    pass", "'no end", "print(1", "return 5", "eval('1 +')"),
        "of indentation": ("if True:\nprint(1)", "  x = 1\n y = 2"),
        "in a library": ("import json\njson.loads('{')", "pd.DataFrame({'a': [1]})['b']"),
        "in a module of the session": ("%%writefile broken.py\ndef f():\n    return 1/0\nf()", "import broken"),
        "in a script that %run runs": "%run broken.py\nprint('goes on')",
        "in exec": "exec('1/0')",
        "of names and types": ("undefined", "import nosuchmodule", "[1][5]", "'a'.b", "None + 1", "open('nosuch')"),
        "an assertion": ("assert 1 == 2, 'reason'", "assert False"),
        "of the user, with unicode and colours": "class Überfehler(Exception): pass\nraise Überfehler('schön \\x1b[31mrot\\x1b[0m')",
        "with a note": "error = ValueError('noted')\nerror.add_note('a note')\nraise error",
        "a recursion": (  # without its thousand frames, which take the original a long time
            "def recurse(): recurse()",
            "try:\n    recurse()\nexcept RecursionError as error:\n    raise error.with_traceback(None) from None",
        ),
        "a group": "raise ExceptionGroup('several', [ValueError(1), TypeError('two')])",
        "SystemExit": ("raise SystemExit", "import sys\nsys.exit(3)", "sys.exit('bye')"),
        "KeyboardInterrupt by the code": "raise KeyboardInterrupt('stop')",
        "StopIteration": "next(iter([]))",
        "in a thread": "t = threading.Thread(target=lambda: 1/0)\nt.start(); t.join(); print('goes on')",
        "in a pool of threads": (
            "from concurrent.futures import ThreadPoolExecutor\ndef divide():\n    return 1/0",
            "with ThreadPoolExecutor() as executor:\n    executor.submit(divide).result()",
        ),
        "in __repr__": ("class Bad:\n    def __repr__(self):\n        raise ValueError('no repr')", "Bad()"),
        "shown, then another": "display(Bad())\nprint('goes on')\nint('x')",
        "told again by %tb": ("1/0", "%tb"),
        "shown and handled": "try:\n    1/0\nexcept Exception:\n    get_ipython().showtraceback()\n42",
        "shown by display": "display(Bad())\nprint('goes on')",
        "of code that code runs": "get_ipython().run_cell('1/0'); get_ipython().run_cell('(')\n'goes on'",
        "of a callback": (
            "def fail(*_): 1/0\nget_ipython().events.register('pre_execute', fail)",
            "'goes on'",
            "{}['key']",
            "get_ipython().events.unregister('pre_execute', fail)\nget_ipython().events.register('post_execute', fail)",
            "get_ipython().events.unregister('post_execute', fail)",
        ),
        "in a timed cell": ("%%time\n1/0", "%time 1/0"),
        "by %xmode": ("%xmode Plain", "1/0", "%xmode Minimal", "1/0", "%xmode Context"),
    },
}  # fmt: skip

NOTEBOOKS = sorted((Path(__file__).parent / "cells").glob("*.ipy"))
_SOURCE = re.compile(r" *((?:-+> )?\d+ )(.*)")  # a line of code in a traceback
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# By notebook and cell: what differs, and why. An unlisted difference fails the test, and so does a listed one that is
# none.
_PAGER = "a model reads what a pager shows; nbclient drops it"
_NO_FRONT_END = "there is nothing to connect to, and no notebook that is open"
_NO_PERSON = "the message for a model: nobody answers, and there is no debugger"
_NO_KERNEL = "there is no kernel behind the shell, and no history is kept"
DIFFERENCES: dict[str, dict[int, tuple[set[str], str]]] = {
    "01-tasks-without-await": {
        3: ({"outputs", "result"}, "the loop is at rest while code does not await, so that it can be run"),
        4: ({"outputs", "result", "error"}, "asyncio.run() works"),
    },
    "07-magics-of-ipykernel": {
        4: ({"stdout"}, _PAGER),
        5: ({"stdout"}, _PAGER),
        6: ({"stdout"}, _PAGER),
        7: ({"stdout", "stderr", "outputs"}, _NO_FRONT_END),
        8: ({"stdout", "stderr"}, _NO_FRONT_END),
        9: ({"stderr"}, _NO_FRONT_END),
        10: ({"stdout", "stderr"}, _NO_FRONT_END),
    },
    "15-code-that-asks": {
        1: ({"error"}, _NO_PERSON),
        3: ({"error", "stdout", "stderr"}, _NO_PERSON),
        4: ({"error", "stdout", "stderr", "place of the error"}, _NO_PERSON),
        5: ({"stdout", "stderr"}, _NO_PERSON),
    },
    "17-kernel-object": {
        1: ({"error", "outputs", "result"}, _NO_KERNEL),
        2: ({"error", "outputs", "result"}, _NO_KERNEL),
        3: ({"outputs", "result"}, _NO_KERNEL),
    },
    "19-text-of-a-task-after-its-cell": {2: ({"stdout"}, "text between cells belongs to the next; nbclient drops it")},
}
KILLED = {"21-killed-by-itself": "Jupyter's client ends with its kernel; a session goes on with a new Python"}


def cells_of(path: Path) -> list[str]:
    """The cells of a file, whose first line says what it is about."""
    return path.read_text(encoding="utf-8").partition("\n")[2].split("\n# %%\n")


CASES = [
    pytest.param((cells,) if isinstance(cells, str) else cells, id=f"{topic} - {name}")
    for topic, cases in TOPICS.items()
    for name, cells in cases.items()
]


@pytest.mark.parametrize("cells", CASES)
def test_a_cell_gives_the_same_result_as_in_jupyter(
    same_as_in_jupyter: Callable[..., None], cells: tuple[str, ...]
) -> None:
    same_as_in_jupyter(*cells)


def test_a_traceback_is_formatted_by_ipython(same_as_in_jupyter: Callable[..., None]) -> None:
    for case in TOPICS["errors"].values():
        same_as_in_jupyter(*((case,) if isinstance(case, str) else case), tracebacks=True)


def test_a_traceback_is_ipykernels_without_blank_lines_and_indentation(jupyter: Jupyter, session: Session) -> None:
    def lines(story: Story) -> list[str]:
        """Without the blank lines and the common indentation of each frame, which we leave out."""
        assert story.error is not None
        found = (_SOURCE.match(line) for line in _COLOUR.sub("", story.error[2]).splitlines())
        return [f"{match[1]}{match[2].strip()}" for match in found if match and match[2].strip()]

    define, call, *_ = cells_of(next(path for path in NOTEBOOKS if path.stem == "13-tracebacks"))
    jupyter.run(define)
    session.execute(define)
    original, (_, ours) = jupyter.run(call), run_in(session, call)
    assert original.error != ours.error
    assert lines(original) == lines(ours)
    assert lines(ours)[-3:] == ["3 y = 0", "5 # on purpose", "----> 6 return x / y"]


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem not in KILLED], ids=lambda path: path.stem)
def test_a_notebook_differs_from_jupyter_as_listed(
    differing_from_jupyter: Callable[..., dict[int, set[str]]], path: Path
) -> None:
    expected = {number: parts for number, (parts, _) in DIFFERENCES.get(path.stem, {}).items()}
    assert differing_from_jupyter(cells_of(path)) == expected


def test_every_listed_difference_is_of_a_notebook() -> None:
    assert DIFFERENCES.keys() | KILLED.keys() <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("name", KILLED)
def test_a_session_survives_what_ends_a_kernel(session: Session, name: str) -> None:
    first, *others = cells_of(next(path for path in NOTEBOOKS if path.stem == name))
    assert session.execute(first).state_lost
    for code in others:
        assert session.execute(code).succeeded


def test_ipython_has_its_terminal_only_when_code_asks_for_it(session: Session) -> None:
    loaded = session.execute("import IPython, sys\n'prompt_toolkit' in sys.modules").raise_for_error()
    assert loaded.result == "False", "a start would take much longer"
    embed = session.execute("from IPython import embed\nembed.__module__, IPython.embed is embed").raise_for_error()
    assert embed.result == "('IPython.terminal.embed', True)"
    wrong = session.execute("IPython.embedded")
    assert wrong.error is not None
    assert wrong.error.name == "AttributeError"
