"""The loop of the default mode's test: row after row, it leaves out repeats, and tests the window when that is due."""

from __future__ import annotations

from math import inf, isfinite, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.loops.sums import LANES, pairwise
from detector.core.signals.prada.result import WARM_UP
from detector.core.signals.prada.shapiro_wilk import CONSTANT, statistic
from detector.core.state.arrays import Array
from detector.core.state.rings import BLANK, PAGE, Ring, lacking, page_of, put

DISTANCES, INSIDE, REPEATS, BELOW = range(4)
W, SHARE = range(2)


class Held(NamedTuple):
    """State by slot: ``counts`` int64 (slots, 4) and ``figures`` float64 (slots, 2), in the order of the names above;
    the last distances, float64, and hashes, uint64; ``order`` uint16: the cells of the window in ascending order of
    their distances, as of the last test, of slots that have pages."""

    counts: NDArray[np.int64]
    figures: NDArray[np.float64]
    window: Ring
    hashes: Ring
    order: Ring


class Given(NamedTuple):
    """``slots`` int64, and the rows grouped by position in them. Of each row ``distance`` float64, ``admitted`` bool,
    and ``hashes`` uint64 if it is not admitted and at a distance above 0."""

    slots: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    distance: NDArray[np.float64]
    admitted: NDArray[np.bool_]
    hashes: NDArray[np.uint64]


class Rule(NamedTuple):
    """As in ``PradaConfig``, with the ``weight_table`` of its window."""

    delta: float
    every: int
    consecutive: int
    weights: NDArray[np.float64]


class Said(NamedTuple):
    """As of each row ``figures`` float64 (3, n): W, constant share, repeats; ``alarm`` bool; and ``repeat`` bool.

    The others begin with as many rows as ``written`` int64 (3,) says: what joined the rings, by slot, ``distance`` with
    ``distance_at`` and ``hash`` with ``hash_at`` int64 (n, 2): the position of the slot, and that in the ring; and
    ``rises`` float64 (n, 3): row, distances tested, mean distance."""

    figures: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    repeat: NDArray[np.bool_]
    written: NDArray[np.int64]
    distance: NDArray[np.float64]
    distance_at: NDArray[np.int64]
    hash: NDArray[np.uint64]
    hash_at: NDArray[np.int64]
    rises: NDArray[np.float64]


class _Scratch(NamedTuple):
    """Of the window: ``cells`` as in the ring; the order ``known`` from the last test; ``order`` and ``sample``
    ascending; ``work`` for sums; ``fresh`` and ``fresh_order``: the distances since the last test, ascending."""

    cells: NDArray[np.float64]
    known: NDArray[np.uint16]
    order: NDArray[np.uint16]
    sample: NDArray[np.float64]
    work: NDArray[np.float64]
    fresh: NDArray[np.float64]
    fresh_order: NDArray[np.uint16]


@compiled
def needs(held: Held, given: Given) -> tuple[int, int, int]:
    """Returns how many pages of the window, of the hashes, and of the order the rows may take."""
    window = hashes = order = 0
    for at in range(len(given.slots)):
        slot, distances, inside = given.slots[at], 0, 0
        for row in given.order[given.starts[at] : given.starts[at] + given.lengths[at]]:
            if isfinite(given.distance[row]) and given.distance[row] > 0.0:
                distances += 1
                inside += not given.admitted[row]
        count = held.counts[slot, DISTANCES]
        window += lacking(held.window, slot, count, distances)
        hashes += lacking(held.hashes, slot, held.counts[slot, INSIDE], inside)
        if count + distances > WARM_UP:
            order += lacking(held.order, slot, 0, count + distances)
    return window, hashes, order


@compiled
def run(held: Held, given: Given, rule: Rule, said: Said) -> None:
    """Judges the rows, each as of itself, and updates ``held``."""
    window, counts, figures, event = held.window, held.counts, held.figures, 0
    scratch = _scratch(window.table.shape[1] * PAGE, rule.every)
    order, distances, admitted = given.order, given.distance, given.admitted
    values, places = said.distance, said.distance_at
    shown, alarm, repeat = said.figures, said.alarm, said.repeat
    for at in range(len(given.slots)):
        slot = given.slots[at]
        for place in range(given.starts[at], given.starts[at] + given.lengths[at]):
            row = order[place]
            distance = distances[row]
            if isfinite(distance):
                if distance == 0.0 or (not admitted[row] and _repeats(held, given, said, at, row)):
                    counts[slot, REPEATS] += 1
                    repeat[row] = True
                else:
                    position = counts[slot, DISTANCES]
                    put(window, slot, position, distance)
                    values[event], places[event, 0], places[event, 1] = distance, at, position
                    event += 1
                    counts[slot, DISTANCES] += 1
                    if (position + 1) % rule.every == 0 and position >= WARM_UP:
                        _sort(held, slot, rule.every, scratch)
                        _test(held, slot, row, rule, scratch, said)
            shown[0, row], shown[1, row], shown[2, row] = figures[slot, W], figures[slot, SHARE], counts[slot, REPEATS]
            alarm[row] = counts[slot, BELOW] >= rule.consecutive
    said.written[0] = event


@compiled
def _scratch(width: int, every: int) -> _Scratch:
    fresh = min(every, width)
    return _Scratch(
        np.empty(width),
        np.empty(width, np.uint16),
        np.empty(width, np.uint16),
        np.empty(width),
        np.empty(width + LANES),
        np.empty(fresh),
        np.empty(fresh, np.uint16),
    )


