"""Builds the dashboard from the metric definitions, so that it cannot show a metric that does not exist."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from detector.runtime import metric_defs as defs
from detector.runtime.metric_defs import Metric

DATASOURCE = {"type": "prometheus", "uid": "weirguard-prometheus"}
_WIDTH = 24
_HEIGHT = 8
_UNITS = {"seconds": "s", "bytes": "bytes"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: ``queries`` are pairs of a PromQL expression and a legend."""

    title: str
    metrics: tuple[Metric, ...]
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "heatmap"] = "timeseries"
    width: int = 8
    options: dict[str, Any] = field(default_factory=dict)


def rate(metric: Metric, by: str = "", unit: str = "short") -> Panel:
    """Increase a second of a counter, by labels."""
    expression = f"sum by ({by}) (rate({metric.full_name}[$__rate_interval]))"
    return Panel(f"{_title(metric)} a second", (metric,), ((expression, _legend(by)),), unit)


def level(metric: Metric, by: str = "") -> Panel:
    """A gauge, summed over workers, by labels."""
    expression = f"sum by ({by}) ({metric.full_name})"
    return Panel(_title(metric), (metric,), ((expression, _legend(by)),), _UNITS.get(metric.unit, "short"))


def count(metric: Metric) -> Panel:
    """How much a counter has grown over the time that is looked at, as one number."""
    expression = f"sum(increase({metric.full_name}[$__range]))"
    return Panel(_title(metric), (metric,), ((expression, ""),), kind="stat", width=4)


def quantiles(metric: Metric, by: str) -> Panel:
    """Median and 99th percentile of a histogram, by labels."""
    queries = tuple(
        (
            f"histogram_quantile({share}, sum by (le, {by}) (rate({metric.full_name}_bucket[$__rate_interval])))",
            f"{_legend(by)} p{round(share * 100)}",
        )
        for share in (0.5, 0.99)
    )
    return Panel(_title(metric), (metric,), queries, _UNITS.get(metric.unit, "short"), width=12)


def distribution(metric: Metric) -> Panel:
    """A histogram over time, as a heat map."""
    expression = f"sum by (le) (increase({metric.full_name}_bucket[$__rate_interval]))"
    options = {"calculate": False, "yAxis": {"unit": "short"}, "color": {"scheme": "Oranges"}}
    return Panel(_title(metric), (metric,), ((expression, "{{le}}"),), kind="heatmap", width=12, options=options)


def _since(metric: Metric, title: str) -> Panel:
    return Panel(title, (metric,), ((f"time() - max({metric.full_name})", ""),), "s", kind="stat", width=4)


def _versions(metric: Metric) -> Panel:
    query = (f"sum by (version) ({metric.full_name})", "{{version}}")
    return Panel("Workers by version", (metric,), (query,), kind="stat", width=4)


def _profiles(metric: Metric) -> Panel:
    by = "model, model_version, profile"
    return Panel("Workers by profile", (metric,), ((f"sum by ({by}) ({metric.full_name})", _legend(by)),), width=12)


def _restored() -> Panel:
    metrics = (defs.PARTITIONS_ASSIGNED, defs.PARTITIONS_RECOVERED)
    queries = tuple((f"sum({metric.full_name})", metric.name.removeprefix("partitions_")) for metric in metrics)
    return Panel("Partitions", metrics, queries)


