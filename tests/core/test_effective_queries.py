"""``effective_queries`` prices each query by its distance from own earlier ones; cuts and restarts change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.batches import take
from detector.contracts.findings import Decision
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits
from detector.core.exposure import EFFECTIVE_QUERIES, PRICE, Validation
from detector.core.signals import SIGNALS
from detector.policy.budgets import ExposureBudget
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.stream.detector import DetectionInput, Detector
from tests.core.exposures import asked, engine, interleaved, profile, stream, validation
from tests.core.streams import observe

CUTS = [1, 2, 30, 31, 150, 400]
COLUMN = f"{EFFECTIVE_QUERIES}.{PRICE}"


def _obvious(piece: QueryBatch) -> np.ndarray:
    """The squared distance to the nearest own earlier query over the validation rows' spacing, 1 at most."""
    rows = np.unique(validation().features, axis=0).astype(np.float64)
    apart = np.linalg.norm(rows[:, None] - rows, axis=2) + np.diag(np.full(len(rows), np.inf))
    chosen = np.linspace(0, len(rows) - 1, 256).astype(int)
    spacing = np.median(apart[chosen].min(axis=1))
    earlier: dict[int, list[np.ndarray]] = {}
    prices = []
    for row, who in zip(piece.features.astype(np.float64), piece.principal_index.tolist(), strict=True):
        own = earlier.setdefault(who, [])
        nearest = min((float(np.linalg.norm(row - one)) for one in own), default=np.inf)
        prices.append(min(nearest / spacing, 1.0) ** 2)
        own.append(row)
    return np.array(prices)


def test_a_price_is_what_all_earlier_queries_leave_to_learn() -> None:
    piece = interleaved(41, 300, 4)
    assert (profile().reference.scale == 1).all()
    seen = observe(engine(profile()), [piece], CUTS[:-1])
    price, most = seen.signals[COLUMN], _obvious(piece)
    assert (price >= most - 1e-4).all(), "queries that are in no growing set are not compared with"
    assert np.isclose(price, most, rtol=1e-4, atol=1e-9).mean() > 0.95
    assert 0.0 in seen.signals[COLUMN] and 1.0 in seen.signals[COLUMN]
    for who in range(4):
        own = piece.principal_index == who
        assert seen.signals[EFFECTIVE_QUERIES][own].tolist() == np.cumsum(seen.signals[COLUMN][own]).tolist()


def test_repeats_cost_nothing_and_near_repeats_next_to_nothing() -> None:
    one, rng = asked(42, 1), np.random.default_rng(42)
    near = np.repeat(one.features, 200, axis=0) + rng.normal(0, 1e-3, (200, 6)).astype(np.float32)
    rows = np.concatenate([one.features, one.features, near])
    piece = stream(replace(one, features=rows, labels=np.repeat(one.labels, 202)), ["ann"] * 202)
    seen = engine(profile()).observe([piece]).signals
    assert seen[COLUMN][:2].tolist() == [1.0, 0.0]
    assert 1.0 < seen[EFFECTIVE_QUERIES][-1] < 1.1


@pytest.mark.parametrize("limits", [Limits(), Limits(history_queries=20), Limits(principals=4)])
def test_any_cut_gives_the_same(limits: Limits) -> None:
    piece = interleaved(43, 600, 6)
    whole = observe(engine(profile(), limits), [piece])
    whole.assert_equals(observe(engine(profile(), limits), [piece], CUTS))


def test_log_and_dump_bring_it_back() -> None:
    live, absorbed, loaded = (engine(profile()) for _ in range(3))
    for sections in observe(live, [interleaved(44, 90, 5)], [7, 45]).sections:
        absorbed.absorb(sections)
    for key in live.keys():
        loaded.load(live.dump([key]))
    later = interleaved(45, 90, 5)
    seen = observe(live, [later], [50])
    seen.assert_equals(observe(absorbed, [later]))
    seen.assert_equals(observe(loaded, [later]))


def test_there_is_no_price_without_a_profile_or_its_validation_set() -> None:
    piece = interleaved(46, 60, 2)
    for own in (None, replace(profile(), validation=None)):
        assert np.isnan(engine(own).observe([piece]).signals[COLUMN]).all()


def test_validation_rows_that_are_all_alike_have_a_spacing_above_0() -> None:
    rows = np.zeros((5, 2), np.float32)
    assert Validation.of(rows, np.zeros(5, np.int64)).spacing(np.ones(2, np.float32)) > 0


def test_from_queries_to_a_decision() -> None:
    """The whole way: what an account asks, its price, the budget, the rule of the ladder and the decision."""
    policy = Policy(mode="enforce", budgets=(ExposureBudget("all", for_life=25.0),))
    detector = Detector(Engine(EngineConfig(profiles=(profile(),)), SIGNALS), Ledger(policy))
    piece = stream(asked(47, 90), ["ann", "bob", "ann"] * 30)
    decisions: list[Decision] = []
    for at in range(0, 90, 30):
        part = take(piece, np.arange(at, at + 30))
        times = 1000.0 + np.arange(at, at + 30, dtype=np.float64)
        decisions += detector.detect(DetectionInput([part], times))[1].decisions
    budgeted = [one for one in decisions if any(cause.origin == "signal:budget" for cause in one.causes)]
    acted = [(one.principal, one.action.graded.name if one.action.graded else one.action.name) for one in budgeted]
    assert ("ann", "slow") in acted
    assert acted.index(("ann", "notice")) < acted.index(("ann", "slow"))
    learned = detector.ledger.budgets.of((piece.model, "ann"))
    assert learned is not None and learned.life >= 25.0
