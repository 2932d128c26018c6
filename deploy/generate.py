"""``make generate``: writes the files that are made from the metric definitions."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.build_dashboard import render
from detector.runtime.metric_defs import document

ROOT = Path(__file__).parents[1]

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
