"""Links between accounts, against a search of all queries."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.reference.reference import ReferenceIndex
from detector.groups.links import LINKS, Linker, Links, linkable, sampled_cells, selected
from detector.groups.recent import RecentQueries
from tests.core.profiles import reference

Rows = NDArray[np.float32]
Integers = NDArray[np.int64]
DIMENSION = 6


@pytest.fixture(scope="module")
def index() -> ReferenceIndex:
    return ReferenceIndex(reference(np.random.default_rng(1).random((40, DIMENSION)).astype(np.float32)))


def _link(recent: Linker, index: ReferenceIndex, features: Rows, account: Integers, label: Integers) -> Links:
    return recent.link(*linkable(index, features), account, label)


def _stream(rows: int, accounts: int) -> tuple[Rows, Integers, Integers]:
    """Queries of ``accounts`` accounts; every second one is a step of one size from an earlier query of anybody."""
    rng = np.random.default_rng(7)
    features = rng.random((rows, DIMENSION))
    for row in range(2, rows, 2):
        features[row] = features[rng.integers(0, row)] + 0.02 * rng.choice([-1.0, 1.0], DIMENSION)
    return features.astype(np.float32), rng.integers(0, accounts, rows), rng.integers(0, 3, rows)


def test_the_nearest_query_of_another_account_is_found(index: ReferenceIndex) -> None:
    features, account, label = _stream(400, 9)
    found = _link(Linker(index.reference), index, features, account, label)
    scaled = index.scaled(features).astype(np.float64)
    stepped = np.arange(2, 400, 2)
    right, near = 0, list[int]()
    for row in stepped.tolist():
        gap = np.linalg.norm(scaled[:row] - scaled[row], axis=1)
        gap[(account[:row] == account[row]) | (gap < 1e-6)] = np.inf
        if gap.min() < 0.1:
            near.append(row)
            right += int(gap[account[:row] == found.partner[row]].min(initial=np.inf) < gap.min() + 1e-6)
    assert len(near) > 100
    assert right >= 0.98 * len(near)
    signs = found.values[:, LINKS.index("foreign_sign_steps")]
    assert signs[stepped].mean() > 0.7
    assert np.delete(signs, stepped).mean() < 0.05


@pytest.mark.parametrize("far", [1.0, 1_000.0])
def test_the_nearest_is_found_among_equally_near_ones_and_beyond_what_coordinates_hold(far: float) -> None:
    features = np.random.default_rng(3).normal(size=(300, 37)).astype(np.float32)
    index = ReferenceIndex(reference(features[:40]))
    features *= np.float32(far)
    scaled, points, cells = linkable(index, features)
    account, label = np.arange(300) % 7, np.zeros(300, np.int64)
    found = RecentQueries(index.reference).nearest(scaled, points, np.zeros_like(cells), account, label)
    for row in range(1, 300):
        gap = np.linalg.norm(scaled[:row].astype(np.float64) - scaled[row], axis=1)
        gap[account[:row] == account[row]] = np.inf
        assert found.distance[row] == pytest.approx(gap.min(), rel=1e-12)
        np.testing.assert_array_equal(found.step[row], scaled[row] - scaled[np.argmin(gap)])


def test_queries_that_an_older_version_remembered_are_forgotten(index: ReferenceIndex) -> None:
    features, account, label = _stream(200, 5)
    live, restored = Linker(index.reference), Linker(index.reference)
    _link(live, index, features, account, label)
    dump = live.recent.dump()
    restored.recent.load(dump | {"leading": dump["leading"].astype(np.float32)})
    assert len(restored.recent) == 0 < len(live.recent)
    restored.recent.load(dump)
    now, then = (_link(own, index, features[:50], account[:50] + 5, label[:50]) for own in (live, restored))
    np.testing.assert_array_equal(now.partner, then.partner)
    assert (then.partner >= 0).any()


def test_any_cut_gives_the_same_links(index: ReferenceIndex) -> None:
    features, account, label = _stream(300, 5)
    whole = _link(Linker(index.reference), index, features, account, label)
    recent = Linker(index.reference)
    parts = [
        _link(recent, index, features[at : at + 7], account[at : at + 7], label[at : at + 7]) for at in range(0, 300, 7)
    ]
    assert np.concatenate([part.values for part in parts]).tolist() == whole.values.tolist()
    assert np.concatenate([part.partner for part in parts]).tolist() == whole.partner.tolist()


def test_own_and_equal_queries_are_no_links(index: ReferenceIndex) -> None:
    row = np.full((4, DIMENSION), 0.5, np.float32)
    row[2:] += np.float32(0.01)
    row[3] += np.float32(0.01)
    found = _link(Linker(index.reference), index, row, np.array([0, 1, 0, 1]), np.zeros(4, np.int64))
    assert found.partner.tolist() == [-1, -1, -1, 0]


def test_queries_beyond_the_room_are_forgotten(index: ReferenceIndex) -> None:
    features, account, label = _stream(120, 120)
    account = np.arange(120)
    one_page = Linker(index.reference, nbytes=1)
    found = _link(one_page, index, features, account, label)
    linked = np.flatnonzero(found.partner >= 0)
    assert len(linked)
    assert (linked - found.partner[linked]).max() <= 32
    assert one_page.nbytes < 20_000


@pytest.mark.parametrize("nbytes", [100_000, 1_000_000])
def test_memory_is_within_its_bound(index: ReferenceIndex, nbytes: int) -> None:
    recent = RecentQueries(index.reference, nbytes)
    assert 0.9 * nbytes < recent.nbytes <= nbytes
    features = np.random.default_rng(4).random((6_000, DIMENSION)).astype(np.float32)
    recent.nearest(*linkable(index, features), np.arange(6_000), np.zeros(6_000, np.int64))
    row_bytes = 4 * (DIMENSION + 2) + 2 * 8
    assert len(recent) > min(0.35 * nbytes / row_bytes, 5_000)


def test_of_queries_in_one_place_the_latest_are_kept(index: ReferenceIndex) -> None:
    crowded = np.tile(np.float32(0.5), (2_002, DIMENSION))
    crowded[1:-1] += np.linspace(0.011, 0.012, 2_000, dtype=np.float32)[:, None]
    crowded[-1] += np.float32(0.001)
    account = np.array([0, *[1] * 2_000, 2])
    fewer = [0, *range(1_601, 2_002)]
    late = _link(Linker(index.reference), index, crowded, account, np.zeros(2_002, np.int64))
    soon = _link(Linker(index.reference), index, crowded[fewer], account[fewer], np.zeros(402, np.int64))
    assert late.partner[-1] == 1
    assert soon.partner[-1] == 0


def test_a_crowded_place_displaces_no_other(index: ReferenceIndex) -> None:
    crowd = np.tile(np.float32(0.5), (5_000, DIMENSION)) + np.linspace(0, 0.01, 5_000, dtype=np.float32)[:, None]
    features = np.concatenate((np.full((1, DIMENSION), 0.1), crowd, np.full((1, DIMENSION), 0.105))).astype(np.float32)
    account = np.array([0, *[1] * 5_000, 2])
    found = _link(Linker(index.reference, 100_000), index, features, account, np.zeros(5_002, np.int64))
    assert found.partner[-1] == 0


def test_few_changed_features_and_crossings_are_measured(index: ReferenceIndex) -> None:
    near = np.tile(np.float32(0.5), (2, DIMENSION))
    near[1, 3] = 0.52
    values = _link(Linker(index.reference), index, near, np.array([0, 1]), np.array([0, 1])).values[1]
    assert values[LINKS.index("foreign_one_feature")] == 1
    assert values[LINKS.index("foreign_crossings")] == 1
    assert values[LINKS.index("foreign_sign_steps")] == 0


def test_due_are_fixed_numbers_and_linked_the_first_and_sampled_cells(index: ReferenceIndex) -> None:
    sampled = sampled_cells(index.reference)
    assert sampled.sum() == 3
    assert sampled.tolist() == sampled_cells(index.reference).tolist()
    other = reference(np.random.default_rng(2).random((40, DIMENSION)).astype(np.float32))
    assert sampled.tolist() != sampled_cells(other).tolist()
    inside, outside = int(np.flatnonzero(sampled)[0]), int(np.flatnonzero(~sampled)[0])
    number = np.array([0, 3, 4, 7, 8, 8, 255, 256, 264])
    due, linked = selected(number, np.where(np.arange(9) == 5, inside, outside), sampled)
    assert due.tolist() == [True, True, False, True, False, False, True, True, False]
    assert linked.tolist() == [True, True, True, True, False, True, False, True, False]
