"""The nearest own queries, exactly, and the growing sets of PRADA.

All lists of a query are searched in one call: a call with arrays costs as much as twenty vectors. Single precision
excludes rows by a proven bound; double precision decides. Of several rows at one distance it is the same one in any
order of theirs.

Principals are independent of each other, and without a profile their pools are too: rows of one are taken together, so
that what they are compared with stays in the processor's cache.

A query joins the set of its pool if it is farther from it than the threshold T = max(T, mean - deviation) of the
distances that joined before (Juuti et al. 2019); the first counts as distance 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import approximate, compiled
from detector.core.neighbours.ahead import Ahead, of_class
from detector.core.neighbours.blends import HITS, Bench, Blends, Seen, blend
from detector.core.neighbours.distances import LEAST32, UNIT32, exact, gap, within
from detector.core.neighbours.store import COUNT, FIELDS, LANES, NONE, START, Arena, drop, push, room_for
from detector.core.reference.compared import Compared

_NEAR = 256

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class SearchBuffers(NamedTuple):
    """The lists to search, ``runs`` int64 (m, 2): first row and number of rows. Vectors that may be nearest to a query,
    ``near`` int64 (256,) by row, and their squared distances ``gaps`` float32 (256,). ``hits`` int64 (8, 2): lists and
    groups to look at; ``apart`` float32 (16,): how far the projections of one are."""

    runs: NDArray[np.int64]
    near: NDArray[np.int64]
    gaps: NDArray[np.float32]
    hits: NDArray[np.int64]
    apart: NDArray[np.float32]
    ahead: Ahead

    @classmethod
    def of(cls, runs: int) -> SearchBuffers:
        """Returns buffers for ``runs`` lists."""
        near, gaps = np.empty(_NEAR, np.int64), np.empty(_NEAR, np.float32)
        hits, apart = np.empty((HITS, 2), np.int64), np.empty(LANES, np.float32)
        return cls(np.empty((runs, 2), np.int64), near, gaps, hits, apart, Ahead.of())


@compiled
def nearest_of(
    arena: Arena,
    features: Matrix,
    point: Matrix,
    length: float,
    at: int,
    buffers: SearchBuffers,
    alike: int,
    total: int,
) -> tuple[float, float, int]:
    """Returns the distance of query ``at`` to the nearest vector of the first ``alike`` lists, that of all ``total``,
    and the row of the latter; inf and -1 for none. Vectors whose projections are farther from that of the query,
    ``point``, than the nearest so far are left out, unless the ``length`` of that is negative."""
    points, runs, near, gaps, apart = arena.points, buffers.runs, buffers.near, buffers.gaps, buffers.apart
    bound, nearest, limit, reach = inf, NONE, inf, np.float32(inf)
    run, group, number = 0, 0, 0
    for last in (alike, total):
        of_alike = bound
        while True:
            hits, run, group = _find_near(points, runs, run, last, group, point, reach, length < 0, buffers.hits)
            for hit in range(hits):
                found, of_group = buffers.hits[hit]
                start, first = runs[found, 0], of_group * LANES
                end = start + runs[found, 1]
                if length >= 0:
                    _set_apart(points[of_group], point, apart)
                for row in range(max(first, start), min(first + LANES, end)):
                    if length >= 0 and apart[row - first] > reach:
                        continue
                    squared = gap(arena.rows, row, features, at)
                    if squared <= limit:
                        near[number], gaps[number] = row, squared
                        number += 1
                        farthest = within(np.float64(squared), features.shape[1])
                        if farthest < limit:
                            limit, reach = farthest, _reach(farthest, length)
            if run == last or number > _NEAR - HITS * LANES:
                for candidate in range(number):
                    if gaps[candidate] <= limit:
                        bound, nearest = _nearer(arena, near[candidate], features, at, bound, nearest)
                number, limit = 0, within(bound * bound, features.shape[1])
                reach = _reach(limit, length)
            if run == last:
                break
    return of_alike, bound, nearest


@approximate
def _find_near(
    columns: Matrix,
    runs: Integers,
    run: int,
    last: int,
    group: int,
    point: Matrix,
    reach: np.float32,
    every: bool,
    hits: Integers,
) -> tuple[int, int, int]:
    """Sets ``hits`` (h, 2) to the next lists of ``runs``, from ``run`` on and there from ``group`` on, and groups of
    projections ``columns`` (groups, 8, 16) of which one is within ``reach`` of ``point`` (8,), squared; to ``every``
    next group where there are no projections. Returns how many these are, and where to go on: at list ``last`` after
    all before that. Lane by lane, so that the processor does several at once."""
    p = q = r = s = t = u = v = w = np.float32(0)
    if not every:
        p, q, r, s = point[0], point[1], point[2], point[3]
        t, u, v, w = point[4], point[5], point[6], point[7]
    count = 0
    for number in range(run, last):
        start, end = runs[number, 0], runs[number, 0] + runs[number, 1]
        for at in range(max(group, start // LANES), (end + LANES - 1) // LANES):
            if count == len(hits):
                return count, number, at
            within = np.float32(every)  # an integer would have 64 bits, and halve the lanes
            for lane in range(columns.shape[2] if not every else 0):
                a, b, c = columns[at, 0, lane] - p, columns[at, 1, lane] - q, columns[at, 2, lane] - r
                d, e, f = columns[at, 3, lane] - s, columns[at, 4, lane] - t, columns[at, 5, lane] - u
                g, h = columns[at, 6, lane] - v, columns[at, 7, lane] - w
                bound = ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h))
                within += np.float32(bound <= reach)
            if within > 0:
                hits[count, 0], hits[count, 1] = number, at
                count += 1
        group = 0
    return count, last, 0


@approximate
def _set_apart(columns: Matrix, point: Matrix, apart: Matrix) -> None:
    """Sets ``apart`` (16,) to the squared distances of the projections ``columns`` (8, 16) to ``point`` (8,)."""
    p, q, r, s = point[0], point[1], point[2], point[3]
    t, u, v, w = point[4], point[5], point[6], point[7]
    for lane in range(columns.shape[1]):
        a, b, c = columns[0, lane] - p, columns[1, lane] - q, columns[2, lane] - r
        d, e, f = columns[3, lane] - s, columns[4, lane] - t, columns[5, lane] - u
        g, h = columns[6, lane] - v, columns[7, lane] - w
        apart[lane] = ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h))


@compiled
def _nearer(arena: Arena, row: int, features: Matrix, at: int, bound: float, nearest: int) -> tuple[float, int]:
    distance = exact(arena.rows, row, features, at)
    if distance < bound or (distance == bound and (nearest == NONE or _precedes(arena, row, nearest))):
        return distance, row
    return bound, nearest


@compiled
def _reach(limit: float, length: float) -> np.float32:
    """Returns the squared distance of projections beyond which no vector is within the squared distance ``limit`` of a
    query whose projection is ``length`` long: each was rounded by a share of its own length."""
    if length < 0:
        return np.float32(inf)
    distance = sqrt(limit)
    reach = distance + 64 * UNIT32 * (2 * length + distance)
    return np.float32(reach * reach * (1.0 + 66 * UNIT32) + 64 * LEAST32)


@compiled
def _precedes(arena: Arena, row: int, other: int) -> bool:
    """Returns whether the note and the vector of ``row`` come before those of ``other``, compared by their bytes."""
    first, second = arena.notes[row : row + 1].view(np.uint32)[0], arena.notes[other : other + 1].view(np.uint32)[0]
    if first != second:
        return bool(_swapped(first) < _swapped(second))
    for j in range(arena.words.shape[1]):
        first, second = arena.words[row, j], arena.words[other, j]
        if first != second:
            return bool(_swapped(first) < _swapped(second))
    return False


@compiled
def _swapped(word: np.uint32) -> int:
    value = int(word)
    return ((value & 0xFF) << 24) | ((value & 0xFF00) << 8) | ((value >> 8) & 0xFF00) | (value >> 24)


DONE, LACKS_ROOM, DOUBTFUL = 0, 1, 2
"""Why a call ended: all rows were taken, the arena must grow by that many rows, or rounding could decide a row."""
_DOUBT = 1e-9

Recompute = Callable[[int, list[float]], float]
"""(position of the pool, distances that joined it in this step) -> its threshold by the reference's formula."""


