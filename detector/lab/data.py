"""The data of victims, honest users and thieves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Examples:
    """``features`` float32 (n, d) and their true ``labels`` int64 (n,)."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Four disjoint sets: for the victim's training, for honest users, for the thief, and to judge clones.

    ``low`` and ``high`` float32 (d,): the range of each feature, which is public. ``categories`` int64 (d,): how many
    values 0, 1, ... a categorical feature has, 0 for a continuous one. ``side``: images are side x side pixels in row
    order; None for tables.
    """

    name: str
    classes: int
    training: Examples
    honest: Examples
    thief: Examples
    test: Examples
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    categories: NDArray[np.int64]
    side: int | None = None

    @property
    def dimension(self) -> int:
        return len(self.low)
