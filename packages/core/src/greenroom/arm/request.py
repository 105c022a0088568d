"""A user's settings for a pool, as the bodies of requests to create or change it; options are those of `az`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias, cast

from greenroom.arm.ids import RESOURCE_TYPE
from greenroom.arm.resources import ENGINE_TAG
from greenroom.errors import InvalidRequest
from greenroom.models import ContainerType
from greenroom.untrusted import brief

Object: TypeAlias = dict[str, Any]
"""A JSON object."""

_OF_DEPLOYMENTS = ("$schema", "apiVersion", "comments", "dependsOn", "id", "name", "type", "systemData")
_READ_ONLY = ("nodeCount", "poolManagementEndpoint", "provisioningState")
_SECRET_REF = "secretref:"  # noqa: S105  a prefix
_AZURE_MAX_SESSIONS, _AZURE_READY_SESSIONS, _AZURE_COOLDOWN, _AZURE_MAX_ALIVE = 10, 5, 300, 3600


class Lifecycle(StrEnum):
    """What ends a session."""

    TIMED = "Timed"
    ON_CONTAINER_EXIT = "OnContainerExit"


class Network(StrEnum):
    """Whether sessions can reach the network."""

    ENABLED = "EgressEnabled"
    DISABLED = "EgressDisabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The given properties of a pool; `None` means that a property was not given.

    A list with one empty text means an empty list.
    """

    container_type: ContainerType | None = None
    location: str | None = None
    environment: str | None = None
    """The id of a managed environment."""
    lifecycle_type: Lifecycle | None = None
    cooldown_period: int | None = None
    """Seconds."""
    max_alive_period: int | None = None
    """Seconds."""
    max_sessions: int | None = None
    ready_sessions: int | None = None
    network_status: Network | None = None
    secrets: Sequence[str] | None = field(default=None, repr=False)
    """`name=value`."""
    image: str | None = None
    container_name: str | None = None
    cpu: float | None = None
    memory: str | None = None
    env_vars: Sequence[str] | None = field(default=None, repr=False)
    """`name=value` or `name=secretref:secret`."""
    command: Sequence[str] | None = None
    args: Sequence[str] | None = None
    target_port: int | None = None
    registry_server: str | None = None
    registry_username: str | None = None
    registry_password: str | None = field(default=None, repr=False)
    """The password, or `secretref:` and the name of a secret."""
    registry_identity: str | None = None
    mi_system_assigned: bool = False
    mi_user_assigned: Sequence[str] | None = None
    engine: str | None = None

    def check(self) -> None:
        """
        Raises:
            InvalidRequest: options exclude each other.
        """
        if self.cooldown_period is not None and self.max_alive_period is not None:
            raise InvalidRequest("A pool must have either --cooldown-period or --max-alive-period, not both.")
        if self.max_alive_period is not None and self.lifecycle_type is Lifecycle.TIMED:
            raise InvalidRequest("--max-alive-period must be used with --lifecycle-type OnContainerExit, not Timed.")
        if self.cooldown_period is not None and self.lifecycle_type is Lifecycle.ON_CONTAINER_EXIT:
            raise InvalidRequest("--cooldown-period must be used with --lifecycle-type Timed, not OnContainerExit.")
        if self.registry_password is not None and self.registry_username is None:
            raise InvalidRequest("--registry-password must be used with --registry-username.")

    @property
    def container_options(self) -> list[str]:
        """The given options that only custom containers have."""
        names = ("image", "container_name", "cpu", "memory", "env_vars", "command", "args", "target_port")
        registry = ("registry_server", "registry_username", "registry_password", "registry_identity")
        given = [name for name in (*names, *registry) if getattr(self, name) is not None]
        return [f"--{name.replace('_', '-')}" for name in given]


