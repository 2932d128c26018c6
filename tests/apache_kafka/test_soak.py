"""The short form of `make soak`."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.soak import Sample, Soak, run
from tests.conftest import Broker


def test_under_steady_load_checkpoints_cut_the_log_and_nothing_is_lost(broker: Broker, tmp_path: Path) -> None:
    soak = run(broker.process, tmp_path, 25.0, 200.0, lambda _: None)
    assert soak.problems == []
    assert soak.rounds > 0


def test_growth_is_seen() -> None:
    flat = [Sample(second, 100, 50, 3) for second in range(9)]
    leaking = [Sample(second, 100 + 10 * second, 40 * second, 3) for second in range(9)]
    assert Soak(flat, [], 1, 1).growth() == []
    assert len(Soak(leaking, [], 1, 1).growth()) == 2
