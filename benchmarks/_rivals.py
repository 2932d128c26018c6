"""Other published detectors, each from its formula: the course of its statistic over an account's queries.

All compare with the same honest rows, in the same principal axes. What needs more than a log has is replaced, and says
so: hidden layers by input features, a learned encoder by the axes, hardness by the largest probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks._detecting import Account
from detector.core.engine import Engine, EngineConfig

Floats = NDArray[np.float64]
Course = Callable[["Ground", Account], Floats]

AXES, ROWS, WINDOW, EVERY = 16, 2_000, 100, 10
"""A windowed statistic looks at the last ``WINDOW`` queries, every ``EVERY`` queries."""
_FEWEST, _BINS, _ANCHORS, _BET = 5, 15, 5, 0.4


class Ground:
    """What a rival knows: the rows of honest ``accounts`` in axes of unit variance, and the answers to them."""

    def __init__(self, accounts: Sequence[Account], seed: int = 0) -> None:
        features = np.concatenate([account.queries.features for account in accounts]).astype(np.float64)
        outputs = np.concatenate([account.queries.outputs for account in accounts])
        chosen = np.random.default_rng(seed).permutation(len(features))[:ROWS]
        self._centre, self._width = features.mean(axis=0), features.std(axis=0) + 1e-9
        scaled = (features[chosen] - self._centre) / self._width
        _, lengths, axes = np.linalg.svd(scaled, full_matrices=False)
        self._axes = (axes / np.maximum(lengths, 1e-9)[:, None] * np.sqrt(len(scaled)))[:AXES].T
        self.points, self.outputs = scaled @ self._axes, outputs[chosen]
        self.classes = self.outputs.argmax(axis=1)

    def place(self, account: Account) -> Floats:
        """Returns float64 (n, 16): the account's queries along the axes."""
        return np.asarray(((account.queries.features - self._centre) / self._width) @ self._axes)

    @cached_property
    def nearest(self) -> Floats:
        """The distance of each honest row to the nearest other one, ascending."""
        return np.sort(np.array([_distances(row[None], np.delete(self.points, at, 0)).min() for at, row in self._some]))

    @property
    def _some(self) -> list[tuple[int, Floats]]:
        return list(enumerate(self.points))[:500]


def _distances(rows: Floats, others: Floats) -> Floats:
    squares = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * rows @ others.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _windows(count: int, score: Callable[[slice], float]) -> Floats:
    """The score of the last queries as of every tenth, 0 before."""
    course = np.zeros(count)
    for end in range(EVERY, count + 1, EVERY):
        course[end - 1 : end - 1 + EVERY] = score(slice(max(end - WINDOW, 0), end))
    return course


def prada(_: Ground, account: Account) -> Floats:
    """PRADA (Juuti et al. 2019), query for query as published."""
    engine = Engine(EngineConfig(mode="compatible"))
    return np.nan_to_num(engine.observe([account.queries]).signals["prada"])


def hoda(ground: Ground, account: Account) -> Floats:
    """HODA (Sadeghzadeh et al. 2021): one less the correlation of the histograms of the last queries and of honest
    ones; of the largest probability, where they take the hardness."""

    def histogram(outputs: NDArray[np.float32]) -> Floats:
        return np.asarray(np.histogram(outputs.max(axis=1), bins=_BINS, range=(0.0, 1.0))[0], np.float64)

    usual, outputs = histogram(ground.outputs), account.queries.outputs

    def score(window: slice) -> float:
        return 1 - float(np.corrcoef(histogram(outputs[window]), usual)[0, 1])

    return _windows(len(outputs), score)


