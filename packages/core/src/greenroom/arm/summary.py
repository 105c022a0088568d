"""A readable summary of a pool's resource. Anything in a resource can be missing or have another type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from greenroom.arm.resources import DECLARED_TAG, ENGINE_TAG


@dataclass(frozen=True, slots=True)
class PoolSummary:
    """A pool in words and numbers; texts are empty if the resource lacks them."""

    name: str
    resource_group: str
    location: str
    container_type: str
    state: str
    """Its `provisioningState`."""
    max_sessions: str
    ready_sessions: str
    ends: str
    """When a session ends."""
    network: str
    engine: str
    declared: bool
    image: str
    endpoint: str


def summary_of(resource: Mapping[str, Any]) -> PoolSummary:
    """Return the summary of a resource."""
    properties = _object(resource.get("properties"))
    scale = _object(properties.get("scaleConfiguration"))
    tags = _object(resource.get("tags"))
    template = _object(properties.get("customContainerTemplate"))
    containers = template.get("containers")
    first = cast("list[object]", containers)[:1] if isinstance(containers, list) else []
    container = _object(first[0] if first else None)
    parts = _text(resource.get("id")).split("/")
    return PoolSummary(
        name=_text(resource.get("name")),
        resource_group=parts[4] if len(parts) > 4 else "",
        location=_text(resource.get("location")),
        container_type=_text(properties.get("containerType")),
        state=_text(properties.get("provisioningState")),
        max_sessions=_text(scale.get("maxConcurrentSessions")),
        ready_sessions=_text(scale.get("readySessionInstances")),
        ends=_end_of(_object(properties.get("dynamicPoolConfiguration"))),
        network=_text(_object(properties.get("sessionNetworkConfiguration")).get("status")),
        engine=_text(tags.get(ENGINE_TAG)),
        declared=_text(tags.get(DECLARED_TAG)).lower() == "true",
        image=_text(container.get("image")),
        endpoint=_text(properties.get("poolManagementEndpoint")),
    )


def _end_of(dynamic: Mapping[str, Any]) -> str:
    lifecycle = _object(dynamic.get("lifecycleConfiguration")) or dynamic  # not in the versions of 2024
    alive = _text(lifecycle.get("maxAlivePeriodInSeconds"))
    if lifecycle.get("lifecycleType") == "OnContainerExit":
        return f"with its container, or after {alive} s" if alive else "with its container"
    idle = _text(lifecycle.get("cooldownPeriodInSeconds"))
    return f"after {idle} s without use" if idle else ""


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""
