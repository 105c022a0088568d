"""What is refused and what fails, each as JSON, over a pool that runs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
from conftest import SECRET, as_user, serving
from fastapi.testclient import TestClient

import greenroom
from code_service.app import create_app
from code_service.limits import AtATime
from code_service.settings import MOST_BODY, MOST_CODE
from code_service.users import AUDIENCE, new_token
from greenroom.testing import ScriptedBackend


def error_of(response: Any) -> tuple[int, str]:
    assert set(response.json()) == {"error"}
    assert response.json()["error"]["message"]
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"6 * 7", "must be JSON"),
        (b"", "body"),
        (b'"6 * 7"', "body"),
        (b"[" * 100_000, ""),
        (b"\xff\xfe", ""),
        (b"{}", "code"),
        (b'{"code": 6}', "code: Input should be a valid string"),
        (b'{"code": null}', "code"),
        (b'{"code": ["6"]}', "code"),
        (b'{"code": ""}', "must not be empty"),
        (rb'{"code": "\ud800"}', "code"),
        (json.dumps({"code": "x" * (MOST_CODE + 1)}).encode(), "code: String should have at most 100000 characters"),
        (b'{"code": "1", "user": "bob"}', "user"),
        (b'{"code": "1", "identifier": "users.bob"}', "identifier"),
    ],
)
def test_wrong_input_is_answered_with_400(
    scripted: TestClient, greenroom_script: ScriptedBackend, body: bytes, part: str
) -> None:
    response = scripted.post("/run", content=body, headers={"Content-Type": "application/json"})
    assert error_of(response) == (400, "invalid_request")
    assert part in response.json()["error"]["message"]
    assert "x" * 200 not in response.text, "the input is not repeated"
    assert greenroom_script.runs == []


def test_the_longest_code_runs(scripted: TestClient) -> None:
    code = "\U0001f600" * MOST_CODE
    assert scripted.post("/run", json={"code": code}).json()["stdout"] == "ran\n"


@pytest.mark.parametrize("key", ["", "k" * 201])
def test_a_key_must_have_a_valid_length(scripted: TestClient, key: str) -> None:
    response = scripted.post("/run", json={"code": "1"}, headers={"Idempotency-Key": key})
    assert error_of(response) == (400, "invalid_request")


def test_a_body_is_not_read_beyond_its_limit(scripted: TestClient, greenroom_script: ScriptedBackend) -> None:
    large = b" " * (MOST_BODY + 1)
    assert error_of(scripted.post("/run", content=large)) == (413, "too_large")
    assert error_of(scripted.put("/files/large.bin", content=large)) == (413, "too_large")
    assert greenroom_script.contents == {}


@pytest.mark.parametrize("name", ["..", "%2e%2e", "%00"])
def test_file_names_reach_nothing_else(scripted: TestClient, greenroom_script: ScriptedBackend, name: str) -> None:
    assert scripted.put(f"/files/{name}", content=b"x").status_code in {400, 404, 405}
    assert greenroom_script.contents == {}


def test_an_unknown_path_is_json_too(scripted: TestClient) -> None:
    assert error_of(scripted.get("/nowhere")) == (404, "not_found")
    assert error_of(scripted.get("/run")) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer ",
        "Bearer alice",
        f"Basic {new_token(SECRET, 'alice')}",
        f"Bearer {new_token('another secret, which is long enough too', 'alice')}",
        f"Bearer {new_token(SECRET, 'alice', seconds=-1)}",
        f"Bearer {new_token(SECRET, '')}",
        f"Bearer {new_token(SECRET, 'a' * 257)}",
        f"Bearer {new_token(SECRET, chr(0xD800))}",
        f"Bearer {jwt.encode({'sub': 'alice', 'aud': 'another', 'exp': 2**31}, SECRET, 'HS256')}",
        f"Bearer {jwt.encode({'sub': 'alice', 'aud': AUDIENCE}, SECRET, 'HS256')}",
        f"Bearer {jwt.encode({'sub': 'alice', 'aud': AUDIENCE, 'exp': 2**31}, '', 'none')}",
    ],
)
def test_only_a_valid_token_names_a_user(
    scripted: TestClient, greenroom_script: ScriptedBackend, authorization: str | None
) -> None:
    scripted.headers.pop("authorization")
    headers = {} if authorization is None else {"Authorization": authorization}
    response = scripted.post("/run", json={"code": "1"}, headers=headers)
    assert error_of(response) == (401, "not_signed_in")
    assert response.headers["www-authenticate"] == "Bearer"
    assert greenroom_script.runs == []


def test_the_service_does_not_start_without_a_valid_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE_SERVICE_SECRET", "short")
    with pytest.raises(ValueError, match="32 characters"), TestClient(create_app()):
        pass


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (greenroom.PoolFull("full at 10.0.0.7", sessions=4, retry_after=9.2), (503, "busy")),
        (greenroom.PoolFull("full at 10.0.0.7", sessions=4), (503, "busy")),
        (greenroom.SandboxLost("lost at 10.0.0.7"), (503, "session_lost")),
        (greenroom.ServiceFailed("failed at 10.0.0.7"), (503, "unavailable")),
        (greenroom.EngineUnavailable("none at 10.0.0.7"), (503, "unavailable")),
        (greenroom.AccessDenied("denied at 10.0.0.7"), (503, "unavailable")),
        (greenroom.PoolClosed("closed at 10.0.0.7"), (503, "unavailable")),
        (RuntimeError("broken at 10.0.0.7"), (500, "internal")),
    ],
)
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "one"}])
def test_a_failure_of_the_backend_is_json_without_a_trace(
    scripted: TestClient,
    greenroom_script: ScriptedBackend,
    failure: Exception,
    expected: tuple[int, str],
    key: dict[str, str],
) -> None:
    greenroom_script.answer = failure
    response = scripted.post("/run", json={"code": "1"}, headers=key)
    assert error_of(response) == expected
    assert "10.0.0.7" not in response.text
    assert "Traceback" not in response.text
    if expected == (503, "busy"):
        assert response.headers["retry-after"] in {"10", "1"}


def test_a_users_rate_limit_does_not_affect_others(
    greenroom_scripted_pool: greenroom.SessionPool, tmp_path: Path
) -> None:
    with (
        serving(greenroom_scripted_pool, tmp_path, burst=3, rate=0.01) as worker,
        serving(greenroom_scripted_pool, tmp_path, burst=3, rate=0.01) as another,
    ):
        statuses = [each.post("/run", json={"code": "1"}).status_code for each in (worker, another, worker, another)]
        assert statuses == [200, 200, 200, 429], "the workers count together"
        response = worker.get("/files")
        assert error_of(response) == (429, "too_many_requests")
        assert 1 < int(response.headers["retry-after"]) <= 100
        assert worker.post("/run", json={"code": "1"}, headers=as_user("bob")).status_code == 200
        assert worker.get("/healthz").status_code == 200


def test_the_concurrent_requests_of_a_user_are_limited(
    greenroom_scripted_pool: greenroom.SessionPool, tmp_path: Path
) -> None:
    with serving(greenroom_scripted_pool, tmp_path, burst=1000, at_a_time=2) as worker:
        at_a_time: AtATime = cast("Any", worker.app).state.at_a_time
        with at_a_time.hold("alice"), at_a_time.hold("alice"):
            response = worker.post("/run", json={"code": "1"})
            assert error_of(response) == (429, "too_many_at_a_time")
            assert "retry-after" in response.headers
            assert worker.post("/run", json={"code": "1"}, headers=as_user("bob")).status_code == 200
        assert worker.post("/run", json={"code": "1"}).status_code == 200
