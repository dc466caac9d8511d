"""Dashboard, alerts and autoscaling: they ask for metrics and labels that the sidecar has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.schema import problems, read
from weighbridge.admin.catalogue import CATALOGUE

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "weighbridge.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
AUTOSCALING = DEPLOY / "autoscaling"
# What Prometheus itself adds to every target's series.
ADDED_LABELS = {"instance", "job", "le"}
METRIC = re.compile(r"\b(?:weighbridge|gen_ai)_[a-z_]+")
SELECTOR = re.compile(r"\b((?:weighbridge|gen_ai)_[a-z_]+)\{([^}]*)\}")
GROUPING = re.compile(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)")


def labels_by_name() -> dict[str, set[str]]:
    """Each name that a query may use, with its labels."""
    known: dict[str, set[str]] = {}
    for spec in CATALOGUE:
        labels = set(spec.labels) | ADDED_LABELS
        known[spec.shown_name] = labels
        if spec.kind == "histogram":
            known |= {f"{spec.shown_name}_{part}": labels for part in ("bucket", "count", "sum")}
    return known


def mistakes(query: str) -> list[str]:
    """Metrics and labels of a query that the sidecar does not have."""
    known = labels_by_name()
    # A label may have the same beginning as a metric: gen_ai_request_model.
    labels = set().union(*known.values())
    names = set(METRIC.findall(query)) - labels
    found = [f"no metric {name}" for name in sorted(names - known.keys())]
    for name, selector in SELECTOR.findall(query):
        asked = set(re.findall(r"([a-z_]+)\s*(?:=|!=|=~|!~)\s*\"", selector))
        found += [f"{name} has no label {one}" for one in asked - known.get(name, asked)]
    may_group = set().union(*(known[name] for name in names & known.keys()))
    for group in GROUPING.findall(query):
        asked = {one.strip() for one in group.split(",")}
        found += [f"no label {one} to group by" for one in asked - may_group]
    return found


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def alert_queries() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            if "weighbridge_" in rule["expr"]:
                yield rule["alert"], rule["expr"]


def promtool(*arguments: str | Path) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("NOT TESTED: promtool is missing (apt-get install prometheus)")
    result = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("title", "query"), [*dashboard_queries(), *alert_queries()])
def test_every_query_asks_for_what_there_is(title: str, query: str) -> None:
    assert METRIC.search(query), title
    assert mistakes(query) == []


def test_a_metric_or_label_that_is_not_there_is_found() -> None:
    assert mistakes("weighbridge_decisions") == ["no metric weighbridge_decisions"]
    assert mistakes('weighbridge_decisions_total{tenant="a"}') == [
        "weighbridge_decisions_total has no label tenant"
    ]
    assert mistakes("sum by (tenant) (weighbridge_streams)") == ["no label tenant to group by"]


def test_every_panel_is_a_question() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len(panels) > 20
    for panel in panels:
        assert panel["title"].endswith("?")
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_panels_do_not_lie_upon_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (at["x"] + column, at["y"] + line)
            for column in range(at["w"])
            for line in range(at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {"record": "query", "expr": query.replace("$model", ".*")}
        for _, query in dashboard_queries()
    ]
    # As recording rules, which promtool parses; each with a label, so that none is a duplicate.
    for number, rule in enumerate(rules):
        rule["labels"] = {"number": str(number)}
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_alerts_fire_when_they_should_and_not_else() -> None:
    promtool("test", "rules", DEPLOY / "prometheus" / "alerts.test.yaml")
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yaml")
    tested = (DEPLOY / "prometheus" / "alerts.test.yaml").read_text()
    alerts = [
        rule["alert"]
        for group in yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]
    ]
    # Each once where nothing is wrong, and once where it is.
    assert [name for name in alerts if tested.count(f"alertname: {name}") < 2] == []


def test_every_alert_has_its_runbook() -> None:
    page = (DEPLOY.parent / "docs" / "operating.md").read_text()
    headings = {
        line.removeprefix("#### ") for line in page.splitlines() if line.startswith("#### ")
    }
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            name = rule["alert"]
            assert f"| [{name}](#{name.lower()})" in page, "listed"
            assert name in headings, "with what to do"
            assert rule["annotations"]["runbook"] == f"docs/operating.md#{name.lower()}"


def test_what_several_sidecars_need_is_added_up() -> None:
    queries = [
        read(AUTOSCALING / "keda.yaml")[0]["spec"]["triggers"][0]["metadata"]["query"],
        read(AUTOSCALING / "prometheus-adapter.yaml")[0]["rules"]["external"][0]["metricsQuery"],
        *(query for _, query in alert_queries() if "needed_replicas" in query),
        *(query for _, query in dashboard_queries() if "needed_replicas" in query),
    ]
    assert len(queries) >= 5
    assert [query for query in queries if "sum by" not in query] == []


@pytest.mark.parametrize("file", ["keda.yaml", "hpa.yaml"])
def test_autoscaling_examples_fit_their_schemas(file: str) -> None:
    things = read(AUTOSCALING / file)
    assert [line for thing in things for line in problems(thing)] == []


def test_autoscaling_examples_ask_for_a_number_of_replicas() -> None:
    scaled: dict[str, Any] = read(AUTOSCALING / "keda.yaml")[0]["spec"]["triggers"][0]
    assert mistakes(scaled["metadata"]["query"]) == []
    # Desired = metric ÷ threshold.
    assert (scaled["metricType"], scaled["metadata"]["threshold"]) == ("AverageValue", "1")
    external = read(AUTOSCALING / "hpa.yaml")[0]["spec"]["metrics"][0]["external"]
    rule = read(AUTOSCALING / "prometheus-adapter.yaml")[0]["rules"]["external"][0]
    assert external["metric"]["name"] == rule["name"]["as"]
    assert mistakes(rule["seriesQuery"]) == []
    assert external["target"] == {"type": "AverageValue", "averageValue": "1"}
