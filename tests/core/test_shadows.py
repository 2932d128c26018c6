"""Shadows are those of what the lists hold now, never farther apart than what they are of, and bounded."""

from __future__ import annotations

import numpy as np
import pytest

from detector.core import shadows
from detector.core.arrays import Array
from detector.core.embedding import Embedding
from detector.core.shadows import Shadow, Shadows
from detector.core.vectors import VectorLists

DIMENSION = 70
GENERATOR = np.random.default_rng(0)
EMBEDDING = Embedding.fit(GENERATOR.standard_normal((90, DIMENSION)).astype(np.float32))


def _some(count: int) -> Array:
    return GENERATOR.standard_normal((count, DIMENSION)).astype(np.float32)


class Held:
    """Two principals of three lists each."""

    def __init__(self) -> None:
        self.store = VectorLists(DIMENSION)
        self.lists = self.store.allocate(6).reshape(2, 3)
        self.shadows = Shadows(self.store)

    def put(self, who: int, count: int) -> None:
        self.store.append(GENERATOR.choice(self.lists[who], count), _some(count))

    def of(self, *who: int) -> list[Shadow | None]:
        return self.shadows.of(np.array(who), self.lists[list(who)], EMBEDDING)

    def check(self, who: int) -> None:
        """The shadows of ``who`` are of all that his lists hold, each once."""
        (own,) = self.of(who)
        assert own is not None
        locations = own.locations[: own.count]
        wanted, _ = self.store.locations(self.lists[who])
        np.testing.assert_array_equal(np.sort(locations), np.sort(wanted))
        fresh = EMBEDDING.shadows(self.store.gather(locations))
        columns = own.columns[:, : own.count]
        np.testing.assert_allclose(columns[:-2], -2 * fresh[:-1], atol=1e-4)
        np.testing.assert_allclose(columns[-2], fresh[-1], rtol=1e-4)
        assert (columns[-2] < fresh[-1]).all() and (columns[-1] == 1).all()


def test_they_follow_what_the_lists_hold() -> None:
    held = Held()
    held.put(0, 300)
    held.put(1, 400)
    assert all(own is not None for own in held.of(0, 1))
    for who in (0, 1, 0):
        held.put(who, 150)
        held.check(who)
    held.check(1)


def test_few_vectors_have_none_until_they_are_many() -> None:
    held = Held()
    held.put(0, 20)
    held.put(1, 400)
    few, many = held.of(0, 1)
    assert few is None and many is not None
    held.put(0, 300)
    held.check(0)


def test_lists_that_were_emptied_and_filled_again_have_new_ones() -> None:
    held = Held()
    held.put(0, 500)
    held.check(0)
    held.shadows.forget(np.array([0]), held.lists[0])
    held.store.empty(held.lists[0][:1])
    held.put(0, 60)
    held.check(0)


def test_no_two_vectors_are_nearer_than_their_shadows() -> None:
    vectors, asked = _some(500), _some(40)
    held = Held()
    held.store.append(np.repeat(held.lists[0, :1], 500), vectors)
    (own,) = held.of(0)
    assert own is not None
    placed = EMBEDDING.place(asked)
    wide = own.columns[:-3, :500].T.astype(np.float64) / -2
    along = ((placed.points.astype(np.float64)[:, None] - wide) ** 2).sum(axis=2)
    beside = (placed.beside[:, None] + own.columns[-3, :500] / 2) ** 2
    real = ((asked.astype(np.float64)[:, None] - vectors[own.locations[:500] & 0xFFFFFFFF]) ** 2).sum(axis=2)
    assert (along + beside <= real * (1 + 1e-4)).all()
    assert np.median((along + beside) / real) > 0.3  # they do tell


def test_forgotten_they_take_no_room() -> None:
    held = Held()
    for who in (0, 1):
        held.put(who, 500)
    held.of(0, 1)
    whole = held.shadows.nbytes
    assert whole >= 2 * 500 * (34 * 4 + 8)
    held.shadows.forget(np.array([1]), held.lists[1])
    assert held.shadows.nbytes <= whole / 2
    held.shadows.forget(np.array([0, 7]), held.lists[0])
    assert held.shadows.nbytes == 0
    held.check(0)


def test_where_there_is_no_room_who_was_not_asked_for_makes_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "MOST_BYTES", 50_000)
    held = Held()
    for who in (0, 1):
        held.put(who, 500)
    assert held.of(0)[0] is not None
    assert held.of(1) == [None]
    for _ in range(2 * 64):
        held.of(1)
    assert held.of(1)[0] is not None
    assert held.of(0) == [None]
    assert 50_000 < held.shadows.nbytes < 200_000
