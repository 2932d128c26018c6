"""Shadows are those of what the lists hold now, never farther apart than what they are of, and bounded."""

from __future__ import annotations

import numpy as np
import pytest

from detector.core import shadows
from detector.core.arrays import Array
from detector.core.embedding import Embedding
from detector.core.shadows import BITS, Shadow, Shadows, columns_of, signs
from detector.core.vectors import OFFSET_BITS

DIMENSION = 70
GENERATOR = np.random.default_rng(0)
EMBEDDING = Embedding.fit(GENERATOR.standard_normal((90, DIMENSION)).astype(np.float32))


def _some(count: int) -> Array:
    return GENERATOR.standard_normal((count, DIMENSION)).astype(np.float32)


class Held:
    """Vectors of some principals, by location, each in one of three lists of its own."""

    def __init__(self) -> None:
        self.shadows = Shadows(EMBEDDING)
        self.vectors: dict[int, dict[int, Array]] = {}
        self.labels: dict[int, int] = {}
        self.next = 0

    def new(self, who: int, count: int) -> tuple[Array, Array, Array]:
        """Labels, vectors and locations of more."""
        labels, vectors = GENERATOR.integers(0, 300, count), _some(count)
        lists = 3 * who + GENERATOR.integers(0, 3, count)
        locations = (lists << OFFSET_BITS) | np.arange(self.next, self.next + count)
        self.next += count
        self.vectors.setdefault(who, {}).update(zip(locations.tolist(), vectors, strict=True))
        self.labels.update(zip(locations.tolist(), labels.tolist(), strict=True))
        return labels, vectors, locations

    def make(self, who: int, count: int) -> None:
        labels, vectors, locations = self.new(who, count)
        self.shadows.make(who, self.shadows.columns(labels, vectors), locations)

    def put(self, *count_of: tuple[int, int]) -> None:
        """More of several principals at once, in any order."""
        parts = [self.new(who, count) for who, count in count_of]
        labels, vectors, locations = (np.concatenate(column) for column in zip(*parts, strict=True))
        slots = np.repeat([who for who, _ in count_of], [count for _, count in count_of])
        order = GENERATOR.permutation(len(slots))
        columns = self.shadows.columns(labels[order], vectors[order])
        self.shadows.append(slots[order], columns, locations[order])

    def of(self, who: int) -> Shadow | None:
        return self.shadows.of(np.array([who]))[0]

    def check(self, who: int) -> None:
        """The shadows of ``who`` hold each of their vectors once."""
        own, wanted = self.of(who), self.vectors[who]
        assert own is not None
        locations = own.locations[: own.count].tolist()
        assert sorted(locations) == sorted(wanted)
        placed = EMBEDDING.place(np.stack([wanted[at] for at in locations]))
        labels = np.array([self.labels[at] for at in locations])
        fresh = columns_of(placed, labels, DIMENSION)
        np.testing.assert_allclose(own.columns[:, : own.count], fresh, rtol=1e-4, atol=1e-4)
        assert own.farthest >= float(fresh[BITS].max()) * (1 - 1e-4)


def test_they_follow_what_comes_in() -> None:
    held = Held()
    held.make(0, 300)
    held.make(1, 400)
    for counts in ([(0, 150)], [(1, 30), (0, 20)], [(0, 1)]):
        held.put(*counts)
        held.check(0)
        held.check(1)


def test_who_has_none_gets_none_by_what_comes_in() -> None:
    held = Held()
    held.make(0, 300)
    held.put((1, 50), (0, 40), (2, 1))
    held.check(0)
    assert held.of(1) is None and held.of(2) is None


@pytest.mark.parametrize("lists", [[0], [0, 2], [5]])
def test_lists_that_are_emptied_leave_the_others(lists: list[int]) -> None:
    held = Held()
    held.make(0, 300)
    held.shadows.drop(0, np.array(lists))
    held.shadows.drop(9, np.array(lists))
    own = held.vectors[0]
    held.vectors[0] = {at: vector for at, vector in own.items() if at >> OFFSET_BITS not in lists}
    held.check(0)
    held.put((0, 200))
    held.check(0)


def test_who_loses_all_lists_has_no_shadows() -> None:
    held = Held()
    held.make(0, 300)
    held.shadows.drop(0, np.arange(3))
    assert held.of(0) is None and held.shadows.nbytes == 0


def test_no_two_vectors_are_nearer_than_their_shadows() -> None:
    held, asked = Held(), _some(40)
    held.make(0, 500)
    own = held.of(0)
    assert own is not None
    placed = EMBEDDING.place(asked)
    wide = own.columns[BITS + 1 : -2, : own.count].T.astype(np.float64) / -2
    along = ((placed.points.astype(np.float64)[:, None] - wide) ** 2).sum(axis=2)
    beside = (placed.beside[:, None] + own.columns[-2, : own.count] / 2) ** 2
    vectors = np.stack([held.vectors[0][at] for at in own.locations[: own.count].tolist()])
    real = ((asked.astype(np.float64)[:, None] - vectors) ** 2).sum(axis=2)
    assert (along + beside <= real * (1 + 1e-4)).all()
    assert np.median((along + beside) / real) > 0.3  # they do tell
    squares = ((vectors - EMBEDDING.centre) ** 2).sum(axis=1)
    assert (own.columns[BITS, : own.count] < squares).all()
    np.testing.assert_allclose(own.columns[BITS, : own.count], squares, rtol=1e-3)


def test_signs_tell_labels_apart_by_their_lowest_bits() -> None:
    labels = np.array([0, 1, 2, 255, 256, 257, -1])
    found = signs(labels)
    assert set(np.unique(found).tolist()) == {-1.0, 1.0} and found.dtype == np.float32
    alike = (found[:, None] == found[None]).all(axis=2)
    np.testing.assert_array_equal(alike, (labels[:, None] & 0xFF) == (labels[None] & 0xFF))


def test_forgotten_they_take_no_room() -> None:
    held = Held()
    for who in (0, 1):
        held.make(who, 500)
    whole = held.shadows.nbytes
    assert whole >= 2 * 500 * (34 * 4 + 8)
    held.shadows.forget(np.array([1]))
    assert held.shadows.nbytes <= whole / 2
    held.shadows.forget(np.array([0, 7]))
    assert held.shadows.nbytes == 0
    held.put((0, 40))
    assert held.of(0) is None


def test_as_they_grow_who_was_not_asked_for_longest_loses_his(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "MOST_BYTES", 800_000)
    held = Held()
    for who in range(4):
        held.make(who, 600)
        assert held.of(who) is not None
    assert held.of(0) is not None
    for _ in range(9):
        held.put((3, 200), (2, 200), (0, 200))
        assert held.shadows.nbytes <= 800_000
    assert [held.of(who) is not None for who in range(4)] == [True, False, False, False]
    held.check(0)


def test_what_is_too_large_does_not_fit() -> None:
    rows = _some(5)
    assert Shadows.fits(rows) and Shadows.fits(rows[:0])
    for large in (1e16, -1e16):
        rows[2, 3] = large
        assert not Shadows.fits(rows)


def test_where_there_is_no_room_who_was_not_asked_for_makes_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "MOST_BYTES", 50_000)
    held = Held()
    assert not held.shadows.full
    held.make(0, 500)
    assert held.shadows.full
    for _ in range(2 * 64):
        held.of(1)
    assert not held.shadows.full and held.of(0) is None
    held.make(1, 500)
    for _ in range(2 * 64):
        assert held.of(1) is not None
