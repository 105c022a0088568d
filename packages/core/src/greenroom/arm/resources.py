"""Session pools as resources: read from a request, patched, and written to a response.

A resource is stored as it was given, with two exceptions: properties that are null are removed, and the life cycle has
the form of the newest version. Values of secrets are stored, but never written to a response.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast

from greenroom.arm.errors import ArmError
from greenroom.arm.ids import LOCAL_LOCATION, RESOURCE_TYPE, PoolId
from greenroom.arm.versions import for_version, with_lifecycle
from greenroom.config.nodes import InvalidProperty, Node
from greenroom.config.templates import options_of_template
from greenroom.models import ContainerType

ProvisioningState: TypeAlias = Literal["InProgress", "Succeeded", "Failed", "Canceled", "Deleting"]
Properties: TypeAlias = Mapping[str, Any]

ENGINE_TAG = "greenroom:engine"
"""The tag with the URL of a pool's engine, such as `docker:?runtime=runsc`."""
DECLARED_TAG = "greenroom:declared"
"""The tag of a pool declared on the server's command line or in its file; it is `true`, and clients cannot set it."""

_MOST_TAGS, _LONGEST_TAG_NAME, _LONGEST_TAG_VALUE = 50, 512, 256
_READ_ONLY = ("nodeCount", "poolManagementEndpoint", "provisioningState")
_PATCHABLE = {
    "scaleConfiguration",
    "secrets",
    "dynamicPoolConfiguration",
    "customContainerTemplate",
    "sessionNetworkConfiguration",
    # Only in some preview versions.
    "managedIdentitySettings",
    "mcpServerSettings",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A session pool as requested. Its `repr` omits the properties, which contain secrets."""

    properties: Properties = field(repr=False)
    location: str = LOCAL_LOCATION
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    identity: Properties | None = None

    @property
    def container_type(self) -> ContainerType:
        return _container_type(self.properties)

    @property
    def engine(self) -> str | None:
        """The URL of the engine that the pool requests."""
        return self.tags.get(ENGINE_TAG) or None

    @property
    def has_mcp_key(self) -> bool:
        """Whether its MCP endpoint accepts a separate key."""
        server: Mapping[str, Any] = self.properties.get("mcpServerSettings") or {}
        return not server.get("mcpServerApiKeyDisabled")

    @property
    def options(self) -> dict[str, Any]:
        """The options of the pool, as for `greenroom.connect`."""
        return options_of_template({"properties": self.properties}, {})

    def to_json(self) -> dict[str, Any]:
        """Return everything, including the values of secrets, for a server's state."""
        return {
            "properties": self.properties,
            "location": self.location,
            "tags": self.tags,
            "identity": self.identity,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Resource:
        """The inverse of `to_json`."""
        return cls(value["properties"], value["location"], value["tags"], value["identity"])


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server knows about a pool, in addition to the request."""

    state: ProvisioningState
    endpoint: str
    """The endpoint of its sessions."""
    error: tuple[str, str] | None = None
    """The code and the message of the reason why it is Failed."""
    system_data: Mapping[str, str] = field(default_factory=dict[str, str])


def decode_resource(body: object, pool: PoolId, known: Resource | None = None) -> Resource:
    """Read the body of `PUT`.

    Args:
        body: the resource.
        pool: its id, from the path.
        known: the existing resource, whose secrets keep their values if the body has none.

    Raises:
        InvalidRequest: a property is unknown or breaks a rule; an `ArmError` or `InvalidProperty`, which name it.
    """
    whole = _Read(body)
    whole.check_name(pool)
    properties = whole.properties(required=True)
    resource = Resource(
        _with_known_secrets(properties, known),
        location=whole.location() or LOCAL_LOCATION,
        tags=whole.tags() or {},
        identity=whole.identity(),
    )
    whole.node.done()
    _check(resource)
    if known is not None and resource.container_type != known.container_type:
        raise _unchangeable("properties.containerType")
    return resource


def patched(known: Resource, body: object) -> Resource:
    """Return a resource with the changes of a `PATCH`, a JSON merge patch of its tags, identity and properties.

    Raises:
        InvalidRequest: as for `decode_resource`; also if it changes a property that cannot be patched.
    """
    whole = _Read(body)
    given: Mapping[str, Any] = cast("Mapping[str, Any]", body)
    changes = whole.properties(required=False, nulls=True)
    location, tags, identity = whole.location(), whole.tags(nulls=True), whole.identity(nulls=True)
    whole.node.done()
    for name, value in changes.items():
        if name not in _PATCHABLE and value != known.properties.get(name):
            raise _unchangeable(f"properties.{name}")
    if location is not None and location.casefold() != known.location.casefold():
        raise _unchangeable("location")
    resource = replace(
        known,
        properties=_with_known_secrets(_merged(known.properties, changes), known),
        tags=known.tags if tags is None else _merged(known.tags, tags),
        identity=_merged(known.identity or {}, identity) if identity is not None else known.identity,
    )
    if "identity" in given and given["identity"] is None:
        resource = replace(resource, identity=None)
    if "tags" in given and given["tags"] is None:
        resource = replace(resource, tags={})
    _check(resource)
    return resource


def encode_resource(pool: PoolId, resource: Resource, facts: Facts, version: str) -> dict[str, Any]:
    """Return a resource in ARM's format for an api-version."""
    properties = for_version(resource.properties, version)
    if "secrets" in properties:
        properties["secrets"] = [{"name": secret["name"]} for secret in properties["secrets"]]
    body: dict[str, Any] = {
        "id": pool.path,
        "name": pool.name,
        "type": RESOURCE_TYPE,
        "location": resource.location,
        **({"tags": dict(resource.tags)} if resource.tags else {}),
        **({"identity": resource.identity} if resource.identity is not None else {}),
        **({"systemData": dict(facts.system_data)} if facts.system_data else {}),
        "properties": {
            **properties,
            "poolManagementEndpoint": facts.endpoint,
            "provisioningState": facts.state,
            **({"nodeCount": 1} if facts.state == "Succeeded" else {}),
        },
    }
    if facts.error is not None:
        code, message = facts.error
        body["properties"]["provisioningError"] = {"code": code, "message": message}
    return body


class _Read:
    """The parts of a request's body."""

    def __init__(self, body: object) -> None:
        self.node = Node(body, "")
        for name in ("type", "systemData", "etag", "$schema", "apiVersion", "comments", "dependsOn"):
            self.node.ignore(name)

    def check_name(self, pool: PoolId) -> None:
        """Refuse a body that belongs to another pool."""
        for name, value in (("name", pool.name), ("id", pool.path)):
            given = self.node.text(name)
            if given is not None and given.casefold() != value.casefold():
                raise ArmError(
                    "InvalidResourceName", f"The {name} must equal that in the path, not {given!r:.200}.", name
                )

    def location(self) -> str | None:
        location = self.node.text("location")
        if location is not None and not 1 <= len(location) <= 100:
            raise self.node.invalid("location", f"must have 1 to 100 characters, not {len(location)}")
        return location

    def tags(self, *, nulls: bool = False) -> dict[str, Any] | None:
        node = self.node.node("tags")
        if not node.given:
            return None
        found = node.values()
        for name, value in found.items():
            if not isinstance(value, str) and not (nulls and value is None):
                raise node.invalid(name[:100], "must be a string")
        if name := next((name for name in found if name.casefold() == DECLARED_TAG), None):
            raise node.invalid(name, "must not be set: it marks pools that the server's own options declare")
        return {name: value for name, value in found.items() if nulls or value is not None}

    def identity(self, *, nulls: bool = False) -> dict[str, Any] | None:
        node = self.node.node("identity")
        if not node.given:
            return None
        found = node.values()
        for name in ("principalId", "tenantId"):
            found.pop(name, None)
        if unknown := sorted(found.keys() - {"type", "userAssignedIdentities"}):
            raise node.invalid(unknown[0][:100], "is unknown; the known properties are type and userAssignedIdentities")
        if not isinstance(found.get("type", ""), str):
            raise node.invalid("type", "must be a string")
        users = found.get("userAssignedIdentities")
        if users is not None:
            if not isinstance(users, dict):
                raise node.invalid("userAssignedIdentities", "must be an object")
            given = cast("dict[str, Any]", users)  # only ARM sets their contents
            found["userAssignedIdentities"] = {name: None if each is None else {} for name, each in given.items()}
        return found if nulls else _without_nulls(found)

    def properties(self, *, required: bool, nulls: bool = False) -> dict[str, Any]:
        found = self.node.node("properties", required=required).values()
        for name in (*_READ_ONLY, "provisioningError"):
            found.pop(name, None)
        found = with_lifecycle(found)
        return found if nulls else _without_nulls(found)


def _check(resource: Resource) -> None:
    """Check the result of a request: a patch is validated by its result."""
    if len(resource.tags) > _MOST_TAGS:
        raise InvalidProperty(f"tags must have at most {_MOST_TAGS} entries, not {len(resource.tags)}.", "tags")
    for name, value in resource.tags.items():
        if not 1 <= len(name) <= _LONGEST_TAG_NAME or len(value) > _LONGEST_TAG_VALUE:
            raise InvalidProperty(
                f"tags must have names of 1 to {_LONGEST_TAG_NAME} and values of up to {_LONGEST_TAG_VALUE} "
                f"characters, unlike {name!r:.100}.",
                "tags",
            )
    options = resource.options  # this reads all properties, and so validates each
    del options
    names = [secret["name"] for secret in resource.properties.get("secrets", ()) if "name" in secret]
    if len(set(names)) < len(names):
        raise InvalidProperty("properties.secrets must not repeat a name.", "properties.secrets")


def _container_type(properties: Properties) -> ContainerType:
    word = str(properties["containerType"]).casefold()
    return next(each for each in ContainerType if each.casefold() == word)


def _with_known_secrets(properties: Properties, known: Resource | None) -> dict[str, Any]:
    """Return properties with the previous values of secrets that are now given by name only."""
    secrets = properties.get("secrets")
    if not isinstance(secrets, list) or known is None:
        return dict(properties)
    values = {secret["name"]: secret["value"] for secret in known.properties.get("secrets", ()) if "value" in secret}
    filled = [_filled(secret, values) for secret in cast("list[Any]", secrets)]
    return {**properties, "secrets": filled}


def _filled(secret: Any, values: Mapping[str, str]) -> Any:
    if not isinstance(secret, Mapping):
        return secret
    given = cast("Mapping[str, Any]", secret)
    name = given.get("name")
    if given.get("value") is None and isinstance(name, str) and name in values:
        return {**given, "value": values[name]}
    return dict(given)


def _merged(value: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object after a merge patch (RFC 7396)."""
    merged = dict(value)
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        elif isinstance(change, Mapping):
            before = merged.get(name)
            known = cast("Mapping[str, Any]", before if isinstance(before, Mapping) else {})
            merged[name] = _merged(known, cast("Mapping[str, Any]", change))
        else:
            merged[name] = _without_nulls(change)
    return merged


def _without_nulls(value: Any) -> Any:
    """Return JSON without null properties; null items of lists stay, so that their reader can refuse them."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {name: _without_nulls(each) for name, each in items if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in cast("list[Any]", value)]
    return value


def _unchangeable(path: str) -> ArmError:
    return ArmError("PropertyChangeNotAllowed", f"{path} cannot be changed: create another pool instead.", target=path)
