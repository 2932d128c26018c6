"""Nearest neighbours are those of a plain search, to the bit, whichever way they are found."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.distances import earlier_pairs, near_in, nearest_stored
from detector.core.vectors import VectorLists

DIMENSION = 24


def _store(parts: list[NDArray[np.float32]]) -> tuple[VectorLists, NDArray[np.int32]]:
    store = VectorLists(DIMENSION)
    lists = store.allocate(len(parts))
    for number, part in zip(lists, parts, strict=True):
        store.append(np.full(len(part), number), part)
    return store, lists


def _plain(query: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    return min(float(np.sqrt(np.sum((query.astype(np.float64) - vector) ** 2))) for vector in stored)


@pytest.mark.parametrize(("centre", "scale"), [(0.0, 1.0), (1000.0, 1e-3), (0.0, 1e25), (0.0, 1e-25)])
def test_two_lists_searched_by_many_queries_at_once(centre: float, scale: float) -> None:
    generator = np.random.default_rng(1)
    stored = ((generator.random((1500, DIMENSION)) + centre) * scale).astype(np.float32)
    queries = ((generator.random((40, DIMENSION)) + centre) * scale).astype(np.float32)
    queries[7], queries[8] = stored[3], np.nextafter(stored[1499], np.float32(np.inf))
    store, lists = _store([stored[:900], stored[900:]])
    found = nearest_stored(store, queries, np.broadcast_to(lists, (40, 2)))
    np.testing.assert_array_equal(found, [_plain(query, stored) for query in queries])


def test_vectors_that_float32_cannot_rank_are_ranked() -> None:
    """Each has a twin that differs by one rounding unit in each feature."""
    generator = np.random.default_rng(4)
    vectors = generator.random((600, DIMENSION)).astype(np.float32)
    twins = np.nextafter(vectors, generator.choice([-9, 9], vectors.shape).astype(np.float32))
    queries = generator.random((60, DIMENSION)).astype(np.float32)
    stored = np.concatenate((vectors, twins))
    store, lists = _store([stored])
    found = nearest_stored(store, queries, np.broadcast_to(lists, (60, 1)))
    np.testing.assert_array_equal(found, [_plain(query, stored) for query in queries])


def test_norms_follow_their_list() -> None:
    """Appended to, and emptied and filled again."""
    generator = np.random.default_rng(2)
    first, more, other = (generator.random((1500, DIMENSION)).astype(np.float32) * size for size in (1, 2, 3))
    queries = generator.random((20, DIMENSION)).astype(np.float32)
    store, lists = _store([first])
    wanted = np.broadcast_to(lists, (20, 1))
    nearest_stored(store, queries, wanted)
    store.append(np.repeat(lists, 1500), more)
    found = nearest_stored(store, queries + 1, wanted)
    np.testing.assert_array_equal(found, [_plain(query, np.concatenate((first, more))) for query in queries + 1])
    store.empty(lists)
    store.append(np.repeat(lists, 1500), other)
    np.testing.assert_array_equal(nearest_stored(store, queries, wanted), [_plain(query, other) for query in queries])


@pytest.mark.parametrize("scale", [1.0, 1e25])
def test_pairs_within_groups_of_any_size(scale: float) -> None:
    generator = np.random.default_rng(3)
    lengths = np.array([1, 5, 30, 2, 400, 12, 90, 1])
    starts = np.cumsum(lengths) - lengths
    rows = (generator.random((int(lengths.sum()), DIMENSION)) * scale).astype(np.float32)
    bound = generator.choice([1.2 * scale, 1.6 * scale, np.inf], len(rows))
    later, earlier, distance = earlier_pairs(rows, starts, lengths, bound)
    found = dict(zip(zip(later.tolist(), earlier.tolist(), strict=True), distance.tolist(), strict=True))
    wanted = {
        (row, other): between
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        for row in range(start, start + length)
        for other in range(start, row)
        if (between := _plain(rows[row], rows[other : other + 1])) < bound[row]
    }
    assert found == wanted


def _crowd(generator: np.random.Generator, count: int, away: float = 50.0) -> NDArray[np.float32]:
    """Vectors that differ by less than single precision shows from the origin."""
    return (away + 1e-4 * generator.standard_normal((count, DIMENSION))).astype(np.float32)


def test_a_crowd_far_from_the_origin_is_told_apart() -> None:
    generator = np.random.default_rng(8)
    queries, stored = _crowd(generator, 40), _crowd(generator, 500)
    rows, at = near_in(queries, stored)
    assert len(rows) < 4 * 40
    best = {row: _plain(query, stored) for row, query in enumerate(queries)}
    assert best == {
        row: min(_plain(queries[row], stored[place : place + 1]) for place in at[rows == row].tolist())
        for row in range(40)
    }


def test_the_largest_of_either_sign_are_told_apart_too() -> None:
    stored = np.array([[-3e38, 1.0], [3e38, 1.0], [3e38, -3e38]], np.float32)
    rows, at = near_in(np.array([[3e38, 2.0]], np.float32), stored)
    assert rows.tolist() == [0] and at.tolist() == [1]


@pytest.mark.parametrize("others", [0, 300])
@pytest.mark.parametrize("large", ["asked", "stored", "both"])
def test_crowds_are_searched_exactly(others: int, large: str) -> None:
    """Stored in one list or several, alone or beside what is elsewhere, what is very large or nothing at all."""
    generator = np.random.default_rng(9)
    parts = [_crowd(generator, 700), _crowd(generator, 100), _crowd(generator, 400)]
    parts[1] = np.concatenate((parts[1], _crowd(generator, others, -3.0)))
    parts[0][17] = 0
    queries = np.concatenate((_crowd(generator, 40), _crowd(generator, 8, -3.0)))
    if large != "stored":
        queries = np.concatenate((queries, _crowd(generator, 5, 1e20), np.full((1, DIMENSION), 3e38, np.float32)))
    if large != "asked":
        parts[0][18], parts[0][19] = 1e20, -3e38
    for some in (parts[:1], parts):
        store, lists = _store(some)
        found = nearest_stored(store, queries, np.broadcast_to(lists, (len(queries), len(lists))))
        np.testing.assert_array_equal(found, [_plain(query, np.concatenate(some)) for query in queries])


@pytest.mark.parametrize("same", [False, True])
def test_pairs_of_a_crowd_are_found(same: bool) -> None:
    """Of rows that must not be farther apart than 0 there are none, however many are the same."""
    generator = np.random.default_rng(10)
    rows = np.repeat(_crowd(generator, 1), 90, axis=0) if same else _crowd(generator, 90)
    bound = generator.choice([0.0, 4e-4, 7e-4], 90)
    later, earlier, distance = earlier_pairs(rows, np.array([0, 50]), np.array([50, 40]), bound)
    gaps = np.array([[_plain(row, other[None]) for other in rows] for row in rows])
    owner = np.repeat((0, 1), (50, 40))
    wanted = (gaps < bound[:, None]) & np.tri(90, k=-1, dtype=bool) & (owner[:, None] == owner)
    found = np.zeros_like(wanted)
    found[later, earlier] = True
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(distance, gaps[later, earlier])


def test_nothing_is_nearest_where_there_is_nothing() -> None:
    generator = np.random.default_rng(5)
    stored = generator.random((30, DIMENSION), dtype=np.float32)
    store, lists = _store([stored, stored[:0]])
    wanted = np.array([[-1, -1], [lists[1], -1], [lists[1], lists[0]], [-1, -1]], np.int32)
    found = nearest_stored(store, stored[:4] + np.float32(0.01), wanted)
    assert np.isinf(found).tolist() == [True, True, False, True]


def test_what_is_read_of_a_list_is_what_it_holds_now() -> None:
    """Emptied and filled to the same length, and given to another after it was released."""
    generator = np.random.default_rng(6)
    old, new, newer, other = (generator.random((50, DIMENSION), dtype=np.float32) for _ in range(4))
    store, lists = _store([old])
    np.testing.assert_array_equal(store.view(int(lists[0])), old)
    store.empty(lists)
    assert len(store.view(int(lists[0]))) == 0
    store.append(np.repeat(lists, 50), new)
    np.testing.assert_array_equal(store.view(int(lists[0])), new)
    store.release(lists)
    again, beside = store.allocate(2)
    assert again == lists[0] and len(store.view(int(again))) == 0
    store.append(np.full(50, beside), other)  # where the released one lay, perhaps
    store.append(np.full(50, again), newer)
    np.testing.assert_array_equal(store.view(int(again)), newer)
    many = store.allocate(300)
    store.append(np.repeat(many, 2), np.repeat(other[:1], 600, axis=0))
    np.testing.assert_array_equal(store.view(int(again)), newer)
