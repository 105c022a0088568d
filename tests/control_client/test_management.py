"""The client of pools as resources: what it sends, what it waits for, and what it does not trust."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from hypothesis import given
from hypothesis import strategies as st

from greenroom import AccessDenied, InvalidRequest, ServiceFailed
from greenroom.arm.ids import PoolId, split_id
from greenroom.azure.codecs.management import within
from greenroom.azure.management import ManagementClient, ManagementSettings
from greenroom.server.transport.tls import self_signed

from .arm import GROUP, SUBSCRIPTION, TOKEN, Answer, Arm, Seen, refused, serving_arm, to

CI = PoolId(SUBSCRIPTION, "rg", "ci")
BODY = {"location": "eastasia", "properties": {"containerType": "PythonLTS"}}


@pytest.fixture
def arm() -> Generator[Arm, None, None]:
    with serving_arm() as server:
        server.token = TOKEN
        yield server


def client_of(arm: Arm, **settings: Any) -> ManagementClient:
    given: dict[str, Any] = {"key": lambda: TOKEN, "retry_for": 5, **settings}
    return ManagementClient(arm.url, ManagementSettings(**given))


@pytest.mark.parametrize("follow", ["Azure-AsyncOperation", "Location", ""])
async def test_a_pool_is_created_changed_and_deleted(arm: Arm, follow: str) -> None:
    arm.follow = follow
    states: list[str] = []
    async with client_of(arm) as client:
        created = await client.create(CI, BODY, on_state=states.append)
        assert created["properties"]["provisioningState"] == "Succeeded"
        assert set(states) == {"InProgress"}
        changed = await client.update(CI, {"tags": {"team": "a"}})
        assert changed["tags"] == {"team": "a"}
        assert [pool["name"] for pool in await client.list(SUBSCRIPTION, "rg")] == ["ci"]
        if follow:  # a deletion that nobody can follow is refused below
            assert await client.delete(CI)
            assert not await client.delete(CI)
    assert arm.body_of("PUT") == BODY
    assert {seen.token for seen in arm.seen} == {TOKEN}
    assert all("api-version=2026-07-01" in seen.target for seen in arm.seen)


async def test_the_url_of_an_operation_is_requested_unchanged(arm: Arm) -> None:
    async with client_of(arm) as client:
        await client.create(CI, BODY)
    asked = [seen.target for seen in arm.seen if "/statuses/" in seen.path]
    assert len(asked) == 3
    assert all(target.endswith("?api-version=2026-07-01&t=6384%2B1&c=a%20b") for target in asked)


async def test_no_wait_returns_when_the_operation_has_started(arm: Arm) -> None:
    arm.questions = 1_000_000
    async with client_of(arm) as client:
        created = await client.create(CI, BODY, wait=False)
        assert created["properties"]["provisioningState"] == "InProgress"
        await client.update(CI, {"tags": {}}, wait=False)
        assert await client.delete(CI, wait=False)
    assert not [seen for seen in arm.seen if "/statuses/" in seen.path]


async def test_pages_are_followed_to_the_last(arm: Arm) -> None:
    arm.page = 2
    for number in range(5):
        arm.add(f"pool{number}", group="rg" if number < 4 else "Zoo")
    async with client_of(arm) as client:
        found = await client.list(SUBSCRIPTION)
        assert [pool["name"] for pool in found] == [f"pool{number}" for number in range(5)]
        assert len(await client.list(SUBSCRIPTION, "RG")) == 4
        assert await client.list(SUBSCRIPTION, "none") == []


async def test_requests_to_a_busy_service_are_retried(arm: Arm) -> None:
    busy = refused(429, "TooManyRequests", "The request is being throttled.", **{"Retry-After": "0"})
    arm.answers.append(to("PUT", busy, times=2))
    async with client_of(arm) as client:
        await client.create(CI, BODY)
    assert [seen.method for seen in arm.seen].count("PUT") == 3


async def test_a_service_that_stays_busy_says_when_to_try_again(arm: Arm) -> None:
    arm.answers.append(to("GET", refused(429, "TooManyRequests", "Slow down.", **{"Retry-After": "17"}), times=9))
    async with client_of(arm, retry_for=0) as client:
        with pytest.raises(ServiceFailed, match=r"too many requests. Try again in 17 seconds. Slow down. \(HTTP 429"):
            await client.get(CI)


async def test_a_missing_pool_is_an_error_that_lists_the_existing_ones(arm: Arm) -> None:
    async with client_of(arm) as client:
        with pytest.raises(InvalidRequest, match="no pool 'ci' in the resource group 'rg', which has no pools"):
            await client.get(CI)
        arm.add("ci2")
        arm.add("other")
        with pytest.raises(InvalidRequest, match=r"Did you mean 'ci2'\? Pools: ci2, other\.") as caught:
            await client.get(CI)
        assert caught.value.azure is not None
        assert caught.value.azure.code == "ResourceNotFound"
        with pytest.raises(InvalidRequest, match="There is no pool 'ci'"):
            await client.update(CI, {"tags": {}})


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (400, "InvalidParameterValue", InvalidRequest, r"what \(HTTP 400, InvalidParameterValue, request request-1\)"),
        (401, "ExpiredAuthenticationToken", AccessDenied, "az login.* GREENROOM_MANAGEMENT_KEY"),
        (403, "AuthorizationFailed", AccessDenied, "must be allowed to manage pools"),
        (409, "Conflict", InvalidRequest, "what"),
        (500, "InternalServerError", ServiceFailed, "The service failed. what"),
    ],
)
async def test_each_refusal_raises_its_exception(
    arm: Arm, status: int, code: str, error: type[Exception], message: str
) -> None:
    arm.answers.append(to("PUT", refused(status, code, "what"), times=9))
    async with client_of(arm) as client:
        with pytest.raises(error, match=message):
            await client.create(CI, BODY)


@pytest.mark.parametrize("follow", ["Azure-AsyncOperation", ""])
async def test_a_failed_operation_states_the_reason(arm: Arm, follow: str) -> None:
    arm.follow = follow
    arm.failure = {"code": "InvalidImage", "message": "The image 'none' does not exist."}
    async with client_of(arm) as client:
        with pytest.raises(ServiceFailed, match="The operation ended as Failed") as caught:
            await client.create(CI, BODY)
    assert ("The image 'none' does not exist. (InvalidImage)" in str(caught.value)) == bool(follow)


# What is not trusted


@pytest.mark.parametrize("method", ["create", "update", "delete", "list"])
async def test_no_other_host_gets_the_token(arm: Arm, method: str) -> None:
    with serving_arm(host="127.0.0.2") as thief:
        arm.add("ci")
        arm.url, real = thief.url, arm.url
        arm.page = 0 if method == "list" else 100
        async with ManagementClient(real, ManagementSettings(key=lambda: TOKEN)) as client:
            calls = {
                "create": lambda: client.create(CI, BODY),
                "update": lambda: client.update(CI, {"tags": {}}),
                "delete": lambda: client.delete(CI),
                "list": lambda: client.list(SUBSCRIPTION, "rg"),
            }
            with pytest.raises(ServiceFailed, match=f"must point to {real}, not to '{thief.url}"):
                await calls[method]()
        assert thief.seen == []


MALFORMED: list[Answer] = [
    (200, {}, b"<html>"),
    (200, {}, b"[]"),
    (200, {}, b"7"),
    (200, {}, b"[" * 100_000),
    (200, {}, b'{"value": 7}'),
    (200, {}, b'{"value": [7]}'),
    (200, {}, b'{"value": [], "nextLink": 7}'),
    (200, {"Content-Encoding": "br"}, b"{}"),
]


@pytest.mark.parametrize("answer", MALFORMED, ids=[repr(each[2][:20]) for each in MALFORMED])
async def test_a_malformed_list_is_an_error(arm: Arm, answer: Answer) -> None:
    arm.answers.append(to("GET", answer, times=9))
    async with client_of(arm) as client:
        with pytest.raises(ServiceFailed, match="cannot be read"):
            await client.list(SUBSCRIPTION)


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"status": 7}', b"nonsense"])
async def test_a_malformed_status_is_an_error(arm: Arm, body: bytes) -> None:
    arm.answers.append(to("GET", (200, {}, body), times=9, path="/statuses/"))
    async with client_of(arm) as client:
        with pytest.raises(ServiceFailed, match="cannot be read"):
            await client.create(CI, BODY)


async def test_a_circular_list_ends(arm: Arm) -> None:
    link = f"{arm.url}{GROUP}?api-version=1"
    arm.answers.append(to("GET", (200, {}, {"value": [], "nextLink": link}), times=99))
    async with client_of(arm) as client:
        with pytest.raises(ServiceFailed, match="must point to a new page"):
            await client.list(SUBSCRIPTION, "rg")


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/x",
        "http://127.0.0.1:81/x",
        "//evil.example/x",
        "http://user@127.0.0.1:80/x",
        "https://127.0.0.1/x",
        "http://127.0.0.1@evil.example/x",
        "x",
        "",
        "/a b",
        "/a\r\nb",
        "http://[x",
        "http://127.0.0.1:x/",
        "/" + "x" * 9000,
    ],
)
def test_a_link_to_another_endpoint_has_no_path(link: str) -> None:
    assert within("http://127.0.0.1", link) is None


def test_a_link_to_the_same_place_keeps_its_path_and_query() -> None:
    assert within("http://127.0.0.1", "http://127.0.0.1:80/a%2Fb?c=d%20e#f") == "a%2Fb?c=d%20e"
    assert within("https://management.azure.com/", "https://MANAGEMENT.azure.com/a") == "a"
    assert within("https://management.azure.com", "/a?b") == "a?b"


@given(st.text())
def test_any_link_is_within_or_not(link: str) -> None:
    path = within("http://127.0.0.1:8080", link)
    assert path is None or not path.startswith("/")


# Ids


@pytest.mark.parametrize(
    "text",
    [
        f"{GROUP}/ci",
        f"{GROUP}/ci/".replace("resourceGroups", "resourcegroups"),
        f"{GROUP}/ci".replace("Microsoft.App/sessionPools", "microsoft.app/SESSIONPOOLS"),
        f"{GROUP}/ci".replace("/subscriptions", "/Subscriptions"),
    ],
)
def test_the_words_of_an_id_can_have_any_case(text: str) -> None:
    assert PoolId.parse(text) == CI
    assert str(CI) == f"{GROUP}/ci"


@given(prefix=st.text(max_size=9), suffix=st.sampled_from(["", "/"]))
def test_an_id_is_found_at_the_end_of_any_path(prefix: str, suffix: str) -> None:
    found = split_id(f"{prefix}{GROUP}/ci{suffix}")
    assert found == (prefix, CI)
    assert split_id(f"{prefix}{GROUP}/ci/x") is None


@pytest.mark.parametrize("text", ["", "ci", GROUP, f"{GROUP}/a/b", f"{GROUP}/..", f"{GROUP}/a%2fb", f"{GROUP}/a?b"])
def test_text_that_is_not_an_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="must"):
        PoolId.parse(text)


# Credentials


class Credential:
    """Gives one token, and tells what it was for."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        self.scopes += scopes
        return AccessToken(TOKEN, int(time.time()) + 3600)


