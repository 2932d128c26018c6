"""PRADA as obvious as it gets: lists, one query at a time, float64, scipy's own test. Slow on purpose."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from math import nan

import numpy as np
from numpy.typing import NDArray
from scipy.stats import shapiro


@dataclass
class OraclePrincipal:
    """The published agent's verdict for one principal, the last W it computed, and the last query's distance."""

    delta: float
    queries: int = 0
    verdict: bool = False
    w: float = nan
    last: float | None = None
    growing: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)
    joined: dict[int, list[float]] = field(default_factory=dict)
    thresholds: dict[int, float] = field(default_factory=dict)
    distances: dict[int, list[float]] = field(default_factory=dict)

    @property
    def growing_size(self) -> int:
        return sum(len(vectors) for vectors in self.growing.values())

    def query(self, features: NDArray[np.float32], label: int) -> bool:
        vector, self.last = features.astype(np.float64), None
        if label in self.growing:
            self._measure(vector, label)
        else:
            self.growing[label], self.joined[label], self.thresholds[label] = [vector], [0.0], 0.0
        if self.queries % 10 == 0:
            self._test()
        self.queries += 1
        return self.verdict

    def _measure(self, vector: NDArray[np.float64], label: int) -> None:
        nearest = min(float(np.sqrt(np.sum((other - vector) ** 2))) for other in self.growing[label])
        self.last = nearest
        self.distances.setdefault(label, []).append(nearest)
        if nearest > self.thresholds[label]:
            self.growing[label].append(vector)
            self.joined[label].append(nearest)
            candidate = float(np.mean(self.joined[label]) - np.std(self.joined[label]))
            self.thresholds[label] = max(self.thresholds[label], candidate)

    def _test(self) -> None:
        pool = np.array([value for values in self.distances.values() if len(values) >= 10 for value in values])
        if len(pool) == 0:
            return
        pool = pool[np.abs(pool - np.mean(pool)) < 3 * np.std(pool)]
        if len(pool) > 100:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.w = float(shapiro(pool).statistic)
            self.verdict = self.w < self.delta


def verdicts(
    features: NDArray[np.float32], labels: NDArray[np.int64], delta: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Verdict and latest W after each query of one principal."""
    principal = OraclePrincipal(delta)
    flagged, w = [], []
    for vector, label in zip(features, labels.tolist(), strict=True):
        flagged.append(principal.query(vector, label))
        w.append(principal.w)
    return np.array(flagged, dtype=bool), np.array(w)
