"""What is remembered of each account of one model version for groups, in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.reference.standards import Floats
from detector.core.state.arrays import Array
from detector.groups.links import LINKS, WINDOW

_NEVER = -1


class Accounts:
    """Columns by slot. ``last`` and ``compared`` int64: numbers within the account of its last query and of its last
    one that was due, -1 before any; ``active`` int64: the number of the last one among those of all accounts.
    ``linked`` int64 and ``links`` float64 (c, 3): how many queries of the current 256 were linked, and the sums of
    their measures. ``most`` float64: the largest D in the current 256, and ``every`` float64 (c, j + m), the deviations
    that it is of. ``rarity`` float64: that of an account in a cluster. ``member`` bool: whether it is a member of its
    cluster's group. ``first`` float64 (c, f): what its first query showed, NaN where that was not seen. ``reached``
    uint8 (c, b): the bitmap of the ``regions`` that its queries reached."""

    def __init__(self, width: int, firsts: int, regions: int) -> None:
        self.regions = regions
        self.slot_of: dict[str, int] = {}
        self.names: list[str] = []
        self._free: list[int] = []
        self.last, self.compared, self.active, self.linked = np.zeros((4, 64), np.int64)
        self.links, self.every = np.zeros((64, len(LINKS))), np.zeros((64, width))
        self.first = np.full((64, firsts), np.nan)
        self.reached = np.zeros((64, -(-regions // 8)), np.uint8)
        self.most, self.rarity, self.member = np.zeros(64), np.ones(64), np.zeros(64, np.bool_)

    def __len__(self) -> int:
        return len(self.slot_of)

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in _COLUMNS)

    def slots(self, names: Sequence[str]) -> tuple[Array, NDArray[np.bool_]]:
        """Returns the slots of ``names``, int64 (n,), and which of them are new, bool (n,)."""
        new = np.array([name not in self.slot_of for name in names], np.bool_)
        for at in np.flatnonzero(new).tolist():
            self._add(names[at])
        return np.array([self.slot_of[name] for name in names], np.int64), new

    def _add(self, name: str) -> None:
        if self._free:
            slot = self._free.pop()
            self.names[slot] = name
        else:
            slot = len(self.names)
            self.names.append(name)
            if slot == len(self.most):
                for column in _COLUMNS:
                    values = getattr(self, column)
                    setattr(self, column, np.concatenate((values, np.zeros_like(values))))
        self.slot_of[name] = slot
        self.last[slot] = self.compared[slot] = _NEVER
        self.member[slot] = False
        self.first[slot] = np.nan
        self.reached[slot] = 0

    def dump(self) -> dict[str, Any]:
        """Returns all columns, with the names of their slots."""
        count = len(self.names)
        return {
            "names": self.names,
            "free": self._free,
            **{name: getattr(self, name)[:count] for name in _COLUMNS},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Replaces everything with what ``dump`` returned."""
        self.names, self._free = list(state["names"]), list(state["free"])
        free, count = set(self._free), len(self.names)
        self.slot_of = {name: slot for slot, name in enumerate(self.names) if slot not in free}
        room = max(64, 1 << (count - 1).bit_length() if count else 64)
        for name in _COLUMNS:
            before = getattr(self, name)
            column = np.full((room, *before.shape[1:]), np.nan if name == "first" else 0, before.dtype)
            if name in state:  # states of before have no regions and first queries
                column[:count] = state[name]
            setattr(self, name, column)

    def drop(self, slot: int) -> None:
        del self.slot_of[self.names[slot]]
        self._free.append(slot)

    def begin(self, slot: Array, shown: Floats) -> None:
        """Notes what the first queries of the accounts ``slot`` int64 (n,) have ``shown`` float64 (n, f); of several of
        one account the first counts."""
        rows = np.flatnonzero(np.isnan(self.first[slot]).any(axis=1))[::-1]
        self.first[slot[rows]] = shown[rows]

    def count(
        self, slot: Array, number: Array, due: Array, linked: Array, values: Floats, seen: int
    ) -> tuple[Floats, Array]:
        """Counts queries of the accounts ``slot`` int64 (n,), which are the ``number``-th of theirs and come after
        ``seen`` others. The ``linked`` ones, int64 (m,), have the link measures ``values`` float64 (m, 3). Returns, as
        of each one that is ``due``, int64 (q,), the sums of the measures float64 (q, 3) and the counts int64 (q,) of
        linked queries in its account's current 256."""
        sums, counts = np.empty((len(due), values.shape[1])), np.empty(len(due), np.int64)
        columns = self.last, self.active, self.linked, self.links
        ranks = _ranked(due, len(slot)), _ranked(linked, len(slot))
        _count(slot, number, ranks, values, columns, seen, sums, counts)
        return sums, counts

    def reach(self, slot: Array, number: Array, distance: Floats) -> tuple[Floats, Array]:
        """Takes the accounts ``slot`` int64 (q,) to D ``distance`` float64 (q,) at the ``number``-th of their queries.
        Returns the largest D of each account's current 256 as of the row, float64 (q,), and int64 (q,): the row that it
        is of, -1 if that was before these."""
        most, origin = np.empty(len(slot)), np.empty(len(slot), np.int64)
        _reach(slot, number, distance, self.compared, self.most, np.full(len(self.most), -1), most, origin)
        return most, origin


_COLUMNS = ("last", "compared", "active", "linked", "links", "every", "most", "rarity", "member", "first", "reached")


def _ranked(positions: Array, count: int) -> Array:
    """Returns int64 (``count``,): the rank of each row among ``positions``, -1 for others."""
    ranks = np.full(count, -1, np.int64)
    ranks[positions] = np.arange(len(positions))
    return ranks


@compiled
def _count(
    slot: Array,
    number: Array,
    ranks: tuple[Array, Array],
    values: Floats,
    columns: tuple[Array, Array, Array, Floats],
    seen: int,
    sums: Floats,
    counts: Array,
) -> None:
    """Row after row; see ``Accounts.count``. ``ranks`` (n,): among due and among linked rows, or -1."""
    (due, link), (last, active, linked, links) = ranks, columns
    for row in range(len(slot)):
        account = slot[row]
        if number[row] <= last[account] or number[row] // WINDOW != last[account] // WINDOW:
            linked[account] = 0
            links[account] = 0.0
        last[account], active[account] = number[row], seen + row
        if link[row] >= 0:
            linked[account] += 1
            for at in range(values.shape[1]):
                links[account, at] += values[link[row], at]
        if due[row] >= 0:
            counts[due[row]] = linked[account]
            for at in range(values.shape[1]):
                sums[due[row], at] = links[account, at]


@compiled
def _reach(
    slot: Array,
    number: Array,
    distance: Floats,
    compared: Array,
    highest: Floats,
    of: Array,
    most: Floats,
    origin: Array,
) -> None:
    """Row after row; see ``Accounts.reach``. ``of`` (c,): -1 everywhere."""
    for row in range(len(slot)):
        account = slot[row]
        anew = number[row] <= compared[account] or number[row] // WINDOW != compared[account] // WINDOW
        compared[account] = number[row]
        if anew or distance[row] > highest[account]:
            highest[account], of[account] = distance[row], row
        most[row], origin[row] = highest[account], of[account]
