"""Strategy 2 of Kesarwani et al. without their bounding boxes: which cells were visited, one bit each.

status = 100 * sum over visited cells of w_l, w_l = |S_l| / |S|. The visits of several principals are the OR of
their bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array

CELLS = 2_048
"""The bits of a bitmap. Only cells with validation rows count, and there are at most 2,000 of those."""
BYTES = CELLS // 8

Bitmaps = NDArray[np.uint8]


def is_set(bitmaps: Bitmaps, cell: Array) -> NDArray[np.bool_]:
    """Returns bool (n,): whether the ``cell`` int64 (n,) of each of ``bitmaps`` uint8 (n, 256) was visited."""
    byte = np.take_along_axis(bitmaps, cell[:, None] >> 3, axis=1)[:, 0]
    return np.asarray((byte >> (cell & 7)) & 1 == 1)


def visit(bitmaps: Bitmaps, row: Array, cell: Array) -> None:
    """Sets bit ``cell[i]`` of ``bitmaps[row[i]]``, in place."""
    np.bitwise_or.at(bitmaps, (row, cell >> 3), (1 << (cell & 7)).astype(np.uint8))


def visited(bitmaps: Bitmaps) -> tuple[Array, Array]:
    """Returns int64 each: row and cell of every visit, ascending."""
    row, cell = np.nonzero(np.unpackbits(bitmaps, axis=1, bitorder="little"))
    return row, cell