def template_of(content: object, name: str) -> Object:
    """Return the resource in ARM JSON that contains the whole resource or only its `properties`.

    Args:
        content: the JSON.
        name: where it comes from, for errors.

    Raises:
        InvalidRequest: it does not have that form.
    """
    if not isinstance(content, dict):
        raise InvalidRequest(f"The template {name!r} must be a JSON object, not {type(content).__name__}.")
    template = cast("Object", content)
    if "properties" not in template:
        if "resources" in template:
            raise InvalidRequest(f"The template {name!r} must be the resource of one pool, not a deployment.")
        return {"properties": template}
    kind = template.get("type", RESOURCE_TYPE)
    if not isinstance(kind, str) or kind.lower() != RESOURCE_TYPE.lower():
        raise InvalidRequest(f"The type of the template {name!r} must be {RESOURCE_TYPE}, not {brief(kind)}.")
    _object(template["properties"], "properties")
    return template


def new_resource(name: str, wanted: Wanted, template: Mapping[str, Any] | None = None, *, in_azure: bool) -> Object:
    """Return the body of a request that creates a pool.

    Args:
        name: the name of the pool.
        wanted: takes precedence over the template.
        template: a resource as `template_of` returns it.
        in_azure: whether to add the defaults that `az` adds. A server on this machine has its own.

    Raises:
        InvalidRequest: a property is missing, or the properties do not fit together.
    """
    wanted.check()
    resource: Object = json.loads(json.dumps(template or {}))  # a copy
    for each in _OF_DEPLOYMENTS:
        resource.pop(each, None)
    properties = _object(resource.setdefault("properties", {}), "properties")
    for each in _READ_ONLY:
        properties.pop(each, None)
    if wanted.location is not None:
        resource["location"] = wanted.location
    if wanted.container_type is not None:
        properties["containerType"] = str(wanted.container_type)
    kind = properties.setdefault("containerType", str(ContainerType.PYTHON_LTS))
    properties.setdefault("poolManagementType", "Dynamic")
    if wanted.environment is not None:
        properties["environmentId"] = wanted.environment
    _merge(properties, _shared_changes(wanted))
    if in_azure and template is None:
        _add_defaults(properties)
    _set_secrets(properties, wanted)
    if kind == ContainerType.CUSTOM_CONTAINER:
        _set_container(properties, wanted, name)
        if in_azure and not properties.get("environmentId"):
            raise InvalidRequest("A pool of custom containers in Azure must have an --environment.")
    elif options := wanted.container_options:
        raise InvalidRequest(f"{options[0]} must be used with --container-type CustomContainer, not {brief(kind)}.")
    _set_identity(resource, wanted)
    _set_engine(resource, wanted)
    if not resource.get("location"):
        raise InvalidRequest("A pool in Azure must have a --location, such as eastasia.")
    return resource


def changes(wanted: Wanted, existing: Mapping[str, Any]) -> Object:
    """Return the body of a request that changes a pool.

    Args:
        wanted: the properties to change.
        existing: the current resource. Its lists are sent as a whole, since a change replaces them.

    Raises:
        InvalidRequest: the changes do not fit the pool, or there are none.
    """
    wanted.check()
    resource: Object = {}
    properties: Object = _shared_changes(wanted)
    _set_secrets(properties, wanted)
    if options := wanted.container_options:
        of_pool = _object(existing.get("properties"), "properties")
        kind = of_pool.get("containerType")
        if kind != ContainerType.CUSTOM_CONTAINER:
            raise InvalidRequest(f"{options[0]} must be used with a pool of type CustomContainer, not {brief(kind)}.")
        template = json.loads(json.dumps(of_pool.get("customContainerTemplate") or {}))
        properties["customContainerTemplate"] = template
        _set_container(properties, wanted, str(existing.get("name", "")))
    if properties:
        resource["properties"] = properties
    _set_identity(resource, wanted)
    if wanted.engine is not None:
        resource["tags"] = dict(_object(existing.get("tags") or {}, "tags"))
        _set_engine(resource, wanted)
    if not resource:
        raise InvalidRequest("An update must change something: give an option such as --max-sessions.")
    return resource


