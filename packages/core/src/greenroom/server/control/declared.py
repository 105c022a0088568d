"""The pools declared in a server's options, as resources."""

from __future__ import annotations

from typing import Any

from greenroom.arm.resources import DECLARED_TAG, ENGINE_TAG, Resource
from greenroom.local.changing import ChangeablePool
from greenroom.local.settings import AUTO, PoolSettings
from greenroom.server.registry import ServedPool


def declared_resource(served: ServedPool) -> Resource:
    """Describe a declared pool, without the values of environment variables."""
    backend = served.backend
    tags = {DECLARED_TAG: "true"}
    if not isinstance(backend, ChangeablePool):  # a remote pool, or a test's
        return Resource({"containerType": str(backend.container_type)}, tags=tags)
    settings = backend.settings
    ready = "" if isinstance(settings.ready, int) else f"?ready_session_instances={AUTO}"
    return Resource(_properties(settings), tags={**tags, ENGINE_TAG: f"{backend.engine_name}:{ready}"})


def _properties(settings: PoolSettings) -> dict[str, Any]:
    ready = settings.ready if isinstance(settings.ready, int) else settings.ready.floor
    timed = settings.lifecycle == "timed"
    properties: dict[str, Any] = {
        "containerType": str(settings.container_type),
        "poolManagementType": "Dynamic",
        "scaleConfiguration": {
            "maxConcurrentSessions": settings.max_concurrent_sessions,
            "readySessionInstances": ready,
        },
        "dynamicPoolConfiguration": {
            "lifecycleConfiguration": {
                "lifecycleType": "Timed" if timed else "OnContainerExit",
                **(
                    {"cooldownPeriodInSeconds": _whole(settings.cooldown_period)}
                    if timed
                    else {"maxAlivePeriodInSeconds": _whole(settings.max_alive_period)}
                ),
            }
        },
        "sessionNetworkConfiguration": {
            "status": "EgressEnabled" if settings.network == "enabled" else "EgressDisabled"
        },
    }
    if (container := settings.container) is not None:
        properties["customContainerTemplate"] = {
            "containers": [
                {
                    "image": container.image,
                    "resources": {"cpu": settings.cpu, "memory": f"{settings.memory / (1 << 30):g}Gi"},
                }
            ],
            "ingress": {"targetPort": container.target_port},
        }
    return properties


def _whole(seconds: float) -> int | float:
    """Return a number of seconds, as an integer if it is whole."""
    return int(seconds) if seconds == int(seconds) else seconds
