"""A reference holds distinct honest rows in fair shares, and finds the nearest as a plain search does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.reference.compared import NOTHING, Compared, fewest_equal
from detector.core.reference.projection import NearestRows
from detector.core.reference.reference import NEAREST, ROWS, HonestQueries, Reference, ReferenceIndex, margins
from detector.core.state.arrays import pack, unpack
from tests.core.streams import Features, linear_outputs, random


def _of(*accounts: Features, kind: str = "probabilities") -> Reference:
    outputs = [linear_outputs(rows, 3) for rows in accounts]
    honest = [HonestQueries(rows, said) for rows, said in zip(accounts, outputs, strict=True)]
    return Reference.of(honest, kind)


def _marked(*accounts: Features) -> Reference:
    """With each row's output the number of its account."""
    honest = [HonestQueries(rows, np.full((len(rows), 1), at, np.float32)) for at, rows in enumerate(accounts)]
    return Reference.of(honest, "label")


def _ask(reference: Reference, rows: Features) -> tuple[list[float], NDArray[np.int64]]:
    index = ReferenceIndex(reference)
    found = index.nearest(reference.embedding.project(index.scaled(rows)))
    return found.distance.tolist(), found.rows


def _plain(reference: Reference, rows: Features) -> list[list[tuple[float, int]]]:
    """Of each row the reference rows other than itself by distance: along the axes, and off them for both."""
    projection = reference.embedding.project((rows / reference.scale).astype(np.float32))
    found = []
    for point, beside in zip(projection.points.astype(np.float64), projection.residual.tolist(), strict=True):
        own = []
        for at, other in enumerate(reference.points.astype(np.float64)):
            along, off = float(((other - point) ** 2).sum()), float(reference.residual[at])
            if (along + (off - beside) ** 2) ** 0.5 > 1e-3 * reference.median_distance:
                own.append(((along + off**2 + beside**2) ** 0.5, at))
        found.append(sorted(own))
    return found


@pytest.mark.parametrize("dimension", [5, 33, 80])
def test_the_nearest_are_those_of_a_plain_search(dimension: int) -> None:
    generator = np.random.default_rng(dimension)
    reference = _of(random(generator, 150, dimension), random(generator, 90, dimension))
    asked = random(generator, 40, dimension) * np.float32(1.5)
    distance, rows = _ask(reference, asked)
    wanted = _plain(reference, asked)
    np.testing.assert_allclose(distance, [own[0][0] for own in wanted], rtol=1e-5)
    assert rows.tolist() == [[at for _, at in own[:NEAREST]] for own in wanted]


def test_the_nearest_are_told_apart_though_single_precision_cannot() -> None:
    """Two clusters so far apart that the rounding of a product is as large as the distances within them."""
    generator = np.random.default_rng(8)
    far = np.float32(3000)
    reference = _marked(random(generator, 90, 5) - far, random(generator, 90, 5) + far)
    asked = np.concatenate((random(generator, 20, 5) - far, random(generator, 20, 5) + far))
    assert (reference.scale == 1).all()
    distance, rows = _ask(reference, asked)
    wanted = _plain(reference, asked)
    np.testing.assert_allclose(distance, [own[0][0] for own in wanted], rtol=1e-5)
    assert rows.tolist() == [[at for _, at in own[:NEAREST]] for own in wanted]


@pytest.mark.parametrize("dimension", [5, 33, 80])
def test_a_row_of_the_reference_is_none_of_its_own_neighbours(dimension: int) -> None:
    rows = random(np.random.default_rng(1), 120, dimension)
    reference = _of(rows)
    distance, nearest = _ask(reference, rows)
    wanted = _plain(reference, rows)
    assert all(len(own) == 119 for own in wanted)
    np.testing.assert_allclose(distance, [own[0][0] for own in wanted], rtol=1e-5)
    assert nearest.tolist() == [[at for _, at in own[:NEAREST]] for own in wanted]
    assert reference.median_distance == pytest.approx(np.median([own[0][0] for own in wanted]), rel=1e-5)


