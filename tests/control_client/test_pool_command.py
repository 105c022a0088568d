"""`greenroom pool` on a server: what is sent, what is printed, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import within
from typer.testing import CliRunner

from greenroom.cli.app import app

from .arm import Arm, refused, serving_arm, to

LOCAL = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/greenroom/providers/Microsoft.App"
TEMPLATE = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "type": "Microsoft.App/sessionPools",
    "apiVersion": "2025-01-01",
    "name": "another-name",
    "location": "westus",
    "tags": {"team": "a"},
    "properties": {
        "containerType": "CustomContainer",
        "poolManagementEndpoint": "https://old.example",
        "provisioningState": "Succeeded",
        "scaleConfiguration": {"maxConcurrentSessions": 5, "readySessionInstances": 2},
        "secrets": [{"name": "kept", "value": "1"}, {"name": "changed", "value": "2"}],
        "customContainerTemplate": {
            "containers": [{"name": "main", "image": "app:1", "probes": [{"type": "Liveness"}]}],
            "ingress": {"targetPort": 80},
        },
    },
}


@pytest.fixture
def arm() -> Generator[Arm, None, None]:
    with serving_arm() as server:
        server.endpoint = f"{server.url}/sessionPools/{{name}}"
        yield server


class Ended:
    """How a command ended."""

    def __init__(self, arm: Arm, *arguments: str, **environment: str) -> None:
        environment = {"GREENROOM_SERVER": arm.url, "GREENROOM_MANAGEMENT_KEY": "", "COLUMNS": "200", **environment}
        result = CliRunner().invoke(app, ["pool", *arguments], env=environment, catch_exceptions=True)
        self.out, self.errors, self.exception = result.stdout, result.stderr, result.exception
        self.code = result.exit_code


def run(arm: Arm, *arguments: str, **environment: str) -> str:
    ended = Ended(arm, *arguments, **environment)
    assert ended.code == 0, (ended.errors, ended.exception)
    return ended.out


def error_of(arm: Arm, *arguments: str) -> str:
    ended = Ended(arm, *arguments)
    assert ended.code != 0
    return " ".join(f"{ended.errors} {ended.exception}".replace("│", " ").split())


def put(arm: Arm, *arguments: str) -> Mapping[str, Any]:
    run(arm, "create", "--name", "ci", *arguments)
    return arm.body_of("PUT")


def test_a_pool_is_created_listed_shown_changed_and_deleted(arm: Arm) -> None:
    size = ["--max-sessions", "20", "--ready-sessions", "4", "--cooldown-period", "300"]
    shown = run(arm, "create", "--name", "ci", "--container-type", "NodeLTS", *size)
    assert [re.split("  +", line) for line in shown.splitlines()] == [
        ["name", "ci"],
        ["type", "NodeLTS"],
        ["state", "Succeeded"],
        ["sessions", "at most 20, 4 ready"],
        ["end", "after 300 s without use"],
        ["resource group", "greenroom"],
        ["location", "local"],
        ["endpoint", f"{arm.url}/sessionPools/ci"],
    ]
    assert arm.body_of("PUT") == {
        "location": "local",
        "properties": {
            "containerType": "NodeLTS",
            "poolManagementType": "Dynamic",
            "scaleConfiguration": {"maxConcurrentSessions": 20, "readySessionInstances": 4},
            "dynamicPoolConfiguration": {"lifecycleConfiguration": {"cooldownPeriodInSeconds": 300}},
        },
    }
    header, row = run(arm, "list").splitlines()
    assert header.split() == ["name", "type", "state", "sessions", "ready", "session", "ends"]
    assert row.split() == ["ci", "NodeLTS", "Succeeded", "20", "4", "after", "300", "s", "without", "use"]
    run(arm, "update", "-n", "ci", "--max-sessions", "30")
    assert arm.body_of("PATCH") == {"properties": {"scaleConfiguration": {"maxConcurrentSessions": 30}}}
    assert "at most 30, 4 ready" in run(arm, "show", "-n", "ci")
    assert run(arm, "delete", "-n", "ci", "--yes") == ""
    assert run(arm, "list", "--output", "json") == "[]\n"
    assert {seen.path.partition("/sessionPools")[0] for seen in arm.seen if "sessionPools" in seen.path} >= {LOCAL}


def test_json_is_what_the_server_returned(arm: Arm) -> None:
    created = json.loads(run(arm, "create", "-n", "ci", "-o", "json"))
    assert created == arm.pools["greenroom", "ci"]
    assert json.loads(run(arm, "show", "-n", "ci", "--output", "json")) == created
    assert json.loads(run(arm, "list", "--output", "json")) == [created]


def test_options_are_those_of_az(arm: Arm) -> None:
    body = put(
        arm,
        *("--container-type", "customcontainer", "--image", "app:1", "--target-port", "80", "--cpu", "0.5"),
        *(
            "--memory",
            "1Gi",
            "--command",
            "/bin/app",
            "--args",
            "serve",
            "fast",
            "--env-vars",
            "A=1",
            "B=secretref:key",
        ),
        *("--secrets", "key=a=b", "other=", "--registry-server", "reg.example", "--registry-username", "Robot"),
        *("--registry-password", "pass", "--network-status", "EgressEnabled", "--lifecycle-type", "OnContainerExit"),
        *("--max-alive-period", "900", "--mi-system-assigned", "--environment", "env", "--engine", "docker:"),
        *("--location", "eastasia"),
    )
    group = LOCAL.removesuffix("/providers/Microsoft.App")
    assert body == {
        "location": "eastasia",
        "tags": {"greenroom:engine": "docker:"},
        "identity": {"type": "SystemAssigned"},
        "properties": {
            "containerType": "CustomContainer",
            "poolManagementType": "Dynamic",
            "environmentId": f"{group}/providers/Microsoft.App/managedEnvironments/env",
            "dynamicPoolConfiguration": {
                "lifecycleConfiguration": {"lifecycleType": "OnContainerExit", "maxAlivePeriodInSeconds": 900}
            },
            "sessionNetworkConfiguration": {"status": "EgressEnabled"},
            "secrets": [
                {"name": "key", "value": "a=b"},
                {"name": "other", "value": ""},
                {"name": "regexample-robot", "value": "pass"},
            ],
            "managedIdentitySettings": [{"identity": "system", "lifecycle": "Main"}],
            "customContainerTemplate": {
                "containers": [
                    {
                        "name": "ci",
                        "image": "app:1",
                        "command": ["/bin/app"],
                        "args": ["serve", "fast"],
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "secretRef": "key"}],
                        "resources": {"cpu": 0.5, "memory": "1Gi"},
                    }
                ],
                "ingress": {"targetPort": 80},
                "registryCredentials": {
                    "server": "reg.example",
                    "username": "Robot",
                    "passwordSecretRef": "regexample-robot",
                },
            },
        },
    }


def test_a_template_is_sent_unchanged_and_options_override_it(arm: Arm, tmp_path: Path) -> None:
    file = tmp_path / "pool.json"
    file.write_text(json.dumps(TEMPLATE))
    body = put(arm, "--template", str(file), "--max-sessions", "7", "--secrets", "changed=3", "--cpu", "1")
    assert body == {
        "location": "westus",
        "tags": {"team": "a"},
        "properties": {
            "containerType": "CustomContainer",
            "poolManagementType": "Dynamic",
            "scaleConfiguration": {"maxConcurrentSessions": 7, "readySessionInstances": 2},
            "secrets": [{"name": "kept", "value": "1"}, {"name": "changed", "value": "3"}],
            "customContainerTemplate": {
                "containers": [
                    {"name": "main", "image": "app:1", "probes": [{"type": "Liveness"}], "resources": {"cpu": 1.0}}
                ],
                "ingress": {"targetPort": 80},
            },
        },
    }


def test_the_properties_alone_are_a_template(arm: Arm, tmp_path: Path) -> None:
    file = tmp_path / "pool.json"
    file.write_text(json.dumps(TEMPLATE["properties"]))
    assert put(arm, "--template", str(file))["location"] == "local"


def test_an_update_sends_the_lists_of_a_container_whole(arm: Arm) -> None:
    container = {"name": "main", "image": "app:1", "env": [{"name": "A", "value": "1"}], "args": ["x"]}
    arm.add(
        "ci",
        "greenroom",
        containerType="CustomContainer",
        customContainerTemplate={"containers": [container], "ingress": {"targetPort": 80}},
    )
    run(arm, "update", "-n", "ci", "--image", "app:2", "--args", "", "--engine", "docker:")
    assert arm.body_of("PATCH") == {
        "tags": {"greenroom:engine": "docker:"},
        "properties": {
            "customContainerTemplate": {
                "containers": [{**container, "image": "app:2", "args": []}],
                "ingress": {"targetPort": 80},
            }
        },
    }


def test_one_container_of_several_is_named(arm: Arm) -> None:
    containers = [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]
    template = {"containers": containers, "ingress": {"targetPort": 80}}
    arm.add("ci", "greenroom", containerType="CustomContainer", customContainerTemplate=template)
    assert "--container-name must be one of a, b, not None" in error_of(arm, "update", "-n", "ci", "--image", "x")
    run(arm, "update", "-n", "ci", "--image", "b:2", "--container-name", "B")
    sent = arm.body_of("PATCH")["properties"]["customContainerTemplate"]["containers"]
    assert [each["image"] for each in sent] == ["a:1", "b:2"]


WRONG = {
    "a type": (
        ["--container-type", "NodLTS"],
        "PythonLTS, NodeLTS, Shell, CustomContainer, not 'NodLTS'. Did you mean 'NodeLTS'?",
    ),
    "a network": (["--network-status", "enabled"], "must be one of EgressEnabled, EgressDisabled, not 'enabled'."),
    "two ends": (["--cooldown-period", "300", "--max-alive-period", "300"], "either --cooldown-period or"),
    "an end of another life": (["--max-alive-period", "3", "--lifecycle-type", "Timed"], "OnContainerExit, not Timed"),
    "an idle end of another life": (
        ["--cooldown-period", "3", "--lifecycle-type", "OnContainerExit"],
        "Timed, not OnC",
    ),
    "an image for code": (
        ["--image", "app:1"],
        "--image must be used with --container-type CustomContainer, not 'PythonLTS'",
    ),
    "no image": (["--container-type", "CustomContainer", "--target-port", "80"], "must have an --image"),
    "no port": (["--container-type", "CustomContainer", "--image", "a"], "must have a --target-port"),
    "a password alone": (["--registry-password", "hunter2"], "must be used with --registry-username"),
    "a secret without a name": (["--secrets", "hunter2"], "--secrets must have the form name=value"),
    "a name": (["-n", "../x"], "end with a letter or digit, not '../x'"),
    "a group": (["-g", "a/b"], "must not end with a period, not 'a/b'"),
    "a template": (["--template", "/none"], "The template '/none' cannot be read"),
    "a server": (["--server", "http://example.com"], "must begin with https://"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_options_are_reported_before_anything_is_sent(arm: Arm, name: str) -> None:
    arguments, message = WRONG[name]
    error = error_of(arm, "create", "-n", "ci", *arguments)
    assert message in error
    assert "hunter2" not in error
    assert arm.seen == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON object, not list"),
        ("{", "cannot be read"),
        ('{"resources": []}', "the resource of one pool, not a deployment"),
        (
            '{"type": "Microsoft.App/jobs", "properties": {}}',
            "must be Microsoft.App/sessionPools, not 'Microsoft.App/jobs'",
        ),
        ('{"properties": 7}', "properties must be a JSON object, not int"),
        ('{"secrets": ["hunter2"], "containerType": "PythonLTS"}', "each of secrets must be a JSON object, not str"),
    ],
)
def test_a_bad_template_is_reported(arm: Arm, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "pool.json").write_text(content)
    error = error_of(arm, "create", "-n", "ci", "--template", str(tmp_path / "pool.json"), "--secrets", "a=b")
    assert message in error
    assert "hunter2" not in error
    assert arm.seen == []


def test_an_update_must_change_something(arm: Arm) -> None:
    arm.add("ci", "greenroom")
    assert "must change something" in error_of(arm, "update", "-n", "ci")


def test_a_missing_pool_is_reported_with_the_existing_ones(arm: Arm) -> None:
    arm.add("cii", "greenroom")
    for command in (["show"], ["update", "--max-sessions", "3"]):
        assert "Did you mean 'cii'? Pools: cii." in error_of(arm, *command, "-n", "ci")
    ended = Ended(arm, "delete", "-n", "ci", "-y")
    assert (ended.code, ended.errors) == (0, "The pool 'ci' did not exist.\n")


def test_a_deletion_without_a_terminal_must_be_confirmed(arm: Arm) -> None:
    assert "must be confirmed with --yes" in error_of(arm, "delete", "-n", "ci")
    assert arm.seen == []


def test_a_declared_pool_is_marked_as_declared(arm: Arm) -> None:
    arm.add("ci", "greenroom")["tags"] = {"greenroom:declared": "true", "greenroom:engine": "docker:"}
    assert "ci (declared)" in run(arm, "list")
    assert "cannot be changed here" in run(arm, "show", "-n", "ci")
    arm.answers.append(to("PATCH", refused(409, "Conflict", "The pool 'ci' is declared by --pool.")))
    assert "declared by --pool. (HTTP 409, Conflict" in error_of(arm, "update", "-n", "ci", "--max-sessions", "3")


def test_a_list_of_several_groups_names_them(arm: Arm) -> None:
    arm.add("a", "one")
    arm.add("b", "two")
    assert [line.split()[:2] for line in run(arm, "list").splitlines()[1:]] == [["a", "one"], ["b", "two"]]
    assert "b" not in run(arm, "list", "-g", "one").split()


def test_a_server_without_pools_says_how_to_create_one(arm: Arm) -> None:
    assert "Create one with: greenroom pool create" in Ended(arm, "list").errors


def test_no_wait_prints_the_started_operation(arm: Arm) -> None:
    arm.questions = 1_000_000
    assert "InProgress" in run(arm, "create", "-n", "ci", "--no-wait")
    run(arm, "update", "-n", "ci", "--max-sessions", "3", "--no-wait")
    run(arm, "delete", "-n", "ci", "--no-wait", "--yes")


def test_the_management_key_is_sent_and_no_other(arm: Arm) -> None:
    arm.token = "the-management-key"
    run(arm, "list", GREENROOM_MANAGEMENT_KEY="the-management-key", GREENROOM_API_KEY="another")
    ended = Ended(arm, "list", GREENROOM_API_KEY="another")
    assert "GREENROOM_MANAGEMENT_KEY" in str(ended.exception)
    assert [seen.token for seen in arm.seen] == ["the-management-key", None]


@pytest.mark.parametrize("given", [None, 7, "x", [], {"a": 1}])
def test_a_resource_of_any_form_can_be_shown(arm: Arm, given: Any) -> None:
    pool = {"name": given, "id": given, "tags": given, "location": given, "properties": given}
    arm.answers.append(to("GET", (200, {}, {"value": [pool]}), times=1))
    run(arm, "list")
    arm.answers.append(to("GET", (200, {}, pool)))
    run(arm, "show", "-n", "ci")


def test_names_of_a_hostile_server_are_one_printable_line(arm: Arm) -> None:
    arm.add("ci", "greenroom", containerType="a\x1b]0;title\x07\nb\x9b5n")
    arm.add("cj", "greenroom")
    assert len(run(arm, "list").splitlines()) == 3
    assert "a b" in run(arm, "show", "-n", "ci")
    assert "\x1b" not in run(arm, "list")


# Completion


def completed(arm: Arm, *words: str) -> list[str]:
    environment = {
        "GREENROOM_SERVER": arm.url,
        "_GREENROOM_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["greenroom", *words]),
        "COMP_CWORD": str(len(words)),
    }
    return CliRunner().invoke(app, [], prog_name="greenroom", env=environment).output.split()


def test_names_of_pools_and_words_are_completed(arm: Arm) -> None:
    arm.add("ci", "greenroom")
    arm.add("custom", "greenroom")
    arm.add("other", "greenroom")
    assert completed(arm, "pool", "show", "--name", "c") == ["ci", "custom"]
    assert completed(arm, "session", "execute", "--pool", "o") == ["other"]
    assert completed(arm, "pool", "create", "--container-type", "No") == ["NodeLTS"]
    assert completed(arm, "pool", "cr") == ["create"]
    with serving_arm() as other:
        other.add("cell", "a-group")
        place = ["--server", other.url, "-g", "a-group"]
        assert completed(arm, "pool", "show", *place, "--name", "c") == ["cell"]


def test_completion_without_a_server_is_empty(arm: Arm) -> None:
    arm.answers.append(to("GET", refused(500, "Failed", "no"), times=9))
    assert completed(arm, "pool", "show", "--name", "c") == []
    arm.url = "http://127.0.0.1:9"
    assert completed(arm, "pool", "show", "--name", "c") == []


# A terminal


def on_a_terminal(arm: Arm, *arguments: str, typed: str = "") -> tuple[int, str]:
    """The exit code, and what a terminal showed on standard error; output goes to a pipe."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "GREENROOM_SERVER": arm.url, "TERM": "xterm", "COLUMNS": "200", "CI": ""}
    with subprocess.Popen(
        [sys.executable, "-m", "greenroom", *arguments],
        stdin=follower,
        stderr=follower,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        os.close(follower)
        if typed:
            os.write(leader, typed.encode())
        shown = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # its other end is closed
                break
            if not piece:
                break
            shown += piece
        os.close(leader)
        assert process.stdout is not None
        process.stdout.read()
    return process.returncode, shown.decode()


def test_the_state_of_a_long_operation_is_shown_on_a_terminal(arm: Arm) -> None:
    arm.questions, arm.retry_after = 3, "1"
    code, shown = on_a_terminal(arm, "pool", "create", "--name", "ci")
    assert (code, "Creating ci: InProgress" in shown) == (0, True), shown


def test_an_interrupted_command_says_that_the_operation_continues(arm: Arm) -> None:
    arm.questions = 1_000_000
    process = subprocess.Popen(
        [sys.executable, "-m", "greenroom", "pool", "create", "--name", "ci", "--server", arm.url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert within(60, lambda: any("/statuses/" in seen.path for seen in arm.seen))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.startswith("Interrupted. The operation continues")) == (130, True), errors


@pytest.mark.parametrize(("typed", "deleted"), [("y\n", True), ("n\n", False)])
def test_a_deletion_asks_for_confirmation_on_a_terminal(arm: Arm, typed: str, deleted: bool) -> None:
    arm.add("ci", "greenroom")
    code, shown = on_a_terminal(arm, "pool", "delete", "--name", "ci", typed=typed)
    assert "Delete the pool ci and its sessions?" in shown
    assert (code, bool(arm.pools)) == (0 if deleted else 1, not deleted)
