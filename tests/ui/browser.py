"""A real Chromium without a window, and all that it complains about or asks another host for."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Error, Page, Request, async_playwright

REQUIRED = "GREENROOM_REQUIRE_BROWSER"
"""The variable that makes a missing browser a failure."""

_OPTIONS = [
    "--no-sandbox",  # it has none as root
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]
_NOTE_VIOLATIONS = """
addEventListener("securitypolicyviolation", event => {
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
});
"""


@dataclass
class Visit:
    """A page in a window of its own, with its own cookies."""

    page: Page
    complaints: list[str] = field(default_factory=list[str])
    """Errors, violations of the policy, failed requests, and requests to other hosts."""

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    async def tab_to(self, selector: str, *, most: int = 60) -> None:
        """Press Tab until an element has the focus, which must be visible there."""
        for _ in range(most):
            await self.page.keyboard.press("Tab")
            if await self.page.evaluate("selector => document.activeElement?.matches(selector)", selector):
                outline = await self.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"the focus on {selector} must be visible"
                return
        raise AssertionError(f"no key leads to {selector}")

    async def follow(self, key: str = "Enter") -> None:
        """Press a key that opens another page, and wait for that page."""
        async with self.page.expect_navigation():
            await self.page.keyboard.press(key)


@contextlib.asynccontextmanager
async def chromium() -> AsyncGenerator[Browser, None]:
    """Start Debian's Chromium; without one, the test is skipped or fails."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get(REQUIRED):
            pytest.fail("chromium must be installed: apt-get install chromium")
        pytest.skip("needs chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def visit(
    browser: Browser, url: str, colors: Literal["light", "dark"] = "light", *, width: int = 1100, height: int = 640
) -> AsyncGenerator[Visit, None]:
    """Open a page in a new window; at the end, nothing may have been complained about that the test did not take."""
    async with await browser.new_context(
        color_scheme=colors, viewport={"width": width, "height": height}, ignore_https_errors=True
    ) as context:
        page = await context.new_page()
        visited, host = Visit(page), urlsplit(url).netloc
        await page.add_init_script(_NOTE_VIOLATIONS)

        def on_console(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                visited.complaints.append(f"{message.type}: {message.text}")

        def on_request(request: Request) -> None:
            if urlsplit(request.url).netloc != host:
                visited.complaints.append(f"another host: {request.url}")

        def on_error(error: Error) -> None:
            visited.complaints.append(str(error))

        def on_failure(request: Request) -> None:
            if request.failure != "net::ERR_ABORTED":  # the test went on to another page before it was there
                visited.complaints.append(f"{request.url}: {request.failure}")

        page.on("console", on_console)
        page.on("request", on_request)
        page.on("pageerror", on_error)
        page.on("requestfailed", on_failure)
        await page.goto(url)
        yield visited
        assert not visited.complaints, visited.complaints