class Thresholds(NamedTuple):
    """By pool: T (``threshold``) float64, ``number`` int64 of the distances that joined, and their Welford ``mean`` and
    ``squares`` float64."""

    threshold: Floats
    number: Integers
    mean: Floats
    squares: Floats


class Chains(NamedTuple):
    """By pool, its ``lists`` int64 (pools, 2 * fields) by parity of the block, and the ``following`` pool of the same
    slot int32, -1 for none. By slot, its ``first`` pool int32, the ``block`` int64 that it is in, and how many rows of
    that are ``filled`` int64."""

    lists: Integers
    following: NDArray[np.int32]
    first: NDArray[np.int32]
    block: Integers
    filled: Integers


class QueryArrays(NamedTuple):
    """n queries in stream order: ``features`` float32 (n, d); projections ``points`` float32 (n, p), and how long they
    are, ``length`` float64 (n,), -1 for none; the model's ``answer`` float32 (n,); the ``slot`` of the principal and
    the ``pool``, int64 (n,); and the ``order`` int64 (n,) in which rows are taken."""

    features: Matrix
    points: Matrix
    length: Floats
    answer: Matrix
    slot: Integers
    pool: Integers
    order: Integers


class NearestOwn(NamedTuple):
    """``grown`` float64 (n,): the distance to the growing set as of the row, inf where it was empty; ``joined`` bool
    (n,), and the ``block`` int64 (n,) that it joined. ``distance`` float64 (n,): that to the nearest own query of any
    class, ``step`` float32 (n, d) from it, the query itself where there is none, and the ``answer`` to that query,
    float32 (n,), NaN where unknown. ``blends``: what own queries make up of it."""

    grown: Floats
    joined: NDArray[np.bool_]
    block: Integers
    distance: Floats
    step: Matrix
    answer: Matrix
    blends: Blends