def test_of_rows_at_one_distance_the_first_are_the_nearest() -> None:
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    square = NearestRows(np.repeat(corners, 60, axis=0), np.zeros(240))
    distance, rows = square(np.zeros((40, 2), np.float32), np.zeros(40), 0.1, NEAREST)
    assert (distance == 2**0.5).all() and (rows == [0, 1, 2]).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_rows_will_do(count: int) -> None:
    rows = random(np.random.default_rng(2), count, 4)
    reference = _of(rows)
    asked = np.concatenate((rows, rows + np.float32(3)))
    distance, nearest = _ask(reference, asked)
    assert nearest.shape == (2 * count, min(count, NEAREST))
    for own, said in zip(_plain(reference, asked), distance, strict=True):
        assert said == pytest.approx(own[0][0] if own else 0.0, rel=1e-5)
    assert all(0 <= row < count for row in nearest.ravel().tolist())


def test_at_most_a_thousand_rows_in_equal_shares_of_those_who_have_as_many() -> None:
    generator = np.random.default_rng(3)
    busy, busier = random(generator, 1500, 3), random(generator, 4000, 3)
    few, repeated = random(generator, 10, 3), np.repeat(random(generator, 5, 3), 300, axis=0)
    said = _marked(busy, few, busier, repeated).outputs[:, 0].astype(int)
    shares = np.bincount(said, minlength=4).tolist()
    assert shares == [492, 10, 493, 5] and sum(shares) == ROWS


def test_rows_are_distinct_whoever_asked_them() -> None:
    rows = random(np.random.default_rng(4), 30, 3)
    reference = _of(rows, rows[:20], np.repeat(rows, 2, axis=0))
    assert len(reference.points) == 30
    assert len(np.unique(reference.points, axis=0)) == 30
    assert len(reference.outputs) == len(reference.residual) == 30


def test_more_accounts_than_room_are_no_error() -> None:
    accounts = [random(np.random.default_rng(at), 2, 3) for at in range(1200)]
    assert 900 <= len(_of(*accounts).points) <= ROWS


def test_what_the_model_said_stays_with_its_row() -> None:
    rows = random(np.random.default_rng(5), 2000, 4)
    reference = _of(rows)
    centred = reference.points @ reference.embedding.axes.T.astype(np.float32) + reference.embedding.centre
    np.testing.assert_allclose(linear_outputs(centred.astype(np.float32), 3), reference.outputs, atol=1e-4)


def test_features_of_like_ranges_are_left_as_they_are() -> None:
    rows = random(np.random.default_rng(6), 200, 12) * np.linspace(1, 8, 12, dtype=np.float32)
    assert (_of(rows).scale == 1).all()


def test_features_of_unlike_ranges_are_brought_to_one() -> None:
    widths = np.array([1e-3, 1e-3, 1, 1, 50, 4000, 4000, 4000], np.float32)
    rows = random(np.random.default_rng(7), 300, 8) * widths
    rows[:, 3] = 0.25
    reference = _marked(rows)
    spread = np.ptp(rows, axis=0)
    median = np.median(spread[spread > 0])
    np.testing.assert_allclose(reference.scale, np.where(spread > 0, spread, median), rtol=1e-6)
    np.testing.assert_allclose(reference.seen.spread, 1.0, rtol=1e-6)
    scaled = ReferenceIndex(reference).scaled(rows)
    np.testing.assert_allclose(np.ptp(scaled, axis=0), spread > 0, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ReferenceIndex(reference).scaled(rows[:, :3]), rows[:, :3])


def test_one_odd_feature_scales_nothing() -> None:
    """A tenth of the features may range as they like on either side."""
    widths = np.ones(30, np.float32)
    widths[[3, 9]] = 1e4, 1e-4
    rows = random(np.random.default_rng(8), 300, 30) * widths
    assert (_marked(rows).scale == 1).all()


def test_rows_all_alike_are_one_row() -> None:
    reference = _of(np.full((50, 6), 0.5, np.float32))
    assert len(reference.points) == 1 and reference.median_distance == 0
    distance, nearest = _ask(reference, np.array([[0.5] * 6, [1.5] * 6], np.float32))
    assert distance == [0.0, pytest.approx(6**0.5)] and nearest.tolist() == [[0], [0]]


