"""Tokens of azure-core's credentials, up to the managed identity of a real `DefaultAzureCredential`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.core.credentials import AccessToken

import greenroom
from greenroom import AccessDenied, InvalidRequest, ServiceFailed
from greenroom.azure.credentials import CredentialTokens

from .scripted import ENDPOINT, Azure, executed, pool_of, refused


class Credential:
    """Gives tokens with numbers that live for `lasts` seconds."""

    def __init__(self, lasts: float = 3600) -> None:
        self.lasts = lasts
        self.scopes: list[str] = []
        self.closed = False

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        time.sleep(0.01)
        self.scopes += scopes
        return AccessToken(f"token-{len(self.scopes)}", int(time.time() + self.lasts))

    def close(self) -> None:
        self.closed = True


class AsyncCredential(Credential):
    async def get_token(self, *scopes: str, **_: object) -> AccessToken:  # pyright: ignore[reportIncompatibleMethodOverride]
        await asyncio.sleep(0.01)
        return super().get_token(*scopes)


def tokens_of(azure: Azure) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in azure.requests]


@pytest.mark.parametrize("kind", [Credential, AsyncCredential])
def test_a_token_is_fetched_once_for_all(kind: type[Credential]) -> None:
    credential, azure = kind(), Azure(executed())
    with pool_of(azure, credential=credential) as pool:
        pool.session("abcd").execute("1")

        async def many() -> None:
            await asyncio.gather(*(pool.session(f"user-{n}").aexecute("1") for n in range(20)))

        asyncio.run(many())
    assert credential.scopes == ["https://dynamicsessions.io/.default"]
    assert set(tokens_of(azure)) == {"token-1"}
    assert not credential.closed  # it is the caller's


def test_concurrent_calls_fetch_one_token() -> None:
    credential, azure = Credential(), Azure(executed())
    with pool_of(azure, credential=credential) as pool:

        async def many() -> None:
            await asyncio.gather(*(pool.session(f"user-{n}").aexecute("1") for n in range(20)))

        asyncio.run(many())
    assert len(credential.scopes) == 1


@pytest.mark.parametrize(("lasts", "moment"), [(3600, 3400), (400, 250)])
def test_a_token_is_renewed_before_it_ends(monkeypatch: pytest.MonkeyPatch, lasts: int, moment: int) -> None:
    passed = 0
    defaults: Any = CredentialTokens.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "clock", lambda: time.time() + passed)
    credential, azure = Credential(lasts), Azure(executed())
    with pool_of(azure, credential=credential) as pool:
        pool.session("abcd").execute("1")
        pool.session("abcd").execute("1")
        passed = moment
        pool.session("abcd").execute("1")
    assert tokens_of(azure) == ["token-1", "token-1", "token-2"]


def test_a_token_that_is_refused_is_renewed_once() -> None:
    credential, azure = Credential(), Azure(refused(401), executed(result="2"))
    with pool_of(azure, credential=credential) as pool:
        assert pool.session("abcd").execute("1 + 1").result == "2"
    assert tokens_of(azure) == ["token-1", "token-2"]


def test_a_large_upload_that_is_refused_leaves_a_new_token_to_the_next_call() -> None:
    credential, azure = Credential(), Azure(refused(401), executed())
    with pool_of(azure, credential=credential) as pool:
        with pytest.raises(AccessDenied):  # it cannot be sent twice
            pool.session("abcd").upload(bytes(6 << 20), "a.bin")
        pool.session("abcd").execute("1")
    assert tokens_of(azure) == ["token-1", "token-2"]


def test_a_second_refusal_is_final() -> None:
    credential, azure = Credential(), Azure(refused(401, "Unauthorized", "wrong audience"))
    with pool_of(azure, credential=credential) as pool, pytest.raises(AccessDenied, match="wrong audience"):
        pool.session("abcd").execute("1")
    assert tokens_of(azure) == ["token-1", "token-2"]


def test_the_reason_of_a_failing_credential_is_reported() -> None:
    class Failing(Credential):
        def get_token(self, *scopes: str, **_: object) -> AccessToken:
            raise RuntimeError(f"no luck with {scopes[0]}")

    azure = Azure(executed())
    with (
        pool_of(azure, credential=Failing()) as pool,
        pytest.raises(AccessDenied, match=r"no luck with https://dyn.*\nLog in with 'az login'"),
    ):
        pool.session("abcd").execute("1")
    assert azure.requests == []


@pytest.mark.parametrize("key", ["the-key\n", " the-key", "clé"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidRequest, match="api_key must be printable ASCII") as caught:
        greenroom.connect("http://127.0.0.1:8080", api_key=key)
    assert key.strip() not in str(caught.value)


# The managed identity of an app in Azure


@contextmanager
def identity_endpoint() -> Generator[tuple[str, list[dict[str, list[str]]]], None, None]:
    """App Service's protocol on the loopback: a token for callers with the secret; yields the requested resources."""
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["X-IDENTITY-HEADER"] == "secret"
            query = parse_qs(urlsplit(self.path).query)
            asked.append(query)
            token = {"access_token": "of-the-identity", "expires_on": str(int(time.time()) + 3600)}
            body = json.dumps({**token, "resource": query["resource"][0], "token_type": "Bearer"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/msi/token", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_a_managed_identity_is_taken_by_default(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    azure = Azure(executed(result="2"))
    with identity_endpoint() as (url, asked):
        monkeypatch.setenv("IDENTITY_ENDPOINT", url)
        monkeypatch.setenv("IDENTITY_HEADER", "secret")
        options = {"client_id": "client-7"} if way == "argument" else {}
        if way == "environment":
            monkeypatch.setenv("AZURE_CLIENT_ID", "client-7")
        with pool_of(azure, credential=None, **options) as pool:
            assert pool.session("abcd").execute("1 + 1").result == "2"
            assert pool.session("abcd").execute("1 + 1").result == "2"
    (query,) = asked
    assert query["resource"] == ["https://dynamicsessions.io"]
    assert query["client_id"] == ["client-7"]
    assert set(tokens_of(azure)) == {"of-the-identity"}


def test_azure_identity_is_imported_only_when_a_token_is_needed() -> None:
    program = f"import sys, greenroom\npool = greenroom.connect({ENDPOINT!r})\nprint('azure.identity' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "False\n"


def test_requests_to_a_server_on_this_machine_bypass_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with (
        identity_endpoint() as (url, _),
        greenroom.connect(url.partition("/msi")[0], api_version="2025-10-02-preview", api_key="the-key") as pool,
        pytest.raises(ServiceFailed, match="HTTP 501"),  # what that server says to any POST
    ):
        pool.session("abcd").execute("1")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "https://localhost:8443"])
def test_a_server_on_this_machine_gets_no_token_of_azure(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(client_id: str | None) -> None:
        pytest.fail(f"no credential is needed, and none for {client_id}")

    monkeypatch.setattr("greenroom.azure.credentials.default_credential", unwanted)
    azure = Azure(executed())
    with pool_of(azure, url, api_key=None) as pool:
        pool.session("abcd").execute("1")
    assert "authorization" not in azure.requests[0].headers


def test_a_foreign_host_gets_no_token_by_default() -> None:
    url = "https://dynamicsessions.io.example.com/subscriptions/s/resourceGroups/g/sessionPools/p"
    with pytest.raises(InvalidRequest, match="must be on an Azure host to get an Azure token by default"):
        greenroom.connect(url)
    credential, azure = Credential(), Azure(executed())
    with pool_of(azure, url, credential=credential) as pool:
        pool.session("abcd").execute("1")
    assert tokens_of(azure) == ["token-1"]


def test_a_password_in_an_endpoint_is_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as caught:
        greenroom.connect("https://user:secret@example.com/sessionPools/p")
    assert "secret" not in str(caught.value)
