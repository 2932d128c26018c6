"""The odometer trains small clones on an account, and says what the lab knows of clones that agree as much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.queries import QueryBatch
from detector.core.engine import EngineConfig
from detector.explain.words import learned
from detector.replay.odometer import Odometer, Reading
from tests.core.exposures import DIMENSION, Queries, asked, profile, stream, tree, validation

ONES = np.ones(DIMENSION, np.float32)


def agreement(own: Queries, count: int | None = None) -> float:
    answers = tree().outputs(own.features[:count])
    found = Odometer(validation(), ONES).agreement(own.features[:count], answers, "probabilities")
    assert found is not None
    return found


def test_more_answers_make_better_clones_up_to_nearly_all_of_the_model() -> None:
    read = [agreement(asked(51, 500), count) for count in (5, 40, 500)]
    assert read[0] < read[1] - 0.05 < read[2] - 0.1
    assert read[2] > 0.7


def test_what_teaches_nothing_moves_nothing() -> None:
    corner = asked(52, 300, spread=0.05)
    assert len(np.unique(corner.labels)) == 1
    share = float((validation().labels[:300] == corner.labels[0]).mean())
    assert agreement(corner) == pytest.approx(share, abs=0.02)


def test_repeats_change_nothing() -> None:
    once = asked(53, 60)
    twice = replace(once, features=np.tile(once.features, (3, 1)))
    assert agreement(twice) == agreement(once)


def test_a_thief_who_sees_labels_alone_is_read_too() -> None:
    own, odometer = asked(54, 300), Odometer(validation(), ONES)
    labels = own.labels[:, None].astype(np.float32)
    found = odometer.agreement(own.features, labels, "label")
    assert found is not None and found == pytest.approx(agreement(own), abs=0.05)


def test_labels_that_the_model_does_not_have_take_no_more_memory() -> None:
    own, odometer = asked(54, 300), Odometer(validation(), ONES)
    labels = own.labels[:, None].astype(np.float32)
    labels[:3, 0] = 1e9, -1.0, np.nan
    found = odometer.agreement(own.features, labels, "label")
    assert found is not None and found == pytest.approx(agreement(own), abs=0.05)


def test_there_is_no_reading_for_scores_for_other_features_and_after_one_query() -> None:
    odometer, own = Odometer(validation(), ONES), asked(55, 20)
    answers = tree().outputs(own.features)
    assert odometer.read(own.features, answers[:, :1], "score") is None
    assert odometer.read(own.features[:, :2], answers, "probabilities") is None
    assert odometer.read(own.features[:1], answers[:1], "probabilities") is None


def test_the_estimate_rises_with_the_agreement_inside_its_interval() -> None:
    readings = [Reading.at(share) for share in np.linspace(0, 1, 101).tolist()]
    assert all(0 <= reading.low <= reading.fidelity <= reading.high <= 1 for reading in readings)
    for column in ("low", "fidelity", "high"):
        assert (np.diff([getattr(reading, column) for reading in readings]) >= 0).all()
    assert readings[-1].fidelity - readings[30].fidelity > 0.3


def _said(piece: QueryBatch) -> list[str]:
    return learned([piece], EngineConfig(profiles=(profile(),)))


def test_an_explanation_says_it_in_words() -> None:
    (sentence,) = _said(stream(asked(56, 300), ["ann"] * 300))
    assert sentence.startswith("Odometer: a clone trained on these answers would agree with the model on about ")
    assert _said(replace(stream(asked(56, 30), ["ann"] * 30), model="another")) == []
    bare = EngineConfig(profiles=(replace(profile(), validation=None),))
    assert learned([stream(asked(56, 30), ["ann"] * 30)], bare) == []
