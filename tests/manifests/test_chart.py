"""The Helm chart and the manifests rendered from it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.schema import problems, read
from weighbridge.config.file import Config

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "weighbridge"
RENDERED = ROOT / "deploy" / "kubernetes" / "weighbridge.yaml"
# What `deploy/kubernetes` is rendered with.
PLAIN = ("--namespace", "inference", "--set", "replicas=2")
EVERYTHING = """
replicas: 3
tlsSecret: ext-proc-tls
inferencePool: {enabled: true}
networkPolicy:
  enabled: true
  gatewayNamespaceLabels: {kubernetes.io/metadata.name: gateways}
  monitoringNamespaceLabels: {kubernetes.io/metadata.name: monitoring}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true}
autoscaling:
  models:
    - {deployment: llama, model: meta-llama/Llama-3.1-8B-Instruct, minReplicas: 1, maxReplicas: 4}
usageLog: {enabled: true, accessMode: ReadWriteMany}
extraFiles: {mine.yaml: "name: mine", jwks.json: '{"keys": []}'}
existingSecret: tokens
extraVolumes: [{name: big, emptyDir: {}}]
extraVolumeMounts: [{name: big, mountPath: /big}]
imagePullSecrets: [{name: registry}]
podAnnotations: {a: b}
podLabels: {c: d}
nodeSelector: {disk: fast}
tolerations: [{key: infra, operator: Exists}]
priorityClassName: high
"""


def helm(*arguments: str) -> str:
    """What helm prints; the test is skipped where there is no helm."""
    built = [ROOT / ".mesh" / "bin", Path.home() / "go" / "bin"]
    found = shutil.which("helm") or shutil.which("helm", path=":".join(map(str, built)))
    if found is None:
        pytest.skip("NOT TESTED: helm is missing (tests/mesh/build.sh .mesh helm)")
    result = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def template(*arguments: str) -> list[dict[str, Any]]:
    text = helm("template", "weighbridge", str(CHART), "--kube-version", "1.33.0", *arguments)
    return [thing for thing in yaml.safe_load_all(text) if thing]


def by_kind(things: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(thing for thing in things if thing["kind"] == kind)


def test_lint_finds_nothing() -> None:
    helm("lint", "--strict", str(CHART))


def test_plain_manifests_are_the_chart_rendered() -> None:
    assert template(*PLAIN) == read(RENDERED)


def test_plain_manifests_fit_their_schemas() -> None:
    things = read(RENDERED)
    assert {thing["kind"] for thing in things} >= {
        "ConfigMap",
        "Deployment",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }
    assert [line for thing in things for line in problems(thing)] == []


def test_the_container_may_do_nothing_that_it_does_not_need() -> None:
    pod = by_kind(read(RENDERED), "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= container.keys()
    # It is let finish what it drains before it is killed.
    config = configuration(read(RENDERED))
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > config.drain_seconds + pause


def test_the_sidecar_takes_the_configuration_that_the_chart_writes() -> None:
    things = read(RENDERED)
    config = configuration(things)
    service = by_kind(things, "Service")
    assert [port["port"] for port in service["spec"]["ports"]] == [9002, 9006]
    assert config.listen.address == "0.0.0.0:9002"


def test_probes_and_prometheus_reach_metrics_and_people_the_pages_by_port_forward() -> None:
    things = read(RENDERED)
    config = configuration(things)
    # A port forwarding ends on the pod's loopback.
    assert config.admin.address == "127.0.0.1:9005"
    assert config.metrics.address == "0.0.0.0:9006"
    container = by_kind(things, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"ext-proc": 9002, "metrics": 9006}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"
    targets = [port["targetPort"] for port in by_kind(things, "Service")["spec"]["ports"]]
    assert set(targets) == set(ports)


def test_a_token_for_the_pages_leaves_metrics_to_be_scraped(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("config: {admin: {token_file: /secrets/token, hosts: [weighbridge.test]}}\n")
    monitor = ("--set", "serviceMonitor.enabled=true")
    things = template("--values", str(values), *monitor)
    config = configuration(things)
    assert config.admin.token_file == "/secrets/token"
    assert config.admin.hosts == ("weighbridge.test",)
    assert (config.admin.address, config.metrics.address) == ("127.0.0.1:9005", "0.0.0.0:9006")
    (endpoint,) = by_kind(things, "ServiceMonitor")["spec"]["endpoints"]
    service = by_kind(things, "Service")["spec"]["ports"]
    scraped = next(port for port in service if port["name"] == endpoint["port"])
    assert scraped["targetPort"] == "metrics"


def test_every_value_renders_to_what_an_api_server_takes(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(EVERYTHING)
    things = template("--values", str(values))
    kinds = {thing["kind"] for thing in things}
    assert kinds >= {"InferencePool", "NetworkPolicy", "ServiceMonitor", "PodDisruptionBudget"}
    assert kinds >= {"PrometheusRule", "ScaledObject", "PersistentVolumeClaim"}
    # These a real API server checks: tests/mesh.
    others = {"PrometheusRule", "ServiceMonitor"}
    checked = [thing for thing in things if thing["kind"] not in others]
    assert [line for thing in checked for line in problems(thing)] == []
    tls = configuration(things).listen.tls
    assert tls is not None
    assert tls.certificate == "/tls/tls.crt"


def test_one_sidecar_has_no_budget_that_would_hold_a_drain_up() -> None:
    assert "PodDisruptionBudget" not in {thing["kind"] for thing in template()}


def configuration(things: list[dict[str, Any]]) -> Config:
    text = by_kind(things, "ConfigMap")["data"]["weighbridge.yaml"]
    return Config.model_validate(yaml.safe_load(text))


def test_files_of_ones_own_lie_beside_the_configuration(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(EVERYTHING)
    things = template("--values", str(values))
    data = by_kind(things, "ConfigMap")["data"]
    assert data["mine.yaml"] == "name: mine"
    assert data["jwks.json"] == '{"keys": []}'
    pod = by_kind(things, "Deployment")["spec"]["template"]["spec"]
    mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    assert mounts["config"] == "/etc/weighbridge"
    assert mounts["secrets"] == "/secrets"
    assert mounts["big"] == "/big"
    assert {one["name"] for one in pod["volumes"]} == mounts.keys()
    usage_log = configuration(things).usage_log.path
    assert usage_log is not None
    assert usage_log.startswith(mounts["usage"] + "/")


def test_alerts_and_dashboard_are_those_of_deploy(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(EVERYTHING)
    things = template("--values", str(values))
    [alerts] = read(ROOT / "deploy" / "prometheus" / "alerts.yaml")
    assert by_kind(things, "PrometheusRule")["spec"] == alerts
    dashboards = [one["data"] for one in things if "weighbridge.json" in one.get("data", {})]
    shipped = json.loads((ROOT / "deploy" / "grafana" / "weighbridge.json").read_text())
    assert [json.loads(one["weighbridge.json"]) for one in dashboards] == [shipped]
    # They ask for the job `weighbridge`, whatever the release is called.
    assert by_kind(things, "ServiceMonitor")["spec"]["jobLabel"] == "app.kubernetes.io/name"


def test_autoscalers_are_those_of_deploy(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    model = "meta-llama/Llama-3.1-8B-Instruct"
    one = {"deployment": "llama-3-1-8b", "model": model, "minReplicas": 1, "maxReplicas": 16}
    for kind, name in (("keda", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler")):
        values.write_text(yaml.safe_dump({"autoscaling": {"kind": kind, "models": [one]}}))
        made = by_kind(template("--values", str(values)), name)
        [shipped] = read(ROOT / "deploy" / "autoscaling" / f"{kind}.yaml")
        assert made["spec"] == shipped["spec"]


def test_an_account_that_others_give_rights_to_keeps_its_token() -> None:
    things = template("--set", "rbac.create=false")
    assert "Role" not in {thing["kind"] for thing in things}
    assert by_kind(things, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("replicas=0", "replicas"),
        ("imagee.tag=1", "imagee"),
        ("inferencePool.failureMode=Open", "failureMode"),
        ("extraFiles.weighbridge\\.yaml=1", "extraFiles"),
        ("usageLog.enabled=true,replicas=2", "ReadWriteMany"),
    ],
)
def test_values_that_are_wrong_are_refused_by_their_name(wrong: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        template("--set", wrong)
