"""The manifests for Kubernetes: they build, fit the API, fit each other, and are of one mind with the code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, END, documents, module, parse, read, read_one, settings, strings, tool

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ["base", "overlays/production"]
#: The oldest that has all fields used; the newest that kubernetes-validate knows is checked, too.
OLDEST = "1.27"
#: Kinds of others: kubernetes-validate knows nothing of them.
CUSTOM = ("ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject")
#: Seconds between two heartbeats of a worker, and after which it is taken for dead (docs/workers.md).
BEAT, LIVING = 5, 20

Document = dict[str, Any]


def sources() -> list[Path]:
    """All files that hold resources."""
    return sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")


DOCUMENTS: list[Document] = [document for path in sources() for document in read(path)]
PODS = [document for document in DOCUMENTS if document["kind"] == "Deployment"]


def named(document: Document) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


@cache
def built(overlay: str) -> list[Document]:
    """What kubectl would send."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(KUBERNETES / overlay)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr  # it warns of what is deprecated there
    return documents(done.stdout)


def one(kind: str, name: str, among: list[Document] = DOCUMENTS) -> Document:
    """The resource of this kind and name."""
    [found] = [document for document in among if document["kind"] == kind and document["metadata"]["name"] == name]
    return found


def validate(path: Path, version: str | None) -> str:
    """What kubernetes-validate has to say; empty: nothing."""
    chosen = ["-k", version] if version else []
    command = [sys.executable, "-m", module("kubernetes_validate"), "--strict", "--quiet", *chosen, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (done.stdout + done.stderr).strip() or ("" if done.returncode == 0 else "failed")


# The API


@pytest.mark.parametrize("version", [OLDEST, None], ids=["oldest", "newest"])
@pytest.mark.parametrize(
    "path", [path for path in sources() if "components" not in path.parts], ids=lambda path: str(path.stem)
)
def test_the_files_fit_the_api(path: Path, version: str | None) -> None:
    assert validate(path, version) == ""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kubectl_builds_fits_the_api(overlay: str, tmp_path: Path) -> None:
    core = [document for document in built(overlay) if document["kind"] not in CUSTOM]
    assert {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget"} == {document["kind"] for document in core}
    path = tmp_path / "built.yaml"
    path.write_text("\n---\n".join(map(json.dumps, core)))
    assert validate(path, None) == ""


def test_a_misspelt_field_would_be_found(tmp_path: Path) -> None:
    worker = json.loads(json.dumps(one("Deployment", "penstock-worker")))
    worker["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 45
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(worker))
    assert "terminationGracePeriodSecond" in validate(path, None)


#: The fields that these kinds have at the places that we use: of the operator's API reference, and of KEDA's Go types.
ENDPOINT = {"port", "interval", "scrapeTimeout", "relabelings", "path", "scheme", "honorLabels", "metricRelabelings"}
FIELDS: dict[str, dict[str, set[str]]] = {
    "ServiceMonitor": {"spec": {"selector", "endpoints", "jobLabel", "namespaceSelector"}, "endpoints": ENDPOINT},
    "PodMonitor": {
        "spec": {"selector", "podMetricsEndpoints", "jobLabel", "namespaceSelector"},
        "podMetricsEndpoints": ENDPOINT,
    },
    "PrometheusRule": {"spec": {"groups"}, "groups": {"name", "interval", "rules", "limit", "labels"}},
    "ScaledObject": {
        "spec": {
            "scaleTargetRef", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod", "idleReplicaCount",
            "minReplicaCount", "maxReplicaCount", "fallback", "advanced", "triggers",
        },
        "scaleTargetRef": {"apiVersion", "kind", "name", "envSourceContainerName"},
        "fallback": {"failureThreshold", "replicas", "behavior"},
        "advanced": {"restoreToOriginalReplicaCount", "horizontalPodAutoscalerConfig", "scalingModifiers"},
        "horizontalPodAutoscalerConfig": {"name", "behavior"},
        "behavior": {"scaleUp", "scaleDown"},
        "scaleUp": {"stabilizationWindowSeconds", "policies", "selectPolicy"},
        "scaleDown": {"stabilizationWindowSeconds", "policies", "selectPolicy"},
        "policies": {"type", "value", "periodSeconds"},
        "triggers": {"type", "name", "metadata", "metricType", "useCachedMetrics", "authenticationRef"},
        "metadata": {
            "serverAddress", "query", "queryParameters", "threshold", "activationThreshold", "namespace",
            "customHeaders", "ignoreNullValues", "unsafeSsl", "timeout", "authModes",
        },
    },
}  # fmt: skip


def unknown_fields(value: Any, fields: Mapping[str, set[str]], place: str = "spec") -> list[str]:
    """Keys that the kind has not got, at the places that are known."""
    if isinstance(value, list):
        return [found for each in value for found in unknown_fields(each, fields, place)]
    if not isinstance(value, dict):
        return []
    found = [f"{place}.{key}" for key in value if place in fields and key not in fields[place]]
    return found + [deeper for key, each in value.items() for deeper in unknown_fields(each, fields, key)]


@pytest.mark.parametrize("kind", CUSTOM)
def test_kinds_of_others_have_these_fields(kind: str) -> None:
    versions = {"ScaledObject": "keda.sh/v1alpha1"}
    found = [document for document in DOCUMENTS if document["kind"] == kind]
    assert found
    for document in found:
        assert document["apiVersion"] == versions.get(kind, "monitoring.coreos.com/v1")
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        assert unknown_fields(document["spec"], FIELDS[kind]) == []


def test_an_unknown_field_would_be_found() -> None:
    document = one("ScaledObject", "penstock-worker")
    wrong = {**document["spec"], "triggers": [{**document["spec"]["triggers"][0], "metadta": {}}]}
    found = unknown_fields({**wrong, "minReplicas": 1}, FIELDS["ScaledObject"])
    assert sorted(found) == ["spec.minReplicas", "triggers.metadta"]


# How they fit each other


def labels_of(deployment: Document) -> Mapping[str, str]:
    found: Mapping[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return found


def container(deployment: Document) -> Document:
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def ports_of(deployment: Document) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(deployment)["ports"]}


@pytest.mark.parametrize("name", ["penstock-worker", "penstock-exporter"])
def test_selectors_select(name: str) -> None:
    deployment = one("Deployment", name)
    labels = labels_of(deployment)
    selectors = [
        deployment["spec"]["selector"],
        one("PodDisruptionBudget", name)["spec"]["selector"],
        *(each["labelSelector"] for each in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selector["matchLabels"].items() <= labels.items() for selector in selectors)
    other = one("Deployment", {"penstock-worker": "penstock-exporter"}.get(name, "penstock-worker"))
    assert not any(selector["matchLabels"].items() <= labels_of(other).items() for selector in selectors)


def test_the_exporters_are_found_by_prometheus_under_the_name_of_the_rules() -> None:
    exporter, service = one("Deployment", "penstock-exporter"), one("Service", "penstock-exporter")
    monitor = one("ServiceMonitor", "penstock-exporter")["spec"]
    assert service["spec"]["selector"].items() <= labels_of(exporter).items()
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    [port] = service["spec"]["ports"]
    [endpoint] = monitor["endpoints"]
    assert endpoint["port"] == port["name"] and port["targetPort"] in ports_of(exporter)
    assert {"targetLabel": "job", "replacement": "penstock"} in endpoint["relabelings"]
    assert exporter["spec"]["replicas"] == 2


def test_the_workers_are_found_by_prometheus() -> None:
    worker, monitor = one("Deployment", "penstock-worker"), one("PodMonitor", "penstock-worker")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels_of(worker).items()
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in ports_of(worker)
    assert {"targetLabel": "job", "replacement": "penstock-worker"} in endpoint["relabelings"]


def test_the_ports_are_those_of_the_commands() -> None:
    worker, exporter = one("Deployment", "penstock-worker"), one("Deployment", "penstock-exporter")
    _, options = parse(container(worker)["command"][1:])
    assert options["metrics_port"] == ports_of(worker)["metrics"] and options["metrics_host"] == "0.0.0.0"
    _, options = parse(container(exporter)["command"][1:])
    assert options["port"] == ports_of(exporter)["metrics"] and options["host"] == "0.0.0.0"


# How they fit the code


def commands() -> Iterator[tuple[str, list[str]]]:
    for deployment in PODS:
        found = container(deployment)
        yield f"{found['name']}", found["command"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if command := found.get(probe, {}).get("exec", {}).get("command"):
                yield f"{found['name']}-{probe}", command


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_commands_are_those_of_the_command_line(name: str, command: list[str]) -> None:
    assert command[0] == "penstock"
    expected = {"worker": "worker", "exporter": "exporter"}.get(name, "check")
    assert parse(command[1:])[0] == expected


def environment(deployment: Document, among: list[Document]) -> dict[str, str]:
    """Of its container, with secrets as the docs make them."""
    found: dict[str, str] = {}
    for source in container(deployment)["envFrom"]:
        if "configMapRef" in source:
            found |= one("ConfigMap", source["configMapRef"]["name"], among)["data"]
        else:
            assert source["secretRef"]["name"] in ("penstock-worker-redis", "penstock-exporter-redis")
            found["PENSTOCK_URL"] = "redis://user:PASSWORD@redis:6379/0"
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_variable_is_a_setting(overlay: str) -> None:
    among = built(overlay)
    worker = environment(one("Deployment", "penstock-worker", among), among)
    exporter = environment(one("Deployment", "penstock-exporter", among), among)
    assert worker["PENSTOCK_NAMESPACE"] == exporter["PENSTOCK_NAMESPACE"] == settings(worker).namespace
    assert "PENSTOCK_APP" in worker and "PENSTOCK_APP" not in exporter  # it loads no code


def literals() -> dict[str, str]:
    """The worker's settings, also where there is no kubectl."""
    generated = read_one(KUBERNETES / "base" / "kustomization.yaml")["configMapGenerator"]
    return dict(line.split("=", 1) for each in generated for line in each["literals"])


def test_there_is_time_to_end_in_order() -> None:
    found = settings(literals())
    worker = one("Deployment", "penstock-worker")["spec"]["template"]["spec"]
    assert worker["terminationGracePeriodSeconds"] >= found.grace + END
    assert "PENSTOCK_GRACE" in literals()  # so that who changes it sees the other one


def test_the_liveness_probe_is_slower_than_a_heartbeat_and_the_supervisor() -> None:
    found = container(one("Deployment", "penstock-worker"))
    start, live = found["startupProbe"], found["livenessProbe"]
    assert live["timeoutSeconds"] < live["periodSeconds"] and live["periodSeconds"] >= BEAT
    # Longer than a worker counts as living, and than one takes that the supervisor starts anew.
    assert live["periodSeconds"] * (live["failureThreshold"] - 1) > LIVING + settings(literals()).lease
    assert start["periodSeconds"] * start["failureThreshold"] >= 300  # for the app's imports
    assert start["exec"] == live["exec"] and start["timeoutSeconds"] == live["timeoutSeconds"]
    # A server that is away is waited for before `check` says that it cannot know.
    waits = settings(literals())
    assert live["timeoutSeconds"] >= waits.connect_timeout + waits.command_timeout + 2


def test_service_variables_reach_no_process_of_ours() -> None:
    """They are no settings, and `PENSTOCK_METRICS_PORT` would be an option: of a service called penstock-metrics."""
    assert settings({"PENSTOCK_EXPORTER_PORT": "tcp://10.0.0.1:9808"}) == settings({})
    for pod in PODS:
        assert pod["spec"]["template"]["spec"]["enableServiceLinks"] is False
    for document in DOCUMENTS:
        if document["kind"] == "Service":
            assert document["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("deployment", PODS, ids=named)
def test_the_pods_are_hardened(deployment: Document) -> None:
    pod = deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    found = container(deployment)
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert found["resources"]["requests"] and found["resources"]["limits"]["memory"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()  # `check` looks for its own host name


def test_the_image_is_named_in_one_place_and_pinned() -> None:
    assert {container(pod)["image"] for pod in PODS} == {"penstock-app"}
    for overlay in OVERLAYS:
        for deployment in (document for document in built(overlay) if document["kind"] == "Deployment"):
            assert container(deployment)["image"] == "registry.example.com/shop:1.0.0"


def test_nothing_but_the_overlay_names_a_namespace() -> None:
    assert not any("namespace" in document["metadata"] for document in DOCUMENTS)
    assert {document["metadata"]["namespace"] for document in built("overlays/production")} == {"shop"}


def test_redis_is_not_part_of_it() -> None:
    assert not any(
        document["kind"] == "StatefulSet" or "redis:" in text for document in DOCUMENTS for text in strings(document)
    )


def test_keda_alone_says_how_many_workers_there_are() -> None:
    among = built("overlays/production")
    scaled = one("ScaledObject", "penstock-worker", among)
    worker = one("Deployment", scaled["spec"]["scaleTargetRef"]["name"], among)
    assert "replicas" not in worker["spec"] and one("Deployment", "penstock-worker")["spec"]["replicas"] >= 1
    assert scaled["metadata"]["namespace"] == worker["metadata"]["namespace"]
