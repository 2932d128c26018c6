"""One principal judged alone gets the same results as in a replay of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.contracts.batches import concatenate, cut, take
from detector.contracts.codecs import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Alert
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import Topics, partition_of
from detector.core.configuration import EngineConfig
from detector.policy.config import Policy
from detector.replay import principal as replaying
from detector.replay.judging import judge_logs
from detector.replay.principal import (
    PrincipalReplay,
    queries_after,
    queries_in_logs,
    queries_in_partition,
    queries_of,
    replay_principal,
)
from detector.sources import LogReader
from detector.stream.source_records import ORIGIN, SourceRecord
from tests.core.honest import honest, of_version, thief
from tests.sources.logs import write_jsonl

QUERIES = 220


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A thief's queries, to two versions: first between those of an honest account whose clock is an hour ahead, and
    in a second file alone."""
    folder, stealing = tmp_path_factory.mktemp("log"), thief(rows=QUERIES)
    ahead = honest("ana", 1, rows=60)
    ahead = replace(ahead, occurred_at=ahead.occurred_at + 3600.0)
    both = [cut(batch, start, start + 20) for start in (0, 20, 40) for batch in (stealing, ahead)]
    alone = [cut(stealing, 60, 200), of_version(cut(stealing, 200, QUERIES), "2")]
    return [write_jsonl(folder / "1.jsonl", *both), write_jsonl(folder / "2.jsonl", *alone)]


def _followed(logs: list[Path], config: EngineConfig, principal: str = "mallory") -> PrincipalReplay:
    own = queries_of(principal, queries_in_logs(logs, LogReader(), lambda _: None))
    return replay_principal(own.of(None), config, Policy())


@pytest.mark.parametrize("mode", ["default", "compatible"])
def test_verdicts_figures_and_records_are_those_of_the_replay_of_everybody(logs: list[Path], mode: Any) -> None:
    config = EngineConfig(mode=mode)
    course = _followed(logs, config)
    flagged, w, alerts = [], [], []
    for _, judgement in judge_logs(logs, engine_config=config, policy=Policy()):
        assert judgement is not None
        seen = judgement.observation
        own = np.array([key.principal == "mallory" for key in seen.keys])[seen.key_index]
        flagged += seen.flagged[own].tolist()
        w += seen.signals["prada"][own].tolist()
        alerts += judgement.effects.alerts
    assert course.flagged.tolist() == flagged
    np.testing.assert_allclose(course.signals["prada"], w, atol=1e-9)
    told = [(row, record) for row, record in course.records if isinstance(record, Alert)]
    assert [record for _, record in told] == [alert for alert in alerts if alert.principal == "mallory"]
    assert all(course.versions[: row + 1].count(one.model_version) == one.query_index + 1 for row, one in told)
    assert course.verdict == told[0][0]


@pytest.mark.parametrize("mode", ["default", "compatible"])
def test_the_distances_are_those_that_w_rests_on(logs: list[Path], mode: Any) -> None:
    from scipy.stats import shapiro

    course = _followed(logs, EngineConfig(mode=mode))
    assert course.verdict is not None
    distances = course.distances[course.verdict]
    kept = distances[np.abs(distances - distances.mean()) < 3 * distances.std()]
    assert shapiro(kept).statistic == pytest.approx(course.signals["prada"][course.verdict], abs=1e-6)
    assert set(course.distances) == {course.verdict, QUERIES - 1}


def test_the_cut_into_micro_batches_changes_nothing(logs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _followed(logs, EngineConfig())
    monkeypatch.setattr(replaying, "_ROWS_AT_ONCE", 7)
    small = _followed(logs, EngineConfig())
    assert small.records == whole.records
    assert small.flagged.tolist() == whole.flagged.tolist()
    np.testing.assert_allclose(small.signals["prada"], whole.signals["prada"], atol=1e-9)


def test_what_the_engine_refuses_is_counted_and_left_out() -> None:
    good = honest("ana", 1, rows=30)
    narrow = replace(cut(good, 10, 12), features=good.features[10:12, :3])
    pieces = [cut(good, 0, 10), narrow, cut(good, 12, 30)]
    course = replay_principal([(piece, piece.occurred_at) for piece in pieces], EngineConfig(), Policy())
    assert (len(course), course.refused) == (28, 2)
    assert course.time.tolist() == np.delete(good.occurred_at, [10, 11]).tolist()
    with pytest.raises(ConfigurationError, match="the engine refused all of these queries"):
        replay_principal([(narrow, narrow.occurred_at)], EngineConfig(dimensions={"credit": 6}), Policy())


def test_a_partition_gives_who_lives_in_it_with_its_owners_times() -> None:
    mine = next(name for name in map(str, range(99)) if partition_of(name, 3) == 1)
    stray = next(name for name in map(str, range(99)) if partition_of(name, 3) == 2)
    queries = replace(
        honest("ana", 1, rows=8), principals=[mine, stray], principal_index=np.arange(8, dtype=np.int32) % 2
    )
    records = [
        _record("queries", 0, cut(queries, 0, 4), 100.0),
        _record("rekeyed", 0, take(queries, np.array([4])), 103.0, b"0:9"),
        _record("queries", 1, cut(queries, 6, 8), 102.0),
        _record("rekeyed", 1, take(queries, np.array([4])), 104.0, b"0:9"),
        _record("rekeyed", 2, take(queries, np.array([4])), 105.0, b"nonsense"),
    ]
    own = queries_of(mine, queries_in_partition(records, 1, 3, Topics("t"))).of("credit")
    (kept,) = concatenate(batch for batch, _ in own)
    assert kept.event_ids == [queries.event_ids[row] for row in (0, 2, 4, 6)]
    assert np.concatenate([times for _, times in own]).tolist() == [100.0, 100.0, 103.0, 103.0]
    assert [len(batch) for batch, _ in queries_after(own, 100.0)] == [2]


def _record(source: str, offset: int, queries: QueryBatch, timestamp: float, origin: bytes = b"") -> SourceRecord:
    headers = {"content-type": PACKED_CONTENT_TYPE.encode()} | ({ORIGIN: origin} if origin else {})
    return SourceRecord(source, offset, timestamp, None, encode_packed(queries), headers)
