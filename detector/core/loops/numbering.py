"""Dense positions of the principals and pools that occur among some rows, in one pass over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled

_UNUSED = -1

Integers = NDArray[np.int64]


@compiled
def positions(number: Integers, count: int) -> tuple[Integers, Integers, Integers]:
    """Returns, for ``number`` int64 (n,), all below ``count``: those that occur, ascending (m,); the position of each
    row in these (n,); and how many rows before have the same number (n,)."""
    place = np.full(count, _UNUSED, np.int64)
    for own in number:
        place[own] = 0
    used = np.flatnonzero(place + 1)
    for at in range(len(used)):
        place[used[at]] = at
    before = np.zeros(len(used), np.int64)
    position, rank = np.empty(len(number), np.int64), np.empty(len(number), np.int64)
    for row in range(len(number)):
        own = place[number[row]]
        position[row], rank[row] = own, before[own]
        before[own] += 1
    return used, position, rank


@compiled
def grouped(number: Integers, group: Integers, groups: int, place: Integers) -> tuple[Integers, Integers, Integers]:
    """Returns, for rows with a ``number`` and the ``group`` that it belongs to, int64 (n,): the numbers that occur, by
    group and in order of appearance, their groups, both (m,), and the position of each row in these (n,). ``place``
    has room for every number and holds -1 everywhere, afterwards too."""
    size = np.zeros(groups + 1, np.int64)
    for row in range(len(number)):
        if place[number[row]] == _UNUSED:
            place[number[row]] = 0
            size[group[row] + 1] += 1
    start = np.cumsum(size)
    used, owner = np.empty(start[-1], np.int64), np.empty(start[-1], np.int64)
    position = np.empty(len(number), np.int64)
    for row in range(len(number)):
        own = number[row]
        if place[own] == 0:
            at = start[group[row]]
            start[group[row]] += 1
            used[at], owner[at] = own, group[row]
            place[own] = at + 1
        position[row] = place[own] - 1
    for own in used:
        place[own] = _UNUSED
    return used, owner, position