def _shared_changes(wanted: Wanted) -> Object:
    """The properties that pools of every type have."""
    lifecycle = wanted.lifecycle_type
    if lifecycle is None and wanted.max_alive_period is not None:
        lifecycle = Lifecycle.ON_CONTAINER_EXIT
    return _without_none(
        {
            "scaleConfiguration": {
                "maxConcurrentSessions": wanted.max_sessions,
                "readySessionInstances": wanted.ready_sessions,
            },
            "dynamicPoolConfiguration": {
                "lifecycleConfiguration": {
                    "lifecycleType": None if lifecycle is None else str(lifecycle),
                    "cooldownPeriodInSeconds": wanted.cooldown_period,
                    "maxAlivePeriodInSeconds": wanted.max_alive_period,
                }
            },
            "sessionNetworkConfiguration": {
                "status": None if wanted.network_status is None else str(wanted.network_status)
            },
        }
    )


def _add_defaults(properties: Object) -> None:
    """Add the values that `az containerapp sessionpool create` sends for options that are not given."""
    lifecycle: Object = properties.get("dynamicPoolConfiguration", {}).get("lifecycleConfiguration", {})
    on_exit = lifecycle.get("lifecycleType") == Lifecycle.ON_CONTAINER_EXIT
    period = {"maxAlivePeriodInSeconds": _AZURE_MAX_ALIVE} if on_exit else {"cooldownPeriodInSeconds": _AZURE_COOLDOWN}
    defaults: Object = {
        "scaleConfiguration": {
            "maxConcurrentSessions": _AZURE_MAX_SESSIONS,
            "readySessionInstances": _AZURE_READY_SESSIONS,
        },
        "dynamicPoolConfiguration": {"lifecycleConfiguration": {"lifecycleType": str(Lifecycle.TIMED), **period}},
        "sessionNetworkConfiguration": {"status": str(Network.DISABLED)},
    }
    given = json.loads(json.dumps(properties))
    _merge(properties, defaults)
    _merge(properties, given)


def _set_secrets(properties: Object, wanted: Wanted) -> None:
    if wanted.secrets is not None:
        kept = {str(secret.get("name")): secret for secret in _objects(properties, "secrets")}
        given = {name: {"name": name, "value": value} for name, value in _pairs(wanted.secrets, "--secrets")}
        properties["secrets"] = list({**kept, **given}.values())


def _set_container(properties: Object, wanted: Wanted, pool: str) -> None:
    template = _object(properties.setdefault("customContainerTemplate", {}), "customContainerTemplate")
    container = _container(template, wanted.container_name)
    variables = None
    if wanted.env_vars is not None:
        variables = [_variable(*pair) for pair in _pairs(wanted.env_vars, "--env-vars")]
    fields: Object = {
        "name": wanted.container_name,
        "image": wanted.image,
        "env": variables,
        "command": _texts(wanted.command),
        "args": _texts(wanted.args),
        "resources": {"cpu": wanted.cpu, "memory": wanted.memory},
    }
    _merge(container, _without_none(fields))
    container.setdefault("name", pool.lower())
    if not container.get("image"):
        raise InvalidRequest("A pool of custom containers must have an --image.")
    if wanted.target_port is not None:
        _merge(template, {"ingress": {"targetPort": wanted.target_port}})
    if not _object(template.get("ingress") or {}, "ingress").get("targetPort"):
        raise InvalidRequest("A pool of custom containers must have a --target-port.")
    _set_registry(properties, template, wanted)


def _container(template: Object, name: str | None) -> Object:
    containers = _objects(template, "containers")
    if not containers:
        containers.append({})
        template["containers"] = containers
    if len(containers) == 1:
        return containers[0]
    names = [str(each.get("name")) for each in containers]
    for each in containers:
        if name is not None and str(each.get("name")).lower() == name.lower():
            return each
    raise InvalidRequest(f"--container-name must be one of {', '.join(names)}, not {brief(name)}.")


