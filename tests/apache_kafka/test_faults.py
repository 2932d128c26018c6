"""The short form of `make chaos`: whatever dies, leaves, freezes or changes, the outcome is that of an
undisturbed run."""

from __future__ import annotations

from pathlib import Path

from tests.brokers.moving import MovingNode
from tests.chaos.faults import SHORT, SHORT_CHANGES
from tests.chaos.harness import Scale, run_series
from tests.conftest import Broker


def test_three_kills_two_leaves_and_a_freeze_change_nothing(broker: Broker, tmp_path: Path) -> None:
    lines: list[str] = []
    scale = Scale(queries_per_second=200.0, partitions=4, queries_to_next_thief=600)
    result = run_series("short", SHORT, broker.process, tmp_path, seed=7, scale=scale, say=lines.append)
    assert result.problems == []
    assert result.differences == []
    assert result.outcome["alerts"] > 0, "a run without a thief found shows little"
    assert result.outcome["members"] > 0, "nor one without a group"


def test_what_changes_under_it_changes_nothing_or_stops_it(tmp_path: Path) -> None:
    lines: list[str] = []
    scale = Scale(queries_per_second=150.0, partitions=3, queries_to_next_thief=600)
    with MovingNode(tmp_path / "node", "compression.type=zstd") as node:
        result = run_series(
            "short", SHORT_CHANGES, node, tmp_path, seed=3, scale=scale, say=lines.append, instruments=node.steady
        )
    assert result.problems == []
    assert result.differences == []
    assert result.outcome["alerts"] > 0, "a run without a thief found shows little"
    assert result.audit["letters"] == 1
    said_of_kafka = [
        line for log in tmp_path.glob("*.log") for line in log.read_text().splitlines() if "aiokafka" in line
    ]
    assert len(said_of_kafka) < 200, "a broker that is away is said once, not 80 times a second"
