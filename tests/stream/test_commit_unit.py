"""Exposures reach the metrics by model and signal, never by principal; silent ones do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from detector.core.engine import Observation, PrincipalKey
from detector.core.exposure import EXPOSURES
from detector.core.signals import SIGNALS
from detector.policy.activity import Effects
from detector.runtime.health import Health
from detector.runtime.metric_defs import EXPOSURE
from detector.runtime.metrics import new_metrics
from detector.stream.commit_unit import CommitUnit
from detector.stream.intake import DecodedRecords
from detector.stream.reporter import Reporter
from detector.stream.scores import last_rows

SEEN = Observation(
    keys=[PrincipalKey("iris", "1", "ana"), PrincipalKey("iris", "1", "bob"), PrincipalKey("wine", "1", "ana")],
    key_index=np.array([0, 0, 1, 2], np.int32),
    index=np.array([0, 1, 0, 0], np.int64),
    flagged=np.zeros(4, bool),
    score=np.full(4, np.nan),
    repeats=np.zeros(4, bool),
    signals={
        "information_gain": np.array([10.0, 62.0, 93.0, np.nan]),
        "coverage": np.array([10.0, 31.0, 100.0, 5.0]),
        "prada": np.full(4, 0.9),
    },
    findings=[],
    sections={},
)


def _counted() -> CommitUnit:
    step = CommitUnit((1, 1), "delta", [b""])
    step.count_batch(DecodedRecords(), SEEN, Effects(), last_rows(SEEN))
    return step


def test_the_last_row_of_each_principal_counts() -> None:
    assert _counted().observed == {
        (EXPOSURE, ("iris", "information_gain")): [0.62, 0.93],
        (EXPOSURE, ("iris", "coverage")): [0.31, 1.0],
        (EXPOSURE, ("wine", "coverage")): [0.05],
    }


def test_they_are_served_without_principals() -> None:
    metrics = new_metrics(5)
    partition: Any = SimpleNamespace(number=0)
    record: Any = SimpleNamespace(source="queries", offset=3, timestamp=1.0)
    Reporter(Health(lambda: 0.0, 60.0), metrics, lambda: 2.0).performed([(partition, [record], _counted())])
    served = [line for line in metrics.render().decode().splitlines() if "exposure_ratio" in line]
    assert 'weirguard_exposure_ratio_bucket{le="0.7",model="iris",signal="information_gain"} 1.0' in served
    assert 'weirguard_exposure_ratio_count{model="iris",signal="coverage"} 2.0' in served
    assert not any("ana" in line or "bob" in line for line in served)


def test_every_exposure_is_a_signal() -> None:
    assert set(EXPOSURES) <= set(SIGNALS)
