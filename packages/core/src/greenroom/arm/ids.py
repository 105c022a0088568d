"""The names of session pools: their rules, and the paths that contain them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from greenroom.arm.errors import ArmError

LOCAL_SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
LOCAL_GROUP = "greenroom"
LOCAL_LOCATION = "local"
RESOURCE_TYPE = "Microsoft.App/sessionPools"

_SUBSCRIPTION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_GROUP = re.compile(r"[\w().-]{1,90}(?<!\.)")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)
_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.App/sessionPools/(?P<name>[^/]+)/?",
    re.IGNORECASE,
)
_ID_AT_END = re.compile(rf"{_ID.pattern}\Z", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"(?!\.+$)[\w.()-]{1,128}")
_LOCATION = re.compile(r"[A-Za-z0-9]{1,50}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PoolId:
    """Identifies a pool. Two ids that differ only in case identify the same pool: compare their `key`."""

    subscription: str
    group: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id in a path such as `/subscriptions/…/providers/Microsoft.App/sessionPools/ci`.

        Raises:
            ArmError: it is not the id of a session pool, or a name in it breaks ARM's rules.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise ArmError(
                "InvalidResourceId",
                "The id of a session pool must be '/subscriptions/…/resourceGroups/…/providers/"
                f"{RESOURCE_TYPE}/NAME', not {text!r:.300}.",
            )
        return cls(match["subscription"], match["group"], match["name"]).checked()

    def checked(self) -> Self:
        """Return this id if each of its names follows ARM's rules.

        Raises:
            ArmError: one does not; the message states the rule.
        """
        check_subscription(self.subscription)
        check_group(self.group)
        if not _NAME.fullmatch(self.name):
            raise ArmError(
                "InvalidResourceName",
                "The name of a session pool must consist of 1 to 63 letters, digits and hyphens, begin with a letter "
                f"and end with a letter or digit, not {self.name!r:.100}.",
                "name",
            )
        return self

    @property
    def key(self) -> tuple[str, str, str]:
        """The same for every spelling of the id."""
        return self.subscription.casefold(), self.group.casefold(), self.name.casefold()

    @property
    def signal_name(self) -> str:
        """The pool's name in metrics, traces and logs: its id without the subscription and group of declared pools."""
        subscription, group, _ = self.key
        if subscription != LOCAL_SUBSCRIPTION:
            return f"{self.subscription}/{self.group}/{self.name}"
        return self.name if group == LOCAL_GROUP else f"{self.group}/{self.name}"

    @property
    def path(self) -> str:
        """The resource's id, which is its path in ARM."""
        return f"{pools_path(self.subscription, self.group)}/{self.name}"

    @property
    def sessions_path(self) -> str:
        """The path of the pool's sessions on the host of its management endpoint."""
        group = quote(self.group, safe="()")
        return f"/subscriptions/{self.subscription}/resourceGroups/{group}/sessionPools/{self.name}"

    def sessions_url(self, location: str) -> str:
        """The endpoint of a pool of code interpreters in an Azure region.

        Raises:
            ArmError: the region cannot be part of a host name.
        """
        if not _LOCATION.fullmatch(location):
            raise ArmError(
                "InvalidLocation",
                f"The location must consist of ASCII letters and digits, not {location!r:.100}.",
                "location",
            )
        return f"https://{location.lower()}.dynamicsessions.io{self.sessions_path}"

    def __str__(self) -> str:
        return self.path


def split_id(path: str) -> tuple[str, PoolId] | None:
    """Return the part of a URL path before a pool's id, and the id; `None` if the path contains none.

    Raises:
        ArmError: a name in the id breaks ARM's rules.
    """
    match = _ID_AT_END.search(path)
    return None if match is None else (path[: match.start()], PoolId(**match.groupdict()).checked())


def pools_path(subscription: str, group: str | None = None) -> str:
    """Return the path of the pools in a resource group or a subscription.

    Raises:
        ArmError: one of them breaks ARM's rules.
    """
    within = "" if group is None else f"/resourceGroups/{check_group(group)}"
    return f"/subscriptions/{check_subscription(subscription)}{within}/providers/{RESOURCE_TYPE}"


def environment_id(subscription: str, group: str, environment: str) -> str:
    """Return the id of a managed environment, given its name or its id.

    Raises:
        ArmError: it is neither.
    """
    if environment.startswith("/"):
        return environment
    if not _ENVIRONMENT.fullmatch(environment):
        raise ArmError(
            "InvalidResourceName",
            f"The environment must consist of letters, digits and ._()-, not {environment!r:.100}.",
            "environmentId",
        )
    return (
        f"/subscriptions/{check_subscription(subscription)}/resourceGroups/{check_group(group)}"
        f"/providers/Microsoft.App/managedEnvironments/{environment}"
    )


def check_subscription(subscription: str) -> str:
    """Return a subscription's id, which must be a GUID.

    Raises:
        ArmError: it is not a GUID.
    """
    if not _SUBSCRIPTION.fullmatch(subscription):
        raise ArmError(
            "InvalidSubscriptionId", f"The subscription must be a GUID, not {subscription!r:.100}.", "subscriptionId"
        )
    return subscription


def check_group(group: str) -> str:
    """Return the name of a resource group.

    Raises:
        ArmError: it breaks ARM's rules.
    """
    if not _GROUP.fullmatch(group):
        raise ArmError(
            "InvalidResourceGroup",
            "The name of a resource group must consist of 1 to 90 letters, digits or characters of '-_.()', and must "
            f"not end with a period, not {group!r:.100}.",
            "resourceGroupName",
        )
    return group
