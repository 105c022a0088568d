"""The conformance suite of cells: code finds what it would find in a notebook. IPython and matplotlib are required."""

from __future__ import annotations

import time

from greenroom.sessions import Session
from greenroom.testing.suite import Suite

# An ipywidgets Output widget, without a browser that captures what it shows.
_OUTPUT = """
import os, sys
os.makedirs('/tmp/stand_in/ipywidgets/widgets', exist_ok=True)
with open('/tmp/stand_in/ipywidgets/widgets/widget_output.py', 'w') as file:
    print('class Output:', file=file)
    print('    def __enter__(self): pass', file=file)
    print('    def __exit__(self, *error): return True', file=file)
sys.path.insert(0, '/tmp/stand_in')
from ipywidgets.widgets.widget_output import Output
from IPython.display import clear_output
sys.path.remove('/tmp/stand_in')
def show(text):
    with Output():
        clear_output(wait=True)
        print(text)
        display(text)
"""


class CellSuite(Suite):
    """Cells: the event loop, what happens between them, the errors that they handle."""

    def test_tasks_start_without_await_and_run_between_executions(self, shared: Session) -> None:
        shared.execute(
            "import asyncio\n"
            "async def job(result):\n"
            "    await asyncio.sleep(0.01)\n"
            "    return result\n"
            "loop = asyncio.get_event_loop()\n"
            "tasks = [asyncio.create_task(job(1)), loop.create_task(job(2)), asyncio.ensure_future(job(3))]\n"
            "tasks += [asyncio.get_running_loop().create_task(job(4)), asyncio.gather(job(5))]"
        ).raise_for_error()
        time.sleep(3)  # until the loop has run between executions
        assert shared.execute("[task.done() for task in tasks]").result == str([True] * 5)
        assert shared.execute("[await task for task in tasks]").result == "[1, 2, 3, 4, [5]]"
        shared.execute(
            "import threading\n"
            "def call(): result.append(asyncio.run_coroutine_threadsafe(job('of a thread'), loop).result())\n"
            "result = []\nthread = threading.Thread(target=call)\nthread.start()"
        )
        time.sleep(3)
        assert shared.execute("thread.join()\nresult").result == "['of a thread']"

    def test_every_form_of_running_a_coroutine_works(self, shared: Session) -> None:
        shared.execute("import asyncio\nasync def job():\n    await asyncio.sleep(0)\n    return 5")
        forms = (
            "asyncio.run(job())",
            "asyncio.get_event_loop().run_until_complete(job())",
            "asyncio.Runner().run(job())",
        )
        for code in (*forms, "await job()", *forms, ", ".join(forms), "await asyncio.create_task(job())"):
            assert set(str(shared.execute(code).result)) <= set("(5, )"), code
        shared.execute(
            "loop = asyncio.get_event_loop()\nloop.run_until_complete(job())\nloop.close()"
        ).raise_for_error()
        shared.execute("task = asyncio.create_task(job())\ntask.add_done_callback(lambda _: loop.stop())")
        assert shared.execute("await task").result == "5"

    def test_an_interrupt_ends_what_an_event_loop_runs(self, shared: Session) -> None:
        shared.execute(
            "import asyncio, time\n"
            "ticks = 0\n"
            "async def tick():\n"
            "    global ticks\n"
            "    while True:\n"
            "        ticks += 1\n"
            "        await asyncio.sleep(0.01)\n"
            "1/0"  # formatting the first error takes time that does not belong to an interrupt
        )
        for code in ("await tick()", "asyncio.run(tick())", "asyncio.get_event_loop().run_until_complete(tick())"):
            assert shared.execute(code, timeout=3).status == "timed_out", code
            after = shared.execute("before = ticks\nawait asyncio.sleep(0.1)\nbefore > 0, ticks - before")
            assert after.result == "(True, 0)", code
        shared.execute("async def block(): time.sleep(60)\ntask = asyncio.create_task(block())")
        time.sleep(3)  # until the loop runs between executions
        execution = shared.execute("1", timeout=0.5)
        assert (execution.status, execution.state_lost) == ("timed_out", False)
        assert shared.execute("task.done()").result == "True"

    def test_context_variables_persist_between_executions(self, shared: Session) -> None:
        shared.execute("import asyncio, decimal\ndecimal.getcontext().prec = 3").raise_for_error()
        assert shared.execute("await asyncio.sleep(0)\ndecimal.getcontext().prec").result == "3"
        shared.execute("await asyncio.sleep(0)\ndecimal.setcontext(decimal.Context(prec=4))").raise_for_error()
        assert shared.execute("decimal.getcontext().prec").result == "4"

    def test_output_between_executions_belongs_to_the_next(self, shared: Session) -> None:
        shared.execute(
            "import asyncio, threading, time\n"
            "shown = threading.Event()\n"
            "def show():\n"
            "    print('gone'); display('gone'); clear_output()\n"
            "    print('of a thread'); display('first'); shown.set()\n"
            "async def task():\n"
            "    while not shown.is_set(): await asyncio.sleep(0.1)\n"
            "    print('of a task'); display('second')\n"
            "from IPython.display import clear_output\n"
            "threading.Timer(0.1, show).start()\n"
            "task = asyncio.create_task(task())\n"
            "'the result'"
        ).raise_for_error()
        time.sleep(4)
        execution = shared.execute("print('own')")
        assert execution.stdout == "of a thread\nof a task\nown\n"
        assert [output.text for output in execution.outputs] == ["'first'", "'second'"]
        shared.execute("from matplotlib import pyplot\ndef draw(): pyplot.plot([1, 2]); pyplot.show()")
        shared.execute("threading.Timer(0.1, draw).start()")
        time.sleep(5)
        assert len(shared.execute("1").images) == 1

    def test_a_widget_clears_no_more_than_its_own_output(self, shared: Session) -> None:
        shared.execute(_OUTPUT).raise_for_error()
        execution = shared.execute("print('before'); display('own')\nshow(1)\nprint('after')")
        assert execution.stdout == "before\n1\nafter\n"
        assert [output.text for output in execution.outputs] == ["'own'", "1"]
        execution = shared.execute(
            "bar = display('own', display_id='bar'); print('before')\n"
            "with Output() as area:\n"
            "    for step in range(3):\n"
            "        clear_output(wait=True)\n"
            "        print(step, end=' '); display(step, display_id=f'step {step}')\n"
            "        bar.update(step)\n"
            "    show('inner')\n"
            "    clear_output(wait=True)\n"
            "print('after')"
        )
        assert execution.stdout == "before\ninner\nafter\n"
        assert [output.text for output in execution.outputs] == ["2", "'inner'"]
        execution = shared.execute("print('before')\nshow(1)\nclear_output()\nwith Output(): 1/0\nprint('after')")
        assert execution.stdout == "after\n"

    def test_session_files_can_be_imported_and_do_not_shadow_the_standard_library(self, shared: Session) -> None:
        for name in ("statistics.py", "own_module.py"):
            shared.upload(b"note = 'mine'", name)
        assert shared.execute("import statistics\nstatistics.mean([1, 2, 3])").result == "2"
        assert shared.execute("import own_module\nown_module.note").result == "'mine'"

    def test_an_error_that_is_shown_and_handled_is_text(self, shared: Session) -> None:
        shared.execute("class Bad:\n    def __repr__(self): raise ValueError('bad repr')")
        handled = "try:\n    1/0\nexcept ZeroDivisionError:\n    get_ipython().showtraceback()"
        for code, error in ((handled, "division by zero"), ("%tb", "division by zero"), ("display(Bad())", "bad repr")):
            execution = shared.execute(f"{code}\nprint('goes on')")
            assert execution.succeeded, code
            assert error in execution.stderr
            assert execution.stdout == "goes on\n"
        execution = shared.execute(f"{handled}\nraise KeyError('the end')")
        assert execution.error is not None
        assert execution.error.name == "KeyError"
        assert "division by zero" in execution.stderr

    def test_magics_and_options_of_a_kernel_exist(self, shared: Session) -> None:
        shared.execute("kept = 3\n%store kept").raise_for_error()
        assert shared.execute("del kept\n%store -r kept\nkept").result == "3"
        shared.upload(b"a line\n" * 100, "file.txt")
        for code in ("%less file.txt", "%more file.txt"):
            assert shared.execute(code).stdout.count("a line") == 100
        for name in ("clear", "autosave 30", "connect_info", "qtconsole", "edit", "subshell"):
            assert shared.execute(f"%{name}").succeeded, name
        # Libraries check it: for other shells, pandas wraps long lines and rich produces no HTML.
        assert shared.execute("type(get_ipython()).__name__").result == "'ZMQInteractiveShell'"
        shared.execute("%config ZMQInteractiveShell.ast_node_interactivity = 'all'")
        assert len(shared.execute("1\n2").outputs) == 2
        shared.execute("%config InteractiveShell.ast_node_interactivity = 'last_expr'")
        assert len(shared.execute("1\n2").outputs) == 1
        assert shared.execute("!echo $PAGER").stdout.split() == ["cat"]

    def test_figures_work_after_a_change_of_the_backend(self, shared: Session) -> None:
        shared.execute("%matplotlib qt").raise_for_error()
        assert len(shared.execute("import matplotlib.pyplot as plt\nplt.plot([1, 2]);").images) == 1
