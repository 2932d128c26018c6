"""Line search: pairs of inputs with different labels, halved until the boundary between them is close."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def opposite_pairs(
    labels: NDArray[np.int64], pairs: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (m,) and (m,) whose ``labels`` differ, drawn with repetition; m is ``pairs``, or 0 of one label."""
    present = np.unique(labels)
    if len(present) == 1:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    one = rng.integers(len(labels), size=pairs)
    other = np.empty(pairs, np.int64)
    for label in present:
        mine = labels[one] == label
        other[mine] = rng.choice(np.flatnonzero(labels != label), mine.sum())
    return one, other


def halved(
    one: NDArray[np.float32], other: NDArray[np.float32], middle: NDArray[np.float32], same: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The half with the boundary of each segment ``one`` to ``other`` (n, d).

    ``same`` (n,): whether ``middle`` (n, d) has the label of ``one``.
    """
    return np.where(same[:, None], middle, one), np.where(same[:, None], other, middle)


def middle_of(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((one + other) / 2, np.float32)
