"""Pools: one for each (slot, predicted class) that has been seen, with a dense number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.loops.numbering import grouped
from detector.core.state.arrays import Array
from detector.core.state.columns import Columns, Ids

LABEL_LIMIT = (1 << 31) - 1
"""Labels are clipped to within this."""
MOST_POOLS = 1_024
"""The most labels of a slot that have their own pool; later ones share the pool of ``OVERFLOW``."""
OVERFLOW = LABEL_LIMIT

_NONE = -1


class Pools:
    """Pool numbers, their ``slot`` and ``label``, and each slot's pools as a chain (``next``, -1 ends it)."""

    def __init__(self, slots: Columns) -> None:
        self.columns = Columns({"slot": (np.int32, _NONE), "label": (np.int64, 0), "next": (np.int32, _NONE)})
        self._place = Columns({"place": (np.int64, _NONE)})
        self._slots = slots
        self._ids = Ids()

    @property
    def capacity(self) -> int:
        return self._ids.size

    @property
    def nbytes(self) -> int:
        return self.columns.nbytes + self._place.nbytes

    def find_or_add(self, slots: Array, labels: Array) -> Array:
        """Returns int64 (n,): the pool of each (slot, label); missing ones are made, in that order."""
        slots, labels = slots.astype(np.int64), labels.astype(np.int64)
        pools = self._find(slots, labels)
        for at in np.flatnonzero(pools == _NONE).tolist():
            pools[at] = self._find_or_make(slots[at : at + 1], int(labels[at]))
        return pools

    def grouped(self, pools: Array, slot: Array, slots: int) -> tuple[Array, Array, Array]:
        """Returns the pools that occur among rows of ``pools`` and ``slot``, one of ``slots``; see ``grouped``."""
        self._place.reserve(self.capacity)
        return grouped(pools, slot, slots, self._place["place"])

    def of_slots(self, slots: Array) -> Array:
        """Returns int64: all pools of ``slots``, in no particular order."""
        found = []
        frontier = self._slots["pool"][slots].astype(np.int64)
        frontier = frontier[frontier >= 0]
        while len(frontier):
            found.append(frontier)
            frontier = self.columns["next"][frontier].astype(np.int64)
            frontier = frontier[frontier >= 0]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def remove(self, pools: Array) -> None:
        """Drops ``pools``: all those of the slots they belong to."""
        slots = self.columns["slot"][pools].astype(np.int64)
        self._slots["pool"][slots] = _NONE
        self._slots["pools"][slots] = 0
        self.columns.reset(pools)
        self._ids.give_back(pools.tolist())

    def _find(self, slots: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return _found(slots, labels, self._slots["pool"], self.columns["label"], self.columns["next"])

    def _find_or_make(self, slot: NDArray[np.int64], label: int) -> int:
        """Returns the pool of a label that had none, as many as a slot may have; then that of ``OVERFLOW``."""
        for own in (label, OVERFLOW):
            pool = int(self._find(slot, np.array([own]))[0])
            if pool != _NONE:
                return pool
            if own == OVERFLOW or self._own_pools(slot) < MOST_POOLS:
                return self._make(int(slot[0]), own)
        raise AssertionError("a slot has room for the pool of all further labels")

    def _own_pools(self, slot: NDArray[np.int64]) -> int:
        shared = self._find(slot, np.array([OVERFLOW]))[0] != _NONE
        return int(self._slots["pools"][slot[0]]) - int(shared)

    def _make(self, slot: int, label: int) -> int:
        pool, first = self._ids.take(), self._slots["pool"]
        self.columns.reserve(self.capacity)
        columns = self.columns
        columns["slot"][pool], columns["label"][pool], columns["next"][pool] = slot, label, first[slot]
        first[slot] = pool
        self._slots["pools"][slot] += 1
        return pool


@compiled
def _found(
    slots: NDArray[np.int64],
    labels: NDArray[np.int64],
    first: NDArray[np.int32],
    label: NDArray[np.int64],
    following: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Returns the pool of each slot and label, -1 where there is none."""
    found = np.empty(len(slots), np.int64)
    for row in range(len(slots)):
        pool = first[slots[row]]
        while pool != _NONE and label[pool] != labels[row]:
            pool = following[pool]
        found[row] = pool
    return found
