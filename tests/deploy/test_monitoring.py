"""Dashboard and alert rules speak of metrics and labels that exist, and of all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.generate import GENERATED
from deploy.grafana.build_dashboard import DATASOURCE, dashboard
from detector.runtime.metric_defs import METRICS, PREFIX
from detector.runtime.sections import MetricsSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
SERIES = {
    metric.full_name + suffix: metric
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _drawn() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


EXPRESSIONS = [*_drawn(), *(rule["expr"] for rule in _rules())]


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == GENERATED[path](), "run `make generate`"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_uses_series_and_labels_that_exist(expression: str) -> None:
    series = re.findall(rf"{PREFIX}\w+", expression)
    assert set(series) <= SERIES.keys()
    known = {label.name for name in series for label in SERIES[name].labels} | {"le", "job", "instance"}
    grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}
    matched = set(re.findall(r'(\w+)[=!]~?"', expression))
    assert grouped | matched <= known


def test_the_dashboard_shows_every_metric() -> None:
    shown = {SERIES[name].name for expression in _drawn() for name in re.findall(rf"{PREFIX}\w+", expression)}
    assert shown == {metric.name for metric in METRICS}


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_reads_from_the_provisioned_datasource() -> None:
    path = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    [source] = yaml.safe_load(path.read_text())["datasources"]
    assert (source["type"], source["uid"]) == (DATASOURCE["type"], DATASOURCE["uid"])


def test_every_alert_is_told_apart_explained_and_graded() -> None:
    rules = _rules()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["alert"].startswith("Weirguard")
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_every_alert_fires_in_a_rule_test_and_is_silent_in_another() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in _rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_prometheus_scrapes_the_port_that_detector_and_notifier_serve() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"] for job in config["scrape_configs"]}
    port = MetricsSettings().port
    assert targets == {
        "weirguard": [{"targets": [f"detector:{port}"]}],
        "weirguard-notify": [{"targets": [f"notify:{port}"]}],
    }
    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])


def test_the_committed_dashboard_is_json() -> None:
    text = (DEPLOY / "grafana" / "dashboards" / "weirguard.json").read_text()
    assert json.loads(text)["uid"] == "weirguard"
