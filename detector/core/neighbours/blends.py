"""How far a query is made up of rows: put together from values of several, or a point between two.

``recombined`` is what up to three further rows add to the share of its unusual values that one row has, the base: the
row nearest to it, or the one with most of these values.

    ln((1 - c1 + e) / (1 - c + e)),

c1 the share of the base, c that of all. ``spanned`` is ln(distance to the nearest row / distance to the nearest segment
from there to another row). Both are set against what honest rows, as many, add to the same row: what they add as well
is chance, and no sign that the query was made from the account's own rows. Nor are values that four own rows have
together, which are a pattern of the account: one change to row after row, as copies for a comparison have it.

Of many rows few are candidates: those that agree best with the query in eight of the features in which it differs from
the base. A crossover of two rows agrees in all of these with the second one; a point on a segment is on it in any of
them. Nothing depends on the order of rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import allocating, approximate, compiled
from detector.core.neighbours.distances import LEAST32, UNIT32
from detector.core.neighbours.store import LANES, Arena
from detector.core.reference.compared import Compared

FEWEST_ROWS = 8
"""With fewer own rows nothing is said."""
LEAST_RECOMBINED, LEAST_SPANNED = 0.2, 1.0
"""What honest rows are taken to add at least; where own ones add no more, they are not compared."""

_SHARE = 0.05
"""e above."""
_ROWS = 256
"""About the most rows among which further ones are looked for."""
_FEWEST_FEATURES = 3
_SEVERAL = 3
"""A base with more than one in this many of the unusual values is one of the parents."""
_PROBES, _CANDIDATES = 8, 4
_TILE = 32
HITS = 8
"""This many groups of projections are looked for at once: a call costs as much as twenty."""
_MIXER, _LOW = 73_244_475, 0xFFFFFFFF
_TIE = 1 + 1e-9
_LESS_THAN_ONE = 0.999
_LEFT = math.exp(-2 * LEAST_SPANNED) * (1 + 1e-9)
"""The share of the squared distance that a segment leaves where ``spanned`` is ``LEAST_SPANNED``."""
_LEAST_LEFT = 0.02
"""A query is off a segment by at least this share of its distance."""

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Blends(NamedTuple):
    """Of n queries, ``recombined`` and ``spanned`` by own rows, and how much of that is to be expected,
    ``recombined_honestly`` and ``spanned_honestly``: what as many honest rows add, or four own ones alike. float64 (n,)
    each; 0 where nothing is said."""

    recombined: Floats
    spanned: Floats
    recombined_honestly: Floats
    spanned_honestly: Floats

    @classmethod
    def none(cls, count: int) -> Blends:
        """Returns those of ``count`` queries of which nothing is said."""
        return cls(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count))


class Bench(NamedTuple):
    """What one query is compared by: ``query`` float32 (f,); ``base`` float32 (f,): the row that others add to;
    ``chosen`` int64: rows among which to look; ``open`` int64 (f,): features in which the rows so far lack its value;
    ``probes`` int64 (8,), columns of rows, with their ``scale`` float32 (4, 8): the base, the query, the step between,
    the limit; the candidates found, ``best`` int64 (2, 4) with ``marks`` float64 (2, 4): by equal values, by direction;
    ``lanes`` float32 (4, 32); ``hits`` int64 (8, 2), lists and groups to look at. ``equal``: the largest squared
    distance of rows that have the same values, inf where not all features are compared."""

    query: Rows
    base: Rows
    chosen: Integers
    open: Integers
    probes: Integers
    scale: Rows
    best: Integers
    marks: Floats
    lanes: Rows
    hits: Integers
    equal: float


class Seen(NamedTuple):
    """What is known of a query: its ``nearest`` row, the ``distance`` to that, and its projection ``point`` float32
    (p,) with the ``length`` of that."""

    nearest: int
    distance: float
    point: Rows
    length: float


@allocating
def bench(compared: Compared, dimension: int) -> Bench:
    """Returns an empty bench for rows of this ``dimension``."""
    features, equal = len(compared.features), math.inf
    if features == dimension:
        equal = 0.0
        for j in range(features):
            equal += np.float64(compared.limits[j]) * np.float64(compared.limits[j])
    return Bench(
        np.empty(features, np.float32),
        np.empty(features, np.float32),
        np.empty(2 * _ROWS, np.int64),
        np.empty(features, np.int64),
        np.empty(_PROBES, np.int64),
        np.empty((4, _PROBES), np.float32),
        np.empty((2, _CANDIDATES), np.int64),
        np.empty((2, _CANDIDATES)),
        np.zeros((4, _TILE), np.float32),
        np.empty((HITS, 2), np.int64),
        equal,
    )


@compiled
def blend(
    arena: Arena,
    runs: Integers,
    total: int,
    seen: Seen,
    compared: Compared,
    at: Bench,
    blends: Blends,
    i: int,
) -> None:
    """Sets the ``i``-th of ``blends`` for ``at.query`` from rows of the ``total`` lists ``runs``, of which the nearest
    is one, and from honest rows."""
    held, nearest = 0, seen.nearest
    for run in range(total):
        held += runs[run, 1]
    if held < FEWEST_ROWS:
        return
    rows, columns = arena.rows, compared.features
    left, equal = _differ(rows, columns, nearest, compared, at)
    if left < _FEWEST_FEATURES:
        return
    every = (held + _ROWS - 1) // _ROWS
    projected = arena.points.shape[1] > 0
    if projected:
        _direct(arena, columns, runs, total, seen, at)
        blends.spanned[i] = _span(rows, columns, left, at)
    if not projected or _PROBES * equal >= left:
        count = _take(arena, columns, runs, total, every, at.chosen)
        _choose(rows, columns, count, left, compared, at)
        if not projected:
            blends.spanned[i] = _span(rows, columns, left, at)
        left, equal = _rebase(rows, columns, count, left, equal, compared, at)
        blends.recombined_honestly[i] = _common(rows, columns, left, equal, compared, at)
        blends.recombined[i] = _recombine(rows, columns, count, left, equal, compared, at)
    _blend_honest(arena, nearest, held // every, compared, at, blends, i)


@allocating
def _blend_honest(arena: Arena, nearest: int, most: int, compared: Compared, at: Bench, blends: Blends, i: int) -> None:
    """Sets the ``i``-th of ``blends`` from ``most`` honest rows, where own ones make up enough: what they add to the
    base of these, and to the ``nearest`` row."""
    rows, columns = compared.rows, np.arange(len(compared.features))
    count = _take_honest(most, len(rows), at.chosen)
    if blends.recombined[i] > LEAST_RECOMBINED:
        left, equal = _open(compared, at)
        _choose(rows, columns, count, left, compared, at)
        by_honest = _recombine(rows, columns, count, left, equal, compared, at)
        blends.recombined_honestly[i] = max(blends.recombined_honestly[i], by_honest)
    if blends.spanned[i] > LEAST_SPANNED:
        left, equal = _differ(arena.rows, compared.features, nearest, compared, at)
        _choose(rows, columns, count, left, compared, at)
        blends.spanned_honestly[i] = _span(rows, columns, left, at)


@compiled
def _take(arena: Arena, columns: Integers, runs: Integers, total: int, every: int, chosen: Integers) -> int:
    """Sets ``chosen`` to about one in ``every`` row of the ``total`` lists ``runs``; returns how many these are.

    The values of a row decide, and not its place, which is another one after a recovery."""
    count = 0
    for run in range(total):
        for row in range(runs[run, 0], runs[run, 0] + runs[run, 1]):
            if count < len(chosen) and (every == 1 or _is_taken(arena.words, row, columns, every)):
                chosen[count] = row
                count += 1
    return count


@compiled
def _is_taken(words: NDArray[np.uint32], row: int, columns: Integers, every: int) -> bool:
    mixed = np.int64(0)
    for at in range(0, len(columns), max(len(columns) // _PROBES, 1)):
        mixed = ((mixed ^ np.int64(words[row, columns[at]])) * _MIXER) & _LOW
    return bool((mixed >> 16) % every == 0)


@compiled
def _take_honest(count: int, rows: int, chosen: Integers) -> int:
    """Sets ``chosen`` to ``count`` of the honest ``rows``, or to all; returns how many these are."""
    count = min(count, rows)
    for number in range(count):
        chosen[number] = number * (rows // count)
    return count


@compiled
def _differ(rows: Rows, columns: Integers, base: int, compared: Compared, at: Bench) -> tuple[int, int]:
    """Makes the row ``base`` that of ``at``, and returns what ``_open`` does."""
    for j in range(len(at.query)):
        at.base[j] = rows[base, columns[j]]
    return _open(compared, at)


@compiled
def _open(compared: Compared, at: Bench) -> tuple[int, int]:
    """Sets ``at.open`` to the features in which the query differs from the base. Returns how many these are, and in how
    many others it has an unusual value."""
    left, equal = 0, 0
    for j in range(len(at.query)):
        value = at.query[j]
        if abs(value - at.base[j]) > compared.limits[j]:
            at.open[left] = j
            left += 1
        elif abs(value - compared.usual[j]) > compared.limits[j]:
            equal += 1
    return left, equal


@compiled
def _rebase(
    rows: Rows, columns: Integers, count: int, left: int, equal: int, compared: Compared, at: Bench
) -> tuple[int, int]:
    """Takes the candidate that has most of the query's unusual values for the base, if it has more than the base has,
    and chooses again. Returns the same as ``_open``.

    A row that is not the nearest may be the one that the query was made from by a large change, as a drawing is from
    the one before.
    """
    most, chosen = equal, -1
    for candidate in range(_CANDIDATES):
        row, same = at.best[0, candidate], 0
        if row < 0:
            break
        for j in range(len(at.query)):
            value, limit = at.query[j], compared.limits[j]
            same += abs(value - compared.usual[j]) > limit and abs(value - rows[row, columns[j]]) <= limit
        if same > most:
            most, chosen = same, row
    if chosen >= 0:
        left, equal = _differ(rows, columns, chosen, compared, at)
        if left >= _FEWEST_FEATURES:
            _choose(rows, columns, count, left, compared, at)
    return left, equal


@compiled
def _choose(rows: Rows, columns: Integers, count: int, left: int, compared: Compared, at: Bench) -> None:
    """Sets ``at.best`` to the candidates among the first ``count`` of ``at.chosen``, by probes of the ``left`` open
    features."""
    best, marks, along = at.best, at.marks, 1e-30
    for k in range(_PROBES):
        j = at.open[(2 * k + 1) * left // (2 * _PROBES)]
        base, value = at.base[j], at.query[j]
        at.probes[k] = columns[j]
        at.scale[0, k], at.scale[1, k], at.scale[2, k], at.scale[3, k] = base, value, value - base, compared.limits[j]
        along += np.float64(value - base) * np.float64(value - base)
    best[:], marks[:] = -1, 0.0
    same, dots, lengths = at.lanes[0], at.lanes[1], at.lanes[2]
    for start in range(0, count, _TILE):
        lanes = min(count - start, _TILE)
        _probe(rows, start, lanes, at)
        for lane in range(lanes):
            row, dot, length = at.chosen[start + lane], np.float64(dots[lane]), np.float64(lengths[lane]) + 1e-30
            gain = dot * dot / length if dot > 0 else 0.0
            if gain * _TIE >= marks[1, _CANDIDATES - 1] and gain > 0:
                _insert(rows, columns, best[1], marks[1], row, gain)
            if same[lane] > 0 and same[lane] + 1 > marks[0, _CANDIDATES - 1]:
                _insert(rows, columns, best[0], marks[0], row, same[lane] + min(gain / along, _LESS_THAN_ONE))


@compiled
def _probe(rows: Rows, start: int, lanes: int, at: Bench) -> None:
    """Sets ``at.lanes`` for rows from the ``start`` of ``at.chosen`` on: the number of probes in which they have the
    query's value, their products with the step from the base, and their squared distances from that."""
    same, dots, lengths, values = at.lanes[0], at.lanes[1], at.lanes[2], at.lanes[3]
    same[:], dots[:], lengths[:] = np.float32(0), np.float32(0), np.float32(0)
    for k in range(_PROBES):
        for lane in range(lanes):
            values[lane] = rows[at.chosen[start + lane], at.probes[k]]
        for lane in range(len(values)):
            gap = values[lane] - at.scale[0, k]
            dots[lane] += gap * at.scale[2, k]
            lengths[lane] += gap * gap
            same[lane] += np.float32(abs(values[lane] - at.scale[1, k]) <= at.scale[3, k])


