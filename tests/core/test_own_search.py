"""The nearest own query is that of a plain search, to the bit, however what was asked before came in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.core import own_search
from detector.core.arrays import Array
from detector.core.distances import exact
from detector.core.embedding import Embedding
from detector.core.own_search import Asked, Candidates, among, scanned, search
from detector.core.shadows import Shadow, Shadows
from detector.core.vectors import VectorLists

Vectors = NDArray[np.float32]


@dataclass
class Stored:
    """What some principals asked before: ``vectors`` of each with ``labels``, in several lists, with notes; and the
    shadows of those who have at least ``many``."""

    vectors: list[Vectors]
    labels: list[Array]
    store: VectorLists
    lists: NDArray[np.int32]
    embedding: Embedding
    shadows: list[Shadow | None]
    label_at: dict[int, int]

    @classmethod
    def of(
        cls,
        vectors: list[Vectors],
        generator: np.random.Generator,
        many: int = 30,
        classes: int = 4,
        spread: float | NDArray[np.float64] = 1.0,
        label_of: Callable[[Array], Array] = np.asarray,
    ) -> Stored:
        dimension = vectors[0].shape[1]
        store = VectorLists(dimension, noted=True)
        lists = store.allocate(3 * len(vectors)).reshape(-1, 3)
        embedding = Embedding.fit((generator.standard_normal((60, dimension)) * spread).astype(np.float32))
        labels = [label_of(generator.integers(0, classes, len(own))) for own in vectors]
        label_at: dict[int, int] = {}
        made = Shadows(embedding)
        for at, (own, said) in enumerate(zip(vectors, labels, strict=True)):
            chosen = generator.choice(lists[at], len(own))
            locations = store.next_locations(chosen)
            store.append(chosen, own, generator.random(len(own), dtype=np.float32))
            label_at |= dict(zip(locations.tolist(), said.tolist(), strict=True))
            if len(own) >= many:
                made.make(at, made.columns(said, own), locations)
        return cls(vectors, labels, store, lists, embedding, made.of(np.arange(len(vectors))), label_at)

    def asked(self, queries: Vectors, lengths: Array, labels: Array) -> Asked:
        return Asked(queries, self.embedding.place(queries), labels, np.cumsum(lengths) - lengths, lengths)

    def content(self, where: Array) -> tuple[Vectors, Vectors]:
        return self.store.gather(where), self.store.notes(where)

    def near(self, asked: Asked) -> tuple[Candidates, Candidates]:
        """What shadows find; and that with what is found where there are none."""
        found = search(asked, self.store, self.shadows)
        owner = np.repeat(np.arange(len(asked.lengths)), asked.lengths)
        few = np.flatnonzero(np.array([own is None for own in self.shadows])[owner])
        row, locations = scanned(asked, self.store, few, self.lists[owner[few]])
        gap = exact(asked.vectors[row], self.store.gather(locations))
        others = Candidates(row, locations, gap)
        return found, found.joined(others)

    def check(self, asked: Asked) -> Candidates:
        """All that is found is what a plain search finds."""
        found, candidates = self.near(asked)
        distance, at = candidates.nearest(len(asked.vectors), self.content)
        row, vectors = candidates.row[at], self.store.gather(candidates.where[at])
        np.testing.assert_array_equal(row, np.flatnonzero(np.isfinite(distance)))
        np.testing.assert_array_equal(exact(asked.vectors[row], vectors), distance[row])
        owner = np.repeat(np.arange(len(asked.lengths)), asked.lengths)
        said = np.array([self.label_at[where] for where in found.where.tolist()], np.int64)
        alike = said == asked.labels[found.row]
        for number, query in enumerate(asked.vectors):
            gaps, labels = _plain(query, self.vectors[owner[number]]), self.labels[owner[number]]
            assert distance[number] == gaps.min(initial=np.inf)
            mine = found.gap[alike & (found.row == number)]
            assert not len(mine) or mine.min() == gaps[labels == asked.labels[number]].min()
        np.testing.assert_array_equal(found.gap, exact(asked.vectors[found.row], self.store.gather(found.where)))
        return found


def _plain(query: Vectors, own: Vectors) -> NDArray[np.float64]:
    """Its distance to each."""
    return np.array([np.sqrt(np.sum((query.astype(np.float64) - vector) ** 2)) for vector in own])


def _asked(stored: list[Vectors], generator: np.random.Generator, scale: float) -> tuple[Vectors, Array]:
    """For each principal some that are new, some near an own earlier one, some asked again."""
    parts = []
    for own in stored:
        new = (scale * generator.standard_normal((4, own.shape[1]))).astype(np.float32)
        near = own[: 5 * (len(own) > 0)] * np.float32(1 + 1e-3)
        parts.append(np.concatenate((new, near, own[-2:])))
    return np.concatenate(parts), np.array([len(part) for part in parts])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    counts=st.lists(st.sampled_from([0, 1, 40, 900]), min_size=1, max_size=3),
    dimension=st.sampled_from([3, 24, 70]),
    scale=st.sampled_from([1.0, 1e-12, 1e15]),
    classes=st.sampled_from([1, 5, 700]),
)
def test_it_is_that_of_a_plain_search(seed: int, counts: list[int], dimension: int, scale: float, classes: int) -> None:
    generator = np.random.default_rng(seed)
    stored = [(scale * generator.standard_normal((count, dimension))).astype(np.float32) for count in counts]
    queries, lengths = _asked(stored, generator, scale)
    place = Stored.of(stored, generator, classes=classes)
    place.check(place.asked(queries, lengths, generator.integers(0, classes + 1, len(queries))))


@pytest.mark.parametrize("centre", [0.0, 1000.0])
@pytest.mark.parametrize("near", [0, 8])
@pytest.mark.parametrize("many", [0, 100, 1000])
def test_shadows_or_none_it_is_the_same(many: int, near: int, centre: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it matter that all lies far from the reference, where single precision tells little apart, or that what
    is near is always looked for among all."""
    monkeypatch.setattr(own_search, "MOST_NEAR", near)
    monkeypatch.setattr(own_search, "_FEW_OF", 4 if near else 1 << 40)
    generator = np.random.default_rng(3)
    stored = [(centre + generator.standard_normal((count, 40))).astype(np.float32) for count in (700, 30)]
    queries, lengths = _asked(stored, generator, 1.0)
    place = Stored.of(stored, generator, many)
    place.check(place.asked(queries, lengths, generator.integers(0, 4, len(queries))))


