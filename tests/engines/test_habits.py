"""What people and models do out of habit, in one session of each engine: it works, or the error says what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.waiting import within

from greenroom import FileMissing, Session
from greenroom.testing import engine_pool


@pytest.fixture(scope="module", params=["bubblewrap:", "docker:", "docker:?runtime=runsc"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with engine_pool(request.param, preload=(), cpu=1, ready_session_instances=0) as pool, pool.session() as session:
        yield session


def summary(session: Session, code: str) -> str:
    error = session.execute(code, timeout=60).error
    assert error is not None
    return error.summary


# A session that began again


@pytest.mark.filterwarnings("ignore::greenroom.local.AzureRangeWarning")
@pytest.mark.parametrize("url", ["bubblewrap:", "docker:"])
def test_a_missing_file_is_explained_by_the_end_of_its_session(url: str) -> None:
    options: dict[str, Any] = {"preload": (), "cooldown_period": 5, "ready_session_instances": 0}
    with engine_pool(url, **options) as pool, pool.session() as session:
        session.upload(b"a\n1\n", "in.csv")
        assert within(60, lambda: session.info() is None)
        with pytest.raises(FileMissing, match=r"cooled down .* and started again"):
            session.download("in.csv")
        text = session.execute("open('in.csv').read()").text_for_model()
        assert text.startswith(
            "The session cooled down after a period without use and started again: its variables and files are gone."
        )
        assert "started again" not in session.execute("1").text_for_model()


# Modules of the session


def test_a_module_that_is_corrected_immediately_runs_as_corrected(session: Session) -> None:
    session.upload(b"def more(a, b): return a < b\n", "rules.py")
    assert session.execute("import importlib, sys, rules\nrules.more(2, 1)").result == "False"
    session.upload(b"def more(a, b): return a > b\n", "rules.py")
    assert session.execute("importlib.reload(rules).more(2, 1)").result == "True"
    script = "from rules import more; print(more(2, 1))"
    assert session.execute(f"!{{sys.executable}} -c '{script}'").stdout.split() == ["True"]
    session.upload(b"def more(a, b): return a < b\n", "rules.py")
    assert session.execute(f"!{{sys.executable}} -c '{script}'").stdout.split() == ["False"]
    assert (
        session.execute(
            "import concurrent.futures, multiprocessing\n"
            "with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as processes:\n"
            "    [one] = processes.map(importlib.reload(rules).more, [2], [1])\none",
            timeout=60,
        ).result
        == "False"
    )
    assert not [file for file in session.files(recursive=True) if "__pycache__" in file.path]


def test_no_bytecode_replaces_a_modules_source(session: Session) -> None:
    execution = session.execute(
        "import compileall, importlib, sys\n"
        "usual, sys.dont_write_bytecode = sys.dont_write_bytecode, False\n"
        "_ = open('rate.py', 'w').write('VALUE = 1\\n')\n"
        "_ = compileall.compile_file('rate.py', quiet=1)\n"
        "import rate\n"
        "_ = open('rate.py', 'w').write('VALUE = 2\\n')\n"
        "sys.dont_write_bytecode = usual\n"
        "rate.VALUE, importlib.reload(rate).VALUE"
    )
    assert execution.result == "(1, 2)"
    assert [file.name for file in execution.files] == ["rate.py"]
    session.execute("import shutil\nshutil.rmtree('__pycache__')")


def test_modules_are_found_as_they_are_written(session: Session) -> None:
    code = (
        "import importlib, os\nos.makedirs('parts')\n"
        "for n in range(9):\n"
        "    _ = open(f'parts/part{n}.py', 'w').write(f'VALUE = {n}')\n"
        "    os.utime('parts', (1, 1))  # as if all came within one tick of the clock\n"
        "    assert importlib.import_module(f'parts.part{n}').VALUE == n"
    )
    assert session.execute(code).succeeded


# Nobody is there to answer


@pytest.mark.parametrize(
    "command",
    [
        "cat",
        "read x; echo got $x",
        "python3 -c 'input()'",
        "python3 -c 'import getpass; getpass.getpass()'",
        "less /usr/lib/os-release",
        "more /usr/lib/os-release",
        "for n in $(seq 100); do echo $n; done | more; top; bash -i",
        "(sleep 100 &); echo begun",
    ],
)
def test_a_command_does_not_wait_for_input(session: Session, command: str) -> None:
    assert session.execute(f"!{command}", timeout=30).status == "succeeded"


def test_a_pager_writes_everything(session: Session) -> None:
    session.upload("".join(f"{number}\n" for number in range(100)).encode(), "lines.txt")
    for pager in ("more lines.txt", "less -S lines.txt", "cat lines.txt | less", "cat lines.txt | more", "git -p help"):
        if session.execute(f"!command -v {pager.rpartition('| ')[2].split()[0]}").stdout:
            assert session.execute(f"!{pager}", timeout=30).stdout.count("\n") >= 40, pager


@pytest.mark.parametrize(
    "form", ["!{command}", "%%bash\n{command}", "import subprocess\nsubprocess.run({command!r}, shell=True)"]
)
def test_an_editor_reports_that_no_person_can_use_it(session: Session, form: str) -> None:
    if not session.execute("!command -v vi").stdout:
        pytest.skip("there is no vi")
    session.upload(b"one\n", "edited.txt")
    git = "git init -q r; cd r; EDITOR=vi git -c user.name=A -c user.email=a@example.org commit --allow-empty"
    for command in ("vi edited.txt", "TERM=xterm view edited.txt", git):
        execution = session.execute(form.format(command=command), timeout=30)
        assert execution.status != "timed_out", command
        assert "this session is not interactive" in execution.stdout + execution.stderr, command
    for command in (
        "vi -es -c '%s/one/two/' -c wq",
        "vi -c '%s/two/three/' -c wq",
        "printf '%%s/three/4/\\nwq\\n' | ex",
    ):
        assert session.execute(form.format(command=f"{command} edited.txt"), timeout=30).status != "timed_out"
    assert session.download("edited.txt") == b"4\n"


def test_a_command_writes_to_a_terminal_and_is_interrupted(session: Session) -> None:
    execution = session.execute("!python3 -c 'import os; print(os.isatty(1), os.get_terminal_size())'; exit 3")
    assert execution.stdout.split() == ["True", "os.terminal_size(columns=80,", "lines=24)"]
    assert session.execute("_exit_code").result == "3"
    assert session.execute("!kill -9 $$\n_exit_code").result == "-9"
    assert session.execute("!echo begun; sleep 77", timeout=3).status == "timed_out"
    assert "sleep 77" not in session.execute("!cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout


@pytest.mark.parametrize(
    "code",
    [
        "x = 1\nbreakpoint()",
        "import pdb\npdb.set_trace()",
        "import pdb\npdb.Pdb().set_trace()",
        "from IPython.core.debugger import set_trace\nset_trace()",
        "try: 1/0\nexcept Exception: import pdb; pdb.post_mortem()",
    ],
)
def test_a_debugger_is_refused_with_its_line(session: Session, code: str) -> None:
    text = session.execute(code).text_for_model()
    assert ", line 2" in text
    assert "this session is not interactive" in text


def test_nothing_can_be_installed_and_pip_reports_it_immediately(session: Session) -> None:
    installers = "%pip install", "%uv pip install", "import sys\n!{sys.executable} -m pip install"
    for code in (f"{installer} xgboost" for installer in installers):
        execution = session.execute(code, timeout=30)
        assert execution.status != "timed_out"
        for advice in ("break-system-packages", "restart", "Retrying"):
            assert advice not in execution.text_for_model()


# Figures


def test_a_figure_that_is_made_without_pyplot_is_shown(session: Session) -> None:
    code = "from matplotlib.figure import Figure\nfigure = Figure()\n_ = figure.subplots().plot([1, 2])\nfigure"
    execution = session.execute(code, timeout=60)
    assert len(execution.images) == 1, execution.text_for_model()


@pytest.mark.parametrize(
    "choice",
    [
        "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt",
        "import matplotlib\nmatplotlib.use('pdf')\nimport matplotlib.pyplot as plt",
        "import matplotlib.pyplot as plt\nplt.rcParams['backend'] = 'svg'\nplt.switch_backend('svg')",
        "import matplotlib.pyplot as plt\nplt.switch_backend('TkAgg')",
        "%matplotlib qt\nimport matplotlib.pyplot as plt",
        "%matplotlib notebook\nimport matplotlib.pyplot as plt",
    ],
)
def test_a_figure_is_shown_whatever_backend_was_chosen(session: Session, choice: str) -> None:
    execution = session.execute(f"{choice}\nplt.plot([1, 2])\nplt.show()\nplt.plot([2, 1])", timeout=60)
    assert len(execution.images) == 2, execution.text_for_model()


def test_plotly_shows_a_chart_without_nbformat(session: Session) -> None:
    execution = session.execute(
        "import sys\nkept = sys.modules.get('nbformat')\nsys.modules['nbformat'] = None\n"
        "import plotly.graph_objects as go\nfigure = go.Figure(go.Bar(x=['a'], y=[1]))\nfigure.show()\nfigure",
        timeout=60,
    )
    assert execution.succeeded, execution.text_for_model()
    assert ["application/vnd.plotly.v1+json" in output.data for output in execution.outputs] == [True, True]


# Errors


def test_the_summary_of_an_error_has_what_led_to_it(session: Session) -> None:
    code = (
        "def price(row): return row['price']\n"
        "try: price({'prize': 3})\n"
        "except KeyError as error: raise RuntimeError('no report')"
    )
    for ending in (" from error", ""):
        text = summary(session, code + ending)
        assert text.index("KeyError: 'price'") < text.index("RuntimeError: no report")
        assert "in price\n    def price(row): return row['price']" in text
    assert "KeyError: 'price'" not in summary(session, f"{code} from None")


def test_the_summary_is_bounded_and_keeps_the_line_of_the_error(session: Session) -> None:
    text = summary(session, "try: raise ValueError('x' * 10**6)\nexcept ValueError: raise KeyError('y' * 10**6)")
    assert len(text) <= 10_000
    assert "\nKeyError: 'yyy" in text
    assert text.endswith("yyy'")
    text = summary(session, "try: int('x')\nexcept ValueError: 1/0 # " + "z" * 100_000)
    assert len(text) < 2_000
    assert text.endswith("ZeroDivisionError: division by zero")


def test_the_summary_leaves_out_what_a_library_says_twice(session: Session) -> None:
    text = summary(session, "import pandas\npandas.DataFrame({'a': [1]})['b']")
    assert text.count("KeyError: 'b'") == 1
    assert "The above exception" not in text


def test_the_summary_has_what_an_error_knows(session: Session) -> None:
    session.upload(b"V = 1\n", "deeper/helper_of_mine.py")
    execution = session.execute("import helper_of_mine")
    text = execution.text_for_model()
    assert "The module is /mnt/data/deeper/helper_of_mine.py: sys.path.insert(0, '/mnt/data/deeper')" in text
    assert "hint:" not in text
    text = summary(
        session,
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', '1/0'], check=True, capture_output=True)",
    )
    assert "CalledProcessError: Command" in text
    assert text.endswith("ZeroDivisionError: division by zero")


def test_the_summary_of_a_group_has_its_members(session: Session) -> None:
    text = summary(
        session,
        "import asyncio\n"
        "async def first(): raise ValueError('bad row 17')\n"
        "async def second(): raise ExceptionGroup('inner', [KeyError('region')])\n"
        "async with asyncio.TaskGroup() as group:\n"
        "    group.create_task(first())\n"
        "    group.create_task(second())",
    )
    for part in ("ValueError: bad row 17", "line 2, in first", "inner (1 sub-exception)", "KeyError: 'region'"):
        assert part in text
    many = summary(session, "raise ExceptionGroup('many', [ValueError(n) for n in range(100)])")
    assert "ValueError: 5" in many
    assert "more sub-exceptions" in many


@pytest.mark.parametrize(
    "call",
    [
        "import concurrent.futures as futures\nwith futures.ProcessPoolExecutor(1) as p: list(p.map(invert, [0]))",
        "import multiprocessing\nwith multiprocessing.Pool() as p: p.map(invert, [0])",
        "import joblib\njoblib.Parallel(n_jobs=2)(joblib.delayed(invert)(x) for x in [0, 0])",
    ],
)
def test_the_summary_has_the_line_in_a_worker_process(session: Session, call: str) -> None:
    text = summary(session, f"def invert(x):\n    return 1 / x\n{call}")
    if "No module named 'joblib'" in text:
        pytest.skip("joblib is not in the sandbox")
    assert "line 2, in invert\n    return 1 / x\nZeroDivisionError: division by zero" in text


def test_an_endless_recursion_without_a_limit_costs_no_variables(session: Session) -> None:
    session.execute("kept = 5\nimport sys\nusual = sys.getrecursionlimit()")
    code = "sys.setrecursionlimit(300_000)\ndef endless(n): return endless(n + 1)\nendless(0)"
    execution = session.execute(code, timeout=60)
    assert "RecursionError" in execution.text_for_model()
    assert session.execute("sys.setrecursionlimit(usual)\nkept").result == "5"


def test_files_survive_a_worker_that_is_killed_as_it_starts(session: Session) -> None:
    session.upload(b"precious", "data.txt")
    assert session.execute("import os\nos._exit(1)").state_lost
    session.shell("kill -9 -1")
    session.execute("0")  # the worker may still be ending
    assert session.execute("6 * 7").result == "42"
    assert session.download("data.txt") == b"precious"


# Processors and files


def test_libraries_count_the_processors_of_the_session(session: Session) -> None:
    code = "import multiprocessing, os\nos.cpu_count(), multiprocessing.cpu_count(), os.environ['OMP_NUM_THREADS']"
    assert session.execute(code).result == "(1, 1, '1')"
    assert session.execute("import pickle\npickle.loads(pickle.dumps(os.cpu_count))()").result == "1"
    execution = session.execute("import joblib\njoblib.cpu_count(), joblib.cpu_count(True)", timeout=60)
    assert execution.result in {"(1, 1)", None}, "None: there is no joblib"
    assert "physical cores" not in execution.stderr


@pytest.mark.parametrize("report", ["report.csv", "tiles/zz-report.png"])
@pytest.mark.parametrize("tile", ["tile-{n:04}.png", "{n // 20}/{n % 20}.png", "{n * 7 ** 15:x}.png"])
def test_one_report_is_reported_among_many_files(session: Session, tile: str, report: str) -> None:
    execution = session.execute(
        "import os, shutil\nshutil.rmtree('tiles', ignore_errors=True)\n"
        "for n in range(400):\n"
        f"    path = f'tiles/{tile}'\n"
        "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
        "    open(path, 'w').close()\n"
        f"open('{report}', 'w').write('1')"  # in gVisor, truncating an empty file does not change its time
    )
    assert execution.files[0].path == f"/mnt/data/{report}"
    assert (len(execution.files), execution.files_omitted) == (100, 301)


def test_files_are_reported_among_thousands(session: Session) -> None:
    code = "os.makedirs('many')\nfor n in range(2500): open(f'many/{n}', 'w').close()"
    assert session.execute(f"import os\n{code}", timeout=60).files_omitted > 2000
    time.sleep(0.05)
    execution = session.execute("open('summary.csv', 'w').close()\nos.rename('many/7', 'seven')")
    assert {file.name for file in execution.files} == {"summary.csv", "seven"}
    assert session.execute("import shutil\nshutil.rmtree('many')", timeout=60).files == ()