def test_margins_are_log_ratios_of_the_first_two_probabilities() -> None:
    outputs = np.array([[0.2, 0.7, 0.1], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], np.float32)
    wanted = [np.log(0.7 / 0.2), 0.0, np.log(1e6)]
    np.testing.assert_allclose(margins(outputs, "probabilities"), wanted, rtol=1e-5, atol=1e-9)
    assert np.isnan(margins(outputs[:, :1], "probabilities")).all()
    assert np.isnan(margins(outputs, "score")).all() and np.isnan(margins(outputs, "label")).all()


def test_its_margins_are_those_of_its_rows_in_order() -> None:
    rows = random(np.random.default_rng(9), 300, 4)
    reference = _of(rows)
    np.testing.assert_allclose(reference.margins, np.sort(margins(linear_outputs(rows, 3), "probabilities")))


def test_the_rows_alone_decide_which_are_chosen() -> None:
    """Neither their place in the log nor the other accounts say which of an account's rows are compared with."""
    rows = random(np.random.default_rng(10), 3000, 3)
    shuffled = rows[np.random.default_rng(0).permutation(len(rows))]
    chosen = {row.tobytes() for row in _of(rows).outputs}
    assert chosen == {row.tobytes() for row in _of(shuffled).outputs}
    beside = _of(random(np.random.default_rng(11), 5, 3), rows).outputs[5:]
    assert len(chosen) == ROWS and {row.tobytes() for row in beside} < chosen
    others = {row.tobytes() for row in _of(rows[1:]).outputs}
    assert len(chosen & others) < ROWS / 2  # a thief cannot know which


def _table(accounts: int, seed: int = 20) -> list[Features]:
    """A balance and six features of other ranges, forty rows an account."""
    generator = np.random.default_rng(seed)
    widths = np.array([9000, 1, 1, 1, 40, 0.01, 3], np.float32)
    return [random(generator, 40, 7) * widths for _ in range(accounts)]


def test_one_account_of_extreme_values_stretches_no_feature() -> None:
    plain = _table(8)
    tester = _table(1, seed=21)[0]
    tester[:, 0] *= 1_000
    tester[::2, 4] *= -500
    with_tester, without = _marked(*plain, tester), _marked(*plain)
    np.testing.assert_allclose(with_tester.scale, without.scale, rtol=0.1)
    np.testing.assert_allclose(with_tester.seen.spread, without.seen.spread, rtol=0.1)
    assert (with_tester.seen.count_unseen(ReferenceIndex(with_tester).scaled(tester))[::2] > 0).mean() > 0.9
    assert with_tester.seen.count_unseen(ReferenceIndex(with_tester).scaled(plain[0])).mean() < 0.1


def test_two_that_reach_as_far_as_others_or_a_rare_flag_are_not_cut() -> None:
    """What many accounts vary by little and some by much ranges as far as those; what few vary, as far as they do."""
    accounts = _table(8)
    for at, rows in enumerate(accounts):
        rows[:, 2] = 0
        rows[0, 2] = at == 3
        rows[:, 3] *= 100 if at % 2 else 1
    reference = _marked(*accounts)
    assert reference.scale[2] == 1 and reference.scale[3] == pytest.approx(100, rel=0.1)


def test_its_record_brings_it_back() -> None:
    rows = random(np.random.default_rng(11), 60, 7) * np.array([1, 1, 1, 100, 100, 100, 100], np.float32)
    reference = _of(rows)
    back = Reference.from_record(unpack(pack(reference.to_record())))
    asked = random(np.random.default_rng(12), 30, 7)
    for ask in (_ask, lambda own, rows: (own.seen.count_unseen(rows).tolist(), own.margins)):
        for left, right in zip(ask(reference, asked), ask(back, asked), strict=True):
            np.testing.assert_array_equal(left, right)
    assert back.median_distance == reference.median_distance and back.output_kind == reference.output_kind


def test_steps_of_one_size_are_chance_where_values_are_few() -> None:
    generator = np.random.default_rng(4)
    rows = generator.random((200, 24)).astype(np.float32)
    ones = np.ones(24, np.float32)
    fine = fewest_equal(Compared.of(rows, ones), ones)
    coarse = fewest_equal(Compared.of(np.round(4 * rows) / np.float32(4), ones), ones)
    assert fine[5] == 3 and fine[24] == 13  # over half
    assert coarse[5] > 5 and 16 < coarse[24] < 24  # never none
    assert (fewest_equal(NOTHING, ones) == fine).all()
