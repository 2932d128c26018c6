"""The features in which queries are compared with rows value by value, and how many steps of honest rows are equal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FEATURES = 128
"""The most features that are compared."""
_CONSTANT_SHARE = 0.99
"""A feature with one value in this share of the honest rows tells nothing."""
_RARE_COUNT = 2
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
        varied = np.flatnonzero(share < _CONSTANT_SHARE)
        if len(varied) > FEATURES:
            ranked = varied[np.argsort(share[varied], kind="stable")]
            varied = np.sort(ranked[np.linspace(0, len(ranked) - 1, FEATURES).astype(np.int64)])
        rare = share[varied] * len(rows) <= _RARE_COUNT
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


_NO_VALUES = np.empty(0, np.float32)
NOTHING = Compared(np.empty(0, np.int64), _NO_VALUES, _NO_VALUES, np.empty((0, 0), np.float32))
"""Compares nothing: profiles of earlier versions have no rows."""


_SAMPLED_ROWS = 128
_SIZE_EQUAL = 1e-3
_FEWEST_STEPS = 5
_STEP_QUANTILE = 0.95
_RAREST, _OFTENEST = 0.005, 0.5
"""The share of equal sizes in steps between honest rows is taken to be this at least, and at most: many features that
change by one size are never chance."""
_MIN_NATS = 6.0
"""Minus the logarithm of how likely it may be that as many sizes are equal by chance."""


def fewest_equal(compared: Compared, scale: Rows) -> NDArray[np.int64]:
    """Returns int64 (k,): of n features that changed in a step, how many must have changed by one size to be more than
    chance, by n; more than n where no number is. ``scale`` (d,): what the features were divided by.

    Features with few values, as the greys of an image, often change by one size: the share of those that do from an
    honest row to the nearest other is exceeded by one in twenty. A number of equal ones is more than chance by the
    bound of Chernoff (1952) for a binomial tail: n KL(share || chance).
    """
    chance = _equal_share(compared, scale)
    counts = np.arange(FEATURES + 1)
    fewest = counts + 1
    for count in range(_FEWEST_STEPS, len(counts)):
        equal = np.arange(count // 2 + 1, count + 1)
        share = (equal - 1) / (count - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            unequal = np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - chance)), 0.0)
        surely = (share > chance) & ((count - 1) * (share * np.log(share / chance) + unequal) > _MIN_NATS)
        fewest[count] = equal[surely.argmax()] if surely.any() else count + 1
    return fewest


def _equal_share(compared: Compared, scale: Rows) -> float:
    """Returns the share of features that change by the median size between honest rows and the nearest others."""
    rows, shares = compared.rows.astype(np.float64), []
    for row in rows[:: max(len(rows) // _SAMPLED_ROWS, 1)]:
        distance = ((rows - row) ** 2).sum(axis=1)
        distance[distance <= _SIZE_EQUAL**2] = np.inf
        step = np.abs(rows[distance.argmin()] - row)
        sizes = np.sort((step * scale[compared.features])[step > compared.limits])
        if len(sizes) >= _FEWEST_STEPS:
            median = sizes[(len(sizes) - 1) // 2]
            shares.append(((np.abs(sizes - median) <= _SIZE_EQUAL * median).sum() - 1) / (len(sizes) - 1))
    return float(np.clip(np.quantile(shares or [0.0], _STEP_QUANTILE), _RAREST, _OFTENEST))
