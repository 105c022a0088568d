"""Each error of the server's rules states the rule and the value that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greenroom import InvalidRequest
from greenroom.server.access.keys import check_key, new_key, read_keys
from greenroom.server.settings import ServerSettings, read_file
from greenroom.server.transport.multipart import parse_parameters
from greenroom.server.transport.tls import self_signed
from greenroom.testing import ScriptedBackend

from .served import LATEST, current, query, served

OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"port": 99999}, "99999"),
    ({"max_body": "much"}, "'much'"),
    ({"max_headers": 1}, "1"),
    ({"max_requests": 0}, "0"),
    ({"client_timeout": 0}, "0"),
    ({"shutdown_grace": -1}, "-1"),
    ({"certfile": "a"}, "certfile"),
    ({"keyfile": "a"}, "keyfile"),
    ({"certfile": "a", "keyfile": "b", "tls_self_signed": True}, "'a'"),
    ({"max_in_flight": "1Mi"}, "1048576"),
    ({"public_url": "ftp://example.com"}, "'ftp://example.com'"),
    ({"public_url": "https://"}, "'https://'"),
    ({"public_url": "https://example.com/path"}, "'https://example.com/path'"),
    ({"public_url": "https://[1"}, "'https://[1'"),
]


@pytest.mark.parametrize(("options", "value"), OPTIONS)
def test_error_states_rule_of_an_option(options: dict[str, Any], value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\b(must|cannot)\b") as caught:
        ServerSettings.parse(options)
    assert value in str(caught.value)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("[other]\n", "'other'"),
        ("server = 1\n", "not 1"),
        ('[server]\nentra = "x"\n', "'x'"),
        ("pools = 1\n", "not 1"),
        ("[pools]\none = 1\n", "not 1"),
        ("[pools.one]\nurl = 5\n", "not 5"),
        ("nonsense", "cannot be read"),
    ],
)
def test_error_states_rule_of_a_configuration(tmp_path: Path, content: str, value: str) -> None:
    path = tmp_path / "greenroom.toml"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=r"\b(must|cannot)\b") as caught:
        read_file(path)
    assert value in str(caught.value)


def _keys(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


RULES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a short key": (lambda _: check_key("short"), "not 5"),
    "the name of a key": (lambda path: new_key(path / "keys", "a b"), "'a b'"),
    "a plain key in the file": (lambda path: read_keys(_keys(path / "keys", "the-secret-key")), "Line 1"),
    "an empty key file": (lambda path: read_keys(_keys(path / "keys", "")), "keys"),
    "a TLS directory": (lambda path: self_signed(_keys(path / "tls", ""), []), "a link or a file"),
    "a parameter": (lambda _: parse_parameters("form-data; %"), "'%'"),
}


@pytest.mark.parametrize(("broken", "value"), RULES.values(), ids=RULES)
def test_error_states_rule(tmp_path: Path, broken: Callable[[Path], object], value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\b(must|cannot)\b") as caught:
        broken(tmp_path)
    assert value in str(caught.value)
    assert "secret" not in str(caught.value)


REQUESTS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "an identifier": ("GET", "/files", {"params": query(LATEST, "abc")}, "not 3"),
    "no identifier": ("GET", "/files", {"params": {"api-version": LATEST}}, "identifier"),
    "a version": ("GET", "/files", {"params": query("2020-01-01")}, "'2020-01-01'"),
    "a repeated parameter": ("GET", f"/files?api-version={LATEST}&identifier=abcd&identifier=dcba", {}, "'identifier'"),
    "another identifier": ("GET", "/identifier/abcd/files", {"params": query(LATEST, "dcba")}, "identifier"),
    "a path": ("GET", "/files", {"params": query(LATEST, path="../x")}, "'../x/'"),
    "a page": ("GET", "/listSessions", {"params": query(LATEST, skip="x")}, "'x'"),
    "code": ("POST", "/executions", {"params": query(LATEST), "json": {"code": 5}}, "not 5"),
    "a body": ("POST", "/executions", {"params": query(LATEST), "content": b"nonsense"}, "JSON"),
    "a list": ("POST", "/executions?", {"params": query(LATEST), "json": []}, "list"),
    "a timeout": ("POST", "/executions", {"params": query(LATEST), "json": current("1", timeoutInSeconds=-1)}, "-1"),
    "a long timeout": (
        "POST",
        "/executions",
        {"params": query(LATEST), "json": current("1", timeoutInSeconds=9999)},
        "The timeoutInSeconds must be at most 1800 seconds, not 9999",
    ),
    "an operation id": (
        "POST",
        "/executions",
        {"params": query(LATEST), "json": current("1"), "headers": {"operation-id": "a\tb"}},
        r"'a\tb'",
    ),
    "an upload": ("POST", "/files", {"params": query(LATEST), "content": b"x"}, "multipart/form-data"),
    "a host": ("GET", "/files", {"params": query(LATEST), "headers": {"Host": "a@b"}}, "'a@b'"),
    "an operation": ("PUT", "/files", {"params": query(LATEST)}, "operation"),
}


@pytest.mark.parametrize(("method", "path", "options", "value"), REQUESTS.values(), ids=REQUESTS)
async def test_error_states_rule_of_a_request(method: str, path: str, options: dict[str, Any], value: str) -> None:
    async with served(ScriptedBackend()) as client:
        response = await client.request(method, path, **options)
    assert response.status_code == 400
    message: str = response.json()["error"]["message"]
    assert "must" in message or "cannot" in message
    assert value in message
