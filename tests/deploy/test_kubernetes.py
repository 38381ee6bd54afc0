"""The manifests for Kubernetes: valid for it, and with commands and settings that exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from lineside.bus.settings import DASHBOARD_PORT, EXPORTER_PORT, Settings
from lineside.cli.configuration import loading
from lineside.cli.configuration.option import CONFIG_VARIABLE
from lineside.cli.first_start import TRAINER
from lineside.cli.main import app
from tests.deploy.shipped import DEPLOY

FOLDER = DEPLOY / "kubernetes"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OLDEST, NEWEST = "1.29", "1.34"
"""Versions of Kubernetes; sidecar containers came with the first."""


def documents() -> list[dict[str, Any]]:
    files = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != "lineside.yaml"]
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


PODS = [
    pytest.param(document["spec"], id=document["metadata"]["name"])
    for kind in ("StatefulSet", "Job")
    for document in of_kind(kind)
] + [
    pytest.param({"template": document}, id=document["metadata"]["name"])
    for document in of_kind("Pod")
]


def containers(workload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    pod = workload["template"]["spec"]
    yield from (*pod.get("initContainers", ()), *pod["containers"])


@pytest.mark.parametrize("document", documents(), ids=lambda one: f"{one['kind']}")
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_each_manifest_has_the_fields_of_its_kind(document: dict[str, Any], version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    if document["kind"] != "Kustomization":  # of kubectl itself
        validate.validate(document, version, strict=True)


def test_kubectl_builds_the_stack() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(
        [kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    found = list(yaml.safe_load_all(built.stdout))
    assert {one["metadata"].get("namespace", "lineside") for one in found} == {"lineside"}
    (stateful,) = [one for one in found if one["kind"] == "StatefulSet"]
    (configuration,) = [one for one in found if one["kind"] == "ConfigMap"]
    volumes = {v["name"]: v for v in stateful["spec"]["template"]["spec"]["volumes"]}
    name = configuration["metadata"]["name"]  # with a hash, so that a change restarts the Pod
    assert volumes["configuration"]["configMap"]["name"] == name != "lineside"


def test_its_configuration_is_valid_and_listens_where_the_services_lead(tmp_path: Path) -> None:
    values = loading.load(FOLDER / "lineside.yaml", tmp_path).values
    ports = {"bus": 7430, "page": values.dashboard.port, "metrics": values.exporter.port}
    assert ports == {"bus": 7430, "page": DASHBOARD_PORT, "metrics": EXPORTER_PORT}
    assert values.broker.listen.endswith(":7430")
    (stack,) = of_kind("StatefulSet")
    (container,) = stack["spec"]["template"]["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    for service in of_kind("Service"):
        assert service["spec"]["selector"] == stack["spec"]["selector"]["matchLabels"]
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in ("/healthz", "/readyz")
        assert container[probe]["httpGet"]["port"] == "page"
    (policy,) = of_kind("NetworkPolicy")
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert opened == set(ports)


@pytest.mark.parametrize("workload", PODS)
def test_every_command_setting_and_volume_exists(workload: dict[str, Any]) -> None:
    pod = workload["template"]["spec"]
    claims = workload.get("volumeClaimTemplates", ())
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in claims}
    settings = {f"LINESIDE_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    for container in containers(workload):
        command = container.get("command", ["lineside", *container.get("args", ())])
        if command[0] == "lineside":
            assert command[1] in COMMANDS
            real = {name for parameter in COMMANDS[command[1]].params for name in parameter.opts}
            if command[1] != "run":  # what follows is another command
                assert {word for word in command[2:] if word.startswith("-")} <= real
        elif command[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(command[2])
        for variable in container.get("env", ()):
            assert variable["name"] in settings | {CONFIG_VARIABLE}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("workload", PODS)
def test_every_container_runs_without_rights(workload: dict[str, Any]) -> None:
    pod = workload["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_training_reaches_the_stack_and_never_waits_for_it() -> None:
    (job,) = of_kind("Job")
    pod = job["spec"]["template"]["spec"]
    (training,) = pod["containers"]
    environment = {variable["name"]: variable["value"] for variable in training["env"]}
    names = {service["metadata"]["name"] for service in of_kind("Service")}
    host = environment["LINESIDE_BROKER"].removeprefix("tcp://").partition(".")[0]
    assert host in names
    (early,) = [s for s in of_kind("Service") if s["metadata"]["name"] == host]
    assert early["spec"]["publishNotReadyAddresses"] is True
    key, shipper = pod["initContainers"]
    assert key["command"][-1] == environment["LINESIDE_KEY"]
    assert key["command"][-2] == f"/secret/{TRAINER}.key"
    assert (shipper["restartPolicy"], shipper["env"]) == ("Always", training["env"])
    assert "startupProbe" not in shipper
    (policy,) = of_kind("NetworkPolicy")
    allowed = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= job["spec"]["template"]["metadata"]["labels"].items()


def test_a_restore_mounts_the_volume_of_the_stack_as_the_stack_does() -> None:
    (restore,), (stack,) = of_kind("Pod"), of_kind("StatefulSet")
    (claim,), name = stack["spec"]["volumeClaimTemplates"], stack["metadata"]["name"]
    volume = f"{claim['metadata']['name']}-{name}-0"
    assert restore["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": volume}
    pod = stack["spec"]["template"]["spec"]
    assert restore["spec"]["securityContext"] == pod["securityContext"]
    (own,), (theirs,) = restore["spec"]["containers"], pod["containers"]
    assert own["env"][0] in theirs["env"]
    assert own["volumeMounts"][0] in theirs["volumeMounts"]
    assert restore["metadata"]["namespace"] == "lineside"
