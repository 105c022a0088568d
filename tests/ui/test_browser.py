"""The pages in a real Chromium, by keyboard alone. With GREENROOM_PICTURES it writes those of docs/ui.md there."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Browser

from greenroom.server.run import Server
from greenroom.server.settings import ServerSettings
from greenroom.server.ui.history import INTERVAL, Sample

from .browser import Visit, chromium, visit
from .watched import MANAGER, USER, Watched, guarded, watched

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

PICTURES = os.environ.get("GREENROOM_PICTURES")
NAMES = ("ci", "agents")


@contextlib.asynccontextmanager
async def at_a_port(server: Watched) -> AsyncGenerator[str, None]:
    """Serve at a port; yield the address."""
    settings = ServerSettings.parse({"port": 0, "shutdown_grace": 0})
    listening, started = Server(server.app, settings), asyncio.Event()
    listening.on_start = started.set
    task = asyncio.create_task(listening.serve())
    try:
        async with asyncio.timeout(60):
            await started.wait()
        yield listening.url
    finally:
        listening.should_exit = True
        async with asyncio.timeout(60):
            await task


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


def draw_a_busy_hour(server: Watched) -> None:
    """Fill the last hour of the pools, so that there is something to see."""
    now = time.time()
    for phase, pool in enumerate(server.app.pools):
        for number in range(360):
            demand = 3 + 2.6 * math.sin(number / 47 + 2 * phase) * math.cos(number / 19)
            sessions, waiting = min(4, round(demand)), max(0, round(demand) - 4)
            sample = Sample(now - (360 - number) * INTERVAL, 4, sessions, 4 - sessions, waiting)
            server.history.add(pool, sample)


async def sign_in(seen: Visit, key: str) -> None:
    """Type a key where the focus is when the page has opened."""
    await seen.page.locator("#key:focus").wait_for()
    await seen.page.keyboard.type(key)
    await seen.follow()


async def keep(seen: Visit, name: str) -> None:
    """Write a picture for the documentation, if it is asked for."""
    if PICTURES is None:
        return
    shot = Image.open(io.BytesIO(await seen.page.screenshot(full_page=True)))
    file = Path(PICTURES) / f"{name}.png"
    shot.convert("RGB").quantize(64).save(file, optimize=True)
    assert file.stat().st_size < 100_000


async def test_a_person_signs_in_and_stops_a_session_by_keyboard(browser: Browser) -> None:
    async with guarded(names=NAMES, with_log=True) as server, at_a_port(server) as url:
        for number in range(3):
            await server.begin(f"user-{number:04}")
        await server.begin("<b>user</b>", "agents")
        await server.history.sample()
        async with visit(browser, f"{url}/ui") as seen:
            page = seen.page
            assert page.url == f"{url}/ui/sign-in"
            await sign_in(seen, "a wrong key")
            assert "not valid" in await page.inner_text("[role=alert]")
            assert seen.complaints.pop().startswith(
                "error: Failed to load resource: the server responded with a status of 401"
            )
            await sign_in(seen, MANAGER)
            assert page.url == f"{url}/ui"
            assert await page.evaluate("document.cookie") == "", "no script could read it"

            await seen.tab_to(".skip")
            await seen.press("Enter")
            await seen.tab_to("main a, main [tabindex]", most=1)
            await page.goto(f"{url}/ui")
            await seen.tab_to("nav a[href='/ui/sessions']")
            await seen.follow()
            assert await page.locator("tbody tr").count() == 4
            assert await page.locator("tbody b").count() == 0, "an identifier is text"

            await seen.tab_to("select[name=pool]")
            await seen.press("c")
            await seen.tab_to("input[name=find]")
            await page.keyboard.type("0001")
            await seen.follow()
            assert await page.locator("tbody tr").count() == 1
            assert await page.input_value("select[name=pool]") == "ci"

            await seen.tab_to("tbody summary")
            await seen.press("Enter")
            await seen.tab_to("tbody details button", most=1)
            await seen.follow()
            assert await page.inner_text("[role=status]") == "The session was stopped."
            assert await server.sessions() == ["user-0000", "user-0002"]

            await seen.tab_to("nav a[href='/ui/log']")
            await seen.follow()
            everything = await page.locator("tbody tr").count()
            await seen.tab_to("select[name=operation]")
            await page.keyboard.type("SessionE")
            await seen.tab_to("form.filters button")
            await seen.follow()
            shown = await page.locator("tbody tr").all_inner_texts()
            assert len(shown) < everything
            assert all("user-0001\tSessionEnded" in line for line in shown)

            await seen.tab_to("header form button")
            await seen.follow()
            assert page.url == f"{url}/ui/sign-in"
            await page.goto(f"{url}/ui/sessions")
            assert page.url == f"{url}/ui/sign-in"


@pytest.mark.parametrize("colors", ["light", "dark"])
async def test_every_page_looks_right(browser: Browser, colors: Literal["light", "dark"]) -> None:
    async with guarded(names=NAMES, with_log=True) as server, at_a_port(server) as url:
        for number in range(3):
            await server.begin(f"analysis-{number:03}")
        await server.begin("customer-7", "agents")
        draw_a_busy_hour(server)
        await server.history.sample()
        async with visit(browser, f"{url}/ui", colors) as seen:
            page = seen.page
            await sign_in(seen, MANAGER)
            for name, path in (
                ("overview", "/ui"),
                ("pool", "/ui/pool?pool=ci"),
                ("sessions", "/ui/sessions"),
                ("usage", "/ui/usage"),
                ("log", "/ui/log"),
            ):
                await page.goto(url + path)
                assert await page.locator("h1").count() == 1
                unnamed = "input:not([type=hidden]), select, button, summary, svg[role=img], [role=region], meter"
                for element in await page.locator(unnamed).all():
                    assert await element.evaluate(
                        "e => e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()"
                    ), await element.evaluate("e => e.outerHTML")
                text, ground = await page.evaluate(
                    "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
                )
                assert (_brightness(text) < _brightness(ground)) is (colors == "light")
                if (name, colors) in {("overview", "light"), ("sessions", "light"), ("log", "dark")}:
                    await keep(seen, f"ui-{name}-{colors}")
            for each in (await page.locator("svg").all())[:1]:
                assert (await each.bounding_box() or {"height": 0})["height"] > 0


async def test_a_narrow_window_does_not_scroll_sideways(browser: Browser) -> None:
    async with watched() as server, at_a_port(server) as url:
        await server.begin("user-0001")
        await server.history.sample()
        async with visit(browser, f"{url}/ui", width=360) as seen:
            for path in ("/ui", "/ui/pool?pool=ci", "/ui/sessions", "/ui/usage", "/ui/sign-in"):
                await seen.page.goto(url + path)
                assert await seen.page.evaluate("document.documentElement.scrollWidth") <= 360, path


async def test_an_open_server_of_this_machine_is_used_without_a_key(browser: Browser) -> None:
    async with watched() as server, at_a_port(server) as url:
        await server.begin("user-0001")
        async with visit(browser, f"{url}/ui/sessions") as seen:
            await seen.page.click("summary")
            async with seen.page.expect_navigation():
                await seen.page.click("details button")
            assert await server.sessions() == []
            await seen.tab_to("footer a")
            await seen.follow()
            assert await seen.page.inner_text("footer a") == "Stop refreshing"


async def test_a_page_of_the_same_origin_cannot_reach_the_pages(browser: Browser) -> None:
    """What a container serves can be such a page: its scripts get no page, no window and no token."""
    async with watched() as server, at_a_port(server) as url:
        await server.begin("user-0001")
        async with await browser.new_context() as context:
            page = await context.new_page()
            await page.route(
                "**/evil", lambda route: route.fulfill(body="<title>evil</title>", content_type="text/html")
            )
            await page.goto(f"{url}/evil")
            fetched = await page.evaluate("fetch('/ui/sessions').then(answer => answer.status)")
            assert fetched == 403
            posted = await page.evaluate(
                """fetch("/ui/sessions/stop", {
                    method: "POST", body: new URLSearchParams({pool: "ci", session: "user-0001"})
                }).then(answer => answer.status)"""
            )
            assert posted == 403
            async with context.expect_page() as opening:
                await page.evaluate("window.opened = open('/ui/sessions'), 1")
            opened = await opening.value
            await opened.wait_for_load_state()
            assert await opened.title() == "Sessions · Greenroom"
            assert await page.evaluate("opened.closed"), "it has no hold on the window"
            framed = await page.evaluate(
                """new Promise(resolve => {
                    const frame = document.createElement("iframe");
                    frame.src = "/ui/sessions";
                    frame.onload = () => {
                        try { resolve(frame.contentDocument?.querySelectorAll("form").length ?? 0); }
                        catch (error) { resolve(0); }
                    };
                    document.body.append(frame);
                })"""
            )
            assert framed == 0
            assert await server.sessions() == ["user-0001"]


async def test_a_key_for_sessions_shows_no_button(browser: Browser) -> None:
    async with guarded() as server, at_a_port(server) as url:
        await server.begin("user-0001")
        async with visit(browser, f"{url}/ui") as seen:
            await sign_in(seen, USER)
            await seen.page.goto(f"{url}/ui/sessions")
            assert await seen.page.locator("tbody tr").count() == 1
            assert await seen.page.locator("details").count() == 0


def _brightness(color: str) -> int:
    """Return that of `rgb(r, g, b)`."""
    return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(", ")))
