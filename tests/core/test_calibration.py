"""From honest accounts to a profile: its tail, its what-if accounts, and what it then says of others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.batch import MicroBatch
from detector.core.calibration.calibrate import Calibration, calibrate
from detector.core.calibration.habits import fields, what_if
from detector.core.calibration.recording import COLUMNS, record
from detector.core.calibration.threshold import Tail, odd_ones
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.core.standards import FLOOR, unexplained
from tests.core.honest import CLASSES, DIMENSION, account, crowd, honest, thief
from tests.core.streams import observe, random

BUDGET = 0.05
Floats = NDArray[np.float64]


def _exponential(seed: int, count: int) -> Floats:
    return np.random.default_rng(seed).exponential(3.0, count)


@pytest.mark.parametrize("count", [8, 20, 60])
def test_the_bound_of_an_exponential_tail_holds_three_times_in_four(count: int) -> None:
    """Of accounts whose D is exponential with mean 3, a share s exceeds 3 ln(1 / s)."""
    reached = [float(np.exp(-Tail.of(_exponential(seed, count)).threshold(0.001) / 3.0)) for seed in range(500)]
    held = np.mean(np.array(reached) <= 0.001)
    assert 0.68 < held < 0.82
    assert np.median(reached) > 1e-7  # sure, but not by giving up


@pytest.mark.parametrize("count", [3, 4, 7, 20, 55])
def test_a_tail_is_the_highest_fifth_or_four(count: int) -> None:
    largest = np.random.default_rng(1).permutation(np.arange(1, count + 1) ** 1.5)
    tail = Tail.of(largest)
    above = min(max(-(-count // 5), 4), count)
    ordered = sorted(largest.tolist(), reverse=True)
    assert tail.share == above / count
    assert tail.start == (ordered[above] if count > above else 0.0)
    excess = sum(value - tail.start for value in ordered[:above]) / above
    assert excess < tail.excess < 4 * excess


def test_more_accounts_make_the_bound_tighter() -> None:
    few, many = (
        np.median([Tail.of(_exponential(seed, count)).threshold(0.01) for seed in range(60)]) for count in (10, 300)
    )
    assert 3 * np.log(100) < many < 0.85 * few


def test_a_smaller_budget_asks_for_more_and_the_rate_of_a_threshold_is_the_budget() -> None:
    tail = Tail.of(_exponential(3, 40))
    budgets = [0.1, 0.03, 0.01, 0.001]
    thresholds = [tail.threshold(budget) for budget in budgets]
    assert thresholds == sorted(thresholds) and thresholds[0] > FLOOR
    assert [tail.rate(threshold) for threshold in thresholds] == pytest.approx(budgets)
    assert tail.rate(0.0) == tail.share


def test_however_alike_honest_accounts_are_no_threshold_is_below_the_floor() -> None:
    tail = Tail.of(np.zeros(30))
    assert tail.threshold(0.01) == FLOOR and tail.rate(FLOOR) == 0.0


def test_odd_ones_are_a_quarter_above_what_the_others_allow_and_twice_as_large() -> None:
    ordinary = _exponential(6, 40)
    most = float(ordinary.max())
    assert not odd_ones(ordinary, 0.001).any() and not odd_ones(ordinary, 0.2).any()
    for budget, reach in ((0.001, 1.25 * Tail.of(ordinary).threshold(0.001)), (0.2, 2 * most)):
        assert reach >= 2 * most
        for share, odd in ((0.98, False), (1.02, True)):
            assert odd_ones(np.append(ordinary, share * reach), budget).tolist() == [False] * 40 + [odd]


def test_odd_ones_do_not_hide_each_other() -> None:
    """Beside the one, the other would be no more than the tail allows."""
    ordinary = _exponential(7, 18)
    limit = Tail.of(ordinary).threshold(0.01)
    both = np.append(ordinary, [1.4 * limit, 2 * limit])
    assert both[-1] < 1.25 * Tail.of(both[:-1]).threshold(0.01)
    assert odd_ones(both, 0.01).tolist() == [False] * 18 + [True] * 2


@pytest.mark.parametrize(("strange", "found"), [(1, 1), (10, 10), (11, 0)])
def test_one_in_five_is_odd_at_most(strange: int, found: int) -> None:
    ordinary = _exponential(6, 40)
    largest = np.append(ordinary, 50 * Tail.of(ordinary).threshold(BUDGET) + np.arange(strange))
    odd = odd_ones(largest, BUDGET)
    assert odd[40:].sum() == found and not odd[:40].any()


def test_ordinary_accounts_are_seldom_odd() -> None:
    assert sum(odd_ones(_exponential(seed, 30), 0.01).any() for seed in range(200)) <= 14


def _one_hot(seed: int, count: int) -> NDArray[np.float32]:
    """A number, a category of three, a flag, a category of four of which one never occurs, and a number."""
    rng = np.random.default_rng(seed)
    first, second = np.eye(3)[rng.integers(0, 3, count)], np.eye(4)[rng.choice([0, 1, 3], count)]
    columns = (rng.random(count), first, rng.integers(0, 2, count), second, rng.integers(2, 9, count))
    return np.column_stack(columns).astype(np.float32)


FIELDS = [(0, 1), (1, 4), (4, 5), (5, 9), (9, 10)]


def test_fields_are_categories_and_single_columns() -> None:
    assert [(own.start, own.stop) for own in fields(_one_hot(0, 60))] == FIELDS


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (random(np.random.default_rng(0), 20, 3), [1, 1, 1]),
        (np.ones((4, 3)), [1, 1, 1]),
        (np.eye(5), [5]),
        (np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), [1, 1, 1]),
        (np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 1, 0]]), [2, 2]),
        (np.array([[0.5, 1, 0], [1, 0, 1]]), [1, 2]),
    ],
)
def test_columns_that_are_no_category_stand_alone(rows: NDArray[np.float32], found: list[int]) -> None:
    assert [own.stop - own.start for own in fields(np.asarray(rows, np.float32))] == found


def _asked(features: NDArray[np.float32], name: str) -> QueryBatch:
    return account(name, features.astype(np.float64), 0)


@pytest.mark.parametrize(("rows", "changes"), [(30, 7), (6, 40), (500, 2)])
def test_what_if_accounts_change_one_field_at_a_time(rows: int, changes: int) -> None:
    own, others = _asked(_one_hot(1, 50), "ann"), _asked(_one_hot(2, 70), "bob")
    invented = what_if(own, others, rows, changes, np.random.default_rng(3))
    bases = invented.features[:: changes + 1]
    assert len(bases) == min(rows, 50) and len(invented) == len(bases) * (changes + 1)
    assert {row.tobytes() for row in bases} <= {row.tobytes() for row in own.features}
    known = [{row[first:last].tobytes() for row in others.features} for first, last in FIELDS]
    changed_fields = set()
    for base, group in zip(bases, np.split(invented.features, len(bases)), strict=True):
        for row in group[1:]:
            changed = [at for at, (first, last) in enumerate(FIELDS) if (row[first:last] != base[first:last]).any()]
            (at,) = changed
            assert row[slice(*FIELDS[at])].tobytes() in known[at]
            changed_fields.add(at)
    assert changed_fields == set(range(len(FIELDS)))
    np.testing.assert_array_equal(invented.outputs, np.repeat(invented.outputs[:: changes + 1], changes + 1, axis=0))


def test_where_nothing_varies_nothing_is_changed() -> None:
    own, others = _asked(_one_hot(1, 5), "ann"), _asked(np.repeat(_one_hot(2, 1), 9, axis=0), "bob")
    invented = what_if(own, others, 5, 3, np.random.default_rng(3))
    np.testing.assert_array_equal(invented.features, np.repeat(own.features, 4, axis=0))


@cache
def _calibrated() -> Calibration:
    return calibrate(crowd(16), BUDGET)


def _flagged(profile: Profile, accounts: list[QueryBatch]) -> list[bool]:
    engine = Engine(EngineConfig(profiles=(profile,)))
    return [bool(engine.observe(MicroBatch((own,))).flagged[-1]) for own in accounts]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_accounts_are_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{count} honest accounts are too few.*twenty"):
        calibrate(crowd(count), BUDGET)


def test_others_like_them_are_not_flagged_and_a_thief_is_before_his_fiftieth_query() -> None:
    profile = _calibrated().profile
    others = [honest(f"other-{number}", 900 + number) for number in range(16)]
    assert sum(_flagged(profile, others)) <= 1
    assert not any(_flagged(profile, crowd(16)))
    uniform = account("thief", np.random.default_rng(1).random((60, DIMENSION)), 1)
    for stolen in (uniform, thief()):
        seen = observe(Engine(EngineConfig(profiles=(profile,))), [stolen])
        assert seen.flagged.any() and seen.flagged.argmax() < 50


def test_each_account_is_held_against_the_others_alone() -> None:
    """Its largest D is within what its scores leave beside those of all others, and what adds to it adds up."""
    own = _calibrated()
    assert own.accounts == [f"user-{number:02}" for number in range(16)]
    assert own.reached.shape == own.added.shape == (16, len(COLUMNS)) and own.largest.shape == own.odd.shape == (16,)
    np.testing.assert_allclose(own.added.sum(axis=1), own.largest)
    for at in range(16):
        others = np.maximum(np.delete(own.reached, at, 0), 0.0)
        assert own.largest[at] <= unexplained(own.reached[at : at + 1], others)[0][0] + 1e-9
    assert (own.largest > 0).any()
    assert own.profile.standards.threshold == Tail.of(own.largest[~own.odd]).threshold(BUDGET)


def test_no_account_is_unexplained_by_a_profile_that_knows_it() -> None:
    own = _calibrated()
    left = own.profile.standards.unexplained(own.reached)
    np.testing.assert_allclose(left, 0.0, atol=1e-9)


def test_a_recording_says_what_the_engine_will_say() -> None:
    profile, other = _calibrated().profile, honest("other", 77)
    scores = record([other], profile)[0].scores(profile.standards.spread)
    shown = observe(Engine(EngineConfig(profiles=(profile,))), [other]).signals
    for at, name in enumerate(COLUMNS):
        np.testing.assert_allclose(scores[:, at], shown[f"suspicion.{name}"], rtol=1e-9, atol=1e-9, err_msg=name)


def test_the_same_seed_makes_the_same_bytes_and_progress_tells_of_every_account() -> None:
    told: list[int] = []
    one = calibrate(crowd(5), BUDGET, told.append)
    two = calibrate(crowd(5), BUDGET)
    assert sum(told) == 5
    assert one.profile.to_bytes() == two.profile.to_bytes()
    assert Profile.from_bytes(one.profile.to_bytes()).hash == one.profile.hash


def test_an_odd_account_raises_no_threshold_for_the_others_and_excuses_its_like_alone() -> None:
    """One who asks far from all others, the same few things with every sign of a robot."""
    rng = np.random.default_rng(6)
    far = 4 + 0.01 * rng.standard_normal((60, DIMENSION))
    odd = calibrate([*crowd(16), account("odd", far, 0)], BUDGET)
    assert odd.odd.tolist() == [False] * 16 + [True]
    assert odd.profile.standards.threshold < 1.3 * _calibrated().profile.standards.threshold
    like = account("like", 4 + 0.01 * rng.standard_normal((60, DIMENSION)), 1)
    assert _flagged(odd.profile, [like, thief()]) == [False, True]
    assert _flagged(_calibrated().profile, [like]) == [True]


def _told(own: QueryBatch, kind: OutputKind) -> QueryBatch:
    labels = own.outputs.argmax(axis=1)[:, None].astype(np.float32)
    return replace(own, output_kind=kind, outputs=labels if kind == "label" else own.outputs[:, :1].copy())


@pytest.mark.parametrize("kind", ["label", "score"])
def test_labels_and_scores_will_do(kind: OutputKind) -> None:
    profile = calibrate([_told(own, kind) for own in crowd(8)], BUDGET).profile
    others = [_told(honest(f"other-{number}", 900 + number), kind) for number in range(6)]
    assert sum(_flagged(profile, others)) <= 1
    assert _flagged(profile, [_told(thief(), kind)]) == [True]


def test_accounts_of_one_query_or_of_one_vector_are_no_obstacle() -> None:
    beat = account("health-check", np.repeat(crowd(1)[0].features[:1], 40, axis=0).astype(np.float64), 0)
    once = honest("once", 3, rows=1)
    profile = calibrate([*crowd(6), beat, once], BUDGET).profile
    assert np.isfinite(profile.standards.threshold) and np.isfinite(profile.standards.exemplars).all()
    assert (
        _flagged(profile, [replace(beat, principals=["another"]), replace(once, principals=["someone"])]) == [False] * 2
    )


def test_three_accounts_of_one_query_each_make_a_profile() -> None:
    profile = calibrate([honest(f"once-{at}", at, rows=1) for at in range(3)], BUDGET).profile
    assert len(profile.reference.points) == 3 and np.isfinite(profile.standards.threshold)
    assert profile.reference.outputs.shape == (3, CLASSES)
