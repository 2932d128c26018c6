"""The nearest own query is that of a plain search, to the bit, however what was asked before came in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.core import shadows
from detector.core.arrays import Array
from detector.core.distances import exact
from detector.core.embedding import Embedding
from detector.core.own_search import Asked, Candidates, own_candidates
from detector.core.shadows import Shadows
from detector.core.vectors import VectorLists

Vectors = NDArray[np.float32]


@dataclass
class Stored:
    """What some principals asked before: ``vectors`` of each, in several lists, with notes."""

    vectors: list[Vectors]
    notes: list[Vectors]
    store: VectorLists
    lists: NDArray[np.int32]
    embedding: Embedding
    shadows: Shadows

    @classmethod
    def of(cls, vectors: list[Vectors], generator: np.random.Generator) -> Stored:
        dimension = vectors[0].shape[1]
        store = VectorLists(dimension, noted=True)
        lists = store.allocate(3 * len(vectors)).reshape(-1, 3)
        notes = [generator.random(len(own), dtype=np.float32) for own in vectors]
        for own, said, numbers in zip(vectors, notes, lists, strict=True):
            store.append(generator.choice(numbers, len(own)), own, said)
        reference = generator.standard_normal((60, dimension)).astype(np.float32)
        return cls(vectors, notes, store, lists, Embedding.fit(reference), Shadows(store))

    def nearest(self, queries: Vectors, lengths: Array, bound: Array) -> tuple[Array, Vectors, Array]:
        """Distance, vector and note of the nearest to each of ``queries``; inf where none is within ``bound``."""
        lengths = np.asarray(lengths)
        shades = self.shadows.of(np.arange(len(lengths)), self.lists, self.embedding)
        placed = self.embedding.place(queries)
        squares = placed.squares + placed.beside**2
        asked = Asked(queries, placed.shades(), squares, np.cumsum(lengths) - lengths, lengths, self.lists, bound)
        row, locations = own_candidates(asked, self.store, shades)
        found = self.store.gather(locations)
        candidates = Candidates(row, found, exact(queries[row], found), self.store.notes(locations))
        distance, at = candidates.nearest(len(queries))
        vectors, notes = np.zeros_like(queries), np.full(len(queries), np.nan)
        vectors[candidates.row[at]], notes[candidates.row[at]] = candidates.vectors[at], candidates.notes[at]
        return distance, vectors, notes


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
)
def test_it_is_that_of_a_plain_search(seed: int, counts: list[int], dimension: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    stored = [(scale * generator.standard_normal((count, dimension))).astype(np.float32) for count in counts]
    queries, lengths = _asked(stored, generator, scale)
    all_gaps = [
        _plain(query, stored[at]) for query, at in zip(queries, np.repeat(range(len(lengths)), lengths), strict=True)
    ]
    least = np.array([gaps.min(initial=np.inf) for gaps in all_gaps])
    bound = np.where(generator.random(len(least)) < 0.5, np.inf, least * generator.choice([1, 1.5], len(least)))
    distance, vectors, notes = Stored.of(stored, generator).nearest(queries, lengths, bound)
    np.testing.assert_array_equal(distance, least)
    known = np.isfinite(least)
    np.testing.assert_array_equal(exact(queries[known], vectors[known]), least[known])
    np.testing.assert_array_equal(np.isnan(notes), ~known)


@pytest.mark.parametrize("centre", [0.0, 1000.0])
@pytest.mark.parametrize(("most", "least"), [(0, 1 << 14), (1 << 26, 0), (1 << 26, 1 << 14)])
def test_shadows_or_none_it_is_the_same(most: int, least: int, centre: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it matter that all lies far from the reference, where single precision tells little apart."""
    monkeypatch.setattr(shadows, "MOST_BYTES", most)
    monkeypatch.setattr(shadows, "_LEAST_ELEMENTS", least)
    generator = np.random.default_rng(3)
    stored = [(centre + generator.standard_normal((count, 40))).astype(np.float32) for count in (700, 30)]
    queries, lengths = _asked(stored, generator, 1.0)
    whose = np.repeat(range(2), lengths)
    wanted = [_plain(query, stored[at]) for query, at in zip(queries, whose, strict=True)]
    place = Stored.of(stored, generator)
    bound = np.where(np.arange(len(queries)) % 3 == 0, np.inf, [gaps.min() for gaps in wanted])
    for _ in range(2):
        distance, vectors, _ = place.nearest(queries, lengths, bound)
        np.testing.assert_array_equal(distance, [gaps.min() for gaps in wanted])
        nearest = [stored[at][gaps.argmin()] for at, gaps in zip(whose, wanted, strict=True)]
        np.testing.assert_array_equal(vectors, nearest)


def test_of_what_is_beyond_the_bound_nothing_is_said() -> None:
    generator = np.random.default_rng(4)
    stored = generator.standard_normal((600, 40)).astype(np.float32)
    queries = generator.standard_normal((20, 40)).astype(np.float32)
    least = np.array([_plain(query, stored).min() for query in queries])
    distance, _, _ = Stored.of([stored], generator).nearest(queries, np.array([20]), 0.5 * least)
    assert np.isinf(distance).sum() > 10
    np.testing.assert_array_equal(distance[np.isfinite(distance)], least[np.isfinite(distance)])


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
        parts = [_pairs(queries, vectors[some], notes[some]) for some in (order[:border], order[border:])]
        candidates = parts[0].joined(parts[1])
        distance, at = candidates.nearest(len(queries))
        np.testing.assert_array_equal(candidates.row[at], range(len(queries)))
        np.testing.assert_array_equal(distance, [_plain(query, vectors).min() for query in queries])
        np.testing.assert_array_equal(candidates.gap[at], distance)
        found.append((candidates.vectors[at].tobytes(), candidates.notes[at].tobytes()))
    assert found[0] == found[1] == found[2]


def _pairs(queries: Vectors, vectors: Vectors, notes: Vectors) -> Candidates:
    row, at = (column.ravel() for column in np.indices((len(queries), len(vectors))))
    return Candidates(row, vectors[at], exact(queries[row], vectors[at]), notes[at])


def test_a_centre_has_many_nearest_corners() -> None:
    """What the test above is about does occur in it."""
    gaps = _plain(np.full(24, 0.5, np.float32), _crowded(np.random.default_rng(40), 40))
    assert (gaps == gaps.min()).sum() > 10
