"""Keeps web pages out of a server that asks nobody for credentials.

A page in a browser on this machine can send requests to the loopback address, by itself or under a name of its
own that it lets point there (DNS rebinding). Programs are told from pages by what browsers always send.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers

from greenroom.azure.settings import is_loopback
from greenroom.server.responses import RequestRefused

# A parser of URLs would find a host in more, such as behind an @.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]*)?")


def refuse_browsers(headers: Headers, allowed_hosts: Collection[str]) -> None:
    """Check the headers of a request that needs no credentials.

    Args:
        headers: the request's.
        allowed_hosts: names, besides those of this machine, under which the server may be reached.

    Raises:
        RequestRefused: with status 403; a web page sends it, or it is sent to a name that is not this machine's.
    """
    host = host_name(headers.get("host", ""))
    if host not in allowed_hosts and not is_loopback(host):
        raise RequestRefused(
            403,
            "HostNotAllowed",
            f"The host {host!r:.200} is not allowed: without authentication this server answers to names of this "
            "machine alone. Allow it with --allowed-host, or require credentials.",
        )
    if "origin" in headers or set(headers.getlist("sec-fetch-site")) - {"none"}:
        raise RequestRefused(
            403, "OriginNotAllowed", "Requests of web pages are not allowed: this server has no authentication."
        )


def host_name(host: str) -> str:
    """The name in a `Host` header, without its port, in lower case; empty if it is none."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else ""
