"""Azure's template of a pool of custom containers, and the settings in its place: what is taken, what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import greenroom
from greenroom import InvalidRequest
from greenroom.config.templates import options_of_template, with_template
from greenroom.local import PoolSettings

from .conftest import template

FULL: dict[str, Any] = template(
    "registry.example/model:1.0",
    secrets=[{"name": "registry-password", "value": "hidden-1"}, {"name": "key"}],
    dynamicPoolConfiguration={
        "lifecycleConfiguration": {"lifecycleType": "OnContainerExit", "maxAlivePeriodInSeconds": 1200}
    },
    sessionNetworkConfiguration={"status": "EgressEnabled"},
    customContainerTemplate={
        "registryCredentials": {
            "server": "registry.example",
            "username": "reader",
            "passwordSecretRef": "registry-password",
        },
        "containers": [
            {
                "image": "registry.example/model:1.0",
                "name": "sandbox",
                "command": ["/bin/model"],
                "args": ["--port", "9000"],
                "env": [{"name": "A", "value": ""}, {"name": "KEY", "secretRef": "key"}],
                "resources": {"cpu": 0.25, "memory": "0.5Gi"},
                "probes": [
                    {
                        "type": "Startup",
                        "httpGet": {
                            "path": "/ready",
                            "port": 9001,
                            "scheme": "HTTP",
                            "httpHeaders": [{"name": "X-Probe", "value": "1"}],
                        },
                        "initialDelaySeconds": 1,
                        "periodSeconds": 2,
                        "timeoutSeconds": 3,
                        "failureThreshold": 4,
                        "successThreshold": 1,
                    },
                    {"type": "liveness", "tcpSocket": {"port": 9000}, "terminationGracePeriodSeconds": 30},
                ],
            }
        ],
        "ingress": {"targetPort": 9000},
    },
)


def settings_of(resource: object, **options: Any) -> PoolSettings:
    return PoolSettings.parse(with_template({"template": resource, **options}))


def test_every_property_of_azure_is_understood() -> None:
    settings = settings_of(FULL, secrets={"key": "hidden-2"}, max_concurrent_sessions=7)
    container = settings.container
    assert container is not None
    assert (settings.max_concurrent_sessions, settings.lifecycle, settings.max_alive_period) == (
        7,
        "on_container_exit",
        1200,
    )
    assert (settings.cpu, settings.memory, settings.network) == (0.25, 512 << 20, "enabled")
    assert (container.command, container.args, container.target_port) == (("/bin/model",), ("--port", "9000"), 9000)
    assert {name: value.get_secret_value() for name, value in container.env.items()} == {"A": "", "KEY": "hidden-2"}
    assert container.registry is not None
    assert container.registry.password.get_secret_value() == "hidden-1"
    startup, liveness = container.startup, container.liveness
    assert startup is not None
    assert liveness is not None
    assert startup.model_dump() == {
        "path": "/ready",
        "port": 9001,
        "headers": {"X-Probe": "1"},
        "initial_delay": 1,
        "period": 2,
        "timeout": 3,
        "failure_threshold": 4,
        "success_threshold": 1,
    }
    assert (liveness.path, liveness.port) == (None, 9000)
    assert "hidden" not in repr(settings)


def test_the_properties_alone_are_a_template_too(tmp_path: Path) -> None:
    file = tmp_path / "custom.json"
    file.write_text(json.dumps(template("image")["properties"]))
    settings = settings_of(str(file))
    assert (settings.cooldown_period, settings.max_concurrent_sessions, settings.cpu) == (600, 50, 0.5)
    assert settings.network == "disabled"


@pytest.mark.parametrize("kind", ["PythonLTS", "NodeLTS", "Shell", "shell"])
def test_the_other_types_have_templates_too(kind: str) -> None:
    resource = template("unused", containerType=kind, managedIdentitySettings=[{"identity": "i", "lifecycle": "None"}])
    del resource["properties"]["customContainerTemplate"]
    settings = settings_of(resource)
    assert settings.container_type.casefold() == kind.casefold()
    assert (settings.cooldown_period, settings.max_concurrent_sessions, settings.network) == (600, 50, "disabled")


CONTAINERS = ("properties", "customContainerTemplate", "containers", 0)
PROBE = (*CONTAINERS, "probes", 0)


def at(*path: int | str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(resource: Any) -> None:
        for step in path[:-1]:
            resource = resource[step]
        if value is None:
            del resource[path[-1]]
        else:
            resource[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("propertes", value=1), "Unknown property 'propertes'. Did you mean 'properties'? Known: $schema, "),
        (
            at("properties", "scaleConfiguration", "maxSessions", value=1),
            "scaleConfiguration.maxSessions'. Did you mean 'maxConcurrentSessions'? Known in properties.scaleConfig",
        ),
        (
            at(*CONTAINERS, "volumeMounts", value=[]),
            "Unknown property 'properties.customContainerTemplate.containers[0].volumeMounts'.",
        ),
        (
            at("properties", "containerType", value="PythonLTS"),
            "properties.customContainerTemplate must be used with the type CustomContainer, not PythonLTS.",
        ),
        (
            at("properties", "containerType", value="JavaLTS"),
            "properties.containerType must be one of PythonLTS, NodeLTS, Shell, CustomContainer, not 'JavaLTS'.",
        ),
        (
            at("properties", "managedIdentitySettings", value=[{"identity": "system", "lifecycle": "Main"}]),
            "managedIdentitySettings[0].lifecycle must be None, not 'Main': this machine has no managed identities",
        ),
        (
            at("properties", "mcpServerSettings", value={"isMcpServerEnabled": "yes"}),
            "mcpServerSettings.isMcpServerEnabled must be",
        ),
        (
            at(*PROBE, "terminationGracePeriodSeconds", value="long"),
            "terminationGracePeriodSeconds must be a number, not 'long'.",
        ),
        (at("type", value="Microsoft.App/jobs"), "type must be Microsoft.App/sessionPools, not 'Microsoft.App/jobs'."),
        (
            at("properties", "dynamicPoolConfiguration", "lifecycleConfiguration", "lifecycleType", value="Forever"),
            "lifecycleConfiguration.lifecycleType must be one of Timed, OnContainerExit, not 'Forever'.",
        ),
        (
            at("properties", "sessionNetworkConfiguration", "status", value="EgressEnable"),
            "must be one of EgressEnabled, EgressDisabled, not 'EgressEnable'. Did you mean 'EgressEnabled'?",
        ),
        (at(*CONTAINERS, "image", value=None), "The template must have properties.customContainerTemplate.container"),
        (at(*CONTAINERS, "image", value="no image"), "The option container.image must be the name of an image"),
        (at(*CONTAINERS, "command", value="/bin/sh"), "containers[0].command must be a list, not '/bin/sh'."),
        (at(*CONTAINERS, "args", value=[1]), "containers[0].args[0] must be a string, not 1."),
        (
            at(*CONTAINERS, "env", 1, "secretRef", value="kye"),
            "must name a secret that has a value (key, registry-password), not 'kye'. Did you mean 'key'?",
        ),
        (at(*CONTAINERS, "env", 1, "value", value="both"), "env[1] ('KEY') must have either a value or a secretRef."),
        (at(*PROBE, "type", value="Readiness"), "probes[0].type must be one of Startup, Liveness, not 'Readiness'."),
        (at(*PROBE, "type", value="Liveness"), "probes must have at most one of each type, not several liveness."),
        (at(*PROBE, "tcpSocket", value={"port": 1}), "probes[0] must have either httpGet or tcpSocket."),
        (at(*PROBE, "httpGet", "scheme", value="HTTPS"), "httpGet.scheme must be HTTP, not 'HTTPS'."),
        (
            at(*PROBE, "httpGet", "host", value="x"),
            "httpGet.host is not available: a probe always connects to its own container.",
        ),
        (
            at(*PROBE, "successThreshold", value=2),
            "The option container must have a success_threshold of 1 for its startup probe, not 2.",
        ),
        *(
            (
                at(*PROBE, "httpGet", "httpHeaders", value=[{"name": "X-Probe", "value": value}]),
                "The option container.startup.headers must have a valid header value for X-Probe, not ",
            )
            for value in ("1\r\nX-Other: 2", "1\n", "\0", "\x7f", " 1", "\udc80")
        ),
        *(
            (
                at(*PROBE, "httpGet", "httpHeaders", value=[{"name": name, "value": "1"}]),
                "The option container.startup.headers must have names of GET request headers, not ",
            )
            for name in ("", "X Probe", "X:", "X\r\nY", "Ü", "Content-Length", "transfer-encoding", "Upgrade")
        ),
        (at(*PROBE, "periodSeconds", value="often"), "The option container.startup.period must be a valid number"),
        (
            at("properties", "customContainerTemplate", "registryCredentials", "identity", value="system"),
            "registryCredentials.identity is not available on this machine",
        ),
        (
            at("properties", "customContainerTemplate", "registryCredentials", "server", value="other.example"),
            "must have an image from its registry other.example, not 'registry.example/model:1.0'.",
        ),
        (at("properties", "secrets", 0, "value", value=5), "secrets[0].value must be a string, not int."),
        (at("properties", value=[]), "properties must be an object, not []."),
        (at(*CONTAINERS, "resources", "memory", value="much"), "The option memory must be a number of bytes or a size"),
    ],
)
def test_properties_that_azure_does_not_allow_are_named(change: Callable[[dict[str, Any]], None], message: str) -> None:
    resource = copy.deepcopy(FULL)
    change(resource)
    with pytest.raises(InvalidRequest) as raised:
        settings_of(resource, secrets={"key": "hidden-2"})
    assert message in str(raised.value)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "/nowhere/custom.json"}, "The template '/nowhere/custom.json' cannot be read: "),
        ({"template": 5}, "The option template must be the path of a JSON file, not 5."),
        ({"secrets": {"a": "b"}}, "The option secrets must be used with a template"),
        ({"template": {}, "container": {"image": "x"}}, "either a template or a container, not both"),
        ({"template": FULL, "secrets": {"key": 5}}, "The value of the secret 'key' must be str, not int."),
        ({"container": {"image": "x", "prot": 1}}, "Unknown option 'container.prot'. Options: args, command, env, "),
        ({"container": {"image": "x", "env": {"A": 5}}}, "The option container.env.A must be a valid string."),
        ({"container": {}}, "The option container.image must be given."),
        (
            {"container_type": "CustomContainer"},
            "container or template must be given for the container type CustomContainer",
        ),
        (
            {"container_type": "PythonLTS", "container": {"image": "x"}},
            "container must be used with the container type CustomContainer, not PythonLTS",
        ),
    ],
)
def test_options_that_do_not_describe_a_container(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        PoolSettings.parse(with_template(options))
    assert message in str(raised.value)


def test_values_of_environment_variables_are_not_shown() -> None:
    container = {"image": "x", "env": {"TOKEN": "hidden"}, "registry": {"server": "s", "password": "hidden"}}
    with pytest.raises(InvalidRequest) as raised:
        PoolSettings.parse({"container": container})
    assert "hidden" not in str(raised.value)
    resource = {"properties": {"containerType": "CustomContainer", "secrets": [{"name": "a", "value": ["hidden"]}]}}
    with pytest.raises(InvalidRequest) as raised:
        options_of_template(resource, {})
    assert "hidden" not in str(raised.value)


def test_bubblewrap_refuses_custom_containers() -> None:
    with pytest.raises(greenroom.EngineUnavailable, match="The engine bubblewrap cannot run custom containers"):
        greenroom.connect("bubblewrap:", container={"image": "x"})
