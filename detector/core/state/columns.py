"""Growable arrays indexed by dense integers: one value per id, or the last values of each in pages."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.state.arrays import Array

_START = 64


class ColumnTable:
    """Growable named arrays of equal length, each entry starting at its column's fill value.

    ``fields`` maps a name to (dtype, fill) or, for entries that are themselves arrays, (dtype, fill, width).
    """

    def __init__(self, fields: dict[str, tuple[Any, ...]]) -> None:
        self.count = 0
        """The number of ids that ``add`` has made: all are below it."""
        self._fields = fields
        self._size = 0
        self._free: list[int] = []
        self._columns = {name: _filled(0, field) for name, field in fields.items()}

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())

    @property
    def row_bytes(self) -> int:
        """The bytes of one id's entries."""
        return sum(column.itemsize * prod(column.shape[1:]) for column in self._columns.values())

    def add(self) -> int:
        """Returns a new id, the one that was dropped last if there is one."""
        if self._free:
            return self._free.pop()
        self.count += 1
        self.reserve(self.count)
        return self.count - 1

    def drop(self, ids: Array) -> None:
        """Resets ``ids``, which ``add`` returns again."""
        self.reset(ids)
        self._free.extend(ids.tolist())

    def cover(self, ids: Array) -> None:
        """Makes room for ``ids``."""
        if len(ids):
            self.reserve(int(ids.max()) + 1)

    def reserve(self, size: int) -> None:
        """Makes room for ids below ``size``."""
        if size <= self._size:
            return
        grown = max(size, _START, self._size + self._size // 2)
        for name, field in self._fields.items():
            column = _filled(grown, field)
            column[: self._size] = self._columns[name]
            self._columns[name] = column
        self._size = grown

    def reset(self, ids: Array) -> None:
        """Resets the entries ``ids`` to the fill values."""
        ids = ids[ids < self._size]
        for name, field in self._fields.items():
            self._columns[name][ids] = field[1]


def _filled(size: int, field: tuple[Any, ...]) -> Array:
    dtype, fill, *width = field
    return np.full((size, *width), fill, dtype)


PAGE = 32
BLANK = 0
"""The page that replaces pages that a slot does not have."""


class Ring(NamedTuple):
    """The arrays of ``Rings``, for compiled loops: ``table`` int32 (slots, width // PAGE) of page numbers, ``values``
    (pages, PAGE), and the stack of unused pages: the first ``left[0]`` (int64) of ``free`` int32."""

    table: NDArray[np.int32]
    values: Array
    free: NDArray[np.int32]
    left: NDArray[np.int64]


class Rings:
    """For each slot the values at its last ``width`` positions, position p in cell p modulo ``width``."""

    def __init__(self, width: int, dtype: Any, fill: Any) -> None:
        self.width = width
        self._fill = fill
        self._table = ColumnTable({"pages": (np.int32, BLANK, width // PAGE)})
        self._pages = ColumnTable({"values": (dtype, fill, PAGE), "free": (np.int32, 0)})
        self._left = np.zeros(1, np.int64)
        self._take(1)  # the blank page

    @property
    def nbytes(self) -> int:
        return self._table.nbytes + self._pages.nbytes

    def nbytes_of(self, slots: Array) -> int:
        self._table.cover(slots)
        pages = self._table["pages"][slots]
        return int(pages.nbytes + (pages != BLANK).sum() * PAGE * self._pages["values"].itemsize)

    def ring(self) -> Ring:
        """Returns the arrays; views until ``reserve`` or ``stock`` make room for more."""
        return Ring(self._table["pages"], self._pages["values"], self._pages["free"], self._left)

    def stock(self, count: int) -> None:
        """Makes sure that ``count`` pages are unused, for a loop to take."""
        left, made = int(self._left[0]), len(self._pages["free"])
        if left >= count:
            return
        self._pages.reserve(made + count - left)
        fresh = np.arange(made, len(self._pages["free"]), dtype=np.int32)[::-1]
        self._pages["free"][left : left + len(fresh)] = fresh
        self._left[0] = left + len(fresh)

    def reserve(self, size: int) -> None:
        """Makes room for slots below ``size``."""
        self._table.reserve(size)

    def read(self, slots: Array) -> Array:
        """Returns (n, width): the cells of each slot, the fill value where nothing was written."""
        self._table.cover(slots)
        return self._pages["values"][self._table["pages"][slots]].reshape(len(slots), self.width)

    @property
    def values(self) -> Array:
        """All pages, one after another; a view until ``places`` makes room for more."""
        return self._pages["values"].reshape(-1)

    def find(self, slots: Array, positions: Array) -> Array:
        """Returns int64 (n,): the index in ``values`` of position i of slot i, that of a fill value if it has none."""
        self._table.cover(slots)
        cell = positions % self.width
        pages = self._table["pages"][slots, cell // PAGE].astype(np.int64)
        places: Array = pages * PAGE + cell % PAGE
        return places

    def places(self, slots: Array, positions: Array) -> Array:
        """Returns the same as ``find``, after giving each slot a page that it lacks."""
        places = self.find(slots, positions)
        blank = np.flatnonzero(places // PAGE == BLANK)
        if len(blank):
            table = self._table["pages"]
            cells = np.unique(slots[blank] * table.shape[1] + positions[blank] % self.width // PAGE)
            table.reshape(-1)[cells] = self._take(len(cells))
            places[blank] = self.find(slots[blank], positions[blank])
        return places

    def write(self, slots: Array, positions: Array, values: Array) -> None:
        """Writes value i at position i of slot i; where two share a cell, the later one stays."""
        if len(slots):
            places = self.places(slots, positions)
            self.values[places] = values

    def evict(self, slots: Array) -> None:
        self._table.cover(slots)
        pages = self._table["pages"][slots].ravel()
        pages = pages[pages != BLANK]
        self._pages["values"][pages] = self._fill
        end = int(self._left[0]) + len(pages)
        self._pages["free"][end - len(pages) : end] = pages
        self._left[0] = end
        self._table["pages"][slots] = BLANK

    def _take(self, count: int) -> Array:
        self.stock(count)
        self._left[0] -= count
        first = int(self._left[0])
        pages: Array = self._pages["free"][first : first + count]
        return pages


@compiled
def lacking(ring: Ring, slot: int, count: int, more: int) -> int:
    """Returns how many pages ``slot``, which has had ``count`` values, needs for ``more``."""
    pages, missing = ring.table.shape[1], 0
    page = count // PAGE % pages
    for _ in range(min((count + more - 1) // PAGE - count // PAGE + 1, pages)):
        missing += ring.table[slot, page] == BLANK
        page = page + 1 if page + 1 < pages else 0
    return missing


@compiled
def page_of(ring: Ring, slot: int, place: int) -> int:
    """Returns the number of the ``place``-th page of ``slot``, taking one from the stack if it has none."""
    page = int(ring.table[slot, place])
    if page == BLANK:
        ring.left[0] -= 1
        page = int(ring.free[ring.left[0]])
        ring.table[slot, place] = page
    return page


@compiled
def put(ring: Ring, slot: int, position: int, value: Any) -> None:
    """Writes ``value`` at ``position`` of ``slot``."""
    cell = position % (ring.table.shape[1] * PAGE)
    ring.values[page_of(ring, slot, cell // PAGE), cell % PAGE] = value