def _set_registry(properties: Object, template: Object, wanted: Wanted) -> None:
    registry = _without_none(
        {
            "server": wanted.registry_server,
            "username": wanted.registry_username,
            "identity": wanted.registry_identity,
        }
    )
    if not registry:
        return
    credentials = _object(template.get("registryCredentials") or {}, "registryCredentials")
    template["registryCredentials"] = credentials
    credentials.update(registry)
    server = credentials.get("server")
    if not server:
        raise InvalidRequest("The registry of an image must have a --registry-server.")
    password = wanted.registry_password
    if password is None:
        return
    if password.startswith(_SECRET_REF):
        credentials["passwordSecretRef"] = password.removeprefix(_SECRET_REF)
        return
    name = re.sub(r"[^a-z0-9-]", "", f"{server}-{wanted.registry_username}".lower())
    secrets = [secret for secret in _objects(properties, "secrets") if secret.get("name") != name]
    properties["secrets"] = [*secrets, {"name": name, "value": password}]
    credentials["passwordSecretRef"] = name


def _set_identity(resource: Object, wanted: Wanted) -> None:
    users = [user.lower() for user in wanted.mi_user_assigned or ()]
    if not wanted.mi_system_assigned and not users:
        return
    kinds = ["SystemAssigned"] if wanted.mi_system_assigned else []
    kinds += ["UserAssigned"] if users else []
    identity: Object = {"type": ", ".join(kinds)}
    if users:
        identity["userAssignedIdentities"] = {user: {} for user in users}
    resource["identity"] = identity
    identities = [*(["system"] if wanted.mi_system_assigned else []), *users]
    settings = [{"identity": identity, "lifecycle": "Main"} for identity in identities]
    resource.setdefault("properties", {})["managedIdentitySettings"] = settings


def _set_engine(resource: Object, wanted: Wanted) -> None:
    if wanted.engine is not None:
        tags = resource.setdefault("tags", {})
        resource["tags"] = {**_object(tags or {}, "tags"), ENGINE_TAG: wanted.engine}


def _variable(name: str, value: str) -> Object:
    if value.startswith(_SECRET_REF):
        return {"name": name, "secretRef": value.removeprefix(_SECRET_REF)}
    return {"name": name, "value": value}


def _pairs(texts: Sequence[str], option: str) -> list[tuple[str, str]]:
    """Return names and values from `name=value`; no message shows a value, as it can be a secret."""
    pairs: list[tuple[str, str]] = []
    for text in _texts(texts) or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"{option} must have the form name=value; a value has no name or no equals sign.")
        pairs.append((name, value))
    return pairs


def _texts(texts: Sequence[str] | None) -> list[str] | None:
    return None if texts is None else [] if list(texts) == [""] else list(texts)


def _without_none(fields: Object) -> Object:
    """Return an object without the fields that are `None`, and without objects that become empty."""
    found: Object = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            value = _without_none(cast("Object", value)) or None  # noqa: PLW2901
        if value is not None:
            found[name] = value
    return found


def _merge(into: Object, changed: Object) -> None:
    """Set fields of an object, and of the objects in it, as ARM applies a PATCH."""
    for name, value in changed.items():
        present = into.get(name)
        if isinstance(value, dict) and isinstance(present, dict):
            _merge(cast("Object", present), cast("Object", value))
        else:
            into[name] = value


def _object(value: object, name: str) -> Object:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be a JSON object, not {type(value).__name__}.")  # the value can be a secret
    return cast("Object", value)


def _objects(parent: Object, name: str) -> list[Object]:
    values = parent.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise InvalidRequest(f"{name} must be a list, not {type(values).__name__}.")
    return [_object(value, f"each of {name}") for value in cast("list[object]", values)]
