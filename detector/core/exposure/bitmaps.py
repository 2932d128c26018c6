"""Strategy 2 of Kesarwani et al. without their bounding boxes: which cells were visited, one bit each.

status = 100 * sum over visited cells of w_l, w_l = |S_l| / |S|. The visits of several principals are the OR of
their bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.state.arrays import Array

CELLS = 2_048
"""The bits of a bitmap. Only cells with validation rows count, and there are at most 2,000 of those."""
BYTES = CELLS // 8

Bitmaps = NDArray[np.uint8]


@compiled
def first_visits(bitmaps: Bitmaps, row: Array, cell: Array, first: NDArray[np.bool_]) -> None:
    """Sets bit ``cell[i]`` of ``bitmaps[row[i]]`` uint8 (m, 256), one after another, and ``first`` bool (n,) where it
    was not set before; both int64 (n,). A cell below 0 is none."""
    for at in range(len(row)):
        first[at] = False
        if cell[at] >= 0:
            byte, bit = cell[at] >> 3, 1 << (cell[at] & 7)
            first[at] = bitmaps[row[at], byte] & bit == 0
            bitmaps[row[at], byte] |= bit


def visit(bitmaps: Bitmaps, row: Array, cell: Array) -> None:
    """Sets bit ``cell[i]`` of ``bitmaps[row[i]]``, in place."""
    np.bitwise_or.at(bitmaps, (row, cell >> 3), (1 << (cell & 7)).astype(np.uint8))


def visited(bitmaps: Bitmaps) -> tuple[Array, Array]:
    """Returns int64 each: row and cell of every visit, ascending."""
    row, cell = np.nonzero(np.unpackbits(bitmaps, axis=1, bitorder="little"))
    return row, cell
