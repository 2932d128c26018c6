"""Metrics: all defined metrics are served and no others, labels stay bounded, and no principal becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from deploy.generate import document
from detector.runtime import metric_defs as defs
from detector.runtime.metrics import Metrics, new_metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry, models=2)


@pytest.mark.parametrize("component", get_args(defs.Component))
def test_a_process_serves_exactly_what_is_defined_for_it(component: defs.Component) -> None:
    metrics = new_metrics(5, component)
    families = {family.name for family in text_string_to_metric_families(metrics.render().decode())}
    ours = {name for name in families if name.startswith("weirguard_")}
    assert ours == {metric.full_name.removesuffix("_total") for metric in defs.METRICS if metric.component == component}
    assert ours
    assert any(name.startswith("process_") for name in families)


def test_counters_gauges_and_histograms_take_values(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.add(defs.QUERIES, 3, model="iris")
    metrics.set(defs.STATE_BYTES, 12)
    metrics.observe(defs.SCORE, [0.3, 1.2], model="iris")
    assert registry.get_sample_value("weirguard_queries_total", {"model": "iris"}) == 3
    assert registry.get_sample_value("weirguard_state_bytes") == 12
    labels = {"model": "iris", "le": "1.0"}
    assert registry.get_sample_value("weirguard_score_ratio_bucket", labels) == 1


def test_models_beyond_the_bound_share_one_label(metrics: Metrics, registry: CollectorRegistry) -> None:
    for model in ("a", "b", "c", "d", "a"):
        metrics.add(defs.QUERIES, model=model)
    counted = {name: registry.get_sample_value("weirguard_queries_total", {"model": name}) for name in "abcd"}
    assert counted == {"a": 2, "b": 1, "c": None, "d": None}
    assert registry.get_sample_value("weirguard_queries_total", {"model": "other"}) == 2


def test_a_value_outside_a_closed_set_is_refused(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="action has no value 'shout'"):
        metrics.add(defs.DECISIONS, action="shout", mode="observe", origin="signal")


def test_missing_and_foreign_labels_are_refused(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="has the labels"):
        metrics.add(defs.QUERIES)
    with pytest.raises(ValueError, match="has the labels"):
        metrics.add(defs.QUERIES, model="a", principal="alice")


def test_replacing_a_gauge_drops_what_is_gone(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.replace(defs.DECISIONS_ACTIVE, {("a", "slow", "observe"): 2, ("b", "slow", "observe"): 1})
    metrics.replace(
        defs.DECISIONS_ACTIVE,
        {("b", "slow", "observe"): 5, ("c", "slow", "observe"): 1, ("d", "slow", "observe"): 2},
    )

    def value(model: str) -> float | None:
        labels = {"model": model, "action": "slow", "mode": "observe"}
        return registry.get_sample_value("weirguard_decisions_active", labels)

    assert [value(model) for model in ("a", "b", "other")] == [None, 5, 3]


def test_counters_with_closed_labels_begin_at_zero(metrics: Metrics, registry: CollectorRegistry) -> None:
    assert registry.get_sample_value("weirguard_records_total", {"topic": "queries"}) == 0


def test_two_registries_do_not_collide() -> None:
    Metrics(CollectorRegistry())
    Metrics(CollectorRegistry())


def test_names_follow_prometheus_conventions() -> None:
    assert len({metric.name for metric in defs.METRICS}) == len(defs.METRICS)
    for metric in defs.METRICS:
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
        assert list(metric.buckets) == sorted(metric.buckets)
        assert metric.help.endswith("."), metric.name


def test_no_metric_names_a_principal() -> None:
    names = {label.name for metric in defs.METRICS for label in metric.labels}
    assert names.isdisjoint({"principal", "account", "user", "api_key", "client"})


def test_the_page_of_metrics_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text() == document(), "run `make generate`"
