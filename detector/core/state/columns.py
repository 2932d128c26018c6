"""Parallel arrays indexed by one dense integer, and the allocation of such integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from detector.core.state.arrays import Array

_START = 64


class Columns:
    """Growable named arrays of equal length, each entry starting at its column's fill value.

    ``fields`` maps a name to (dtype, fill) or, for entries that are themselves arrays, (dtype, fill, width).
    """

    def __init__(self, fields: dict[str, tuple[Any, ...]]) -> None:
        self._fields = fields
        self._size = 0
        self._columns = {name: _filled(0, field) for name, field in fields.items()}

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())

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


class Ids:
    """Allocates dense integers, the last returned ones first."""

    def __init__(self) -> None:
        self.size = 0
        self._free: list[int] = []

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        self.size += 1
        return self.size - 1

    def give_back(self, ids: Sequence[int]) -> None:
        self._free.extend(ids)


def _filled(size: int, field: tuple[Any, ...]) -> Array:
    dtype: DTypeLike = field[0]
    shape = (size,) if len(field) == 2 else (size, field[2])
    return np.full(shape, field[1], dtype=dtype)
