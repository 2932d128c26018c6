"""Which queries come close to where the owner's model changes its answer, which a thief who maps it has to query.

For decision trees these are the safe intervals of Forgotten Siblings (Quiring, Arp and Rieck, EuroS&P 2018): within the
region of a leaf, a margin along each bound that the training data leave nearly empty. For linear models it is the
distance to the boundary, for any other classifier the lead of the most probable class; both thresholds are exceeded by
nearly all honest queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.core.loops.compiled import compiled, plain
from detector.core.owner_model.models import Ensemble, Floats, Linear, OwnerModel, Tree
from detector.core.state.arrays import Array

WIDEST = 0.075
BEHIND = 0.005
MIN_LEAF_ROWS = 5
_FOLDS = 5
_BANDWIDTHS = np.linspace(0.01, 1.0, 30)
_GRID = 1_000
_MAX_DENSITY_ROWS = 250
"""The most rows of a leaf whose density is estimated, evenly chosen: cross-validation takes time quadratic in them."""

LOW = 0.05
"""The share of honest queries that lie in the margin of a linear model or of any classifier."""

Rows = NDArray[np.float32]


def safe_intervals(tree: Tree, features: Rows) -> tuple[Floats, Floats]:
    """Returns float64: the lower and upper ends, for each entry of the tree's ``paths``, from rows ``features`` float32
    (n, d) like the training data.

    On the path to a leaf each feature has an interval; open sides are closed by its range. A Gaussian kernel density of
    the leaf's own rows gives the point at either end beyond which 0.5 percent of their mass lies; a margin is that
    wide, at most 7.5 percent of the interval. In leaves with five rows or fewer the margin ends at their nearest row.

    Two things differ from the published code. Bandwidths are shares of the feature's range, which is the same for the
    published data in 0..1, so that units do not matter. And a margin never covers more than 0.5 percent of the rows
    themselves: the kernels of a category's value at the end of its range would else put all rows with that value in the
    margin.
    """
    paths, leaf = tree.paths, tree.leaf(features)
    low, high, spread = _closed(tree, features)
    for at in range(tree.leaves):
        rows = features[leaf == at].astype(np.float64)
        for entry in range(int(paths.starts[at]), int(paths.starts[at + 1])):
            values = rows[:, paths.feature[entry]]
            left, right = _widths(values, float(low[entry]), float(high[entry]), float(spread[entry]))
            low[entry], high[entry] = low[entry] + left, high[entry] - right
    return low, high


def _closed(tree: Tree, features: Rows) -> tuple[Floats, Floats, Floats]:
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
    few = len(values) <= MIN_LEAF_ROWS
    first, last = (values.min(), values.max()) if few else _nearly_all(values, low, high, spread)
    return min(abs(low - first), widest), min(abs(high - last), widest)


def _nearly_all(values: Floats, low: float, high: float, spread: float) -> tuple[float, float]:
    """Returns the two points between which all but ``BEHIND`` of the mass lies, on either side."""
    chosen = values[np.linspace(0, len(values) - 1, min(len(values), _MAX_DENSITY_ROWS)).astype(np.int64)] / spread
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
    """Returns the log-likelihood, up to a constant, of values at squared distances ``nearest`` + ``beyond`` from
    others."""
    kernels = np.log(np.exp(-beyond / (2 * width**2)).sum(axis=1)) - nearest / (2 * width**2)
    return float(kernels.sum() - len(nearest) * np.log(width))


@dataclass(frozen=True, slots=True)
class MarginResult:
    """For each of n queries: ``leaf`` int64 (n,), 0 unless the model is a tree; ``inside`` bool (n,): whether it is in
    a margin; ``known`` bool (n,): whether that can be computed."""

    leaf: Array
    inside: NDArray[np.bool_]
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Margins:
    """For a tree, the safe intervals of leaf l are entries ``starts[l]`` to ``starts[l + 1]`` of ``feature`` int64,
    ``low`` and ``high`` float64. For a linear model, ``distances`` float64 (classes,) is the margin on the side of each
    class. For all others, ``low_margin`` is the smallest lead of the top class over the next. What does not apply is
    empty, or NaN. ``rate``: the share of honest queries in a margin, measured on rows that the margins were not made
    from, held between 0.005 and 0.3."""

    starts: Array
    feature: Array
    low: Floats
    high: Floats
    distances: Floats
    low_margin: float
    rate: float

    @property
    def leaves(self) -> int:
        """0 unless the model is a tree."""
        return max(len(self.starts) - 1, 0)

    @classmethod
    def of(cls, model: OwnerModel | None, features: Rows, probabilities: Rows | None = None) -> Margins | None:
        """Returns margins from rows like the training data: ``features`` float32 (n, d), and, where there is no model,
        its ``probabilities`` (n, k) for them. Returns None where there is neither. Raises ConfigurationError."""
        if model is None and (probabilities is None or probabilities.shape[1] < 2):
            return None
        if len(features) < 2:
            raise ConfigurationError(f"margins need rows like the training data, and there are {len(features)} of them")
        if model is not None and features.shape[1] != len(model.features):
            raise ConfigurationError(
                f"features: the model has {len(model.features)} of them and the rows {features.shape[1]}; "
                "give rows in the form of the model's queries"
            )
        inside = np.empty(len(features), bool)
        for half, other in ((_EVEN, _ODD), (_ODD, _EVEN)):
            of_half, of_other = (None if probabilities is None else probabilities[rows] for rows in (half, other))
            fitted = _fitted(model, features[half], of_half, np.nan)
            inside[other] = fitted.close(model, features[other], of_other).inside
        rate = np.clip((inside.sum() + 0.5) / (len(inside) + 1), 0.005, 0.3)
        return _fitted(model, features, probabilities, float(rate))

    def close(self, model: OwnerModel | None, features: Rows, probabilities: Rows | None) -> MarginResult:
        """Judges queries by the ``model`` of these margins; ``probabilities`` (n, k) are needed where there is no
        model, and may be NaN where unknown."""
        count = len(features)
        leaf, inside, known = np.zeros(count, np.int64), np.zeros(count, np.bool_), np.ones(count, np.bool_)
        if model is not None and features.shape[1] != len(model.features):
            return MarginResult(leaf, inside, ~known)
        if isinstance(model, Tree):
            leaf = model.leaf(features)
            starts, feature = plain(self.starts), plain(self.feature)
            _find_outside(leaf, plain(features), starts, feature, plain(self.low), plain(self.high), inside)
            return MarginResult(leaf, inside, known)
        if isinstance(model, Linear):
            side, distance = model.distances(features)
            return MarginResult(leaf, distance < self.distances[side], known)
        lead = _lead(model, features, probabilities)
        return MarginResult(leaf, lead < self.low_margin, ~np.isnan(lead))


_EVEN, _ODD = slice(0, None, 2), slice(1, None, 2)


@compiled
def _find_outside(
    leaf: Array, features: Rows, starts: Array, feature: Array, low: Floats, high: Floats, outside: NDArray[np.bool_]
) -> None:
    """Sets ``outside`` (n,) for rows with some feature outside the safe interval of their leaf."""
    for row in range(len(leaf)):
        for at in range(starts[leaf[row]], starts[leaf[row] + 1]):
            value = features[row, feature[at]]
            outside[row] |= value < low[at] or value > high[at]


def _fitted(model: OwnerModel | None, features: Rows, probabilities: Rows | None, rate: float) -> Margins:
    none, empty = np.empty(0, np.int64), np.empty(0)
    if isinstance(model, Tree):
        low, high = safe_intervals(model, features)
        return Margins(model.paths.starts, model.paths.feature, low, high, empty, np.nan, rate)
    if isinstance(model, Linear):
        side, distance = model.distances(features)
        by_side = [distance[side == at] for at in range(model.sides)]
        distances = np.array([np.quantile(values, LOW) if len(values) else 0.0 for values in by_side])
        return Margins(none, none, empty, empty, distances, np.nan, rate)
    low_margin = float(np.nanquantile(_lead(model, features, probabilities), LOW))
    return Margins(none, none, empty, empty, empty, low_margin, rate)


def _lead(model: Ensemble | None, features: Rows, probabilities: Rows | None) -> Floats:
    """Returns float64 (n,): the highest output less the next, NaN where there are no two."""
    outputs: NDArray[Any] | None = probabilities if model is None else model.outputs(features)
    lead = np.full(len(features), np.nan)
    if outputs is not None:
        _leads(plain(outputs.astype(np.float64)), lead)
    return lead


@compiled
def _leads(outputs: Floats, lead: Floats) -> None:
    for row in range(len(outputs)):
        first = second = -math.inf
        for at in range(outputs.shape[1]):
            value = outputs[row, at]
            if value > first:
                first, second = value, first
            elif value > second:
                second = value
        if math.isfinite(first) and math.isfinite(second):
            lead[row] = first - second