def test_shadows_mostly_find_the_own_class_too() -> None:
    """Though the nearest of another class is nearer: that is what their bits are for."""
    generator = np.random.default_rng(8)
    spread = np.repeat((1.0, 0.01), (5, 35))
    stored, queries = ((generator.standard_normal((n, 40)) * spread).astype(np.float32) for n in (900, 64))
    place = Stored.of([stored], generator, classes=10, spread=spread)
    asked = place.asked(queries, np.array([64]), generator.integers(0, 10, 64))
    found = place.check(asked)
    said = np.array([place.label_at[where] for where in found.where.tolist()])
    alike = np.bincount(found.row[said == asked.labels[found.row]], minlength=64)
    assert (alike > 0).all()
    assert len(found.row) < 64 * 40  # and few others


def test_nothing_is_said_of_a_class_whose_nearest_may_be_farther() -> None:
    """One of the query's class has the very shadow of the query and is far off, another is near, but beyond the one of
    another class, whose label has the same bits."""
    vectors = np.zeros((3, 70), np.float32)
    query = np.zeros((1, 70), np.float32)
    query[0, 40], vectors[0, 40], vectors[1, 41], vectors[2, (0, 40)] = 10, 9.5, 10, (1, 10)
    spread = np.repeat((1.0, 0.001), (32, 38))
    labels = iter([np.array([1, 257, 257])])
    place = Stored.of([vectors], np.random.default_rng(2), 1, spread=spread, label_of=lambda _: next(labels))
    found = place.check(place.asked(query, np.array([1]), np.array([257])))
    np.testing.assert_allclose(found.gap, [0.5])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    dimension=st.sampled_from([3, 70]),
    scale=st.sampled_from([1.0, 1e-12, 1e15]),
)
def test_pairs_within_a_step_are_those_of_a_loop(seed: int, lengths: list[int], dimension: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    count = sum(lengths)
    rows = (scale * generator.standard_normal((count, dimension))).astype(np.float32)
    rows[generator.random(count) < 0.3] = rows[0]
    place = Stored.of([rows], generator)
    asked = place.asked(rows, np.array(lengths), np.zeros(count, np.int64))
    typical = scale * np.sqrt(2 * dimension)
    bound = generator.choice([np.nan, np.inf, 0.0, 0.8 * typical, typical], count)
    some = generator.random(count) < generator.choice([0.0, 0.3, 1.0])
    found = sorted(zip(*(column.tolist() for column in among(asked, bound)), strict=True))
    of_some = sorted(zip(*(column.tolist() for column in among(asked, bound, some)), strict=True))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    wanted = [
        (later, earlier, float(gap))
        for later in range(count)
        for earlier, gap in enumerate(_plain(rows[later], rows[:later]).tolist())
        if owner[earlier] == owner[later] and gap <= bound[later]
    ]
    assert found == wanted
    assert [pair for pair in of_some if some[pair[1]]] == [pair for pair in wanted if some[pair[1]]]


def _crowded(generator: np.random.Generator, count: int) -> Vectors:
    """Corners of a lattice, so that a query at its centre has many nearest ones, with duplicates."""
    return generator.integers(0, 2, (count, 24)).astype(np.float32) * (np.arange(24) < 5)


@pytest.mark.parametrize("count", [3, 40, 400])
def test_of_several_as_near_it_is_always_the_same(count: int) -> None:
    """Whatever their order, and whether they are candidates together or one after the other."""
    generator = np.random.default_rng(count)
    vectors = _crowded(generator, count)
    notes = generator.integers(0, 3, count).astype(np.float32)
    queries = np.concatenate((np.full((1, 24), 0.5, np.float32), vectors[:5]))
    found = []
    for border in (0, count // 3, count):
        order = generator.permutation(count)
        parts = [_pairs(queries, vectors, some) for some in (order[:border], order[border:])]
        candidates = parts[0].joined(parts[1])
        distance, at = candidates.nearest(len(queries), lambda where: (vectors[where], notes[where]))
        np.testing.assert_array_equal(candidates.row[at], range(len(queries)))
        np.testing.assert_array_equal(distance, [_plain(query, vectors).min() for query in queries])
        np.testing.assert_array_equal(candidates.gap[at], distance)
        found.append((vectors[candidates.where[at]].tobytes(), notes[candidates.where[at]].tobytes()))
    assert found[0] == found[1] == found[2]


def _pairs(queries: Vectors, vectors: Vectors, some: Array) -> Candidates:
    row, at = (column.ravel() for column in np.indices((len(queries), len(some))))
    return Candidates(row, some[at], exact(queries[row], vectors[some[at]]))


@pytest.mark.parametrize("notes", [(0.5, 0.5), (0.2, 0.7), (np.nan, 0.7)])
def test_what_is_as_near_is_told_apart_however_large_it_is_otherwise(notes: tuple[float, float]) -> None:
    vectors = np.array([[1e15, 0.04, 0.0], [1e15, 0.0, 0.04]], np.float32)
    said = np.array(notes, np.float32)
    found = []
    for order in ([0, 1], [1, 0], [0, 1, 0, 1, 0]):
        where = np.array(order)
        candidates = Candidates(np.zeros(len(where), np.int64), where, np.full(len(where), 1e15))
        _, at = candidates.nearest(1, lambda some: (vectors[some], said[some]))
        found.append(int(where[at[0]]))
    assert len(set(found)) == 1


def test_a_centre_has_many_nearest_corners() -> None:
    """What the test above is about does occur in it."""
    gaps = _plain(np.full(24, 0.5, np.float32), _crowded(np.random.default_rng(40), 40))
    assert (gaps == gaps.min()).sum() > 10
