"""A signal made for the tests alone. It uses every view and keeps state per slot and per pool."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from detector.contracts.findings import Evidence
from detector.core.configuration import EngineConfig
from detector.core.neighbours.history import Views
from detector.core.signals.base import Delta, Proposal
from detector.core.state.arrays import Array
from detector.core.state.columns import ColumnTable
from detector.core.state.rows import StepRows

FAR = 1e6
ALARM_AT = 40.0


class Toy:
    """Adds up, per principal, how near its queries come to anything known; alarms at 40."""

    name: ClassVar[str] = "toy"
    version: ClassVar[int] = 1
    figures: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: EngineConfig) -> None:
        self.slots = ColumnTable({"total": (np.float64, 0.0)})
        self.pools = ColumnTable({"queries": (np.int64, 0)})

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        self.slots.cover(rows.slots)
        self.pools.cover(rows.pools)
        grouping = rows.by_slot
        total = self._totals(rows, self._nearness(rows, views))
        statistic = np.empty(len(rows))
        statistic[grouping.order] = total
        alarm = statistic >= ALARM_AT
        standing = self.slots["total"][rows.slots] >= ALARM_AT
        before = np.roll(alarm[grouping.order], 1)
        before[grouping.starts] = standing
        risen = grouping.order[alarm[grouping.order] & ~before]
        delta = Delta(
            {"total": total[grouping.starts + grouping.lengths - 1]},
            {"queries": self.pools["queries"][rows.pools] + rows.by_pool.lengths},
        )
        self.apply(rows.slots, rows.pools, delta)
        return Proposal(
            statistic=statistic,
            score=statistic / ALARM_AT,
            alarm=alarm,
            threshold=ALARM_AT,
            evidence={int(row): (Evidence("total", float(statistic[row]), "", ALARM_AT),) for row in risen},
            delta=delta,
        )

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        self.slots.cover(slots)
        self.pools.cover(pools)
        self.slots["total"][slots] = delta.slots["total"]
        self.pools["queries"][pools] = delta.pools["queries"]

    def dump(self, slots: Array, pools: Array) -> Delta:
        self.slots.cover(slots)
        self.pools.cover(pools)
        return Delta({"total": self.slots["total"][slots]}, {"queries": self.pools["queries"][pools]})

    def evict(self, slots: Array, pools: Array) -> None:
        self.slots.reset(slots)
        self.pools.reset(pools)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        return self.slots.nbytes + self.pools.nbytes

    def _nearness(self, rows: StepRows, views: Views) -> Array:
        hardness = rows.column("hardness", 0.5).astype(np.float64)
        confidence = np.nan_to_num(rows.outputs[:, 0].astype(np.float64))
        return self._familiarity(views) + 0.01 * hardness + 0.001 * confidence

    def _familiarity(self, views: Views) -> Array:
        of_all = [views.nearest_own.grown]
        if views.has_reference:
            of_all += [views.nearest_own.distance, views.neighbours.distance]
        return np.asarray(sum(1.0 / (1.0 + np.minimum(distance, FAR)) for distance in of_all))

    def _totals(self, rows: StepRows, nearness: Array) -> Array:
        """One after the other, so that rounding does not depend on where a micro-batch begins."""
        total = np.empty(len(rows))
        grouping, before = rows.by_slot, self.slots["total"][rows.slots]
        for group, (start, length) in enumerate(zip(grouping.starts.tolist(), grouping.lengths.tolist(), strict=True)):
            own = nearness[grouping.order[start : start + length]]
            total[start : start + length] = np.cumsum(np.concatenate((before[group : group + 1], own)))[1:]
        return total
