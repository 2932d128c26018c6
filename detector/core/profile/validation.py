"""The owner's validation set of one model version, by which exposure is measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.core.exposure.cells import Cells
from detector.core.exposure.levels import Levels
from detector.core.state.arrays import Array, pack

ROWS = 2_000
BYTES = 2_000_000
"""The most validation rows of a model version, and the most bytes of them."""


@dataclass(frozen=True, eq=False)
class Validation:
    """``features`` float32 (v, d), distributed like the training data of the model, and ``labels`` int64 (v,), its
    predictions for them. ``levels`` and ``cells`` are made from these once, so that later versions do not change
    them."""

    features: NDArray[np.float32]
    labels: Array
    levels: Levels
    cells: Cells

    @classmethod
    def of(cls, features: NDArray[np.float32], labels: Array) -> Validation:
        """Returns at most 2,000 rows and 2 MB; evenly chosen from more. Raises ConfigurationError for invalid rows."""
        _check(features, labels)
        room = min(ROWS, BYTES // max(4 * features.shape[1], 1))
        kept = np.linspace(0, len(features) - 1, min(len(features), room)).astype(np.int64)
        rows, predicted = np.ascontiguousarray(features[kept]), labels[kept].astype(np.int64)
        levels = Levels.of(rows, predicted)
        return cls(rows, predicted, levels, Cells.of(levels.sketch(rows[:, levels.columns])))

    @cached_property
    def tag(self) -> np.uint64:
        """Differs from that of any other validation set: exposures under different sets are not comparable."""
        digest = hashlib.blake2b(pack(self.to_record()), digest_size=8).digest()
        return np.uint64(int.from_bytes(digest, "little"))

    def to_record(self) -> dict[str, Any]:
        parts = {"levels": self.levels.to_record(), "cells": self.cells.to_record()}
        return {"features": self.features, "labels": self.labels} | parts

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Validation:
        """Returns the set of ``to_record``. Raises ConfigurationError if its rows are invalid."""
        _check(record["features"], record["labels"])
        levels, cells = Levels.from_record(record["levels"]), Cells.from_record(record["cells"])
        return cls(record["features"], record["labels"], levels, cells)


def _check(features: Array, labels: Array) -> None:
    if features.ndim != 2 or features.dtype != np.float32 or not len(features) or 4 * features.shape[1] > BYTES:
        raise ConfigurationError(
            f"the validation set has features of shape {features.shape} and dtype {features.dtype}; "
            f"give float32 (rows, features), at least one row, none of more than {BYTES} bytes"
        )
    if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
        raise ConfigurationError(
            f"the validation set has labels of shape {labels.shape} and dtype {labels.dtype} for {len(features)} rows; "
            "give the whole number that the model predicts for each"
        )
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ConfigurationError(f"row {row + 1} of the validation set holds NaN or infinity; leave such rows out")
