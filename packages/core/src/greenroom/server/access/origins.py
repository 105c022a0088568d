"""Refuses requests from web pages to a server without authentication.

A page in a browser on this machine can send requests to the loopback address, directly or through its own host name
that resolves to that address (DNS rebinding). Headers that browsers always send distinguish pages from programs.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers

from greenroom.azure.settings import is_loopback
from greenroom.server.responses import RequestRefused

SIGN_IN_COOKIE = "greenroom-ui-"
"""The prefix of the cookies for sign-ins at `/ui`, which containers must neither get nor set."""

# A URL parser would accept more, such as a host after an @.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]*)?")


def refuse_browsers(headers: Headers, allowed_hosts: Collection[str]) -> None:
    """Check the headers of a request to a server without authentication.

    Args:
        headers: the request's.
        allowed_hosts: names of the server, in addition to those of this machine.

    Raises:
        RequestRefused: with status 403; the request comes from a web page, or its host is not this machine.
    """
    host = host_name(headers.get("host", ""))
    if host not in allowed_hosts and not is_loopback(host):
        raise RequestRefused(
            403,
            "HostNotAllowed",
            f"Without authentication, the host must be a name of this machine, not {host!r:.200}. Allow it with "
            "--allowed-host, or require credentials.",
        )
    if "origin" in headers or set(headers.getlist("sec-fetch-site")) - {"none"}:
        raise RequestRefused(403, "OriginNotAllowed", "A web page cannot use this server, which has no authentication.")


def refuse_foreign_origin(headers: Headers, allowed_hosts: Collection[str]) -> None:
    """Check the origin of a request with credentials to an MCP endpoint, as the protocol requires.

    Raises:
        RequestRefused: with status 403; it comes from a web page of another host.
    """
    for origin in headers.getlist("origin"):
        host = host_name(origin.partition("://")[2])
        if host not in allowed_hosts and not is_loopback(host):
            raise RequestRefused(
                403,
                "OriginNotAllowed",
                f"The origin of a request must be a name of this machine, or allowed with --allowed-host, not "
                f"{origin!r:.200}.",
            )


def refuse_service_worker(headers: Headers, path: str) -> None:
    """Prevent a container's service worker from intercepting requests to `/ui`: it could read and replace the pages.

    Args:
        headers: the request's.
        path: as the browser sees it. The scope of a service worker is the directory of its script.

    Raises:
        RequestRefused: with status 403; the request is for the script of a service worker whose scope includes `/ui`.
    """
    directory = path[: path.rfind("/") + 1]
    if "service-worker" in headers and ("/ui".startswith(directory) or directory.startswith("/ui/")):
        raise RequestRefused(
            403, "ServiceWorkerNotAllowed", "The directory of a service worker must not contain the server's pages. "
            "Start the server with --no-ui to allow it."
        )  # fmt: skip


def host_name(host: str) -> str:
    """Return the name in a `Host` header, without its port, in lower case; empty if it is not valid."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else ""
