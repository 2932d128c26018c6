"""A thief with the detector's own code sends only what that lets pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.answers import Classifier
from detector.lab.data import Dataset
from detector.lab.experiment import AttackPlan, conduct, count_leading, queries_of
from detector.lab.shadow import AT_ONCE, TRIES, Caution, ShadowDetector, pretended_profile
from detector.lab.victims.digits import DigitsVictim
from detector.lab.wrappers.disguises import SentQueries

UNIFORM = AttackPlan("uniform after rows", "multilayer perceptron", "digits", budget=260, accounts=0, seed=2)
ASKED = 100


def stream_of(rows: np.ndarray) -> SentQueries:
    count = len(rows)
    return SentQueries(
        rows.astype(np.float32), np.arange(count), np.zeros(count, np.int64), np.arange(count, dtype=np.float64)
    )


def uniform(split: Dataset, rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, split.dimension), dtype=np.float32)


@pytest.fixture
def cautious(split: Dataset, victim: DigitsVictim) -> Caution:
    """A thief that has sent a hundred natural rows."""
    caution = Caution(split.thief.features, "probabilities", 0)
    first = stream_of(split.thief.features[:ASKED])
    assert caution.passed(first, _unable) is first
    caution.observe(first, victim.answer(first.features))
    return caution


def _unable() -> Classifier:
    raise LabError("no answer yet")


def test_the_shadow_tells_honest_rows_from_uniform_ones(split: Dataset, victim: DigitsVictim) -> None:
    rows = split.thief.features[:ASKED]
    shadow = ShadowDetector(pretended_profile(rows, victim.probabilities(rows), "probabilities", 0))
    for accounts, features, found in (("a", split.honest.features[:60], False), ("b", uniform(split, 60), True)):
        outputs = victim.probabilities(features)
        queries = queries_of(shadow.model, "probabilities", [accounts] * 60, features, outputs)
        assert bool(shadow.predicted_scores(queries).max() >= 1) == found


def test_to_foretell_changes_nothing(split: Dataset, victim: DigitsVictim) -> None:
    rows = split.thief.features[:ASKED]
    shadow = ShadowDetector(pretended_profile(rows, victim.probabilities(rows), "probabilities", 0))
    own = uniform(split, 40)
    queries = queries_of(shadow.model, "probabilities", ["a"] * 40, own, victim.probabilities(own))
    first = shadow.predicted_scores(queries)
    np.testing.assert_array_equal(shadow.predicted_scores(queries), first)
    shadow.observe(queries)
    assert shadow.predicted_scores(queries)[0] > first[0]


def test_what_the_shadow_lets_pass_is_sent_in_order_and_a_part_at_a_time(
    cautious: Caution, split: Dataset, victim: DigitsVictim
) -> None:
    passed = cautious.passed(stream_of(split.thief.features[ASKED:]), lambda: victim)
    np.testing.assert_array_equal(passed.source, np.arange(AT_ONCE))


def test_over_the_limit_the_next_is_tried_and_then_natural_rows_are_sent(
    cautious: Caution, split: Dataset, victim: DigitsVictim
) -> None:
    natural, sent = {row.tobytes() for row in split.thief.features}, 0
    for seed in range(60):
        passed = cautious.passed(stream_of(uniform(split, 60, seed)), lambda: victim)
        if not len(passed):
            break
        assert len(passed) < 60 - TRIES or passed.cover.all()
        assert all(row.tobytes() in natural for row in passed.features[passed.cover])
        sent += int(passed.cover.sum())
        cautious.observe(passed, victim.answer(passed.features))
    else:
        pytest.fail("the thief never gave up")
    assert 0 < sent <= len(split.thief) - ASKED


def test_a_thief_with_the_code_is_more_careful_than_one_without() -> None:
    blind, careful = (conduct(plan) for plan in (UNIFORM, replace(UNIFORM, knows="code")))
    own = conduct(UNIFORM).queries.features[:ASKED]
    assert careful.run.knows == "code"
    assert careful.run.natural >= blind.run.natural == count_leading(blind.queries.features, own) == ASKED
    assert careful.run.curve[-1].queries == careful.run.sent
