"""Notebooks of many users: cells in order, interrupts, idle time-outs, files."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nbformat
from conftest import Notebook, Serving
from fastapi.testclient import TestClient

import greenroom

PATIENCE = 60.0
WAIT = "import time\nprint('begun', flush=True)\nopen('begun', 'w').close()\ntime.sleep(600)"

WAIT_FOR_GO = "import os, time\nopen('begun', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.02)"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def error_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def text_of(cell: Any) -> str:
    return "".join(output.get("text") or output["data"]["text/plain"] for output in cell["outputs"])


def has_begun(pool: greenroom.SessionPool) -> bool:
    """Whether a cell with `WAIT` has begun in a session."""
    sessions = (pool.session(each.identifier) for each in pool.sessions())
    try:
        return any(file.name == "begun" for session in sessions for file in session.files())
    except greenroom.SandboxLost:  # the service has deleted it in the meantime
        return False


def test_cells_share_variables_and_the_notebook_is_saved(service: TestClient) -> None:
    notebook = Notebook(service)
    assert notebook.run("x = 20") == {"cell": notebook.saved()["cells"][0], "notice": None}
    ran = notebook.run("print('sum')\nx + 1")
    assert (text_of(ran["cell"]), ran["cell"]["execution_count"], ran["notice"]) == ("sum\n21", 2, None)
    failed = notebook.run("1 / 0")["cell"]
    assert [output["ename"] for output in failed["outputs"]] == ["ZeroDivisionError"]
    response = notebook.ask("GET", f"/{notebook.id}")
    assert response.headers["content-type"] == "application/x-ipynb+json"
    node = nbformat.reads(response.text, as_version=4)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    nbformat.validate(node)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    assert [cell["source"] for cell in response.json()["cells"]] == ["x = 20", "print('sum')\nx + 1", "1 / 0"]


def test_no_user_reaches_the_notebook_of_another(service: TestClient) -> None:
    alice, bob = Notebook(service), Notebook(service, "bob")
    alice.run("secret = 1")
    assert "NameError" in str(bob.run("secret")["cell"]["outputs"])
    second = Notebook(service)
    assert "NameError" in str(second.run("secret")["cell"]["outputs"]), "each notebook has a session of its own"
    for method, path in (("GET", ""), ("POST", "/run"), ("DELETE", "")):
        assert error_of(bob.ask(method, f"/{alice.id}{path}")) == (404, "no_such_notebook")
    assert error_of(bob.ask("POST", f"/{alice.id}/cells", json={"code": "1"})) == (404, "no_such_notebook")
    assert bob.ask("POST", f"/{alice.id}/interrupt").json() == {"interrupted": False}
    assert alice.ask("GET", "").json() == [alice.id, second.id]
    assert alice.run("secret")["cell"]["outputs"][0]["data"] == {"text/plain": "1"}
    alice.headers = {}
    assert error_of(alice.ask("GET", f"/{alice.id}")) == (401, "not_signed_in")


def test_names_reach_nothing_else(service: TestClient) -> None:
    notebook = Notebook(service)
    for name in ("%2e%2e", "..%2fother", "A" * 32, notebook.id.upper() + "x", "%00"):
        assert notebook.ask("GET", f"/{name}").status_code == 404, name


def test_cells_run_in_the_order_in_which_they_came(service: TestClient, greenroom_pool: greenroom.SessionPool) -> None:
    notebook = Notebook(service)
    notebook.run("seen = []")
    with ThreadPoolExecutor() as threads:
        first = threads.submit(notebook.run, f"{WAIT_FOR_GO}\nseen.append(1)\nseen")
        until(lambda: has_begun(greenroom_pool))
        second = threads.submit(notebook.run, "seen.append(2)\nseen")
        (session,) = greenroom_pool.sessions()
        greenroom_pool.session(session.identifier).upload(b"", "go")
        assert text_of(first.result(PATIENCE)["cell"]) == "[1]"
        assert text_of(second.result(PATIENCE)["cell"]) == "[1, 2]"
    assert [cell["execution_count"] for cell in notebook.saved()["cells"]] == [1, 2, 3]


def test_an_interrupted_cell_keeps_its_output_and_its_variables(
    service: TestClient, greenroom_pool: greenroom.SessionPool
) -> None:
    notebook = Notebook(service)
    notebook.run("x = 1")
    with ThreadPoolExecutor() as threads:
        running = threads.submit(notebook.run, WAIT)
        until(lambda: has_begun(greenroom_pool))
        waiting = threads.submit(notebook.ask, "POST", f"/{notebook.id}/cells", json={"code": "x = 2"})
        until(lambda: notebook.ask("POST", f"/{notebook.id}/interrupt").json() == {"interrupted": True})
        cell = running.result(PATIENCE)["cell"]
        waited = waiting.result(PATIENCE)
    assert cell["outputs"][0] == {"output_type": "stream", "name": "stdout", "text": "begun\n"}
    assert cell["outputs"][-1]["output_type"] == "error"
    if waited.status_code != 200:  # it can have come after the interrupt
        assert error_of(waited) == (409, "interrupted")
        assert text_of(notebook.run("x")["cell"]) == "1"
    assert notebook.ask("POST", f"/{notebook.id}/interrupt").json() == {"interrupted": False}


def test_a_cell_that_takes_too_long_ends(serving: Serving) -> None:
    with serving(timeout=1) as service:
        cell = Notebook(service).run(WAIT)["cell"]
    assert [output.get("ename") for output in cell["outputs"]] == [None, "TimeoutError"]


def test_an_idle_notebook_frees_its_session_and_the_next_cell_reports_it(
    serving: Serving, greenroom_pool: greenroom.SessionPool
) -> None:
    with serving(idle_timeout=0.5) as service:
        notebook = Notebook(service)
        notebook.run("x = 1")
        until(lambda: not greenroom_pool.sessions())
        ran = notebook.run("x")
        assert "not used for a while" in ran["notice"]
        assert (ran["cell"]["outputs"][0]["ename"], ran["cell"]["execution_count"]) == ("NameError", 1)
        assert [cell["source"] for cell in notebook.saved()["cells"]] == ["x = 1", "x"], "the notebook is kept"


def test_after_a_restart_of_the_service_the_next_cell_reports_it(serving: Serving) -> None:
    with serving() as service:
        notebook = Notebook(service)
        notebook.run("x = 1")
    with serving() as service:
        notebook.service = service
        assert "started again" in notebook.run("2")["notice"]
        assert notebook.run("3")["notice"] is None


def test_a_cell_that_ends_python_reports_it(service: TestClient) -> None:
    notebook = Notebook(service)
    notebook.run("x = 1")
    assert "ended Python" in notebook.run("import os\nos._exit(1)")["notice"]
    ran = notebook.run("'x' in dir()")
    assert (text_of(ran["cell"]), ran["cell"]["execution_count"]) == ("False", 1)


def test_a_notebook_runs_again_from_its_first_cell(service: TestClient) -> None:
    notebook = Notebook(service)
    notebook.run("x = globals().get('x', 0) + 1")
    notebook.run("x")
    notebook.run("x = 100")
    ran = notebook.ask("POST", f"/{notebook.id}/run").json()
    assert text_of(ran["cells"][1]) == "1"
    assert ran == notebook.saved()
    cell = notebook.run("x")["cell"]
    assert (text_of(cell), cell["execution_count"]) == ("100", 4)


def test_a_run_of_all_cells_can_be_interrupted(service: TestClient, greenroom_pool: greenroom.SessionPool) -> None:
    notebook = Notebook(service)
    with ThreadPoolExecutor() as threads:
        running = threads.submit(notebook.run, WAIT)
        until(lambda: has_begun(greenroom_pool))
        assert notebook.ask("POST", f"/{notebook.id}/interrupt").json() == {"interrupted": True}
        running.result(PATIENCE)
        notebook.run("import os\nos.remove('begun')")
        before = notebook.saved()
        again = threads.submit(notebook.ask, "POST", f"/{notebook.id}/run")
        until(lambda: has_begun(greenroom_pool))
        assert notebook.ask("POST", f"/{notebook.id}/interrupt").json() == {"interrupted": True}
        assert error_of(again.result(PATIENCE)) == (409, "interrupted")
    assert notebook.saved() == before
    assert notebook.run("'time' in dir()")["notice"] is None


def test_a_deleted_notebook_leaves_nothing(service: TestClient, greenroom_pool: greenroom.SessionPool) -> None:
    notebook = Notebook(service)
    with ThreadPoolExecutor() as threads:
        running = threads.submit(notebook.ask, "POST", f"/{notebook.id}/cells", json={"code": WAIT})
        until(lambda: has_begun(greenroom_pool))
        assert notebook.ask("DELETE", f"/{notebook.id}").status_code == 204
        assert error_of(running.result(PATIENCE)) == (404, "no_such_notebook")
    assert notebook.ask("GET", "").json() == []
    until(lambda: not greenroom_pool.sessions())


def test_the_number_of_a_users_notebooks_is_limited(service: TestClient) -> None:
    notebook = Notebook(service)
    for _ in range(49):
        assert notebook.ask("POST", "").status_code == 201
    assert error_of(notebook.ask("POST", "")) == (409, "too_many_notebooks")
    assert Notebook(service, "bob").run("1")["notice"] is None


def test_many_users_at_the_same_time(service: TestClient) -> None:
    def work(number: int) -> str:
        notebook = Notebook(service, f"user {number}")
        notebook.run(f"x = {number}")
        return text_of(notebook.run("x")["cell"])

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(work, range(10))) == [str(number) for number in range(10)]