@compiled
def grow(
    arena: Arena,
    chains: Chains,
    thresholds: Thresholds,
    queries: QueryArrays,
    found: NearestOwn,
    buffers: SearchBuffers,
    first: int,
    settled: int,
    exactly: bool,
    judged: bool,
    block_rows: int,
    compared: Compared,
    table: Bench,
) -> tuple[int, int, int]:
    """Takes rows from the ``first`` on in their order. Returns why it ended, the position before which, and how many
    rows of room it lacks. Blocks have ``block_rows``.

    With ``exactly`` it ends before a row whose distance is within 1e-9 of T, unless that is at position ``settled``.
    The nearest query of any class, and what own ones make up by the ``compared`` features, is looked for if the rows
    are ``judged`` by a profile.
    """
    ahead = buffers.ahead.span
    ahead[1] = first
    for position in range(first, len(queries.order)):
        i = queries.order[position]
        pool = queries.pool[i]
        slot = queries.slot[i]
        if chains.filled[slot] >= block_rows:
            advance(arena, chains, slot, chains.block[slot] + 1)
            ahead[1] = position
        parity = chains.block[slot] % 2
        if judged:
            distance = _of_any(arena, chains, queries, found, buffers, i, compared, table)
        else:
            distance = of_class(arena, chains, queries, position, parity, buffers.ahead)
        threshold = thresholds.threshold[pool]
        doubtful = distance > 0 and abs(distance - threshold) <= _DOUBT * (distance + threshold) < inf
        if exactly and doubtful and position != settled:
            return DOUBTFUL, position, 0
        joins = distance == inf or distance > threshold
        if joins:
            lacking = _join(arena, chains, queries, position, parity, ahead)
            if lacking:
                return LACKS_ROOM, position, lacking
            _learn(thresholds, pool, distance)
        found.grown[i] = distance
        found.joined[i] = joins
        found.block[i] = chains.block[slot]
    return DONE, len(queries.order), 0


