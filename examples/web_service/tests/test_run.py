"""Code in, JSON out, in real sandboxes."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, cast

from conftest import as_user
from fastapi.testclient import TestClient


def run(service: TestClient, code: str, user: str = "alice", **headers: str) -> Any:
    response = service.post("/run", json={"code": code}, headers={**as_user(user), **headers})
    assert response.status_code == 200, response.text
    return response.json()


def test_the_outcome_is_json(service: TestClient) -> None:
    outcome = run(service, "print('to stdout')\nopen('numbers.txt', 'w').write('1 2 3')\n6 * 7")
    assert (outcome["status"], outcome["stdout"], outcome["result"], outcome["error"]) == (
        "succeeded",
        "to stdout\n",
        "42",
        None,
    )
    assert [(file["name"], file["size"]) for file in outcome["files"]] == [("numbers.txt", 5)]


def test_an_error_of_the_code_is_an_outcome_with_the_users_own_lines(service: TestClient) -> None:
    outcome = run(service, "def half(x):\n    return x / 0\nhalf(1)")
    assert outcome["status"] == "failed"
    assert outcome["error"]["name"] == "ZeroDivisionError"
    assert "return x / 0" in outcome["error"]["summary"]


def test_a_figure_comes_as_a_picture(service: TestClient) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    code = f"from IPython.display import Image, display\nimport base64\ndisplay(Image(base64.b64decode('{pixel}')))"
    (figure,) = run(service, code)["figures"]
    assert figure["mime"] == "image/png"
    assert base64.b64decode(figure["base64"]).startswith(b"\x89PNG")


def test_each_user_has_a_separate_session(service: TestClient) -> None:
    for user in ("alice", "Alice", "alice ", "users.alice", "../alice", "álice"):
        assert run(service, "x = 1\nopen('mine.txt', 'w').close()", user)["status"] == "succeeded", user
        for other in ("bob", "ALICE"):
            assert run(service, "x", other)["error"]["name"] == "NameError", (user, other)
            assert service.get("/files", headers=as_user(other)).json() == []
    assert run(service, "x")["result"] == "1"


def test_the_session_has_the_limits_of_the_service(service: TestClient) -> None:
    outcome = run(service, "block = bytearray(700 << 20)\nblock[::4096] = b'x' * len(block[::4096])")
    assert outcome["status"] == "failed", "512Mi are not 700"
    assert run(service, "1 + 1")["result"] == "2"


def test_code_that_takes_too_long_is_an_outcome(service: TestClient) -> None:
    state = cast("Any", service.app).state
    state.settings = replace(state.settings, timeout=1.0)
    outcome = run(service, "print('so far', flush=True)\nimport time\ntime.sleep(600)")
    assert (outcome["status"], outcome["stdout"]) == ("timed_out", "so far\n")
    outcome = run(service, "import time\ntime.sleep(600)", **{"Idempotency-Key": "slow"})
    assert outcome["status"] == "timed_out"


def test_a_key_runs_code_once_however_often_it_is_sent(service: TestClient) -> None:
    run(service, "n = 0")
    for _ in range(3):
        assert run(service, "n += 1\nn", **{"Idempotency-Key": "first"})["result"] == "1"
    assert run(service, "n += 1\nn", **{"Idempotency-Key": "second"})["result"] == "2"
    assert run(service, "n += 10\nn", **{"Idempotency-Key": "first"})["result"] == "12", "other code is another request"
    assert run(service, "n += 1\nn")["result"] == "13"
    assert run(service, "n", **{"Idempotency-Key": "first"})["result"] == "13"
    assert run(service, "'n' in dir()", "bob", **{"Idempotency-Key": "first"})["result"] == "False"


def test_a_session_that_its_user_ended_starts_again(service: TestClient) -> None:
    run(service, "x = 1")
    assert service.delete("/session").status_code == 204
    outcome = run(service, "'x' in dir()")
    assert (outcome["result"], outcome["began_again"]) == ("False", None)


def test_files_go_in_and_out(service: TestClient) -> None:
    assert service.put("/files/in.csv", content=b"a,b\n1,2\n").json()["size"] == 8
    run(service, "text = open('in.csv').read()\nopen('out.txt', 'w').write(text.upper())")
    assert [file["name"] for file in service.get("/files").json()] == ["in.csv", "out.txt"]
    response = service.get("/files/out.txt")
    assert response.content == b"A,B\n1,2\n"
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-content-type-options"] == "nosniff"
    missing = service.get("/files/other.txt")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "file_missing")
    assert service.get("/files/out.txt", headers=as_user("bob")).status_code == 404
