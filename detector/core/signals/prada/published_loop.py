"""The loops of the compatible mode's test: the sorted pool of one principal's distances, W of it, and what stands."""

from __future__ import annotations

from math import nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.loops.sums import mean_of, squares_of
from detector.core.signals.prada.result import WARM_UP
from detector.core.signals.prada.shapiro_wilk import CONSTANT, half_weights, statistic

EVERY = 10
CLASS_MINIMUM = 10
_DOUBT = 1e-9
_EDGE = 1e-12

TOO_FEW, SURE, DOUBTFUL = range(3)
PASSED, POOLED, CLASSES = range(3)


class Log(NamedTuple):
    """``distance`` float64 and ``label`` int64 in order of arrival. ``pool`` float64: those of classes with ten or
    more, ascending. ``classes`` int64 (2, m): label and number of each. ``marks`` int64 (3,): how many distances have
    been looked at, how many are in the pool, and the number of classes."""

    distance: NDArray[np.float64]
    label: NDArray[np.int64]
    pool: NDArray[np.float64]
    classes: NDArray[np.int64]
    marks: NDArray[np.int64]


@compiled
def test(log: Log, ends: NDArray[np.int64], delta: float, w: NDArray[np.float64], outcome: NDArray[np.int64]) -> None:
    """Writes W of the first ``ends[i]`` distances, and whether they are too few, or rounding could decide."""
    count = len(log.distance)
    fresh, half, work = np.empty(count), np.empty(count // 2 + 1), np.empty(count // 2 + 1)
    for at in range(len(ends)):
        found = _fresh(log, ends[at], fresh)
        fresh[:found].sort()
        _merge(log.pool, log.marks[POOLED], fresh[:found])
        log.marks[POOLED] += found
        w[at], outcome[at] = _judged(log.pool[: log.marks[POOLED]], delta, half, work)


@compiled
def _fresh(log: Log, end: int, fresh: NDArray[np.float64]) -> int:
    """Writes the distances that count from now on. Returns how many they are."""
    labels, classes, found = log.label, log.classes, 0
    for entry in range(log.marks[PASSED], end):
        label, own = labels[entry], 0
        while own < log.marks[CLASSES] and classes[0, own] != label:
            own += 1
        if own == log.marks[CLASSES]:
            classes[0, own], classes[1, own] = label, 0
            log.marks[CLASSES] += 1
        classes[1, own] += 1
        if classes[1, own] < CLASS_MINIMUM:
            continue
        first = 0 if classes[1, own] == CLASS_MINIMUM else entry
        for earlier in range(first, entry + 1):
            if labels[earlier] == label:
                fresh[found] = log.distance[earlier]
                found += 1
    log.marks[PASSED] = end
    return found


@compiled
def _merge(pool: NDArray[np.float64], held: int, fresh: NDArray[np.float64]) -> None:
    """Merges ``fresh`` into the first ``held`` values of ``pool``; both are in ascending order."""
    end = held
    for number in range(len(fresh) - 1, -1, -1):
        start = _below(pool[:end], fresh[number])
        pool[start + number + 1 : end + number + 1] = pool[start:end]
        pool[start + number] = fresh[number]
        end = start


@compiled
def _below(ascending: NDArray[np.float64], border: float) -> int:
    """Returns how many values are below ``border``."""
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < border:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _judged(
    pool: NDArray[np.float64], delta: float, half: NDArray[np.float64], work: NDArray[np.float64]
) -> tuple[float, int]:
    """Returns W of the sorted pool without outliers, and how sure it is."""
    if len(pool) <= WARM_UP:
        return nan, TOO_FEW
    low, high = _kept(pool, work)
    if high == 0:
        return nan, DOUBTFUL
    if high - low <= WARM_UP:
        return nan, TOO_FEW
    kept = pool[low:high]
    # scipy takes values within 1e-19 as equal.
    if kept[-1] - kept[0] <= max(CONSTANT * kept[-1], 1e-18):
        return nan, DOUBTFUL
    half_weights(len(kept), half, work)
    w = statistic(kept, half, work)
    return w, SURE if abs(w - delta) >= _DOUBT else DOUBTFUL


@compiled
def _kept(pool: NDArray[np.float64], work: NDArray[np.float64]) -> tuple[int, int]:
    """Returns from where to where the pool has no outliers, or (0, 0) where rounding could decide which they are."""
    count, mean = len(pool), mean_of(pool, work)
    reach = 3.0 * sqrt(squares_of(pool, mean, work) / count)
    if reach <= 3.0 * CONSTANT * mean:
        return 0, 0
    low, high = _below(pool, mean - reach), _below(pool, mean + reach)
    for border in (low, high):
        for at in range(max(border - 1, 0), min(border + 1, count)):
            if abs(abs(pool[at] - mean) - reach) <= _EDGE * (mean + reach):
                return 0, 0
    return low, high


class Given(NamedTuple):
    """``slots`` int64, and the rows grouped by position in them. Of each row, whether its distance is ``known``, bool,
    and its ``number`` int64 among the principal's."""

    slots: NDArray[np.int64]
    order: NDArray[np.int64]
    lengths: NDArray[np.int64]
    known: NDArray[np.bool_]
    number: NDArray[np.int64]


@compiled
def due(given: Given, before: NDArray[np.int64], rows: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Writes, slot by slot, the ``rows`` at which a test is due, and their slot's distances as of each, ``before`` of
    which it had. Returns int64 (s + 1,): where those of each slot begin and end."""
    edges = np.zeros(len(given.slots) + 1, np.int64)
    place = found = 0
    for at in range(len(given.slots)):
        count = before[at]
        for row in given.order[place : place + given.lengths[at]]:
            count += given.known[row]
            if given.number[row] % EVERY == 0 and count > WARM_UP:
                rows[found], ends[found] = row, count
                found += 1
        place += given.lengths[at]
        edges[at + 1] = found
    return edges


class Standing(NamedTuple):
    """By slot the last ``w`` float64 and ``verdict`` bool; of each row whether it was ``tested``, bool, and with which
    ``w_of_row`` float64."""

    w: NDArray[np.float64]
    verdict: NDArray[np.bool_]
    tested: NDArray[np.bool_]
    w_of_row: NDArray[np.float64]


@compiled
def stand(given: Given, standing: Standing, delta: float, verdict: NDArray[np.bool_], risen: NDArray[np.bool_]) -> None:
    """Writes which ``verdict`` stands as of each row, where one of theft has ``risen``, and W to ``w_of_row``; updates
    the slots."""
    place = 0
    for at in range(len(given.slots)):
        slot = given.slots[at]
        for row in given.order[place : place + given.lengths[at]]:
            if standing.tested[row]:
                failed = standing.w_of_row[row] < delta
                risen[row] = failed and not standing.verdict[slot]
                standing.w[slot], standing.verdict[slot] = standing.w_of_row[row], failed
            standing.w_of_row[row], verdict[row] = standing.w[slot], standing.verdict[slot]
        place += given.lengths[at]