async def test_a_credential_is_asked_for_a_token_of_resource_manager(tmp_path: Path) -> None:
    files = self_signed(tmp_path / "tls", ["127.0.0.1"])
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_cert_chain(files.certificate, files.key)
    trusted = ssl.create_default_context(cafile=files.authority)
    credential = Credential()
    with serving_arm(certificate=certificate) as arm:
        arm.token = TOKEN
        async with ManagementClient(arm.url, ManagementSettings(credential=credential, ssl_context=trusted)) as client:
            await client.create(CI, BODY)
            assert await client.delete(CI)
    assert credential.scopes == ["https://management.azure.com/.default"]


async def test_a_server_on_this_machine_gets_no_token_by_default(arm: Arm) -> None:
    arm.token = None
    async with ManagementClient(arm.url) as client:
        assert await client.list(SUBSCRIPTION) == []
    assert arm.seen[0].token is None


def test_another_server_needs_a_key_or_a_credential() -> None:
    with pytest.raises(InvalidRequest, match="GREENROOM_MANAGEMENT_KEY"):
        ManagementClient("https://management.azure.com.evil.example")


@pytest.mark.parametrize("url", ["http://example.com", "https://user:secret@example.com", "nonsense"])
def test_the_url_of_a_server_is_checked(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ManagementClient(url)
    assert "secret" not in str(caught.value)


def test_a_key_that_no_header_can_hold_is_not_shown() -> None:
    with pytest.raises(InvalidRequest, match="management_key must be printable ASCII") as caught:
        ManagementClient("http://127.0.0.1:1", ManagementSettings(key=lambda: "clé-secret"))
    assert "secret" not in str(caught.value)


async def test_a_server_that_is_not_running_is_reported_with_the_command_to_start_it() -> None:
    async with ManagementClient("http://127.0.0.1:9") as client:
        with pytest.raises(ServiceFailed, match=r"No server is running at http://127\.0\.0\.1:9\. .*: greenroom serve"):
            await client.list(SUBSCRIPTION)


async def test_an_abandoned_call_leaves_nothing_behind(arm: Arm) -> None:
    arm.questions = 1_000_000
    before = len(asyncio.all_tasks())
    async with client_of(arm) as client:
        waits = asyncio.Event()
        task = asyncio.create_task(client.create(CI, BODY, on_state=lambda _: waits.set()))
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(asyncio.all_tasks()) == before


async def test_a_server_can_have_its_own_path(arm: Arm) -> None:
    def moved(seen: Seen) -> Answer | None:
        assert seen.path.startswith("/behind/it/subscriptions/") or "/statuses/" in seen.path
        return (200, {}, {"value": []}) if seen.method == "GET" else None

    arm.answers.append(moved)
    async with ManagementClient(f"{arm.url}/behind/it/", ManagementSettings(key=lambda: TOKEN)) as client:
        assert await client.list(SUBSCRIPTION) == []