@compiled
def _of_any(
    arena: Arena,
    chains: Chains,
    queries: QueryArrays,
    found: NearestOwn,
    buffers: SearchBuffers,
    i: int,
    compared: Compared,
    table: Bench,
) -> float:
    """Returns the distance of query ``i`` to the nearest vector of its pool; notes the nearest of any, and what they
    make up of it."""
    alike, total = _gather(chains, queries.slot[i], queries.pool[i], buffers.runs)
    features, point, length = queries.features, queries.points[i], queries.length[i]
    distance, of_any, nearest = nearest_of(arena, features, point, length, i, buffers, alike, total)
    _note(arena, queries, found, i, of_any, nearest)
    if 0 < of_any < inf and len(compared.features):
        for j in range(len(compared.features)):
            table.query[j] = features[i, compared.features[j]]
        blend(arena, buffers.runs, total, Seen(nearest, of_any, point, length), compared, table, found.blends, i)
    return distance


@compiled
def _join(arena: Arena, chains: Chains, queries: QueryArrays, position: int, parity: int, ahead: Integers) -> int:
    """Adds the query at ``position`` to the current list of its pool and returns 0, or else how many rows of room it
    lacks. What was found ``ahead`` ends where the list moves."""
    i = queries.order[position]
    pool = queries.pool[i]
    before = chains.lists[pool, parity * FIELDS + START]
    lacking = room_for(arena, chains.lists, pool, parity)
    if lacking:
        return lacking
    if chains.lists[pool, parity * FIELDS + START] != before:
        ahead[1] = position + 1
    _add(arena, chains.lists, queries, i, parity)
    chains.filled[queries.slot[i]] += 1
    return 0


@compiled
def advance(arena: Arena, chains: Chains, slot: int, block: int) -> None:
    """Moves a slot on to ``block``, if that is later, and drops its vectors from before the block before."""
    behind = block - chains.block[slot]
    if behind <= 0:
        return
    pool = int(chains.first[slot])
    while pool != NONE:
        drop(arena, chains.lists, pool, block % 2)
        if behind > 1:
            drop(arena, chains.lists, pool, 1 - block % 2)
        pool = int(chains.following[pool])
    chains.block[slot], chains.filled[slot] = block, 0


@compiled
def _gather(chains: Chains, slot: int, pool: int, runs: NDArray[np.int64]) -> tuple[int, int]:
    """Writes the lists of ``pool``, and then those of the slot's other pools, to ``runs`` (m, 2), empty ones left out.
    Returns how many are of ``pool``, and how many there are."""
    alike = _write(chains, pool, runs, 0)
    total, other = alike, int(chains.first[slot])
    while other != NONE:
        if other != pool:
            total = _write(chains, other, runs, total)
        other = int(chains.following[other])
    return alike, total


@compiled
def _write(chains: Chains, pool: int, runs: NDArray[np.int64], total: int) -> int:
    for at in (0, FIELDS):
        if chains.lists[pool, at + COUNT]:
            runs[total, 0], runs[total, 1] = chains.lists[pool, at + START], chains.lists[pool, at + COUNT]
            total += 1
    return total


@compiled
def _note(arena: Arena, queries: QueryArrays, found: NearestOwn, i: int, distance: float, nearest: int) -> None:
    found.distance[i] = distance
    if nearest == NONE:
        for j in range(found.step.shape[1]):
            found.step[i, j] = queries.features[i, j]
        return
    for j in range(found.step.shape[1]):
        found.step[i, j] = queries.features[i, j] - arena.rows[nearest, j]
    found.answer[i] = arena.notes[nearest]


@compiled
def _add(arena: Arena, lists: Integers, queries: QueryArrays, i: int, parity: int) -> None:
    row = push(arena, lists, queries.pool[i], parity, queries.features[i], queries.answer[i])
    for axis in range(queries.points.shape[1]):
        arena.points[row // LANES, axis, row % LANES] = queries.points[i, axis]


@compiled
def _learn(thresholds: Thresholds, pool: int, distance: float) -> None:
    if distance == inf:
        thresholds.number[pool] = max(thresholds.number[pool], 1)
        return
    thresholds.number[pool] += 1
    count = thresholds.number[pool]
    step = distance - thresholds.mean[pool]
    thresholds.mean[pool] += step / count
    thresholds.squares[pool] += step * (distance - thresholds.mean[pool])
    candidate = thresholds.mean[pool] - sqrt(thresholds.squares[pool] / count)
    thresholds.threshold[pool] = max(thresholds.threshold[pool], candidate)
