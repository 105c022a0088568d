"""Authentication: keys, Microsoft Entra ID tokens, and on this machine every program but no web page."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from greenroom.azure.httpx_transport import HttpxTransport
from greenroom.errors import InvalidRequest
from greenroom.server.access import entra
from greenroom.server.access.entra import EntraSettings, EntraTokens, KeySet
from greenroom.server.access.keys import ApiKeys, EitherOf, digest, new_key, read_keys
from greenroom.server.responses import RequestRefused
from greenroom.server.settings import ServerSettings
from greenroom.testing import ScriptedBackend

from .served import LATEST, code_of, current, query, served

TENANT = "11111111-2222-3333-4444-555555555555"
CALLER = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
AUDIENCE = "https://dynamicsessions.io"
ISSUER = f"https://sts.windows.net/{TENANT}/"


def bearer(token: str) -> dict[bytes, bytes]:
    return {b"Authorization": f"Bearer {token}".encode()}


async def status(client: httpx.AsyncClient, token: str) -> int:
    response = await client.post("/executions", params=query(LATEST), json=current("1"), headers=bearer(token))
    if response.status_code == 401:
        assert response.headers["www-authenticate"] == "Bearer"
        assert code_of(response) == "Unauthorized"
    return response.status_code


# Keys


async def test_only_a_key_is_accepted() -> None:
    backend = ScriptedBackend()
    async with served(backend, guard=ApiKeys({"mine": digest("the key"), "other": digest("the other")})) as client:
        assert await status(client, "the key") == 200
        assert await status(client, "the other") == 200
        for wrong in ("", "the ke", "the key ", "The key", digest("the key"), "\xe4"):
            expected = 200 if wrong.strip() == "the key" else 401
            assert await status(client, wrong) == expected, wrong
        for header in (None, "", "Bearer", "Basic dGhlIGtleQ==", "the key"):
            headers = {} if header is None else {"Authorization": header}
            response = await client.get("/files", params=query(LATEST), headers=headers)
            assert (response.status_code, code_of(response)) == (401, "Unauthorized")
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/nothing")).status_code == 401  # also what is not there
    assert len(backend.runs) == 3


def test_only_the_digest_of_a_new_key_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = new_key(path, "ci")
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_keys(path) == {"ci": hashlib.sha256(key.encode()).hexdigest()}
    other = new_key(path, "laptop")
    assert read_keys(path).keys() == {"ci", "laptop"}
    assert other != key
    with pytest.raises(InvalidRequest, match=r"must be new in .*, not 'ci'"):
        new_key(path, "ci")
    with pytest.raises(InvalidRequest, match="must be 1 to 64 letters"):
        new_key(path, "a\nb")


@pytest.mark.parametrize("content", ["", f"old sha256:{'0' * 64}", f"old sha256:{'0' * 64}\r\n"])
def test_a_key_is_added_to_an_existing_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    new_key(path, "ci")
    assert read_keys(path).keys() - {"old"} == {"ci"}


@pytest.mark.parametrize("content", ["", "# nobody", "my-secret-key", "ci sha256:abc", "ci md5:" + "0" * 64])
def test_a_key_file_without_digests_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(InvalidRequest) as caught:
        read_keys(path)
    assert "my-secret-key" not in str(caught.value)  # which may be a key
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_keys(tmp_path / "missing")


# Web pages


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "localhost:8080"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:8080"}, 200),
        ({"host": "box.internal"}, 200),
        ({"host": "Box.INTERNAL:8080"}, 200),
        ({"host": "evil.example"}, 403),  # DNS rebinding
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost.evil.example:80"}, 403),
        ({"host": "10.0.0.1"}, 403),
        ({"host": ""}, 400),
        ({"host": "[::"}, 400),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
async def test_without_credentials_programs_can_call_and_web_pages_cannot(
    headers: dict[str, str], expected: int
) -> None:
    async with served(ScriptedBackend(), allowed_hosts=["Box.internal"]) as client:
        response = await client.post("/executions", params=query(LATEST), json=current("1"), headers=headers)
        assert response.status_code == expected
        assert (await client.get("/nothing", headers=headers)).status_code == (400 if expected == 200 else expected)


async def test_with_credentials_any_host_name_is_accepted() -> None:
    async with served(ScriptedBackend(), guard=ApiKeys({"mine": digest("the key")})) as client:
        headers = {**bearer("the key"), b"host": b"sessions.example", b"origin": b"https://app.example"}
        response = await client.get("/files", params=query(LATEST), headers=headers)
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers


# Entra


class Signer:
    """A key pair, and its public half as Entra publishes it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_pem = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def jwk(self) -> dict[str, Any]:
        jwk = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**jwk, "kid": self.name, "use": "sig", "alg": "RS256"}

    def sign(self, *, without: str = "", header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "tid": TENANT,
            "oid": CALLER,
            "iat": now - 10,
            "nbf": now - 10,
            "exp": now + 600,
            **claims,
        }
        payload.pop(without, None)
        headers = {"kid": self.name} if header is None else header
        return jwt.PyJWS().encode(json.dumps(payload).encode(), self.private, "RS256", headers=headers)