def seat(ground: Ground, account: Account) -> Floats:
    """SEAT's idea (Zhang et al. 2021): queries near an own earlier one, but not equal, counted for life; nearer than
    the nearest percent of honest neighbours, along the axes instead of a learned encoder."""
    points, radius = ground.place(account), float(np.quantile(ground.nearest, 0.01))
    apart = _distances(points, points)
    near = (apart < radius) & (apart > 1e-6) & (np.arange(len(points))[None] < np.arange(len(points))[:, None])
    return np.cumsum(near.any(axis=1)).astype(np.float64)


def mmd(ground: Ground, account: Account) -> Floats:
    """The maximum mean discrepancy (Gretton et al. 2012) of the last queries, with a Gaussian kernel as wide as the
    median distance of honest rows."""
    honest, points = ground.points[:500], ground.place(account)
    apart = _distances(honest, honest)
    width = 2 * float(np.median(apart)) ** 2
    among = float(np.exp(-(apart**2) / width).sum() - len(honest)) / (len(honest) * (len(honest) - 1))
    towards = np.exp(-(_distances(points, honest) ** 2) / width).mean(axis=1)
    own = np.exp(-(_distances(points, points) ** 2) / width)

    def score(window: slice) -> float:
        count = window.stop - window.start
        inside = (own[window, window].sum() - count) / (count * (count - 1))
        return float(inside + among - 2 * towards[window].mean())

    return _windows(len(points), score)


def add(ground: Ground, account: Account) -> Floats:
    """ADD (2025): the Fréchet distance of the last queries from honest ones of the same class, weighted by the number
    of each class; with the variances along the axes."""
    points, classes = ground.place(account), account.queries.outputs.argmax(axis=1)
    usual = {
        label: (own.mean(axis=0), own.std(axis=0))
        for label in np.unique(ground.classes).tolist()
        if len(own := ground.points[ground.classes == label]) >= _FEWEST
    }

    def score(window: slice) -> float:
        total, count = 0.0, 0
        for label, (mean, width) in usual.items():
            own = points[window][classes[window] == label]
            if len(own) >= _FEWEST:
                apart = ((own.mean(axis=0) - mean) ** 2).sum() + ((own.std(axis=0) - width) ** 2).sum()
                total, count = total + len(own) * float(apart), count + len(own)
        return total / count if count else 0.0

    return _windows(len(points), score)


def fdi(ground: Ground, account: Account) -> Floats:
    """FDINet's index (2023) on input features: the share of the last queries farther from the nearest anchors of their
    class than 95 percent of honest ones."""
    points, classes = ground.place(account), account.queries.outputs.argmax(axis=1)
    half = len(ground.points) // 2
    anchors, anchored = ground.points[:half], ground.classes[:half]

    def far(rows: Floats, labels: NDArray[np.int64]) -> Floats:
        apart = np.where(labels[:, None] == anchored[None], _distances(rows, anchors), np.inf)
        return np.asarray(np.sort(apart, axis=1)[:, :_ANCHORS].mean(axis=1))

    limit = np.quantile(far(ground.points[half:], ground.classes[half:]), 0.95)
    beyond = far(points, classes) > limit
    return _windows(len(points), lambda window: float(beyond[window].mean()))


def sentry(ground: Ground, account: Account) -> Floats:
    """SENTRY's test: conformal p-values of the distance to the nearest honest row, bets of 0.4 p^-0.6, and the
    Shiryaev-Roberts sum of their products, as a logarithm."""
    apart = _distances(ground.place(account), ground.points).min(axis=1)
    above = len(ground.nearest) - np.searchsorted(ground.nearest, apart)
    course, total = np.empty(len(apart)), 0.0
    for at, bet in enumerate((_BET * ((1 + above) / (1 + len(ground.nearest))) ** (_BET - 1)).tolist()):
        total = min((1 + total) * bet, 1e300)
        course[at] = np.log(total)
    return course


RIVALS: dict[str, Course] = {
    "PRADA": prada,
    "HODA": hoda,
    "SEAT": seat,
    "MMD": mmd,
    "ADD": add,
    "FDI": fdi,
    "SENTRY": sentry,
}