@compiled
def _insert(rows: Rows, columns: Integers, best: Integers, marks: Floats, row: int, mark: float) -> None:
    """Inserts ``row`` in the order of ``marks``, highest first, and drops the last. Those of equal marks are ordered by
    their values: that needs the rows themselves, which most others do not."""
    at = _CANDIDATES
    while at > 0 and marks[at - 1] <= mark * _TIE:
        other = marks[at - 1]
        if mark <= other * _TIE and best[at - 1] >= 0:
            tie = _above_one(rows, row, columns)
            if mark * tie <= other * _above_one(rows, best[at - 1], columns):
                break
        at -= 1
    for back in range(_CANDIDATES - 1, at, -1):
        marks[back], best[back] = marks[back - 1], best[back - 1]
    if at < _CANDIDATES:
        marks[at], best[at] = mark, row


@compiled
def _above_one(rows: Rows, row: int, columns: Integers) -> float:
    """Returns a number from 1 to ``_TIE`` that depends on the values of ``row``: it orders rows with equal marks, as
    their places must not, which are other ones after a recovery."""
    mixed = 0.0
    for at in range(0, len(columns), max(len(columns) // _PROBES, 1)):
        mixed = 0.618 * mixed + np.float64(rows[row, columns[at]])
    mixed = abs(mixed) * 7919.0
    return 1.0 + (_TIE - 1.0) * (mixed - math.floor(mixed))


@compiled
def _direct(arena: Arena, columns: Integers, runs: Integers, total: int, seen: Seen, at: Bench) -> None:
    """Sets ``at.best[1]`` to the rows that lie best in the direction of the query, by their projections
    ``arena.points`` (groups, 8, 16), whose last axis is no direction. Leaves out those that cannot make ``spanned``
    larger than ``LEAST_SPANNED``: no measure tells smaller values apart."""
    points, best, marks = arena.points, at.best[1], at.marks[1]
    dots, lengths, base, step = at.lanes[0], at.lanes[1], at.lanes[2], at.lanes[3]
    best[:], marks[:], along = -1, 0.0, 0.0
    for axis in range(len(seen.point) - 1):
        base[axis] = points[seen.nearest // LANES, axis, seen.nearest % LANES]
        step[axis] = seen.point[axis] - base[axis]
        along += np.float64(step[axis]) * np.float64(step[axis])
    # Single precision is off by 20 units of the step's length at most.
    off, run, group = 128 * UNIT32 * along, 0, 0
    fewest = np.float32(max(_fewest(along, seen, at.equal) - off, 0.0))
    least = fewest
    while run < total:
        count, run, group = _find_aside(points, runs, run, total, group, base, step, least, at.hits)
        for hit in range(count):
            found, number = at.hits[hit]
            start, first = runs[found, 0], number * LANES
            end = start + runs[found, 1]
            _aside(points[number], base, step, least, dots, lengths)
            for lane in range(max(start - first, 0), min(end - first, LANES)):
                dot, length = np.float64(dots[lane]), np.float64(lengths[lane])
                if dot > 0 and length > 0 and dot * dot * _TIE >= marks[_CANDIDATES - 1] * length:
                    _insert(arena.rows, columns, best, marks, first + lane, dot * dot / length)
            least = max(fewest, np.float32(marks[_CANDIDATES - 1] * (1 - 64 * UNIT32) - off))


@compiled
def _fewest(along: float, seen: Seen, equal: float) -> float:
    """Returns how much of the projected squared step ``along`` from the nearest row to the query lies in the direction
    of any row that makes ``spanned`` larger than ``LEAST_SPANNED``. The segment to such a row comes that near to the
    query, and its projection no less, but for the rounding of each end by a share of its own length."""
    apart = math.sqrt(seen.distance * seen.distance * _LEFT + equal)
    apart += 64 * UNIT32 * (2 * seen.length + 4 * seen.distance)
    return along - apart * apart * (1 + 64 * UNIT32)


@compiled
def _aside(columns: Rows, base: Rows, step: Rows, least: np.float32, dots: Rows, lengths: Rows) -> None:
    """Sets ``dots`` and ``lengths``, by lane, to the products of the steps from ``base`` to the projections ``columns``
    (8, 16) with the ``step``, and to their squared lengths; a product that has not ``least``, to 0."""
    o, p, q, r, s, t, u = base[0], base[1], base[2], base[3], base[4], base[5], base[6]
    tiny = np.float32(8 * LEAST32)
    for lane in range(columns.shape[1]):
        a, b, c, d = columns[0, lane] - o, columns[1, lane] - p, columns[2, lane] - q, columns[3, lane] - r
        e, f, g = columns[4, lane] - s, columns[5, lane] - t, columns[6, lane] - u
        dot = a * step[0] + b * step[1] + c * step[2] + d * step[3] + e * step[4] + f * step[5] + g * step[6]
        length = a * a + b * b + c * c + d * d + e * e + f * f + g * g
        dots[lane] = dot if dot * abs(dot) + tiny >= least * length else np.float32(0)
        lengths[lane] = length


@approximate
def _find_aside(
    columns: Rows,
    runs: Integers,
    run: int,
    total: int,
    group: int,
    base: Rows,
    step: Rows,
    least: np.float32,
    hits: Integers,
) -> tuple[int, int, int]:
    """Sets ``hits`` (h, 2) to the next lists of ``runs``, from ``run`` on and there from ``group`` on, and groups of
    projections ``columns`` (groups, 8, 16) of which one has ``least`` for the square of its product over its squared
    length, see ``_aside``. Returns how many these are, and where to go on: at list ``total`` after all before that."""
    o, p, q, r, s, t, u = base[0], base[1], base[2], base[3], base[4], base[5], base[6]
    h, i, j, k, m, n, v = step[0], step[1], step[2], step[3], step[4], step[5], step[6]
    tiny, count = np.float32(8 * LEAST32), 0
    for number in range(run, total):
        start, end = runs[number, 0], runs[number, 0] + runs[number, 1]
        for at in range(max(group, start // LANES), (end + LANES - 1) // LANES):
            if count == len(hits):
                return count, number, at
            within = np.float32(0)  # as in ``search``
            for lane in range(columns.shape[2]):
                a, b, c = columns[at, 0, lane] - o, columns[at, 1, lane] - p, columns[at, 2, lane] - q
                d, e, f = columns[at, 3, lane] - r, columns[at, 4, lane] - s, columns[at, 5, lane] - t
                g = columns[at, 6, lane] - u
                dot = ((a * h + b * i) + (c * j + d * k)) + ((e * m + f * n) + g * v)
                length = ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + g * g)
                within += np.float32(dot * abs(dot) + tiny >= least * length)
            if within > 0:
                hits[count, 0], hits[count, 1] = number, at
                count += 1
        group = 0
    return count, total, 0


@compiled
def _span(rows: Rows, columns: Integers, left: int, at: Bench) -> float:
    """Returns ``spanned``, by the candidates in ``at.best[1]``."""
    best, apart, most = at.best[1], 0.0, 0.0
    if best[0] < 0:
        return 0.0
    for k in range(left):
        j = at.open[k]
        step = np.float64(at.query[j]) - np.float64(at.base[j])
        apart += step * step
    # All together, as most of the time goes into waiting for their rows; one that is missing is the first again.
    a, b, c, d = best[0], best[1 * (best[1] >= 0)], best[2 * (best[2] >= 0)], best[3 * (best[3] >= 0)]
    p = q = r = s = 0.0
    t = u = v = w = 1e-30
    for j in range(len(at.query)):
        column, base = columns[j], np.float64(at.base[j])
        toward = np.float64(at.query[j]) - base
        first, second = np.float64(rows[a, column]) - base, np.float64(rows[b, column]) - base
        third, fourth = np.float64(rows[c, column]) - base, np.float64(rows[d, column]) - base
        p, q, r, s = p + first * toward, q + second * toward, r + third * toward, s + fourth * toward
        t, u, v, w = t + first * first, u + second * second, v + third * third, w + fourth * fourth
    for dot, length in ((p, t), (q, u), (r, v), (s, w)):
        share = min(max(dot / length, 0.0), 1.0)
        most = max(most, share * (2 * dot - share * length))
    return -0.5 * math.log(max(1 - most / apart, _LEAST_LEFT * _LEAST_LEFT))


@compiled
def _recombine(
    rows: Rows, columns: Integers, count: int, left: int, equal: int, compared: Compared, at: Bench
) -> float:
    """Returns ``recombined``, by the candidates in ``at.best[0]`` first."""
    lacking = 0
    for k in range(left):
        j = at.open[k]
        if abs(at.query[j] - compared.usual[j]) > compared.limits[j]:
            at.open[lacking] = j
            lacking += 1
    alone, total = lacking, equal + lacking
    if alone < _FEWEST_FEATURES:
        return 0.0
    for further in range(2 if _SEVERAL * equal > total else 3):
        if further:
            _choose(rows, columns, count, lacking, compared, at)
        before = lacking
        lacking = _cover(rows, columns, lacking, compared, at)
        if lacking in (0, before):
            break
    return math.log((alone / total + _SHARE) / (lacking / total + _SHARE))


@compiled
def _common(rows: Rows, columns: Integers, left: int, equal: int, compared: Compared, at: Bench) -> float:
    """Returns ``recombined`` by the worst of the candidates in ``at.best[0]`` alone, 0 where they are fewer than four:
    what all four add."""
    lacking, most = 0, 0
    for k in range(left):
        j = at.open[k]
        lacking += abs(at.query[j] - compared.usual[j]) > compared.limits[j]
    if at.best[0, _CANDIDATES - 1] < 0 or lacking < _FEWEST_FEATURES:
        return 0.0
    for candidate in range(_CANDIDATES):
        row, missed = at.best[0, candidate], 0
        for k in range(left):
            j = at.open[k]
            value, limit = at.query[j], compared.limits[j]
            missed += abs(value - compared.usual[j]) > limit and abs(value - rows[row, columns[j]]) > limit
        most = max(most, missed)
    total = equal + lacking
    return math.log((lacking / total + _SHARE) / (most / total + _SHARE))


@compiled
def _cover(rows: Rows, columns: Integers, left: int, compared: Compared, at: Bench) -> int:
    """Drops from the ``left`` open features those in which the best candidate has the query's value. Returns how many
    are left."""
    fewest, chosen = left, -1
    for candidate in range(_CANDIDATES):
        row, lacking = at.best[0, candidate], 0
        if row < 0:
            break
        for k in range(left):
            j = at.open[k]
            lacking += abs(at.query[j] - rows[row, columns[j]]) > compared.limits[j]
        if lacking < fewest:
            fewest, chosen = lacking, row
    kept = 0
    for k in range(left if chosen >= 0 else 0):
        j = at.open[k]
        if abs(at.query[j] - rows[chosen, columns[j]]) > compared.limits[j]:
            at.open[kept] = j
            kept += 1
    return fewest