FIRST, SECOND, STRANGER = Signer("first"), Signer("second"), Signer("first")


class Authority:
    """A loopback endpoint with a tenant's keys."""

    def __init__(self) -> None:
        self.content = b""
        self.headers = ""
        self.fetches = 0
        self.url = ""
        self.publish(FIRST)

    def publish(self, *signers: Signer) -> None:
        # Among keys of other kinds, as there may be.
        others = [{"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}, {"kty": "EC", "kid": "broken"}]
        self.content = json.dumps({"keys": [*(signer.jwk for signer in signers), *others]}).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert request.startswith(f"GET /{TENANT}/discovery/v2.0/keys ".encode())
        self.fetches += 1
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.content)}\r\nConnection: close\r\n{self.headers}\r\n"
        writer.write(head.encode() + self.content)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def authority() -> AsyncIterator[Authority]:
    authority = Authority()
    server = await asyncio.start_server(authority.answer, "127.0.0.1", 0)
    authority.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield authority
    server.close()
    await server.wait_closed()


@contextlib.asynccontextmanager
async def fetching(settings: EntraSettings) -> AsyncGenerator[HttpxTransport, None]:
    transport = HttpxTransport(settings.keys_url)
    try:
        yield transport
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def guarded(authority: Authority, clock: Clock, **options: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    settings = ServerSettings.parse({"entra": {"tenant": TENANT, "authority": authority.url, **options}}).entra
    assert settings is not None
    async with fetching(settings) as transport:
        guard = EntraTokens(settings, KeySet(settings.keys_url, transport, clock=clock))
        async with served(ScriptedBackend(), guard=guard) as client:
            yield client


async def test_a_token_of_the_tenant_is_accepted(authority: Authority, clock: Clock) -> None:
    async with guarded(authority, clock) as client:
        assert await status(client, FIRST.sign()) == 200
        assert await status(client, FIRST.sign(iss=f"{authority.url}/{TENANT}/v2.0")) == 200
        assert await status(client, FIRST.sign(aud="https://acasessions.io")) == 200  # Semantic Kernel's
        assert await status(client, FIRST.sign(exp=int(time.time()) - 30)) == 200  # clocks differ
    assert authority.fetches == 1


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def unsigned(header: dict[str, Any]) -> str:
    _, payload, _ = FIRST.sign().split(".")
    return f"{encoded(header)}.{payload}."


def signed_with_the_public_key() -> str:
    """HS256 with what everybody knows as its secret."""
    import hmac

    _, payload, _ = FIRST.sign().split(".")
    head = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'first'})}.{payload}"
    signature = hmac.new(FIRST.public_pem, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def tampered() -> str:
    head, payload, signature = FIRST.sign().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return f"{head}.{encoded({**claims, 'oid': 'somebody else'})}.{signature}"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(lambda: FIRST.sign(iss="https://sts.windows.net/another/"), id="issuer"),
        pytest.param(lambda: FIRST.sign(iss=[ISSUER]), id="list of issuers"),
        pytest.param(lambda: FIRST.sign(aud="https://management.azure.com"), id="audience"),
        pytest.param(lambda: FIRST.sign(tid="99999999-2222-3333-4444-555555555555"), id="tenant"),
        pytest.param(lambda: FIRST.sign(exp=int(time.time()) - 120), id="expired"),
        pytest.param(lambda: FIRST.sign(nbf=int(time.time()) + 600), id="not yet"),
        pytest.param(lambda: FIRST.sign(iat=int(time.time()) + 600), id="from the future"),
        *(pytest.param(lambda name=name: FIRST.sign(without=name), id=f"no {name}") for name in
          ("exp", "iat", "aud", "iss", "tid", "oid")),
        pytest.param(STRANGER.sign, id="signed by another key of the same name"),
        pytest.param(SECOND.sign, id="unknown key"),
        pytest.param(tampered, id="tampered"),
        pytest.param(lambda: FIRST.sign()[:-10], id="cut"),
        pytest.param(lambda: unsigned({"alg": "none", "kid": "first"}), id="none"),
        pytest.param(lambda: unsigned({"alg": "None", "kid": "first"}), id="None"),
        pytest.param(lambda: unsigned({"kid": "first"}), id="no algorithm"),
        pytest.param(lambda: unsigned({"alg": "RS256", "kid": "shared"}), id="a key that is not RSA"),
        pytest.param(lambda: unsigned({"alg": "RS256", "kid": 5}), id="a key of another type"),
        pytest.param(lambda: unsigned({"alg": "RS256", "kid": "first", "crit": ["x"], "x": 1}), id="critical"),
        pytest.param(signed_with_the_public_key, id="HS256 with the public key"),
        pytest.param(lambda: FIRST.sign(header={}), id="no key"),
        pytest.param(lambda: "no token", id="no token"),
        pytest.param(lambda: "a.b.c", id="no base64"),
        pytest.param(lambda: f"{base64.urlsafe_b64encode(b'[' * 20_000).decode()}.e30.", id="deep"),
        pytest.param(lambda: "ä.ä.ä", id="no ASCII"),
    ],
)  # fmt: skip
async def test_any_other_token_is_refused(authority: Authority, clock: Clock, token: Any) -> None:
    async with guarded(authority, clock) as client:
        assert await status(client, token()) == 401


