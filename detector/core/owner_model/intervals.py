"""Safe intervals of the leaves of a tree (Quiring, Arp and Rieck, EuroS&P 2018; their published code).

On the path to a leaf each feature has an interval, open sides being closed by its range. A Gaussian kernel density of
the leaf's own rows says how far one may go in from either end before 0.5 percent of their mass lies behind; a margin
is that wide, at most 7.5 percent of the interval. Leaves with five rows or fewer have it up to their nearest row.

Two things are ours. Bandwidths are shares of the feature's range, which is the same for the published data in 0..1, so
that units do not matter. And a margin never reaches into the rows themselves by more than those 0.5 percent: the
kernels of a category's value at the end of its range would else put all who have it in the margin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.owner_model.features import Floats
from detector.core.owner_model.tree import Tree

WIDEST = 0.075
BEHIND = 0.005
FEW = 5
_FOLDS = 5
_BANDWIDTHS = np.linspace(0.01, 1.0, 30)
_GRID = 1_000
_MOST = 250
"""Rows of a leaf whose density is estimated, evenly chosen: cross-validation takes the square of them."""


def safe_intervals(tree: Tree, features: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """float64: the lower and upper ends, for each entry of the tree's ``paths``, from rows ``features`` float32 (n, d)
    like those it was trained on."""
    paths, leaf = tree.paths, tree.leaf(features)
    low, high, spread = _closed(tree, features)
    for at in range(tree.leaves):
        rows = features[leaf == at].astype(np.float64)
        for entry in range(int(paths.starts[at]), int(paths.starts[at + 1])):
            values = rows[:, paths.feature[entry]]
            left, right = _widths(values, float(low[entry]), float(high[entry]), float(spread[entry]))
            low[entry], high[entry] = low[entry] + left, high[entry] - right
    return low, high


def _closed(tree: Tree, features: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
    """Bounds of each entry of the paths with open sides closed, and the range of its feature."""
    paths = tree.paths
    least = np.fmin(tree.features.low, features.min(axis=0))[paths.feature]
    most = np.fmax(tree.features.high, features.max(axis=0))[paths.feature]
    low = np.where(np.isinf(paths.low), np.minimum(least, paths.high), paths.low)
    high = np.where(np.isinf(paths.high), np.maximum(most, paths.low), paths.high)
    return low, high, np.where(most > least, most - least, 1.0)


def _widths(values: Floats, low: float, high: float, spread: float) -> tuple[float, float]:
    """Of the margins at either end of an interval, for the ``values`` (n,) of a leaf's rows."""
    widest = WIDEST * (high - low)
    if not len(values):
        return widest, widest
    few = len(values) <= FEW
    first, last = (values.min(), values.max()) if few else _nearly_all(values, low, high, spread)
    return min(abs(low - first), widest), min(abs(high - last), widest)


def _nearly_all(values: Floats, low: float, high: float, spread: float) -> tuple[float, float]:
    """Between which points all but ``BEHIND`` of the mass lies, on either side."""
    chosen = values[np.linspace(0, len(values) - 1, min(len(values), _MOST)).astype(np.int64)] / spread
    grid = np.linspace(low / spread, high / spread, _GRID)
    mass = _mass(chosen, grid)
    first, last = grid[np.searchsorted(mass, (BEHIND, 1 - BEHIND)).clip(max=_GRID - 1)] * spread
    first = first if mass[-1] >= BEHIND else low
    behind, ordered = int(BEHIND * len(values)), np.sort(values)
    return min(first, ordered[behind]), max(last, ordered[-1 - behind])


def _mass(values: Floats, grid: Floats) -> Floats:
    """float64: the density's integral from the first point of ``grid`` to each, without what lies before it."""
    from scipy.integrate import cumulative_trapezoid

    width = _bandwidth(values)
    density = np.exp(-(((grid[:, None] - values) / width) ** 2) / 2).mean(axis=1) / (width * np.sqrt(2 * np.pi))
    return np.asarray(cumulative_trapezoid(density, grid, initial=0.0))


def _bandwidth(values: Floats) -> float:
    """Of 30 the one under which the rest of ``values`` (n,) makes each of five consecutive parts of them likeliest."""
    fold = np.repeat(np.arange(_FOLDS), [len(part) for part in np.array_split(values, _FOLDS)])
    squares = (values[:, None] - values) ** 2
    squares[fold[:, None] == fold] = np.inf
    nearest = squares.min(axis=1)
    likelihood = [_likelihood(squares - nearest[:, None], nearest, width) for width in _BANDWIDTHS]
    return float(_BANDWIDTHS[int(np.argmax(likelihood))])


def _likelihood(beyond: Floats, nearest: Floats, width: float) -> float:
    """But for a constant, the log-likelihood of values whose squared distances to others are ``nearest`` +
    ``beyond``."""
    kernels = np.log(np.exp(-beyond / (2 * width**2)).sum(axis=1)) - nearest / (2 * width**2)
    return float(kernels.sum() - len(nearest) * np.log(width))
