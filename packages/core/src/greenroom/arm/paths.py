"""The paths of session pools in Azure Resource Manager, as clients write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

PROVIDER = "Microsoft.App"
RESOURCE_TYPE = f"{PROVIDER}/sessionPools"

_SEGMENT = re.compile(r"(?!\.+$)[\w.()-]{1,128}")
"""A name in an id. Dots alone would lead to another path."""
_LOCATION = re.compile(r"[A-Za-z0-9]{1,50}")
_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.App/sessionPools/(?P<name>[^/]+)/?",
    re.IGNORECASE,
)
_ID_AT_END = re.compile(rf"{_ID.pattern}\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PoolId:
    """What identifies a pool; its text is the id's canonical form, without a server."""

    subscription: str
    group: str
    name: str

    def __post_init__(self) -> None:
        check_segment(self.subscription, "subscription")
        check_segment(self.group, "resource group")
        check_segment(self.name, "name of a pool")

    def __str__(self) -> str:
        return f"{pools_of(self.subscription, self.group)}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id in a text. Its fixed words may be written in any case, as in Azure.

        Raises:
            InvalidRequest: it is not the id of a pool.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise InvalidRequest(
                "The id of a pool must have the form /subscriptions/…/resourceGroups/…/providers/Microsoft.App/"
                f"sessionPools/…, not {brief(text)}."
            )
        return cls(**match.groupdict())


def split_id(path: str) -> tuple[str, PoolId] | None:
    """Return what stands before the id of a pool in a URL's path, and the id; `None` if the path has none."""
    match = _ID_AT_END.search(path)
    return None if match is None else (path[: match.start()], PoolId(**match.groupdict()))


def pools_of(subscription: str, group: str | None = None) -> str:
    """Return the path of all pools of a resource group, or of a subscription.

    Raises:
        InvalidRequest: one of them cannot be a part of a path.
    """
    within = "" if group is None else f"/resourceGroups/{check_segment(group, 'resource group')}"
    return f"/subscriptions/{check_segment(subscription, 'subscription')}{within}/providers/{RESOURCE_TYPE}"


def sessions_path(pool: PoolId) -> str:
    """Return the path of a pool's sessions on the host of its endpoint, percent-encoded."""
    path = f"/subscriptions/{pool.subscription}/resourceGroups/{pool.group}/sessionPools/{pool.name}"
    return quote(path, safe="/()")


def sessions_url(pool: PoolId, location: str) -> str:
    """Return the endpoint of a pool of code interpreters in a region of Azure.

    Raises:
        InvalidRequest: the region cannot be a part of a host's name.
    """
    if not _LOCATION.fullmatch(location):
        raise InvalidRequest(f"A location must be letters of ASCII and digits, not {brief(location)}.")
    return f"https://{location.lower()}.dynamicsessions.io{sessions_path(pool)}"


def environment_id(subscription: str, group: str, environment: str) -> str:
    """Return the id of a managed environment that is given by its name or its id.

    Raises:
        InvalidRequest: it is neither.
    """
    if environment.startswith("/"):
        return environment
    return (
        f"/subscriptions/{check_segment(subscription, 'subscription')}"
        f"/resourceGroups/{check_segment(group, 'resource group')}"
        f"/providers/{PROVIDER}/managedEnvironments/{check_segment(environment, 'environment')}"
    )


def check_segment(text: str, what: str) -> str:
    """Return a name that can be a part of an id's path.

    Raises:
        InvalidRequest: it cannot.
    """
    if not _SEGMENT.fullmatch(text):
        raise InvalidRequest(f"The {what} must be letters, digits and ._()-, not {brief(text)}.")
    return text
