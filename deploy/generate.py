"""``make generate``: writes the files that are made from the metric definitions."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.build_dashboard import render
from detector.runtime.metric_defs import METRICS, Metric

ROOT = Path(__file__).parents[1]


def document() -> str:
    """Returns the text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Made from `detector/runtime/metric_defs.py` by `make generate`; do not edit.",
        "",
        "`weirguard notify` serves the metrics that begin with `weirguard_notify_`, `weirguard run` the others, on",
        "`/metrics` of the metrics port. No principal is ever a label. A label without a list of values has a bounded",
        "number of values and counts the rest under `other`.",
        "",
        "| metric | type | unit | labels | meaning |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{metric.full_name}` | {metric.kind} | {metric.unit} | {_labels(metric)} | {metric.help} |"
        for metric in METRICS
    ]
    return "\n".join(lines) + "\n"


def _labels(metric: Metric) -> str:
    return "; ".join(
        f"`{label.name}`" + (f" ({', '.join(label.values)})" if label.values else "") for label in metric.labels
    )


GENERATED = {
    ROOT / "docs" / "metrics.md": document,
    ROOT / "deploy" / "grafana" / "dashboards" / "weirguard.json": render,
}


def main() -> None:
    """Write them all."""
    for path, make in GENERATED.items():
        path.write_text(make())


if __name__ == "__main__":
    main()
