"""Read the options of a pool from an Azure Resource Manager template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from greenroom.config.containers import DEFAULT_PORT
from greenroom.config.nodes import InvalidProperty, Node, Object, as_object
from greenroom.config.values import did_you_mean
from greenroom.errors import InvalidRequest
from greenroom.models import ContainerType
from greenroom.untrusted import brief

_TYPES = {each.value: each.value for each in ContainerType}

_PROBE = {
    "initialDelaySeconds": "initial_delay",
    "periodSeconds": "period",
    "timeoutSeconds": "timeout",
    "failureThreshold": "failure_threshold",
    "successThreshold": "success_threshold",
}


def with_template(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with those of their `template`; options that are given explicitly take precedence.

    Raises:
        InvalidRequest: the template cannot be read, or has a property that is unknown or breaks a rule.
    """
    options = dict(options)
    template, secrets = options.pop("template", None), options.pop("secrets", None)
    if template is None:
        if secrets is not None:
            raise InvalidRequest(
                "The option secrets must be used with a template: it sets the values of the template's secrets."
            )
        return options
    if options.get("container") is not None:
        raise InvalidRequest("A pool must have either a template or a container, not both.")
    return {**options_of_template(_read(template), _secrets(secrets)), **options}


def options_of_template(resource: object, secrets: Mapping[str, SecretStr]) -> dict[str, Any]:
    """Return the options of a pool that a resource of type `Microsoft.App/sessionPools` describes.

    Args:
        resource: the whole resource, or its `properties` alone.
        secrets: values of the template's secrets by name; they take precedence.

    Raises:
        InvalidRequest: a property is unknown or breaks a rule.
    """
    if "properties" in as_object(resource, "The template"):
        whole = Node(resource, "")
        for name in ("$schema", "apiVersion", "comments", "dependsOn", "id", "identity", "location", "name"):
            whole.ignore(name)
        for name in ("systemData", "tags"):
            whole.ignore(name)
        whole.word("type", {"Microsoft.App/sessionPools": None})
        properties = whole.node("properties")
        whole.done()
    else:
        properties = Node(resource, "")
    return _Template(properties, secrets).options()


