"""The Kubernetes manifests keep their schemas, and promise what the compose file promises."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from service.settings import Settings

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.37.0"

# What KServe's v1beta1 PredictorSpec adds to a pod's spec (kserve 0.21, its Python models).
KSERVE_FIELDS: dict[str, type] = {
    "minReplicas": int,
    "maxReplicas": int,
    "scaleTarget": int,
    "scaleMetric": str,
    "containerConcurrency": int,
    "timeout": int,
    "canaryTrafficPercent": int,
}


def read(name: str) -> Any:
    return YAML(typ="safe").load(ROOT / "docker/kubernetes" / name)


def items() -> list[Any]:
    return list(read("fend.yaml")["items"])


def item(kind: str, name: str) -> Any:
    [found] = [i for i in items() if (i["kind"], i["metadata"]["name"]) == (kind, name)]
    return found


def validate(resource: Any) -> None:
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def predictor_as_deployment() -> Any:
    """The pod that KServe makes of the InferenceService, as a Deployment that has a schema."""
    predictor = read("kserve.yaml")["spec"]["predictor"]
    pod = {key: value for key, value in predictor.items() if key not in KSERVE_FIELDS}
    deployment = deepcopy(item("Deployment", "fend"))
    deployment["spec"]["template"]["spec"] = pod
    return deployment


PODS = [
    pytest.param(lambda: item("Deployment", "fend")["spec"]["template"]["spec"], id="fend"),
    pytest.param(
        lambda: item("Deployment", "fend-audits")["spec"]["template"]["spec"], id="fend-audits"
    ),
    pytest.param(lambda: predictor_as_deployment()["spec"]["template"]["spec"], id="kserve"),
]


# ---- schemas


@pytest.mark.parametrize("resource", items(), ids=lambda i: f"{i['kind']} {i['metadata']['name']}")
def test_manifest_keeps_kubernetes_schema(resource: Any) -> None:
    validate(resource)


def test_schema_would_catch_a_misspelt_key() -> None:
    wrong = deepcopy(item("Deployment", "fend"))
    pod = wrong["spec"]["template"]["spec"]
    pod["containers"][0]["readinesProbe"] = pod["containers"][0].pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        validate(wrong)


def test_inference_service_keeps_kserves_schema() -> None:
    service = read("kserve.yaml")
    assert set(service) == {"apiVersion", "kind", "metadata", "spec"}
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    assert set(service["spec"]) == {"predictor"}
    predictor = service["spec"]["predictor"]
    for field in KSERVE_FIELDS.keys() & predictor.keys():
        assert isinstance(predictor[field], KSERVE_FIELDS[field]), field
    validate(predictor_as_deployment())
    # KServe takes the container of this name for the model's.
    assert [container["name"] for container in predictor["containers"]] == ["kserve-container"]


# ---- promises


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_confined(pod: Any) -> None:
    spec = pod()
    [container] = spec["containers"]
    dockerfile = (ROOT / "docker/service.Dockerfile").read_text()
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in dockerfile
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert spec["automountServiceAccountToken"] is False
    written = {"/tmp", "/var/lib/fend/state", "/var/lib/fend/data"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert written <= set(mounts)
    assert set(mounts.values()) == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("pod", PODS)
def test_a_service_called_fend_cannot_set_our_settings(pod: Any) -> None:
    """Kubernetes would set FEND_PORT, one of ours, to the address of a Service `fend`."""
    assert "port" in Settings.model_fields
    assert pod()["enableServiceLinks"] is False


@pytest.mark.parametrize("pod", PODS)
def test_pods_use_settings_ports_and_routes_that_exist(pod: Any) -> None:
    [container] = pod()["containers"]
    dockerfile = (ROOT / "docker/service.Dockerfile").read_text()
    [port] = container["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in dockerfile
    known = {f"FEND_{name.upper()}" for name in Settings.model_fields}
    assert {variable["name"] for variable in container["env"]} <= known
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


@pytest.mark.parametrize("pod", PODS)
def test_a_drain_ends_before_a_pod_is_killed(pod: Any) -> None:
    settings = Settings.model_fields
    drain_s = settings["drain_delay_s"].default + settings["shutdown_timeout_s"].default
    assert pod()["terminationGracePeriodSeconds"] > drain_s


@pytest.mark.parametrize("pod", PODS)
def test_the_admin_token_is_a_file_of_the_secret_that_the_guide_makes(pod: Any) -> None:
    guide = (ROOT / "docs/deploying.md").read_text()
    made = re.search(r"kubectl create secret generic (\S+) --from-file=(\w+)=", guide)
    assert made
    [secret] = [volume for volume in pod()["volumes"] if "secret" in volume]
    assert secret["secret"]["secretName"] == made[1]
    [container] = pod()["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    [place] = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == secret["name"]]
    assert variables["FEND_ADMIN_TOKEN_FILE"] == f"{place}/{made[2]}"


def test_one_process_at_a_time_opens_the_audits() -> None:
    claim = item("PersistentVolumeClaim", "fend-state")["metadata"]["name"]
    for name in ("fend", "fend-audits"):
        deployment = item("Deployment", name)["spec"]
        claims = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in deployment["template"]["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        ]
        assert claims == ([claim] if name == "fend-audits" else [])
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("name", ["fend", "fend-audits"])
def test_services_find_their_pods_and_no_others(name: str) -> None:
    selector = item("Service", name)["spec"]["selector"]
    for other in ("fend", "fend-audits"):
        deployment = item("Deployment", other)["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"] == labels
        assert (selector.items() <= labels.items()) == (name == other)
