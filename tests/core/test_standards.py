"""D, what adds to it, and how scores are brought to one scale, as loops would say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detector.core.reference.standards import MAX_CONTRIBUTION, Spread, Standards, pareto_front, unexplained
from detector.core.state.arrays import Array, pack, unpack

NAMES = ("a", "b", "c", "d")
GENERATOR = np.random.default_rng(0)
SPREAD = Spread(np.array([1.0, -2.0, 0.0, 5.0]), np.array([0.5, 1.0, 0.1, 2.0]), np.array([1.0, 0.3, 0.0, 2.0]))
EXEMPLARS = np.concatenate((np.zeros((1, 4)), GENERATOR.exponential(2, (5, 4))))
STANDARDS = Standards(NAMES, SPREAD, EXEMPLARS, 7.5)
SCORES = GENERATOR.normal(1, 8, (60, 4))

numbers = st.floats(-5, 20)


def _loop(scores: list[float], exemplars: list[list[float]]) -> tuple[float, int]:
    """D, and the first exemplar that leaves no more."""
    left = [
        sum(min(max(0.0, z - reached), MAX_CONTRIBUTION) for z, reached in zip(scores, exemplar, strict=True))
        for exemplar in exemplars
    ]
    return min(left), left.index(min(left))


def test_unexplained_is_what_the_likest_exemplar_leaves() -> None:
    left, best = unexplained(SCORES, EXEMPLARS)
    wanted = [_loop(row, EXEMPLARS.tolist()) for row in SCORES.tolist()]
    np.testing.assert_allclose(left, [own for own, _ in wanted], rtol=1e-12)
    assert best.tolist() == [at for _, at in wanted] and len(set(best.tolist())) > 1
    np.testing.assert_array_equal(STANDARDS.unexplained(SCORES), left)


def test_many_exemplars_are_the_same() -> None:
    exemplars = GENERATOR.exponential(2, (400, 50))
    scores = GENERATOR.normal(1, 2, (130, 50))
    left, best = unexplained(scores, exemplars)
    for at in (0, 51, 52, 104, 129):
        wanted = _loop(scores[at].tolist(), exemplars.tolist())
        assert (left[at], best[at]) == (pytest.approx(wanted[0]), wanted[1])
    assert [array.shape for array in unexplained(scores[:0], exemplars)] == [(0,), (0,)]


def test_one_measure_adds_so_much_at_most_and_an_odd_account_excuses_its_like_alone() -> None:
    exemplars = np.array([[0.0, 0.0], [50.0, 0.0]])
    for scores, left in (([100, 0], 12.0), ([30, 0], 0.0), ([30, 5], 5.0), ([0, 5], 5.0), ([3, 30], 12.0)):
        assert unexplained(np.array([scores], np.float64), exemplars)[0] == left


@settings(max_examples=80, deadline=None)
@given(
    exemplars=arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=numbers),
    scores=arrays(np.float64, (6, 3), elements=st.floats(-50, 50)),
)
def test_outermost_exemplars_leave_as_much_as_all(exemplars: Array, scores: Array) -> None:
    kept = pareto_front(exemplars)
    reached = np.maximum(exemplars, 0.0)
    np.testing.assert_array_equal(unexplained(scores, kept)[0], unexplained(scores, reached)[0])
    assert all(any((row == own).all() for own in reached) for row in kept)
    for at, row in enumerate(kept):
        assert not any((row <= other).all() for other in np.delete(kept, at, 0))


def test_contributions_add_up_to_d_and_name_what_the_likest_reached() -> None:
    added, reached = STANDARDS.contributions(SCORES)
    np.testing.assert_allclose(added.sum(axis=1), STANDARDS.unexplained(SCORES), rtol=1e-12)
    best = [_loop(row, EXEMPLARS.tolist())[1] for row in SCORES.tolist()]
    np.testing.assert_array_equal(reached, EXEMPLARS[best])
    assert (added >= 0).all() and (added <= MAX_CONTRIBUTION).all() and (added == MAX_CONTRIBUTION).any()


def test_aligned_takes_each_measure_from_its_own_column() -> None:
    other = STANDARDS.aligned(("d", "b", "a", "c"))
    order = [3, 1, 0, 2]
    assert other.measures == ("d", "b", "a", "c") and other.threshold == 7.5
    np.testing.assert_allclose(other.unexplained(SCORES[:, order]), STANDARDS.unexplained(SCORES), rtol=1e-12)
    for name in ("mean", "between", "within"):
        np.testing.assert_array_equal(getattr(other.spread, name), getattr(SPREAD, name)[order])


def test_a_measure_that_the_calibration_did_not_know_never_counts() -> None:
    other = STANDARDS.aligned(("a", "new", "b", "c", "d", "newer"))
    scores = np.insert(SCORES, [1, 4], GENERATOR.choice([0.0, 99.0], (60, 2)), axis=1)
    np.testing.assert_array_equal(other.unexplained(scores), STANDARDS.unexplained(SCORES))
    assert not other.contributions(scores)[0][:, [1, 5]].any()
    for column in (other.spread.mean, other.spread.between, other.spread.within):
        assert (column[[1, 5]] == 1).all()


def test_a_measure_that_is_no_more_is_left_out() -> None:
    other = STANDARDS.aligned(("a", "c"))
    np.testing.assert_array_equal(
        other.unexplained(SCORES[:, [0, 2]]), unexplained(SCORES[:, [0, 2]], EXEMPLARS[:, [0, 2]])[0]
    )


def test_its_parts_are_those_of_its_columns() -> None:
    whole = np.stack((SPREAD.mean, SPREAD.between, SPREAD.within))
    for columns in (slice(3), slice(3, None), [3, 0]):
        part = SPREAD.at(columns)
        np.testing.assert_array_equal(np.stack((part.mean, part.between, part.within)), whole[:, columns])


def test_its_record_brings_it_back() -> None:
    back = Standards.from_record(unpack(pack(STANDARDS)))
    assert (back.measures, back.threshold) == (NAMES, 7.5)
    np.testing.assert_array_equal(back.unexplained(SCORES), STANDARDS.unexplained(SCORES))
    np.testing.assert_array_equal(back.spread.within, SPREAD.within)
