"""Tells synthetic queries, which a thief puts together from natural ones, from natural queries.

Such queries keep the values of natural ones and lose what holds these together: they scatter more about the mean of
their sender's queries than those of any honest account, and more in some directions than in others. Another device or a
drifted feed moves all queries of an account alike, and so does not look synthetic. A logistic regression on the squares
of distances from that mean, along the principal axes and off them all, learns the directions, from honest rows and from
ones that are made of them: crossovers of two and of eight rows (Syswerda 1989), noisy copies, and rows whose features
are drawn one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled
from detector.core.reference.projection import AXES, Embedding, Projection

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Rng = np.random.Generator

ROOM, OF_ONE = 5_000, 100
"""The most honest rows to learn from, and the most of one account."""
FEWEST = 10
"""Accounts with fewer rows do not show how the queries of one account scatter."""
_POOL = 100
"""The natural rows that a pretended thief has."""
_PENALTY = 1e-3
_LEAST = 1e-6
"""Axes along which honest rows deviate less than this, as a share of the most, do not count."""
_LARGEST = 36.0
"""Squares are clipped to this, so that one feature does not decide."""

WIDTH = 2 + AXES + 1
"""The size of the state: the number of a principal's queries, whether the last was far from their mean, and the mean of
their points and residuals."""
_FEWEST_OWN, _LATEST = 4, 256
"""The fewest own queries that make a mean, and how many of the latest it follows."""
_MOVED, _FAR = 4.0, 8.0
"""The most deviations by which a query moves the mean, divided by their number; and those beyond which it is far. One
row of nonsense hardly moves the mean, and a second far one in a row is the new mean: that of another device."""
_MOST = 6.0


class Weights(NamedTuple):
    """The log-odds that a query at the mean is synthetic, ``at_mean`` float64 (1,); and for each of k axes and the
    residual, the ``deviation`` float64 (k + 1,) of honest rows, infinite where they have none, and the ``weight`` (k +
    1,), 0 or more, of a squared distance in deviations."""

    at_mean: Floats
    deviation: Floats
    weight: Floats

    def log_odds(
        self, slot: NDArray[np.int64], projection: Projection, repeats: NDArray[np.bool_], state: Rows
    ) -> Floats:
        """Returns float64 (n,): the log-odds that the rows of ``projection`` are synthetic, 0 to 6, each as of itself;
        NaN for a principal's first four queries. Moves the mean in ``state`` float32 (slots, 35) of their ``slot``
        int64 (n,), which ``repeats`` bool (n,) do not."""
        odds = np.empty(len(slot))
        _log_odds(slot, np.column_stack((projection.points, projection.residual)), repeats, self, state, odds)
        return odds


def learn(natural: Sequence[Rows], embedding: Embedding) -> Weights | None:
    """Returns the weights by ``natural``, distinct rows (n, d) of each honest account; None without accounts."""
    if not natural:
        return None
    pool = np.concatenate(natural)
    rng = np.random.default_rng(int.from_bytes(blake2b(pool.tobytes(), digest_size=16).digest(), "big"))
    made = [_made(pool[rng.integers(len(pool), size=_POOL)], len(rows), rng) for rows in natural]
    deviation = _along(pool, embedding).std(axis=0)
    deviation[deviation <= _LEAST * deviation.max()] = np.inf
    squares = [np.concatenate([_squares(rows, embedding, deviation) for rows in side]) for side in (natural, made)]
    fitted = _regression(np.concatenate(squares), np.repeat((0.0, 1.0), [len(side) for side in squares]))
    return Weights(fitted[:1], deviation, fitted[1:])


def _made(pool: Rows, count: int, rng: Rng) -> Rows:
    """Returns ``count`` synthetic rows from the natural rows ``pool`` (m, d). Features with two values stay as they are
    in one row together: thieves keep categories valid."""
    first = pool[rng.integers(len(pool), size=count)]
    parts = np.array_split(first, 4)
    crossovers = [_crossover(pool, len(part), rng, of) for part, of in zip(parts[1:], (2, 8, len(pool)), strict=True)]
    rows = np.concatenate((_noisy(pool, parts[0], rng), *crossovers))
    fixed = (pool == pool.min(axis=0)) | (pool == pool.max(axis=0))
    return np.where(fixed.all(axis=0), first, rows.clip(pool.min(axis=0), pool.max(axis=0))).astype(np.float32)


def _crossover(pool: Rows, count: int, rng: Rng, parents: int) -> Rows:
    dimension = pool.shape[1]
    chosen = rng.integers(len(pool), size=(count, parents))
    which = rng.integers(parents, size=(count, dimension))
    return pool[np.take_along_axis(chosen, which, axis=1), np.arange(dimension)]


def _noisy(pool: Rows, first: Rows, rng: Rng) -> Floats:
    width = rng.uniform(0.1, 1.0, (len(first), 1)) * pool.std(axis=0)
    return np.asarray(first + width * rng.standard_normal(first.shape))


def _along(rows: Rows, embedding: Embedding) -> Floats:
    projection = embedding.project(rows)
    return np.column_stack((projection.points, projection.residual))


def _squares(rows: Rows, embedding: Embedding, deviation: Floats) -> Floats:
    """Returns float64 (n, k + 1): the squared distances of one account's ``rows`` (n, d) from the mean of the others,
    in deviations."""
    along = _along(rows, embedding) / deviation
    squares: Floats = (along - along.mean(axis=0)) ** 2 * (len(rows) / (len(rows) - 1))
    return np.minimum(squares, _LARGEST)


def _regression(squares: Floats, synthetic: Floats) -> Floats:
    """Returns the logistic regression of ``synthetic`` (n,), 0 or 1, on ``squares`` (n, k): first the constant, then a
    weight of 0 or more for each column."""
    from scipy.optimize import minimize
    from scipy.special import expit

    columns = np.concatenate((np.ones((len(squares), 1)), squares), axis=1)
    penalty = np.full(columns.shape[1], _PENALTY)
    penalty[0] = 0.0

    def loss(weights: Floats) -> tuple[float, Floats]:
        odds = columns @ weights
        mean = float((np.logaddexp(0.0, odds) - synthetic * odds).mean())
        slope = columns.T @ (expit(odds) - synthetic) / len(columns)
        return mean + float(penalty @ weights**2), slope + 2 * penalty * weights

    bounds = [(None, None), *[(0.0, None)] * (columns.shape[1] - 1)]
    return np.asarray(minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x)


@compiled
def _log_odds(
    slot: NDArray[np.int64], along: Floats, repeats: NDArray[np.bool_], weights: Weights, state: Rows, odds: Floats
) -> None:
    """Row after row, fills ``odds`` (n,) for rows at ``along`` (n, k + 1): see ``Weights.log_odds``."""
    axes = along.shape[1]
    for row in range(len(slot)):
        held, here = state[slot[row]], along[row]
        if math.isnan(held[0]):
            held[:] = 0.0
        count, mean, far = np.float64(held[0]), held[2:], False
        total = weights.at_mean[0]
        for axis in range(axes):
            gap = abs(here[axis] - mean[axis]) / weights.deviation[axis]
            # A mean of few queries is itself off.
            total += weights.weight[axis] * min(gap * gap * count / (count + 1.0), _LARGEST)
            far |= gap > _FAR
        odds[row] = min(max(total, 0.0), _MOST) if count >= _FEWEST_OWN else math.nan
        if repeats[row]:
            continue
        moved = far and held[1] > 0
        if moved:
            count = min(count, np.float64(_FEWEST_OWN))
        for axis in range(axes):
            gap, most = here[axis] - mean[axis], _MOVED * weights.deviation[axis]
            mean[axis] += gap if moved else min(max(gap, -most), most) / (count + 1.0)
        held[0], held[1] = min(count + 1.0, _LATEST), far
