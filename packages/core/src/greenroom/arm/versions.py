"""The api-versions of session pools, and their differences.

Until the end of 2024, `dynamicPoolConfiguration` itself contained a pool's life cycle, under the name `executionType`;
since 2025 the life cycle is a separate object, which is the form that is stored here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from greenroom.arm.errors import ArmError

API_VERSIONS = (
    "2024-02-02-preview",
    "2024-08-02-preview",
    "2024-10-02-preview",
    "2025-01-01",
    "2025-02-02-preview",
    "2025-07-01",
    "2025-10-02-preview",
    "2026-01-01",
    "2026-03-02-preview",
    "2026-07-01",
)
"""The versions used by the released SDKs, the CLI and existing templates, the newest last."""

LATEST = API_VERSIONS[-1]

_DYNAMIC = "dynamicPoolConfiguration"
_LIFECYCLE = "lifecycleConfiguration"
_FLAT = {"executionType": "lifecycleType", "cooldownPeriodInSeconds": "cooldownPeriodInSeconds"}
"""The old names in `dynamicPoolConfiguration`, and the new ones."""


def check_version(version: str | None) -> str:
    """Return the api-version of a request.

    Raises:
        ArmError: it is missing or unknown.
    """
    if version is None:
        raise ArmError(
            "MissingApiVersionParameter", "The api-version query parameter must be given.", target="api-version"
        )
    if version not in API_VERSIONS:
        raise ArmError(
            "InvalidApiVersionParameter",
            f"The api-version must be one of {', '.join(API_VERSIONS)}, not {version!r:.100}.",
            target="api-version",
        )
    return version


def has_flat_lifecycle(version: str) -> bool:
    """Whether the life cycle has the form of 2024."""
    return version < "2025"


def with_lifecycle(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return properties, or a patch of them, with the life cycle in its current form, whichever it had."""
    dynamic = properties.get(_DYNAMIC)
    if not isinstance(dynamic, Mapping):
        return dict(properties)
    dynamic = dict(cast("Mapping[str, Any]", dynamic))
    lifecycle = dynamic.get(_LIFECYCLE, {})
    old = {new: dynamic.pop(name) for name, new in _FLAT.items() if name in dynamic}
    if old and isinstance(lifecycle, Mapping):
        dynamic[_LIFECYCLE] = {**old, **cast("Mapping[str, Any]", lifecycle)}
    elif old:
        dynamic[_LIFECYCLE] = lifecycle if lifecycle is not None else old
    return {**properties, _DYNAMIC: dynamic}


def for_version(properties: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return properties in the form of a version; anything that the old form cannot express stays where it is."""
    lifecycle = properties.get(_DYNAMIC, {}).get(_LIFECYCLE)
    if lifecycle is None or not has_flat_lifecycle(version):
        return dict(properties)
    flat = {name: lifecycle[new] for name, new in _FLAT.items() if new in lifecycle}
    rest = {name: value for name, value in lifecycle.items() if name not in _FLAT.values()}
    return {**properties, _DYNAMIC: {**flat, **({_LIFECYCLE: rest} if rest or not flat else {})}}
