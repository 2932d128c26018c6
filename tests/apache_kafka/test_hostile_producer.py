"""The short form of ``benchmarks.hostile_producer``: nonsense in every form that Kafka's protocol has."""

from __future__ import annotations

from pathlib import Path

from detector.contracts.codecs.limits import REASONS
from tests.chaos.onslaught import PARTITIONS, run
from tests.conftest import Broker


def test_a_hostile_producer_stops_nothing_and_hides_nothing(broker: Broker, tmp_path: Path) -> None:
    found = run(broker.bootstrap, tmp_path, records=20_000, good=2_000, newcomers=2_000, letters_per_minute=200)
    assert found.restarts == 0, (tmp_path / "worker.log").read_text()[-4000:]
    assert found.sent.due.total() > 2_000
    assert found.sent.given_up > 0
    assert found.unjudged == {}
    assert found.counted.total() > 15_000
    assert set(found.counted) <= {*REASONS, "content-type", "partition", "origin", "poison"}
    assert found.counted["poison"] == 0
    minutes = found.seconds // 60 + 2
    most = len(found.counted) * PARTITIONS * minutes * 200 * 2
    assert 0 < found.letters < most
    assert found.letters <= found.counted.total() - found.not_kept
    assert found.at(1.0).resident < found.at(0.5).resident * 1.3 + 20