def rows() -> tuple[tuple[str, tuple[Panel, ...]], ...]:
    """Titles and panels of the rows, from the top."""
    return (
        (
            "At a glance",
            (
                _versions(defs.BUILD_INFO),
                _since(defs.LAST_RECORD, "Since the last record"),
                count(defs.QUERIES),
                count(defs.ALERTS),
                count(defs.DECISIONS),
                count(defs.RESTARTS),
            ),
        ),
        (
            "Suspects",
            (
                rate(defs.ALERTS, "model, signal, severity"),
                level(defs.DECISIONS_ACTIVE, "model, action, mode"),
                rate(defs.DECISIONS, "action, mode, origin"),
                distribution(defs.SCORE),
                quantiles(defs.SCORE, "model"),
                quantiles(defs.EXPOSURE, "model, signal"),
                quantiles(defs.BUDGET_USED, "model"),
                _profiles(defs.PROFILE_INFO),
                level(defs.GROUPS, "model, state"),
                level(defs.GROUP_MEMBERS, "model, state"),
                level(defs.JOINT_EXPOSURE, "model, kind"),
                rate(defs.GROUP_ALERTS, "model, severity"),
            ),
        ),
        (
            "Flow",
            (
                rate(defs.QUERIES, "model"),
                rate(defs.RECORDS, "topic"),
                rate(defs.GROUP_QUERIES, "model"),
                rate(defs.GROUP_QUERIES_LINKED, "model"),
                level(defs.EVENT_TIME_LAG),
                level(defs.RECORDS_BEHIND, "topic"),
                level(defs.RECORDS_UNCOMMITTED, "topic"),
                _restored(),
                rate(defs.DEAD_LETTERS, "reason"),
                rate(defs.REPAIRED, "what"),
                rate(defs.DEAD_LETTERS_NOT_KEPT, "reason"),
                rate(defs.REFUSED, "topic"),
                rate(defs.INTERNAL_ERRORS, "where"),
                rate(defs.MISFITS, "model, reason"),
                rate(defs.QUERIES_ANSWERED, "model"),
                rate(defs.QUERIES_REPEATED, "model"),
                rate(defs.QUERIES_UNCALIBRATED, "model"),
                rate(defs.QUERIES_UNJUDGED, "model, reason"),
                rate(defs.QUERIES_DROPPED, "model, reason"),
                rate(defs.QUERIES_EXCUSED, "model"),
                rate(defs.QUERIES_MISSING, "kind"),
                rate(defs.REKEYED),
                rate(defs.GAPS, "topic"),
                rate(defs.RECORDS_LOST, "topic"),
                rate(defs.RECORD_TIMES_CLAMPED, "fault"),
                quantiles(defs.STAGE_DURATION, "stage"),
            ),
        ),
        (
            "State",
            (
                level(defs.PRINCIPALS_TRACKED),
                level(defs.STATE_BYTES),
                rate(defs.EVICTIONS),
                rate(defs.STATE_LOG_RECORDS, "kind"),
                rate(defs.STATE_LOG_BYTES, "kind", "Bps"),
                rate(defs.CHECKPOINT_ROUNDS),
                rate(defs.STALE_RECORDS),
                rate(defs.SKIPPED_SECTIONS),
            ),
        ),
        (
            "Notifications",
            (
                rate(defs.NOTIFY_DELIVERED, "receiver"),
                level(defs.NOTIFY_LAG, "receiver"),
                rate(defs.NOTIFY_RETRIES, "receiver"),
                rate(defs.NOTIFY_REFUSED, "receiver"),
                rate(defs.NOTIFY_UNREADABLE, "receiver"),
            ),
        ),
    )


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model."""
    return {
        "uid": "weirguard",
        "title": "Weirguard",
        "tags": ["weirguard"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": _placed(rows()),
    }


def render() -> str:
    """The text of dashboards/weirguard.json."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _placed(rows: Sequence[tuple[str, Sequence[Panel]]]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    bottom = 0
    for title, members in rows:
        place = {"h": 1, "w": _WIDTH, "x": 0, "y": bottom}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "panels": []})
        x, y = 0, bottom + 1
        for panel in members:
            if x + panel.width > _WIDTH:
                x, y = 0, y + _HEIGHT
            panels.append(_drawn(panel, len(panels) + 1, {"h": _HEIGHT, "w": panel.width, "x": x, "y": y}))
            x += panel.width
        bottom = y + _HEIGHT
    return panels


def _drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": " ".join(metric.help for metric in panel.metrics),
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": panel.options,
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": DATASOURCE,
                "expr": expression.replace(" by ()", ""),
                "legendFormat": legend or panel.title,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
            }
            for at, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _title(metric: Metric) -> str:
    words = metric.name.removesuffix("_total").removesuffix("_seconds").removesuffix("_ratio").split("_")
    return " ".join(words).capitalize()


def _legend(by: str) -> str:
    return " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",") if label.strip())