async def test_an_object_id_that_is_not_allowed_is_refused_by_name(authority: Authority, clock: Clock) -> None:
    async with guarded(authority, clock, object_ids=[CALLER.upper()]) as client:
        assert await status(client, FIRST.sign()) == 200
        headers = bearer(FIRST.sign(oid="ffffffff-bbbb-cccc-dddd-eeeeeeeeeeee"))
        refused = await client.get("/files", params=query(LATEST), headers=headers)
        assert (refused.status_code, code_of(refused)) == (403, "Forbidden")


async def test_new_keys_are_found_and_strangers_do_not_make_it_fetch_them(authority: Authority, clock: Clock) -> None:
    async with guarded(authority, clock) as client:
        assert await status(client, FIRST.sign()) == 200
        authority.publish(SECOND)
        clock.now += 31
        assert await status(client, SECOND.sign()) == 200
        assert await status(client, FIRST.sign()) == 401  # it was withdrawn
        assert authority.fetches == 2
        statuses = await asyncio.gather(
            *(status(client, SECOND.sign(header={"kid": f"made up {number}"})) for number in range(20))
        )
        assert statuses == [401] * 20
        assert authority.fetches == 2


async def test_keys_are_used_for_a_day_when_they_cannot_be_fetched(authority: Authority, clock: Clock) -> None:
    async with guarded(authority, clock) as client:
        assert await status(client, FIRST.sign()) == 200
        authority.content = b"no keys"
        clock.now += 23 * 3600
        assert await status(client, FIRST.sign()) == 200
        clock.now += 2 * 3600
        assert await status(client, FIRST.sign()) == 503
        authority.publish(FIRST)
        clock.now += 31
        assert await status(client, FIRST.sign()) == 200


@pytest.mark.parametrize("content", [b"", b"[]", b'{"keys": 5}', b'{"keys": []}', b"x" * (2 << 20), b"[" * 100_000])
async def test_without_keys_tokens_cannot_be_checked(authority: Authority, clock: Clock, content: bytes) -> None:
    authority.content = content
    async with guarded(authority, clock) as client:
        assert await status(client, FIRST.sign()) == 503


@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip"])
async def test_compressed_keys_take_no_more_memory_than_others(authority: Authority, clock: Clock, coding: str) -> None:
    authority.content = gzip.compress(bytes(50 << 20))
    authority.headers = f"Content-Encoding: {coding}\r\n"
    async with guarded(authority, clock) as client:
        assert await status(client, FIRST.sign()) == 503


async def test_keys_and_tokens_can_be_combined(authority: Authority, clock: Clock) -> None:
    settings = EntraSettings(TENANT, authority=authority.url)
    async with fetching(settings) as transport:
        tokens = EntraTokens(settings, KeySet(settings.keys_url, transport, clock=clock))
        guard = EitherOf([ApiKeys({"mine": digest("the key")}), tokens])
        assert await guard.admit("Bearer the key") == "mine"
        assert await guard.admit(f"bearer {FIRST.sign()}") == CALLER
        with pytest.raises(RequestRefused):
            await guard.admit("Bearer another")


@pytest.mark.parametrize("tenant", ["common", "contoso.onmicrosoft.com", "", f"{TENANT}/../x"])
def test_a_tenant_must_be_an_id(tenant: str) -> None:
    with pytest.raises(InvalidRequest, match="tenant"):
        ServerSettings.parse({"entra": {"tenant": tenant}})


def test_the_public_cloud_is_the_default() -> None:
    settings = entra.EntraSettings(TENANT)
    assert settings.keys_url == f"https://login.microsoftonline.com/{TENANT}/discovery/v2.0/keys"
    assert settings.known_issuers == (ISSUER, f"https://login.microsoftonline.com/{TENANT}/v2.0")
