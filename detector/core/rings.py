"""The last values of each slot, in pages, so that a principal with few of them costs little."""

from __future__ import annotations

from typing import Any

import numpy as np

from detector.core.arrays import Array
from detector.core.columns import Columns, Ids
from detector.core.configuration import PAGE

_BLANK = 0
"""The page that stands in for pages that a slot does not have."""


class Rings:
    """For each slot the values at its last ``width`` positions, position p in cell p modulo ``width``."""

    def __init__(self, width: int, dtype: Any, fill: Any) -> None:
        self.width = width
        self._table = Columns({"pages": (np.int32, _BLANK, width // PAGE)})
        self._pages = Columns({"values": (dtype, fill, PAGE)})
        self._ids = Ids()
        self._ids.take()  # the blank page
        self._pages.reserve(1)

    @property
    def nbytes(self) -> int:
        return self._table.nbytes + self._pages.nbytes

    def nbytes_of(self, slots: Array) -> int:
        self._reserve(slots)
        pages = self._table["pages"][slots]
        return int(pages.nbytes + (pages != _BLANK).sum() * PAGE * self._pages["values"].itemsize)

    def read(self, slots: Array) -> Array:
        """Returns (n, width): the cells of each slot, the fill value where nothing was written."""
        self._reserve(slots)
        return self._pages["values"][self._table["pages"][slots]].reshape(len(slots), self.width)

    @property
    def values(self) -> Array:
        """All pages, one after another; a view until ``places`` makes room for more."""
        return self._pages["values"].reshape(-1)

    def find(self, slots: Array, positions: Array) -> Array:
        """Returns int64 (n,): the index in ``values`` of position i of slot i, that of a fill value if it has none."""
        self._reserve(slots)
        cell = positions % self.width
        places: Array = self._table["pages"][slots, cell // PAGE].astype(np.int64) * PAGE + cell % PAGE
        return places

    def at(self, slots: Array, positions: Array) -> Array:
        """Returns (n,): the cell of position i of slot i."""
        held: Array = self.values[self.find(slots, positions)]
        return held

    def places(self, slots: Array, positions: Array) -> Array:
        """The same, after a slot without that page has got it."""
        places = self.find(slots, positions)
        blank = np.flatnonzero(places // PAGE == _BLANK)
        if len(blank):
            self._allocate(slots[blank], positions[blank] % self.width // PAGE)
            places[blank] = self.find(slots[blank], positions[blank])
        return places

    def write(self, slots: Array, positions: Array, values: Array) -> None:
        """Writes value i at position i of slot i; where two share a cell, the later one stays."""
        if len(slots):
            places = self.places(slots, positions)
            self.values[places] = values

    def evict(self, slots: Array) -> None:
        self._reserve(slots)
        pages = self._table["pages"][slots].ravel()
        pages = pages[pages != _BLANK]
        self._pages.reset(pages)
        self._ids.give_back(pages.tolist())
        self._table["pages"][slots] = _BLANK

    def _allocate(self, slots: Array, page: Array) -> None:
        table = self._table["pages"]
        cells = np.unique(slots * table.shape[1] + page)
        table.reshape(-1)[cells] = self._ids.take_many(len(cells))
        self._pages.reserve(self._ids.size)

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._table.reserve(int(slots.max()) + 1)
