"""From honest accounts to a profile: its tail, its what-if accounts, and its verdicts on others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.calibration.calibrate import Calibration, Tail, calibrate, oddness
from detector.core.calibration.crossfit import COLUMNS, CrossFit, record, standardised
from detector.core.calibration.exemplars import d_of, fields, largest_unexplained, what_if
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.core.reference.standards import unexplained
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


def test_a_smaller_budget_asks_for_more_and_the_tail_says_how_much() -> None:
    tail = Tail.of(_exponential(3, 40))
    budgets = [0.1, 0.03, 0.01, 0.001]
    thresholds = [tail.threshold(budget) for budget in budgets]
    assert thresholds == sorted(thresholds) and tail.threshold(0.01) > tail.least
    slopes = np.diff(thresholds) / np.diff(-np.log(budgets))
    np.testing.assert_allclose(slopes, tail.excess)
    assert tail.threshold(0.5) == tail.start  # there are no more than that above it


@pytest.mark.parametrize(("count", "least"), [(8, 5.75), (20, 4.25), (200, 3.35)])
def test_however_alike_a_few_accounts_are_no_threshold_is_low(count: int, least: float) -> None:
    assert Tail.of(np.zeros(count)).threshold(0.01) == pytest.approx(least)
    alike = Tail.of(0.1 * _exponential(3, count))
    thresholds = [alike.threshold(budget) for budget in (0.01, 0.05, 0.2)]
    assert thresholds[0] == pytest.approx(least)
    np.testing.assert_allclose(-np.diff(thresholds), alike.excess * np.log([5, 4]))


def test_odd_ones_are_a_quarter_above_what_the_others_allow_and_twice_as_large() -> None:
    ordinary = _exponential(6, 40)
    most = float(ordinary.max())
    limit = Tail.of(ordinary).threshold(0.01)
    border = max(1.25 * limit, 2 * most)
    for reach, wanted in ((limit, 0.0), ((limit + border) / 2, 0.5), (border, 1.0), (2 * border, 1.0)):
        odd = oddness(np.append(ordinary, reach))
        assert odd[-1] == pytest.approx(wanted, abs=1e-9) and not odd[:40].any()


def test_a_threshold_does_not_jump_where_an_account_becomes_odd() -> None:
    ordinary = _exponential(6, 40)
    limits = []
    for reach in np.linspace(0, 60, 1200):
        largest = np.append(ordinary, reach)
        limits.append(Tail.weighted(largest, oddness(largest)).threshold(0.01))
    assert np.abs(np.diff(limits)).max() < 0.05 * np.mean(limits)
    assert limits[-1] == pytest.approx(Tail.of(ordinary).threshold(0.01))


def test_odd_ones_do_not_hide_each_other() -> None:
    """Beside the one, the other would be no more than the tail allows."""
    ordinary = _exponential(7, 18)
    limit = Tail.of(ordinary).threshold(0.01)
    both = np.append(ordinary, [1.4 * limit, 1.5 * limit])
    assert both[-1] < 1.25 * Tail.of(both[:-1]).threshold(0.01)
    assert oddness(both).tolist() == [0.0] * 18 + [1.0] * 2


@pytest.mark.parametrize(("strange", "found"), [(1, 1), (10, 10), (11, 0)])
def test_one_in_five_is_odd_at_most(strange: int, found: int) -> None:
    ordinary = _exponential(6, 40)
    largest = np.append(ordinary, 50 * Tail.of(ordinary).threshold(BUDGET) + np.arange(strange))
    odd = oddness(largest)
    assert (odd[40:] == 1).sum() == found and not odd[:40].any()


def test_ordinary_accounts_are_seldom_odd() -> None:
    assert sum((oddness(_exponential(seed, 30)) == 1).any() for seed in range(200)) <= 14


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
    own, others = _asked(_one_hot(1, 50), "ann"), _one_hot(2, 70)
    chosen = np.arange(min(rows, 50))
    invented = what_if(own, chosen, others, changes, np.random.default_rng(3))
    bases = invented.features[:: changes + 1]
    np.testing.assert_array_equal(bases, own.features[chosen])
    assert len(invented) == len(bases) * (changes + 1)
    known = [{row[first:last].tobytes() for row in others} for first, last in FIELDS]
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
    own, others = _asked(_one_hot(1, 5), "ann"), np.repeat(_one_hot(2, 1), 9, axis=0)
    invented = what_if(own, np.arange(5), others, 3, np.random.default_rng(3))
    np.testing.assert_array_equal(invented.features, np.repeat(own.features, 4, axis=0))


@cache
def _calibrated() -> Calibration:
    return calibrate(crowd(16), BUDGET)


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.2])
def test_the_budget_decides_where_the_threshold_is(budget: float) -> None:
    own = _calibrated()
    assert own.tail.threshold(budget) == Tail.weighted(own.largest[own.long], own.odd[own.long]).threshold(budget)
    assert own.tail.threshold(2 * budget) < 0.97 * own.tail.threshold(budget)


def test_one_query_of_nonsense_is_no_verdict_and_nonsense_without_end_is() -> None:
    profile = calibrate(crowd(16), 0.01).profile
    for number in range(4):
        own = honest(f"other-{number}", 900 + number)
        rows = own.features.astype(np.float64)
        rows[0] = 30.0 * (-1.0) ** np.arange(DIMENSION)
        assert not _ever_flagged(profile, account("once", rows, number))
        rows[:8] = rows[0] * np.linspace(0.5, 1.0, 8)[:, None]
        assert _ever_flagged(profile, account("often", rows, number))


def _ever_flagged(profile: Profile, own: QueryBatch) -> bool:
    return bool(Engine(EngineConfig(profiles=(profile,))).observe([own]).flagged.any())


def _flagged(profile: Profile, accounts: list[QueryBatch]) -> list[bool]:
    engine = Engine(EngineConfig(profiles=(profile,)))
    return [bool(engine.observe([account]).flagged[-1]) for account in accounts]


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
    reached = own.comparison.reached
    assert sorted(own.accounts) == [f"user-{number:02}" for number in range(16)]
    assert reached.shape == (16, len(COLUMNS)) and own.largest.shape == own.odd.shape == own.queries.shape == (16,)
    np.testing.assert_allclose([each.contributions.sum() for each in own.results], own.largest)
    for at in range(16):
        others = np.maximum(np.delete(reached, at, 0), 0.0)
        assert own.largest[at] <= unexplained(reached[at : at + 1], others)[0][0] + 1e-9
    assert (own.largest > 0).any()
    assert own.profile.standards.threshold == Tail.weighted(own.largest, own.odd).threshold(BUDGET)


def test_no_account_is_unexplained_by_a_profile_that_knows_it() -> None:
    own = _calibrated()
    left = own.profile.standards.unexplained(own.comparison.reached)
    np.testing.assert_allclose(left, 0.0, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_the_farthest_query_is_that_of_a_plain_search(seed: int) -> None:
    """And without any account that it does not rest on, it is the same."""
    generator = np.random.default_rng(seed)
    scores, exemplars = generator.normal(0, 3, (300, 7)), np.maximum(generator.normal(0, 3, (40, 7)), 0)
    largest, used = largest_unexplained(scores, exemplars)
    left, best = unexplained(scores, exemplars)
    assert largest == pytest.approx(left.max(), abs=1e-12)
    assert next(reversed(used.items())) == (int(left.argmax()), int(best[left.argmax()]))
    assert len(used) < 40
    for gone in np.setdiff1d(np.arange(40), list(used.values())).tolist():
        assert largest_unexplained(scores, np.delete(exemplars, gone, 0))[0] == largest


def test_how_far_the_threshold_moves_is_told() -> None:
    own = _calibrated()
    least, most = own.threshold_range
    assert least <= own.profile.standards.threshold <= 1.5 * most
    alone = d_of(own.comparison.recompare([0], own.results))
    np.testing.assert_allclose(alone[1:], [own.comparison.largest_d(at, {0}).d for at in range(1, 16)])


def _renamed(accounts: list[QueryBatch], seed: int) -> list[QueryBatch]:
    order = np.random.default_rng(seed).permutation(len(accounts))
    return [replace(accounts[at], principals=[f"{seed}-{number}"]) for number, at in enumerate(order.tolist())]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_neither_names_nor_order_change_a_profile(seed: int) -> None:
    accounts = [*crowd(9), honest("once", 3, rows=1)]
    one, two = calibrate(accounts, BUDGET), calibrate(_renamed(accounts, seed), BUDGET)
    assert one.profile.to_bytes() == two.profile.to_bytes()
    np.testing.assert_array_equal(one.largest, two.largest)


def test_one_more_account_of_a_single_query_hardly_moves_the_threshold() -> None:
    accounts, base = crowd(16), _calibrated().profile.standards.threshold
    for own in (honest("smoke", 3, rows=1), replace(accounts[4], principals=["zzz"])):
        one = take(own, np.array([0]))
        more = calibrate([*accounts, replace(one, principals=own.principals)], BUDGET)
        assert more.profile.standards.threshold == pytest.approx(base, rel=0.1)
        assert more.long.sum() == 16 and len(more.accounts) == 17


def _sharing(count: int, each: int, seed: int, pool: Floats) -> list[QueryBatch]:
    """Accounts that each send some of the same rows, and no others."""
    generator = np.random.default_rng(seed)
    return [account(f"user-{at}", pool[generator.choice(len(pool), each, False)], at) for at in range(count)]


def _natural(seed: int, count: int, dimension: int = 60) -> Floats:
    """Rows near few directions, as images are."""
    axes = np.random.default_rng(1).normal(0, 1, (20, dimension))
    generator = np.random.default_rng(seed)
    return generator.normal(0, 1, (count, 20)) @ axes + 0.05 * generator.standard_normal((count, dimension))


def test_who_shares_rows_is_judged_without_them() -> None:
    """Where all draw from the same few rows, new accounts with other rows are as honest as these."""
    accounts = _sharing(20, 30, 2, _natural(3, 90))
    fit = CrossFit(accounts)
    assert sorted(at for fold in fit.folds for at in fold.inside) == list(range(20))
    for fold in fit.folds:
        asked = {key for at in fold.inside for key in fit.honest[at].keys.tolist()}
        reference = fit.reference(fold)
        rows = reference.points @ reference.embedding.axes.T.astype(np.float32) + reference.embedding.centre
        known = {np.round(row, 3).tobytes() for row in rows * reference.scale}
        own = {np.round(row, 3).tobytes() for at in fold.inside for row in fit.honest[at].features}
        assert len(asked) < 90 and len(reference.points) >= 90 - len(asked) - 3 and not known & own
    profile = calibrate(accounts, BUDGET).profile
    for pool in (_natural(3, 90), _natural(4, 90)):
        assert sum(_flagged(profile, _sharing(20, 30, 5, pool))) <= 1
    uniform = account("thief", np.random.default_rng(1).uniform(-8, 8, (40, 60)), 1)
    assert _flagged(profile, [uniform]) == [True]


def test_who_varies_rows_of_others_is_judged_without_these_rows() -> None:
    """Half of the accounts send noisy copies of the rows that the others share. New accounts share none."""
    generator = np.random.default_rng(7)
    accounts = _sharing(20, 20, 2, _natural(3, 30))
    noisy = [replace(account, features=account.features + _noise(generator, account)) for account in accounts[10:]]
    fit = CrossFit([*accounts[:10], *noisy])
    for fold in fit.folds:
        for part in range(fold.parts):
            reference = fit.reference(fold, part)
            rows = (reference.points @ reference.embedding.axes.T + reference.embedding.centre) * reference.scale
            for at in fold.inside:
                own = fit.honest[at].features[fit.parts(at, fold) == part]
                apart = np.linalg.norm(rows[:, None] - own[None], axis=2)
                assert apart.min() > 1.0  # the noise of two copies together is 0.2, the nearest other row 8 away


def _noise(generator: np.random.Generator, own: QueryBatch) -> NDArray[np.float32]:
    return generator.normal(0, 0.02, own.features.shape).astype(np.float32)


@pytest.mark.parametrize(("devices", "wider"), [(5, True), (1, False)])
def test_devices_of_several_widen_what_is_usual_content_and_that_of_one_does_not(devices: int, wider: bool) -> None:
    accounts = crowd(20)
    offsets = np.random.default_rng(2).uniform(-0.5, 0.5, (devices, DIMENSION)).astype(np.float32)
    for at, offset in enumerate(offsets):
        accounts[at] = replace(accounts[at], features=accounts[at].features + offset)
    column = COLUMNS.index("outlyingness")
    spread, usual = (calibrate(own, BUDGET).profile.standards.spread for own in (accounts, crowd(20)))
    assert (spread.between[column] > 2 * usual.between[column]) == wider


def test_who_asked_nearly_all_rows_is_judged_beside_half_of_them() -> None:
    pool = _natural(3, 60)
    fit = CrossFit([*_sharing(4, 50, 2, pool), *_sharing(2, 10, 3, pool)])
    halves = [fold for fold in fit.folds if fold.parts == 2]
    assert halves
    for fold in halves:
        (at,) = fold.inside
        for part in (0, 1):
            inside = fit.parts(at, fold) == part
            reference = fit.reference(fold, part)
            assert inside.any() and 0.25 * 60 < len(reference.points) < 0.75 * 60


def test_a_recording_says_what_the_engine_will_say() -> None:
    profile, other = _calibrated().profile, honest("other", 77)
    scores = standardised(record([other], profile)[0], profile.standards.spread, profile.standards.tails)
    shown = observe(Engine(EngineConfig(profiles=(profile,))), [other]).signals
    for at, name in enumerate(COLUMNS):
        np.testing.assert_allclose(scores[:, at], shown[f"suspicion.{name}"], rtol=1e-9, atol=1e-9, err_msg=name)


def test_progress_tells_of_every_account() -> None:
    told: list[int] = []
    one = calibrate(crowd(5), BUDGET, told.append)
    assert sum(told) == 5
    assert Profile.from_bytes(one.profile.to_bytes()).hash == one.profile.hash


def test_an_odd_account_raises_no_threshold_for_the_others_and_excuses_its_like_alone() -> None:
    """An account that sends the same few queries, far from all others, like a robot."""
    rng = np.random.default_rng(6)
    far = 4 + 0.01 * rng.standard_normal((60, DIMENSION))
    odd = calibrate([*crowd(16), account("odd", far, 0)], BUDGET)
    assert {name: said for name, said in zip(odd.accounts, odd.odd.tolist(), strict=True) if said} == {"odd": 1.0}
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
