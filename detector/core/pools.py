"""Pools: one for each (slot, predicted class) that has been seen, with a dense number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.core.arrays import Array
from detector.core.columns import Columns, Ids

_LABEL_BITS = 32
_LABEL_OFFSET = 1 << (_LABEL_BITS - 1)
LABEL_LIMIT = _LABEL_OFFSET - 1
"""Labels are clipped to within this."""
MOST_POOLS = 1_024
"""The most labels of a slot that have their own pool; later ones share the pool of ``OVERFLOW``."""
OVERFLOW = LABEL_LIMIT


class Pools:
    """Pool numbers, their ``slot`` and ``label``, and each slot's pools as a chain (``next``, -1 ends it).

    ``born`` counts pools made, so that what was queued for an earlier holder of a number can be told.
    """

    def __init__(self, slots: Columns) -> None:
        self.columns = Columns(
            {
                "slot": (np.int32, -1),
                "label": (np.int64, 0),
                "next": (np.int32, -1),
                "born": (np.int64, -1),
            }
        )
        self._slots = slots
        self._pool_of: dict[int, int] = {}
        self._ids = Ids()
        self.births = 0

    def __len__(self) -> int:
        return len(self._pool_of)

    @property
    def capacity(self) -> int:
        return self._ids.size

    @property
    def nbytes(self) -> int:
        return self.columns.nbytes + 120 * len(self._pool_of)

    def find_or_add(self, slots: Array, labels: Array) -> Array:
        """int64 (n,): the pool of each (slot, label), all of them different; missing ones are made."""
        keys = ((slots << _LABEL_BITS) | (labels + _LABEL_OFFSET)).tolist()
        known = self._pool_of.get
        pools = np.array([known(key, -1) for key in keys], dtype=np.int64)
        missing = np.flatnonzero(pools < 0)
        if len(missing):
            fresh = self._add([keys[at] for at in missing.tolist()])
            self._describe(fresh, slots[missing], labels[missing])
            pools[missing] = fresh
        return pools

    def surplus(self, slot: int, labels: Sequence[int]) -> list[int]:
        """Those of ``labels``, which are different and in order of appearance, that have no pool of their own and find
        no room for one."""
        key, known = slot << _LABEL_BITS, self._pool_of
        own = int(self._slots["pools"][slot]) - ((key | (OVERFLOW + _LABEL_OFFSET)) in known)
        fresh = [one for one in labels if one != OVERFLOW and (key | (one + _LABEL_OFFSET)) not in known]
        return fresh[max(MOST_POOLS - own, 0) :]

    def of_slots(self, slots: Array) -> Array:
        """int64: all pools of ``slots``, in no particular order."""
        found = []
        frontier = self._slots["pool"][slots].astype(np.int64)
        frontier = frontier[frontier >= 0]
        while len(frontier):
            found.append(frontier)
            frontier = self.columns["next"][frontier].astype(np.int64)
            frontier = frontier[frontier >= 0]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def chains(self, slots: Array) -> Array:
        """int64 (n, p): the pools of each slot, in no particular order, -1 where it has no more."""
        columns, frontier = [], self._slots["pool"][slots].astype(np.int64)
        following = self.columns["next"]
        while (frontier >= 0).any():
            columns.append(frontier)
            frontier = np.where(frontier >= 0, following[frontier], -1)
        return np.stack(columns, axis=1) if columns else np.full((len(slots), 1), -1, np.int64)

    def remove(self, pools: Array) -> None:
        """Forget ``pools``: all those of the slots they belong to."""
        slots = self.columns["slot"][pools].astype(np.int64)
        labels = self.columns["label"][pools]
        for key in ((slots << _LABEL_BITS) | (labels + _LABEL_OFFSET)).tolist():
            del self._pool_of[key]
        self._slots["pool"][slots] = -1
        self._slots["pools"][slots] = 0
        self.columns.reset(pools)
        self._ids.give_back(pools.tolist())

    def _add(self, keys: list[int]) -> Array:
        fresh = self._ids.take_many(len(keys))
        self.columns.reserve(self.capacity)
        self._pool_of.update(zip(keys, fresh, strict=True))
        return np.array(fresh, dtype=np.int64)

    def _describe(self, pools: Array, slots: Array, labels: Array) -> None:
        columns = self.columns
        columns["slot"][pools] = slots
        columns["label"][pools] = labels
        columns["born"][pools] = np.arange(self.births, self.births + len(pools))
        self.births += len(pools)
        np.add.at(self._slots["pools"], slots, 1)
        first = self._slots["pool"]
        for pool, slot in zip(pools.tolist(), slots.tolist(), strict=True):
            columns["next"][pool] = first[slot]
            first[slot] = pool