class _Template:
    """The properties of a pool; each method reads one of their objects completely."""

    def __init__(self, properties: Node, secrets: Mapping[str, SecretStr]) -> None:
        self._properties = properties
        self._secrets = secrets

    def options(self) -> dict[str, Any]:
        properties = self._properties
        for name in ("nodeCount", "poolManagementEndpoint", "provisioningState"):
            properties.ignore(name)
        properties.text("environmentId")
        kind = properties.word("containerType", _TYPES, required=True)
        properties.word("poolManagementType", {"Dynamic": None})
        self._secrets = {**self._declared(), **self._secrets}
        options = {**self._scale(), **self._lifecycle(), **self._network()}
        if kind == ContainerType.CUSTOM_CONTAINER:
            options |= self._container()
        else:
            properties.refuse("customContainerTemplate", f"must be used with the type CustomContainer, not {kind}")
        self._identities()
        self._mcp_server()
        properties.done()
        return {"container_type": kind, **options}

    def _identities(self) -> None:
        for identity in self._properties.nodes("managedIdentitySettings"):
            identity.text("identity")
            lifecycle = identity.text("lifecycle") or ""
            if lifecycle.casefold() != "none":
                raise identity.invalid(
                    "lifecycle",
                    f"must be None, not {lifecycle!r:.100}: this machine has no managed identities for sandboxes",
                )
            identity.done()

    def _mcp_server(self) -> None:
        server = self._properties.node("mcpServerSettings")
        server.flag("isMcpServerEnabled")  # every pool of a server has an MCP endpoint
        server.flag("mcpServerApiKeyDisabled")
        server.text("mcpServerEndpoint")
        server.done()

    def _declared(self) -> dict[str, SecretStr]:
        found: dict[str, SecretStr] = {}
        for secret in self._properties.nodes("secrets"):
            name, value = secret.text("name", required=True), secret.text("value", secret=True)
            secret.done()
            if value is not None:
                found[name or ""] = SecretStr(value)
        return found

    def _scale(self) -> dict[str, Any]:
        scale = self._properties.node("scaleConfiguration")
        return scale.renamed(
            {"maxConcurrentSessions": "max_concurrent_sessions", "readySessionInstances": "ready_session_instances"}
        )

    def _lifecycle(self) -> dict[str, Any]:
        dynamic = self._properties.node("dynamicPoolConfiguration")
        lifecycle = dynamic.node("lifecycleConfiguration")
        kinds = {"Timed": "timed", "OnContainerExit": "on_container_exit"}
        # The versions of 2024 have no lifecycleConfiguration.
        kind = lifecycle.word("lifecycleType", kinds) or dynamic.word("executionType", kinds) or "timed"
        options = {
            **dynamic.renamed({"cooldownPeriodInSeconds": "cooldown_period"}),
            **lifecycle.renamed(
                {"cooldownPeriodInSeconds": "cooldown_period", "maxAlivePeriodInSeconds": "max_alive_period"}
            ),
        }
        return {"lifecycle": kind, **options}

    def _network(self) -> dict[str, Any]:
        network = self._properties.node("sessionNetworkConfiguration")
        status = network.word("status", {"EgressEnabled": "enabled", "EgressDisabled": "disabled"})
        network.done()
        return {} if status is None else {"network": status}

    def _container(self) -> dict[str, Any]:
        template = self._properties.node("customContainerTemplate", required=True)
        containers = template.nodes("containers")
        if len(containers) != 1:
            raise template.invalid("containers", f"must have one container, not {len(containers)}")
        (found,) = containers
        ingress = template.node("ingress")
        port = ingress.number("targetPort")
        ingress.done()
        found.text("name")
        container: dict[str, Any] = {
            "image": found.text("image", required=True),
            "target_port": DEFAULT_PORT if port is None else port,
            "command": found.texts("command"),
            "args": found.texts("args"),
            "env": {name: value for variable in found.nodes("env") for name, value in self._variable(variable)},
        }
        resources = found.node("resources")
        limits = resources.renamed({"cpu": "cpu", "memory": "memory"})
        for probe in found.nodes("probes"):
            name, value = self._probe(probe)
            if name in container:
                raise found.invalid("probes", f"must have at most one of each type, not several {name}")
            container[name] = value
        found.done()
        registry = self._registry(template.node("registryCredentials"))
        template.done()
        return {**limits, "container": {**container, **({"registry": registry} if registry else {})}}

    def _variable(self, variable: Node) -> list[tuple[str, SecretStr]]:
        name = variable.text("name", required=True) or ""
        value, reference = variable.text("value", secret=True), variable.text("secretRef")
        variable.done()
        if (value is None) == (reference is None):
            message = f"{variable.name} ({name!r:.100}) must have either a value or a secretRef."
            raise InvalidProperty(message, variable.name)
        return [(name, self._secret(reference, variable.path("secretRef")) if reference else SecretStr(value or ""))]

    def _registry(self, registry: Node) -> dict[str, Any]:
        registry.refuse("identity", "is not available on this machine: use username and passwordSecretRef")
        if registry.empty:
            return {}
        reference = registry.text("passwordSecretRef", required=True) or ""
        found = {
            "server": registry.text("server", required=True),
            "username": registry.text("username", required=True),
            "password": self._secret(reference, registry.path("passwordSecretRef")),
        }
        registry.done()
        return found

    def _secret(self, name: str, path: str) -> SecretStr:
        if name not in self._secrets:
            known = ", ".join(sorted(self._secrets)) or "none"
            raise InvalidProperty(
                f"{path} must name a secret that has a value ({known}), not {name!r:.100}."
                f"{did_you_mean(name, self._secrets)} Values can be given with secrets={{{name!r:.100}: …}}.",
                path,
            )
        return self._secrets[name]

    def _probe(self, probe: Node) -> tuple[str, dict[str, Any]]:
        kind = probe.word("type", {"Startup": "startup", "Liveness": "liveness"}, required=True) or ""
        probe.number("terminationGracePeriodSeconds")  # no effect: a container is ended immediately
        http, tcp = probe.node("httpGet"), probe.node("tcpSocket")
        if http.given == tcp.given:
            raise InvalidProperty(f"{probe.name} must have either httpGet or tcpSocket.", probe.name)
        target: dict[str, Any] = {}
        for each in (http, tcp):
            each.refuse("host", "is not available: a probe always connects to its own container")
            port = each.number("port")
            if port is not None:
                target["port"] = port
        tcp.done()
        http.word("scheme", {"HTTP": None})
        if http.given:
            target["path"] = http.text("path") or "/"
            headers = http.nodes("httpHeaders")
            target["headers"] = {h.text("name", required=True): h.text("value", required=True) for h in headers}
            for header in headers:
                header.done()
        http.done()
        return kind, {**target, **probe.renamed(_PROBE)}


def read_template(path: Path) -> object:
    """Return the JSON of a file.

    Raises:
        InvalidRequest: it cannot be read, or is not JSON.
    """
    path = path.expanduser()
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The template {str(path)!r} cannot be read: {error}.") from error


def _read(template: object) -> object:
    if isinstance(template, Mapping):
        return cast("Object", template)
    if not isinstance(template, str | Path) or not str(template):
        raise InvalidRequest(f"The option template must be the path of a JSON file, not {brief(template)}.")
    return read_template(Path(template))


def _secrets(secrets: object) -> dict[str, SecretStr]:
    if secrets is None:
        return {}
    if not isinstance(secrets, Mapping):
        raise InvalidRequest(f"The option secrets must be a mapping of names to values, not {type(secrets).__name__}.")
    found: dict[str, SecretStr] = {}
    for name, value in cast("Mapping[str, object]", secrets).items():
        if not isinstance(value, str | SecretStr):
            raise InvalidRequest(f"The value of the secret {name!r:.100} must be str, not {type(value).__name__}.")
        found[name] = value if isinstance(value, SecretStr) else SecretStr(value)
    return found
