"""Check the links of the built site: internal ones always, external ones on request. Pages must load only files of the
site, so that reading them does not inform other sites.
"""

from __future__ import annotations

import concurrent.futures
import html.parser
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

AGENT = "Mozilla/5.0 (compatible; greenroom-docs-link-check)"
TIMEOUT = 30.0
LOCAL = frozenset({"127.0.0.1", "localhost"})
# Documents that programs cannot get: the site refuses them, limits them or needs an account.
NOT_AN_ERROR = frozenset({401, 403, 405, 429, 999})


class _Page(html.parser.HTMLParser):
    """The anchors of a page, and the links of its content."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value)
            elif name == "href" and tag == "a":
                self.links.add(value)
            elif (name == "href" and tag == "link") or name == "src":
                self.loads.add(value)


def broken_links(site: Path) -> list[str]:
    """Return, with their pages, links to no file or no anchor of the site, and what is loaded from elsewhere."""
    pages = {path: _Page(path.read_text()) for path in sorted(site.resolve().rglob("*.html"))}
    broken: list[str] = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links begin at the root of a server
        for link in sorted(page.links | page.loads):
            parts = urllib.parse.urlsplit(link)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                if link in page.loads:
                    broken.append(f"{path.relative_to(site.resolve())}: {link}")
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken


def external_links(site: Path) -> dict[str, set[str]]:
    """The addresses of other sites, and the pages that link to them."""
    found: dict[str, set[str]] = {}
    for path in sorted(site.rglob("*.html")):
        for link in _Page(path.read_text()).links:
            if link.startswith(("https://", "http://")) and urllib.parse.urlsplit(link).hostname not in LOCAL:
                found.setdefault(link.partition("#")[0], set()).add(str(path.relative_to(site)))
    return found


def unreachable(addresses: Iterable[str]) -> dict[str, str]:
    """Return the addresses that do not return a document, and why. Needs the internet."""
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        reasons = dict(zip(addresses, executor.map(_why_unreachable, addresses), strict=True))
    return {address: reason for address, reason in reasons.items() if reason}


def _why_unreachable(address: str) -> str | None:
    request = urllib.request.Request(address, headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in NOT_AN_ERROR else f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(error)
