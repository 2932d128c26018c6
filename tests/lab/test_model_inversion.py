"""Inversion climbs to inputs that the victim is sure of, and that look like its classes."""

from __future__ import annotations

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.attackers.model_inversion import CONFIDENCE, STEP, ModelInversion, gradient, neighbours
from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS
from detector.lab.fidelity import agreement
from detector.lab.victims.digits import CLASSES, DIMENSION, DigitsVictim
from tests.lab.sklearn_cases import SklearnVictim

PLENTY = 50_000
ROUND = 2 * DIMENSION


@pytest.fixture(scope="module")
def finished(split: Dataset, victim: DigitsVictim) -> tuple[ModelInversion, int]:
    attacker = ModelInversion(Knowledge.of(split), PLENTY, 0)
    return attacker, run_offline(attacker, victim)


def test_the_victim_is_sure_of_every_input_recovered(
    finished: tuple[ModelInversion, int], victim: DigitsVictim
) -> None:
    attacker, queries = finished
    assert victim.probabilities(attacker.recovered.astype(np.float32)).diagonal().min() > CONFIDENCE - 0.01
    assert 10_000 < queries < 16_000


def test_what_is_recovered_resembles_its_own_class_s_mean_image_most(
    finished: tuple[ModelInversion, int], split: Dataset
) -> None:
    held = split.test
    means = np.stack([held.features[held.labels == label].mean(axis=0) for label in range(CLASSES)])
    likeness = np.corrcoef(finished[0].recovered, means)[:CLASSES, CLASSES:]
    np.testing.assert_array_equal(likeness.argmax(axis=1), np.arange(CLASSES))


def test_the_clone_gets_better_with_every_class_recovered(
    finished: tuple[ModelInversion, int], split: Dataset, victim: DigitsVictim
) -> None:
    half = ModelInversion(Knowledge.of(split), finished[1] // 2, 0)
    run_offline(half, victim)
    none = ModelInversion(Knowledge.of(split), 0, 0)
    agreements = [agreement(victim, each.clone(), split.test.features) for each in (none, half, finished[0])]
    assert agreements[0] < 0.2
    assert 0.4 < agreements[1] < 0.75
    assert agreements[2] > 0.8


def test_an_account_wants_one_class_in_rising_confidence_by_tiny_steps(split: Dataset, victim: DigitsVictim) -> None:
    attacker = ModelInversion(Knowledge.of(split), 5 * ROUND, 0)
    stands, chances = [], []
    while len(batch := attacker.next_batch()):
        stands.append(attacker.recovered[0].copy())
        chances.append(victim.probabilities(batch)[:, 0].mean())
        attacker.observe(batch, victim.answer(batch))
    assert len(stands) == 5
    assert (np.diff(chances) > 0).all()
    lengths = np.linalg.norm(np.diff(stands, axis=0), axis=1)
    np.testing.assert_allclose(lengths, STEP * np.sqrt(DIMENSION), rtol=1e-6)


def test_it_climbs_in_any_range_and_a_categorical_feature_is_refused() -> None:
    from sklearn.linear_model import LogisticRegression

    wine = DATASETS["wine"]()
    victim = SklearnVictim(LogisticRegression(C=100).fit(wine.training.features, wine.training.labels))
    attacker = ModelInversion(Knowledge.of(wine), PLENTY, 0)
    run_offline(attacker, victim)
    assert agreement(victim, attacker.clone(), wine.test.features) > 0.8
    with pytest.raises(LabError, match="categorical"):
        ModelInversion(Knowledge.of(DATASETS["categorical"]()), PLENTY, 0)


def test_two_sided_differences_are_the_gradient_also_at_the_edge_of_the_range() -> None:
    point, weights = np.array([0.0, 0.5, 1.0]), np.array([3.0, -2.0, 1.0])
    around = neighbours(point)
    assert around.min() == 0 and around.max() == 1
    np.testing.assert_allclose(gradient(around, around @ weights), weights)
