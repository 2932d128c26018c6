"""The features in which queries are compared with rows value by value."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FEATURES = 128
"""The most features that are compared."""
_CONSTANT = 0.99
"""A feature with one value in this share of the honest rows tells nothing."""
_ONCE = 2
"""A value that occurs no more often than this is not usual."""
_EQUAL = 2e-3
"""Values nearer than this share of a feature's range are equal."""

Rows = NDArray[np.float32]


class Compared(NamedTuple):
    """The ``features`` int64 (f,) of a model that are compared; their ``usual`` values float32 (f,), infinite where no
    value is usual; how far equal ones may differ, ``limits`` float32 (f,); and the honest ``rows`` float32 (m, f)."""

    features: NDArray[np.int64]
    usual: Rows
    limits: Rows
    rows: Rows

    @classmethod
    def of(cls, rows: Rows, spread: Rows) -> Compared:
        """Returns the features of honest ``rows`` (m, d) that vary, with ranges ``spread`` (d,). Of many, 128 are
        taken, from those that vary most to those that vary least: never the margins of an image alone."""
        usual, share = _modes(rows)
        varied = np.flatnonzero(share < _CONSTANT)
        if len(varied) > FEATURES:
            ranked = varied[np.argsort(share[varied], kind="stable")]
            varied = np.sort(ranked[np.linspace(0, len(ranked) - 1, FEATURES).astype(np.int64)])
        rare = share[varied] * len(rows) <= _ONCE
        usual = np.where(rare, np.float32(np.inf), usual[varied])
        return cls(varied, usual, np.float32(_EQUAL) * spread[varied], np.ascontiguousarray(rows[:, varied]))


def _modes(rows: Rows) -> tuple[Rows, NDArray[np.float64]]:
    """Returns the most frequent value of each column, the smallest of several, float32 (d,), and its share of the rows,
    float64 (d,)."""
    count = len(rows)
    ordered = np.sort(rows, axis=0)
    usual, share = ordered[0].copy(), np.empty(rows.shape[1])
    for feature, column in enumerate(ordered.T):
        starts = np.flatnonzero(np.append(True, column[1:] != column[:-1]))
        lengths = np.diff(np.append(starts, count))
        most = int(lengths.argmax())
        usual[feature], share[feature] = column[starts[most]], lengths[most] / count
    return usual, share


_F = np.empty(0, np.float32)
NOTHING = Compared(np.empty(0, np.int64), _F, _F, np.empty((0, 0), np.float32))
"""Compares nothing: profiles of earlier versions have no rows."""
