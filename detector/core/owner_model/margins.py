"""Which queries come close to where the owner's model changes its answer, which a thief who maps it has to query.

For decision trees these are the safe intervals of Forgotten Siblings (Quiring, Arp and Rieck, EuroS&P 2018): within the
region of a leaf, a margin along each bound that the training data leave nearly empty. For linear models it is the
distance to the boundary, for any other classifier the lead of the most probable class; both thresholds are exceeded by
nearly all honest queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.core.loops.compiled import compiled, plain
from detector.core.owner_model.models import Floats, Linear, OwnerModel, Tree
from detector.core.state.arrays import Array

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


LOW = 0.05
"""The share of honest queries that lie in the margin of a linear model or of any classifier."""
_LEAST_RATE, _HIGHEST_RATE = 0.005, 0.3

Outputs = NDArray[np.float32]


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
    def of(
        cls, model: OwnerModel | None, features: NDArray[np.float32], probabilities: Outputs | None = None
    ) -> Margins | None:
        """Returns margins from rows like the training data: ``features`` float32 (n, d), and, where there is no model,
        its ``probabilities`` (n, k) for them. Returns None where there is neither. Raises ConfigurationError."""
        if model is None and (probabilities is None or probabilities.shape[1] < 2):
            return None
        if len(features) < 2:
            raise ConfigurationError(f"margins need rows like the training data, and there are {len(features)} of them")
        _check_dimension(model, features)
        inside = np.empty(len(features), bool)
        for half in (slice(0, None, 2), slice(1, None, 2)):
            other = slice(1 - half.start, None, 2)
            fitted = _fitted(model, features[half], _rows_of(probabilities, half), np.nan)
            inside[other] = fitted.close(model, features[other], _rows_of(probabilities, other)).inside
        rate = np.clip((inside.sum() + 0.5) / (len(inside) + 1), _LEAST_RATE, _HIGHEST_RATE)
        return _fitted(model, features, probabilities, float(rate))

    def close(
        self, model: OwnerModel | None, features: NDArray[np.float32], probabilities: Outputs | None
    ) -> MarginResult:
        """Judges queries by the ``model`` of these margins; ``probabilities`` (n, k) are needed where there is no
        model, and may be NaN where unknown."""
        count = len(features)
        leaf, known = np.zeros(count, np.int64), np.ones(count, bool)
        if model is not None and features.shape[1] != len(model.features):
            return MarginResult(leaf, np.zeros(count, bool), np.zeros(count, bool))
        if isinstance(model, Tree):
            leaf = model.leaf(features)
            return MarginResult(leaf, self._outside(leaf, features), known)
        if isinstance(model, Linear):
            side, distance = model.distances(features)
            return MarginResult(leaf, distance < self.distances[side], known)
        lead = _lead(probabilities, count) if model is None else _lead(model.outputs(features), count)
        return MarginResult(leaf, lead < self.low_margin, ~np.isnan(lead))

    def to_record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Margins:
        return cls(**record)

    def _outside(self, leaf: Array, features: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Returns bool (n,): rows with some feature outside the safe interval of their leaf."""
        outside = np.empty(len(leaf), np.bool_)
        safe = _Intervals(*(plain(getattr(self, name)) for name in _Intervals._fields))
        _beyond(leaf, plain(features), safe, outside)
        return outside


class _Intervals(NamedTuple):
    """As in ``Margins``."""

    starts: Array
    feature: Array
    low: Floats
    high: Floats


@compiled
def _beyond(
    leaf: NDArray[np.int64], features: NDArray[np.float32], safe: _Intervals, outside: NDArray[np.bool_]
) -> None:
    for row in range(len(leaf)):
        outside[row] = False
        for at in range(safe.starts[leaf[row]], safe.starts[leaf[row] + 1]):
            value = features[row, safe.feature[at]]
            outside[row] |= value < safe.low[at] or value > safe.high[at]


def _fitted(
    model: OwnerModel | None, features: NDArray[np.float32], probabilities: Outputs | None, rate: float
) -> Margins:
    none, empty = np.empty(0, np.int64), np.empty(0)
    if isinstance(model, Tree):
        low, high = safe_intervals(model, features)
        return Margins(model.paths.starts, model.paths.feature, low, high, empty, np.nan, rate)
    if isinstance(model, Linear):
        side, distance = model.distances(features)
        own = [distance[side == at] for at in range(model.sides)]
        distances = np.array([np.quantile(each, LOW) if len(each) else 0.0 for each in own])
        return Margins(none, none, empty, empty, distances, np.nan, rate)
    lead = _lead(probabilities, len(features)) if model is None else _lead(model.outputs(features), len(features))
    return Margins(none, none, empty, empty, empty, float(np.nanquantile(lead, LOW)), rate)


def _lead(outputs: NDArray[Any] | None, count: int) -> Floats:
    """Returns float64 (n,): the highest of ``outputs`` (n, k) less the next, NaN where there are no two."""
    lead = np.full(count, np.nan)
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


def _rows_of(probabilities: Outputs | None, rows: slice) -> Outputs | None:
    return None if probabilities is None else probabilities[rows]


def _check_dimension(model: OwnerModel | None, features: NDArray[np.float32]) -> None:
    if model is not None and features.shape[1] != len(model.features):
        raise ConfigurationError(
            f"features: the model has {len(model.features)} of them and the rows {features.shape[1]}; "
            "give rows in the form that the model is asked in"
        )
