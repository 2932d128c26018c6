"""PRADA (Juuti, Szyller, Marchal, Asokan, EuroS&P 2019): synthetic queries keep a controlled distance.

Each query's distance to the nearest vector of its predicted class's growing set is recorded; it joins that set if it is
farther than T = max(T, mean - deviation) of the distances that joined before. Distances of honest queries look normal,
so a low Shapiro-Wilk W of them indicates a thief. The mode decides how W is computed and judged: ``windowed``
(default) and ``published`` (compatible: the published agent's verdict for every query).

States cannot be merged: nearest neighbours change when two principals' sets are pooled.
"""

from __future__ import annotations

from typing import ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import NotMergeable
from detector.core.batch import Sections
from detector.core.configuration import EngineConfig
from detector.core.neighbours.history import Views
from detector.core.neighbours.search import Thresholds
from detector.core.signals.base import Delta, Proposal
from detector.core.signals.prada.published import ReferenceTest
from detector.core.signals.prada.windowed import WindowedTest
from detector.core.state.arrays import Array, unpack
from detector.core.state.columns import Columns
from detector.core.state.rows import Rows

_THRESHOLDS = {name: f"pool_{name}" for name in ("threshold", "count", "mean", "squares")}


class Prada:
    """The ``prada`` signal: statistic W, score (1 - W) / (1 - delta)."""

    name: ClassVar[str] = "prada"
    version: ClassVar[int] = 1
    mergeable: ClassVar[bool] = False
    figures: ClassVar[tuple[str, ...]] = ("constant_steps", "repeats")

    def __init__(self, config: EngineConfig) -> None:
        self._delta = config.prada.delta
        self._pools = Columns(
            {
                "threshold": (np.float64, 0.0),
                "count": (np.int64, 0),
                "mean": (np.float64, 0.0),
                "squares": (np.float64, 0.0),
            }
        )
        compatible = config.mode == "compatible"
        self._test: WindowedTest | ReferenceTest = (ReferenceTest if compatible else WindowedTest)(config.prada)

    def observe(self, rows: Rows, views: Views) -> Proposal:
        self._reserve(rows.pools)
        recompute = self._test.threshold_of(rows) if isinstance(self._test, ReferenceTest) else None
        thresholds = Thresholds(*(self._pools[name] for name in _THRESHOLDS))
        found = views.grow(thresholds, recompute)
        tested = self._test.judge(rows, found.grown, found.joined)
        return Proposal(
            statistic=tested.statistic,
            score=(1.0 - tested.statistic) / (1.0 - self._delta),
            alarm=tested.alarm,
            threshold=self._delta,
            evidence=tested.evidence,
            delta={**self._pool_columns(rows.pools), **tested.delta},
            growing=found.joined,
            repeats=tested.repeats,
            figures=tested.figures,
        )

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        self._set_thresholds(pools, delta)
        self._test.apply(slots, pools, delta)

    def dump(self, slots: Array, pools: Array) -> Delta:
        self._reserve(pools)
        return {**self._pool_columns(pools), **self._test.dump(slots)}

    def load(self, slots: Array, pools: Array, state: Delta) -> None:
        self._set_thresholds(pools, state)
        self._test.load(slots, state)

    def evict(self, slots: Array, pools: Array) -> None:
        self._pools.reset(pools)
        self._test.evict(slots)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        per_pool = 4 * 8
        counted = self._pools.nbytes if pools is None else per_pool * len(pools)
        return counted + self._test.nbytes(slots)

    def merge(self, states: list[Delta]) -> NoReturn:
        raise NotMergeable("prada states cannot be merged; feed a shadow state with the merged stream")

    def _pool_columns(self, pools: Array) -> dict[str, Array]:
        return {column: self._pools[name][pools] for name, column in _THRESHOLDS.items()}

    def _set_thresholds(self, pools: Array, delta: Delta) -> None:
        self._reserve(pools)
        for name, column in _THRESHOLDS.items():
            self._pools[name][pools] = delta[column]

    def _reserve(self, pools: Array) -> None:
        if len(pools):
            self._pools.reserve(int(pools.max()) + 1)


def distances_in(sections: Sections) -> NDArray[np.float64]:
    """Returns float64 (m,): the distances in the next W of one principal, in no order, from its ``Engine.dump``."""
    state = unpack(sections[Prada.name][1])
    distances: NDArray[np.float64] = state["distance_value" if "distance_value" in state else "row_distance"]
    return distances
