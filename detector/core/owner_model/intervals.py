"""Safe intervals of the leaves of a tree (Quiring, Arp and Rieck, EuroS&P 2018; their published code).

On the path to a leaf each feature has an interval; open sides are closed by its range. A Gaussian kernel density of the
leaf's own rows gives the point at either end beyond which 0.5 percent of their mass lies; a margin is that wide, at
most 7.5 percent of the interval. In leaves with five rows or fewer the margin ends at their nearest row.

Two things differ from the published code. Bandwidths are shares of the feature's range, which is the same for the
published data in 0..1, so that units do not matter. And a margin never covers more than 0.5 percent of the rows
themselves: the kernels of a category's value at the end of its range would else put all rows with that value in the
margin.
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
"""The most rows of a leaf whose density is estimated, evenly chosen: cross-validation takes time quadratic in them."""


def safe_intervals(tree: Tree, features: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Returns float64: the lower and upper ends, for each entry of the tree's ``paths``, from rows ``features`` float32
    (n, d) like the training data."""
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
    """Returns the bounds of each entry of the paths with open sides closed, and the range of its feature."""
    paths = tree.paths
    least = np.fmin(tree.features.low, features.min(axis=0))[paths.feature]
    most = np.fmax(tree.features.high, features.max(axis=0))[paths.feature]
    low = np.where(np.isinf(paths.low), np.minimum(least, paths.high), paths.low)
    high = np.where(np.isinf(paths.high), np.maximum(most, paths.low), paths.high)
    return low, high, np.where(most > least, most - least, 1.0)


def _widths(values: Floats, low: float, high: float, spread: float) -> tuple[float, float]:
    """Returns the widths of the margins at either end of an interval, for the ``values`` (n,) of a leaf's rows."""
    widest = WIDEST * (high - low)
    if not len(values):
        return widest, widest
    few = len(values) <= FEW
    first, last = (values.min(), values.max()) if few else _nearly_all(values, low, high, spread)
    return min(abs(low - first), widest), min(abs(high - last), widest)


def _nearly_all(values: Floats, low: float, high: float, spread: float) -> tuple[float, float]:
    """Returns the two points between which all but ``BEHIND`` of the mass lies, on either side."""
    chosen = values[np.linspace(0, len(values) - 1, min(len(values), _MOST)).astype(np.int64)] / spread
    grid = np.linspace(low / spread, high / spread, _GRID)
    mass = _mass(chosen, grid)
    first, last = grid[np.searchsorted(mass, (BEHIND, 1 - BEHIND)).clip(max=_GRID - 1)] * spread
    first = first if mass[-1] >= BEHIND else low
    behind, ordered = int(BEHIND * len(values)), np.sort(values)
    return min(first, ordered[behind]), max(last, ordered[-1 - behind])


def _mass(values: Floats, grid: Floats) -> Floats:
    """Returns float64: the density's integral from the first point of ``grid`` to each, without the mass before it."""
    from scipy.integrate import cumulative_trapezoid

    width = _bandwidth(values)
    density = np.exp(-(((grid[:, None] - values) / width) ** 2) / 2).mean(axis=1) / (width * np.sqrt(2 * np.pi))
    return np.asarray(cumulative_trapezoid(density, grid, initial=0.0))


def _bandwidth(values: Floats) -> float:
    """Returns the one of 30 bandwidths with the highest five-fold cross-validated likelihood of ``values`` (n,), in
    consecutive folds."""
    fold = np.repeat(np.arange(_FOLDS), [len(part) for part in np.array_split(values, _FOLDS)])
    squares = (values[:, None] - values) ** 2
    squares[fold[:, None] == fold] = np.inf
    nearest = squares.min(axis=1)
    likelihood = [_likelihood(squares - nearest[:, None], nearest, width) for width in _BANDWIDTHS]
    return float(_BANDWIDTHS[int(np.argmax(likelihood))])


def _likelihood(beyond: Floats, nearest: Floats, width: float) -> float:
    """Returns, up to a constant, the log-likelihood of values whose squared distances to others are ``nearest`` +
    ``beyond``."""
    kernels = np.log(np.exp(-beyond / (2 * width**2)).sum(axis=1)) - nearest / (2 * width**2)
    return float(kernels.sum() - len(nearest) * np.log(width))
