"""Streams of nearest-neighbour distances of a few principals, and how to feed them to the test of a mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.signals.prada import WindowedPrada
from detector.core.signals.prada_published import PublishedPrada
from detector.core.state.rows import StepRows


@dataclass(frozen=True)
class Distances:
    """Of each query: ``who`` int64, its class ``label`` int64, ``index`` int64 within its principal, ``features``
    float32 (n, 2), ``distance`` float64, and ``admitted`` bool."""

    who: NDArray[np.int64]
    label: NDArray[np.int64]
    index: NDArray[np.int64]
    features: NDArray[np.float32]
    distance: NDArray[np.float64]
    admitted: NDArray[np.bool_]

    def part(self, rows: Any) -> Distances:
        """Returns the queries ``rows``."""
        return Distances(*(np.array(column[rows]) for column in vars(self).values()))

    def rows(self, part: slice) -> StepRows:
        slots, slot = np.unique(self.who[part], return_inverse=True)
        pools, pool = np.unique(1000 * self.who[part] + self.label[part], return_inverse=True)
        owner, none = np.searchsorted(slots, pools // 1000), np.zeros(len(slot), np.int64)
        return StepRows(
            model="m",
            model_version="1",
            slots=slots,
            pools=pools,
            slot=slot,
            pool=pool,
            pool_slot=owner,
            pool_label=pools % 1000,
            index=self.index[part],
            features=self.features[part],
            pieces=(),
            piece=none,
            piece_row=none,
        )


def stream(kind: str, seed: int, count: int, principals: int = 3) -> Distances:
    generator = np.random.default_rng(seed)
    who = generator.integers(0, principals, count)
    index = np.zeros(count, np.int64)
    for one in range(principals):
        index[who == one] = np.arange((who == one).sum())
    kinds: dict[str, Callable[[], NDArray[np.float64]]] = {
        "honest": lambda: generator.normal(1.0, 0.1, count) ** 2,
        "thief": lambda: np.where(generator.random(count) < 0.8, 0.25, np.abs(generator.normal(1.0, 0.5, count))),
        "outliers": lambda: generator.normal(1.0, 0.1, count) * np.where(generator.random(count) < 0.02, 50.0, 1.0),
        "one step": lambda: np.full(count, np.sqrt(2.0)),
    }
    distance = kinds[kind]()
    for share, value in ((0.05, 0.0), (0.02, np.inf)):
        distance[generator.random(count) < share] = value
    features = generator.random((60, 2), dtype=np.float32)[generator.integers(0, 60, count)]
    admitted = np.isinf(distance) | ((generator.random(count) < 0.7) & (distance > 0.0))
    return Distances(who, generator.integers(0, 3, count), index, features, distance, admitted)


KINDS = ("honest", "thief", "outliers", "one step")


def judge(
    test: WindowedPrada | PublishedPrada, queries: Distances, cuts: Sequence[int] = ()
) -> dict[str, NDArray[np.float64]]:
    """Returns what is given for each query, cut before the rows ``cuts``."""
    said: list[dict[str, NDArray[np.float64]]] = []
    for start, end in pairwise((0, *cuts, len(queries.who))):
        part = slice(start, end)
        tested = test.judge(queries.rows(part), queries.distance[part].copy(), queries.admitted[part].copy())
        risen = np.zeros(end - start)
        risen[list(tested.evidence)] = 1.0
        said.append({"w": tested.statistic, "alarm": tested.alarm.astype(float), "risen": risen, **tested.figures})
    return {name: np.concatenate([part[name] for part in said]) for name in said[0]}