@compiled
def _repeats(held: Held, given: Given, said: Said, at: int, row: int) -> bool:
    """Returns whether the row repeats an earlier query; remembers the hash of its features."""
    slot, own, ring = given.slots[at], given.hashes[row], held.hashes
    position = held.counts[slot, INSIDE]
    found = False
    for cell in range(min(position, ring.table.shape[1] * PAGE)):
        if ring.values[ring.table[slot, cell // PAGE], cell % PAGE] == own:
            found = True
            break
    put(ring, slot, position, own)
    event = said.written[1]
    said.hash[event], said.hash_at[event, 0], said.hash_at[event, 1] = own, at, position
    said.written[1] += 1
    held.counts[slot, INSIDE] += 1
    return found


@compiled
def _sort(held: Held, slot: int, every: int, scratch: _Scratch) -> None:
    """Writes the window's distances to the scratch in ascending order, and keeps that order."""
    width, count = len(scratch.cells), held.counts[slot, DISTANCES]
    known = held.order.table[slot, 0] != BLANK and every < width
    _gather(held.window, slot, count, scratch.cells)
    if known:
        _gather(held.order, slot, count - every, scratch.known)
        _merge(scratch.known[: min(count - every, width)], (count - every) % width, scratch)
    else:
        scratch.order[: min(count, width)] = np.argsort(scratch.cells[: min(count, width)])
        for rank in range(min(count, width)):
            scratch.sample[rank] = scratch.cells[scratch.order[rank]]
    for place in range((min(count, width) + PAGE - 1) // PAGE):
        held.order.values[page_of(held.order, slot, place)] = scratch.order[place * PAGE : place * PAGE + PAGE]


@compiled
def _gather(ring: Ring, slot: int, count: int, cells: Array) -> None:
    """Copies the cells of a slot that has had ``count`` values."""
    for place in range((min(count, len(cells)) + PAGE - 1) // PAGE):
        cells[place * PAGE : place * PAGE + PAGE] = ring.values[ring.table[slot, place]]


@compiled
def _merge(order: NDArray[np.uint16], first: int, scratch: _Scratch) -> None:
    """Merges the fresh distances, from cell ``first`` on, into those of ``order`` that they do not replace."""
    cells, every = scratch.cells, len(scratch.fresh)
    _sort_fresh(first, scratch)
    at = fresh = 0
    least = scratch.fresh[0]
    for cell in order:
        age = np.int64(cell) - first
        if age < 0:
            age += len(cells)
        if age < every:
            continue
        distance = cells[cell]
        while least < distance:
            scratch.order[at], scratch.sample[at] = scratch.fresh_order[fresh], least
            at, fresh = at + 1, fresh + 1
            least = scratch.fresh[fresh] if fresh < every else inf
        scratch.order[at], scratch.sample[at] = cell, distance
        at += 1
    for rest in range(fresh, every):
        scratch.order[at], scratch.sample[at] = scratch.fresh_order[rest], scratch.fresh[rest]
        at += 1


@compiled
def _sort_fresh(first: int, scratch: _Scratch) -> None:
    for number in range(len(scratch.fresh)):
        cell = (first + number) % len(scratch.cells)
        at = number
        while at > 0 and scratch.fresh[at - 1] > scratch.cells[cell]:
            scratch.fresh[at], scratch.fresh_order[at] = scratch.fresh[at - 1], scratch.fresh_order[at - 1]
            at -= 1
        scratch.fresh[at], scratch.fresh_order[at] = scratch.cells[cell], cell


@compiled
def _test(held: Held, slot: int, row: int, rule: Rule, scratch: _Scratch, said: Said) -> None:
    """Tests the window without its outliers, which lie three deviations or more from its mean."""
    counts, figures = held.counts[slot], held.figures[slot]
    sample, work = scratch.sample[: min(counts[DISTANCES], len(scratch.sample))], scratch.work
    count = len(sample)
    for at in range(count):
        work[at] = sample[at]
    mean = pairwise(work, count) / count
    for at in range(count):
        work[at] = (sample[at] - mean) * (sample[at] - mean)
    reach = 3.0 * sqrt(pairwise(work, count) / count)
    low, high = 0, count
    while low < high and not abs(sample[low] - mean) < reach:
        low += 1
    while high > low and not abs(sample[high - 1] - mean) < reach:
        high -= 1
    if high - low <= WARM_UP:
        return
    figures[W] = statistic(sample[low:high], rule.weights[high - low], work)
    figures[SHARE] = _constant_share(sample)
    counts[BELOW] = counts[BELOW] + 1 if figures[W] < rule.delta else 0
    if counts[BELOW] == rule.consecutive:
        rise = said.written[2]
        said.rises[rise, 0], said.rises[rise, 1], said.rises[rise, 2] = row, high - low, mean
        said.written[2] += 1


@compiled
def _constant_share(sample: NDArray[np.float64]) -> float:
    """Returns the share of distances equal to the median to 1e-9."""
    middle = sample[(len(sample) - 1) // 2]
    low = high = (len(sample) - 1) // 2
    while low > 0 and middle - sample[low - 1] <= CONSTANT * middle:
        low -= 1
    while high < len(sample) and sample[high] - middle <= CONSTANT * middle:
        high += 1
    return (high - low) / len(sample)
