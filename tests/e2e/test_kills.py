"""kill -9 of workers under load, on whichever broker this run has: the outcome is that of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.faults import KILLS
from tests.chaos.harness import Scale, run_series
from tests.conftest import Broker


def test_killing_workers_changes_nothing(broker: Broker, tmp_path: Path) -> None:
    lines: list[str] = []
    scale = Scale(queries_per_second=200.0, partitions=4, queries_to_next_thief=300)
    result = run_series(
        "kills", KILLS, broker.process, tmp_path, seed=5, scale=scale, say=lines.append, embedded=broker.embedded
    )
    assert result.problems == []
    assert result.differences == []
    assert result.outcome["alerts"] > 0, "a run without a thief found shows little"
