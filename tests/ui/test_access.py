"""Who sees the pages, who can stop a session, and what other sites can make a browser do."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, cast

import pytest
from starlette.datastructures import Headers

from greenroom.errors import InvalidRequest
from greenroom.server.responses import RequestRefused
from greenroom.server.settings import ServerSettings
from greenroom.server.ui.access import LIFETIME, Access, cookie_of, refuse_foreign_pages

from .watched import BROWSER, FORM, MANAGER, USER, Watched, guarded, keys, watched

PAGES = ["/ui", "/ui/pool?pool=ci", "/ui/sessions", "/ui/usage"]


async def test_without_a_key_only_the_sign_in_page_is_served() -> None:
    async with guarded() as server:
        for page in PAGES:
            answer = await server.open(page)
            assert (answer.status_code, answer.headers["location"]) == (303, "/ui/sign-in")
        assert (await server.open("/ui/sign-in")).status_code == 200
        stopped = await server.send("/ui/sessions/stop", pool="ci", session="user-0001")
        assert (stopped.status_code, stopped.headers["location"]) == (303, "/ui/sign-in")
        for part in ("style.css", "icon.svg"):
            assert (await server.client.get(f"/ui/{part}")).status_code == 200


async def test_signing_in_sets_a_short_lived_cookie_only_for_the_pages() -> None:
    async with guarded() as server:
        answer = await server.sign_in(USER)
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui")
        cookie = answer.headers["set-cookie"]
        assert re.fullmatch(
            rf"greenroom-ui-0=[\w-]{{43}}; HttpOnly; Max-Age={LIFETIME}; Path=/ui; SameSite=Strict", cookie
        )
        for page in PAGES:
            assert (await server.open(page)).status_code == 200, page
        assert "Signed in as <bdi>user</bdi>" in (await server.open()).text
        elsewhere = await server.client.get("/listSessions", headers={"cookie": cookie.partition(";")[0]})
        assert elsewhere.status_code == 401, "the cookie opens the pages, and no API"


async def test_over_tls_the_cookie_is_only_for_tls() -> None:
    async with guarded(base_url="https://localhost") as server:
        secure = {**FORM, "origin": "https://localhost"}
        assert "; Secure" in (await server.send("/ui/sign-in", secure, key=USER)).headers["set-cookie"]
    async with guarded() as server:  # a proxy speaks TLS with the browser
        assert "; Secure" in (await server.send("/ui/sign-in", secure, key=USER)).headers["set-cookie"]


async def test_behind_a_proxy_the_public_url_is_the_servers_own() -> None:
    async with guarded(public_url="https://greenroom.example") as server:
        through = {**FORM, "origin": "https://greenroom.example"}
        assert "; Secure" in (await server.send("/ui/sign-in", through, key=USER)).headers["set-cookie"]
        other = await server.send("/ui/sign-in", {**FORM, "origin": "https://other.example"}, key=USER)
        assert other.status_code == 403


async def test_a_wrong_key_is_refused_on_the_page_to_sign_in() -> None:
    async with guarded() as server:
        for wrong in ("a key that nobody has", "", "two words", "<script>"):
            answer = await server.sign_in(wrong)
            assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
            assert "set-cookie" not in answer.headers
            assert 'role="alert"' in answer.text
            assert "www-authenticate" not in answer.headers, "the browser would ask for a password of its own"


async def test_signing_out_ends_the_sign_in_on_the_server() -> None:
    async with guarded() as server:
        cookie = (await server.sign_in(USER)).headers["set-cookie"].partition(";")[0]
        assert (await server.send("/ui/sign-out", form_token="guessed")).status_code == 403
        left = await server.send("/ui/sign-out", form_token=await server.form_token())
        assert "Max-Age=0" in left.headers["set-cookie"]
        assert left.headers["location"] == "/ui/sign-in"
        again = await server.open("/ui", cookie=cookie)
        assert again.status_code == 303, "a copy of the cookie is of no use"


async def test_signing_in_again_ends_the_sign_in_before() -> None:
    async with guarded() as server:
        first = (await server.sign_in(USER)).headers["set-cookie"].partition(";")[0]
        await server.sign_in(MANAGER)
        assert (await server.open()).status_code == 200
        server.client.cookies.clear()
        assert (await server.open("/ui", cookie=first)).status_code == 303


async def test_a_revoked_key_ends_its_sign_ins() -> None:
    users, managers = keys(user=USER), keys(manager=MANAGER)
    async with watched(sessions=users, management=managers) as server:
        for known, name, key in ((users, "user", USER), (managers, "manager", MANAGER)):
            await server.sign_in(key)
            assert (await server.open()).status_code == 200
            known.revoke(name)
            assert (await server.open()).status_code == 303


async def test_a_sign_in_expires() -> None:
    now = 0.0
    access = Access(keys(user=USER), None, clock=lambda: now)
    token = await access.sign_in(USER, None)
    now = LIFETIME - 1
    viewer = await access.viewer(token)
    assert viewer is not None
    assert (viewer.caller, viewer.can_manage) == ("user", False)
    now = LIFETIME
    assert await access.viewer(token) is None
    now = 0
    assert await access.viewer(token) is None, "it is gone for good"


async def test_the_number_of_sign_ins_is_bounded() -> None:
    access = Access(keys(user=USER, other="another user's long key"), None)
    other = await access.sign_in("another user's long key", None)
    tokens = [await access.sign_in(USER, None) for _ in range(30)]
    alive = [token for token in tokens if await access.viewer(token) is not None]
    assert alive == tokens[-10:]
    assert await access.viewer(other) is not None, "one caller cannot end another's"


async def test_the_server_keeps_no_key_that_it_could_read() -> None:
    access = Access(keys(user=USER), None)
    token = await access.sign_in(USER, None)
    sign_ins: dict[str, object] = vars(access)["_sign_ins"]
    assert len(sign_ins) == 1
    kept = "".join(repr(dataclasses.astuple(cast("Any", each))) for each in sign_ins.values()) + repr(vars(access))
    assert USER not in kept
    assert token not in kept


async def test_only_a_key_for_management_stops_sessions() -> None:
    async with guarded() as server:
        await server.begin("user-0001")
        await server.sign_in(USER)
        assert "Stop" not in (await server.open("/ui/sessions")).text.partition("<table>")[2].partition("</table>")[0]
        token = await server.form_token("/ui")
        refused = await server.send("/ui/sessions/stop", form_token=token, pool="ci", session="user-0001")
        assert (refused.status_code, await server.sessions()) == (403, ["user-0001"])
        assert "requires the right to manage pools" in refused.text
        await server.sign_in(MANAGER)
        stopped = await server.send(
            "/ui/sessions/stop", form_token=await server.form_token(), pool="ci", session="user-0001"
        )
        assert (stopped.status_code, await server.sessions()) == (303, [])
        assert "The session was stopped." in (await server.open(stopped.headers["location"])).text


async def test_with_only_session_keys_no_one_stops_sessions() -> None:
    async with watched(sessions=keys(user=USER)) as server:
        await server.begin("user-0001")
        await server.sign_in(USER)
        refused = await server.send(
            "/ui/sessions/stop", form_token=await server.form_token(), pool="ci", session="user-0001"
        )
        assert (refused.status_code, await server.sessions()) == (403, ["user-0001"])


async def test_without_keys_every_program_on_this_machine_can_see_and_stop_sessions() -> None:
    async with watched() as server:
        await server.begin("user-0001")
        for page in PAGES:
            assert (await server.client.get(page)).status_code == 200
        page = await server.open("/ui/sign-in")
        assert "does not accept keys" in page.text
        stopped = await server.send(
            "/ui/sessions/stop", form_token=await server.form_token(), pool="ci", session="user-0001"
        )
        assert (stopped.status_code, await server.sessions()) == (303, [])


async def test_with_only_management_keys_everyone_sees_and_managers_stop_sessions() -> None:
    async with watched(management=keys(manager=MANAGER)) as server:
        await server.begin("user-0001")
        page = await server.open("/ui/sessions")
        assert page.status_code == 200
        assert "Sign in to manage" in page.text
        assert "<details" not in page.text
        await server.sign_in(MANAGER)
        stopped = await server.send(
            "/ui/sessions/stop", form_token=await server.form_token(), pool="ci", session="user-0001"
        )
        assert (stopped.status_code, await server.sessions()) == (303, [])


@pytest.mark.parametrize("token", ["", "guessed", "é", "\udcff"])
async def test_a_form_without_its_token_does_nothing(token: str) -> None:
    async with guarded() as server, watched() as another:
        for each in (server, another):
            await each.begin("user-0001")
            await each.sign_in(MANAGER)
            fields = f"form_token={token.encode('utf-8', 'surrogatepass').hex()}&pool=ci&session=user-0001"
            headers = {**FORM, "content-type": "application/x-www-form-urlencoded"}
            refused = await each.client.post("/ui/sessions/stop", content=fields, headers=headers)
            assert (refused.status_code, await each.sessions()) == (403, ["user-0001"])


async def test_the_token_of_another_sign_in_does_nothing() -> None:
    async with guarded() as server:
        await server.begin("user-0001")
        await server.sign_in(MANAGER)
        token = await server.form_token()
        await server.sign_in(MANAGER)
        refused = await server.send("/ui/sessions/stop", form_token=token, pool="ci", session="user-0001")
        assert (refused.status_code, await server.sessions()) == (403, ["user-0001"])


async def stop(server: Watched, **headers: str) -> int:
    fields = {"form_token": await server.form_token(), "pool": "ci", "session": "user-0001"}
    return (await server.client.post("/ui/sessions/stop", data=fields, headers={**FORM, **headers})).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "null"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-mode": "cors"},
        {"sec-fetch-mode": "same-origin", "sec-fetch-dest": "empty"},
        {"sec-fetch-dest": "iframe"},
    ],
)
async def test_another_page_stops_nothing_even_with_the_token(headers: dict[str, str]) -> None:
    async with guarded() as server, watched() as another:
        for each in (server, another):
            await each.begin("user-0001")
            await each.sign_in(MANAGER)
            assert (await stop(each, **headers), await each.sessions()) == (403, ["user-0001"])
            assert (await stop(each), await each.sessions()) == (303, [])


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "169.254.169.254", "localhost@evil.example"]
)
async def test_under_a_foreign_name_an_open_server_shows_nothing(host: str) -> None:
    async with watched() as server:
        for page in PAGES:
            answer = await server.open(page, host=host)
            assert answer.status_code in {400, 403}
            assert "<table>" not in answer.text
    async with watched(allowed_hosts=["evil.example"]) as server:
        assert (await server.open(host="evil.example")).status_code == 200


async def test_a_script_of_the_same_origin_cannot_read_a_page() -> None:
    """A custom container, or a file of a session, can be a page of this origin."""
    fetched = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
    async with watched() as server:
        for page in PAGES:
            assert (await server.open(page, **fetched)).status_code == 403
            assert (await server.open(page, **{**BROWSER, "sec-fetch-dest": "iframe"})).status_code == 403
            opened = await server.open(page)
            assert opened.headers["cross-origin-opener-policy"] == "same-origin"
            assert opened.headers["x-frame-options"] == "DENY"


async def test_a_cross_site_link_opens_the_sign_in_but_no_open_page() -> None:
    link = {"sec-fetch-site": "cross-site"}
    async with guarded() as server:
        assert (await server.open(**link)).status_code == 303, "to sign in, as the cookie is strict"
    async with watched() as server:
        refused = await server.open(**link)
        assert refused.status_code == 403
        assert '<a href="/ui">' in refused.text


def test_a_browser_loads_the_parts_of_a_page() -> None:
    part = {
        "sec-fetch-site": "same-origin",
        "sec-fetch-mode": "no-cors",
        "sec-fetch-dest": "style",
        "host": "localhost",
    }
    refuse_foreign_pages(Headers(part), (), guarded=False, page=False)
    with pytest.raises(RequestRefused):
        refuse_foreign_pages(Headers(part), (), guarded=False, page=True)
    with pytest.raises(RequestRefused):
        refuse_foreign_pages(Headers({**part, "sec-fetch-site": "cross-site"}), (), guarded=True, page=False)


def test_two_cookies_are_both_ignored() -> None:
    token = "a" * 43
    assert cookie_of(Headers({"cookie": f"x=1; ui={token}"}), "ui") == token
    for cookies in (f"ui={token}; ui={token}", f"ui={token}x", "ui=", f"uii={token}", f"ui={'ä' * 43}"):
        raw = [(b"cookie", cookies.encode("latin-1"))]
        assert cookie_of(Headers(raw=raw), "ui") is None


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "ui": True}, True),
        ({"ui": False}, False),
    ],
)
def test_beyond_this_machine_the_pages_are_off_unless_asked_for(options: dict[str, object], shown: bool) -> None:
    assert ServerSettings.parse(options).has_ui is shown


def test_a_wrong_value_of_the_option_is_named() -> None:
    with pytest.raises(InvalidRequest, match="ui"):
        ServerSettings.parse({"ui": "perhaps"})
