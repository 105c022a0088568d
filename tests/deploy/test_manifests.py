"""The manifests for Kubernetes follow its schemas, and mean what the page says."""

from __future__ import annotations

from typing import Any

import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest
import yaml

from .documents import DEPLOY

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: dict[str, Any] = {name: yaml.safe_load((FOLDER / name).read_text()) for name in KUSTOMIZATION["resources"]}
POD = MANIFESTS["deployment.yaml"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]


@pytest.mark.parametrize("version", ["1.33", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_follows_the_schema(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)  # pyright: ignore[reportUnknownMemberType]


def test_a_schema_refuses_misspelled_fields() -> None:
    wrong: dict[str, Any] = {**MANIFESTS["service.yaml"], "spec": {"port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)  # pyright: ignore[reportUnknownMemberType]


def test_every_manifest_is_applied() -> None:
    assert {*MANIFESTS, "kustomization.yaml"} == {path.name for path in FOLDER.iterdir()}


def test_the_names_fit_together() -> None:
    labels = POD["metadata"]["labels"]
    assert MANIFESTS["deployment.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["service.yaml"]["spec"]["selector"] == labels
    assert MANIFESTS["network-policy.yaml"]["spec"]["podSelector"]["matchLabels"] == labels
    ports = {port["name"] for port in CONTAINER["ports"]}
    assert {port["targetPort"] for port in MANIFESTS["service.yaml"]["spec"]["ports"]} <= ports
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == set(volumes)
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == MANIFESTS["volume.yaml"]["metadata"]["name"]
    assert all("secret" in volumes[name] for name in ("keys", "tls"))


def test_the_pod_has_what_bubblewrap_needs_and_no_more() -> None:
    """The same as compose.bubblewrap.yaml, which test_image.py runs."""
    security = CONTAINER["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "procMount": "Unmasked",
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    }
    assert POD["spec"]["hostUsers"] is False
    assert POD["spec"]["securityContext"]["runAsNonRoot"]
    assert POD["spec"]["automountServiceAccountToken"] is False
    probes = {name: CONTAINER[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe", "startupProbe")}
    assert probes == {"livenessProbe": "/healthz", "readinessProbe": "/readyz", "startupProbe": "/readyz"}
