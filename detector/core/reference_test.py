"""The compatible mode's test: the published PRADA agent's verdict for every query, at a fraction of the cost.

At every tenth query (0, 10, 20...) it tests all distances of classes that have ten or more, drops outliers of three
deviations or more, and judges if more than 100 are left; in between, the verdict stands. Wherever rounding could decide
(near the rejection limits, near delta, and on lists without spread), the agent's own formula is evaluated on its own
list.
"""

from __future__ import annotations

import warnings
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.arrays import Array
from detector.core.columns import Columns
from detector.core.configuration import PradaConfig
from detector.core.neighbours.growing import Recompute
from detector.core.normality import CONSTANT, statistic
from detector.core.rows import Rows
from detector.core.signal import Delta
from detector.core.tested import WARM_UP, Tested, carried, last_of

_EVERY = 10
_CLASS_MINIMUM = 10
_DOUBT = 1e-9
_EDGE = 1e-12
_LOG = (("distance", np.float64), ("label", np.int64), ("admitted", np.bool_))


class _Log:
    """One principal's distances in order of arrival, and the sorted pool of those that count so far."""

    def __init__(self) -> None:
        self.size = 0
        self._columns = {name: np.empty(8, dtype) for name, dtype in _LOG}
        self._pool = np.empty(0)
        self._pooled = 0
        self._waiting: dict[int, list[float] | None] = {}
        """By class, the distances of classes with too few to count, None for the others."""

    def __getitem__(self, name: str) -> Array:
        return self._columns[name][: self.size]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values()) + self._pool.nbytes

    def append(self, rows: dict[str, Array]) -> None:
        count = len(rows["distance"])
        for name, column in self._columns.items():
            if self.size + count > len(column):
                grown = np.empty(max(self.size + count, len(column) * 3 // 2), column.dtype)
                grown[: self.size] = column[: self.size]
                self._columns[name] = grown
            self._columns[name][self.size : self.size + count] = rows[name]
        self.size += count

    def pool(self, distances: Array, labels: Array) -> NDArray[np.float64]:
        """Returns the sorted distances that count, from the log and from these, which are about to join it."""
        fresh = self._fresh(self["distance"][self._pooled :], self["label"][self._pooled :])
        started = self._pooled - self.size
        fresh += self._fresh(distances[started:], labels[started:])
        if fresh:
            self._pool = np.concatenate((self._pool, fresh))
            self._pool.sort(kind="stable")
        return self._pool

    def _fresh(self, distances: Array, labels: Array) -> list[float]:
        """Returns the distances that count from now on, given those already pooled."""
        fresh: list[float] = []
        for label, distance in zip(labels.tolist(), distances.tolist(), strict=True):
            waiting = self._waiting.setdefault(label, [])
            if waiting is None:
                fresh.append(distance)
                continue
            waiting.append(distance)
            if len(waiting) == _CLASS_MINIMUM:
                fresh += waiting
                self._waiting[label] = None
        self._pooled += len(distances)
        return fresh


class ReferenceTest:
    """State per slot: a log of all distances, W and the verdict."""

    def __init__(self, config: PradaConfig) -> None:
        self._delta = config.delta
        self._slots = Columns({"w": (np.float64, np.nan), "verdict": (np.bool_, False)})
        self._logs: dict[int, _Log] = {}

    def judge(self, rows: Rows, distance: NDArray[np.float64], admitted: NDArray[np.bool_]) -> Tested:
        self._reserve(rows.slots)
        grouping = rows.by_slot
        order = grouping.order
        known = np.isfinite(distance[order])
        new = {
            "distance": distance[order[known]],
            "label": rows.pool_label[rows.pool[order[known]]],
            "admitted": admitted[order[known]],
        }
        at, w = self._checks(rows, known, new)
        before = {name: self._slots[name][rows.slots] for name in ("w", "verdict")}
        statistics = carried(grouping, at, w, before["w"])
        verdicts = carried(grouping, at, w < self._delta, before["verdict"])
        delta = {
            "slot_w": last_of(grouping, statistics),
            "slot_verdict": last_of(grouping, verdicts),
            "row_slot": rows.slot[order[known]].astype(np.int32),
            **{f"row_{name}": column for name, column in new.items()},
        }
        standing = np.roll(verdicts, 1)
        standing[grouping.starts] = before["verdict"]
        risen = verdicts & ~standing
        return self._in_stream_order(order, statistics, verdicts, risen, delta)

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        del pools
        self._reserve(slots)
        self._slots["w"][slots] = delta["slot_w"]
        self._slots["verdict"][slots] = delta["slot_verdict"]
        owners = delta["row_slot"]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        ends = np.append(starts, len(owners))[1:]
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            rows = {name: delta[f"row_{name}"][start:end] for name, _ in _LOG}
            self._log(int(slots[owners[start]])).append(rows)

    def dump(self, slots: Array) -> dict[str, Array]:
        self._reserve(slots)
        logs = [self._logs.get(slot, _Log()) for slot in slots.tolist()]
        sizes = [log.size for log in logs]
        return {
            "slot_w": self._slots["w"][slots],
            "slot_verdict": self._slots["verdict"][slots],
            "row_slot": np.repeat(np.arange(len(slots), dtype=np.int32), sizes),
            **{f"row_{name}": _joined([log[name] for log in logs], dtype) for name, dtype in _LOG},
        }

    def load(self, slots: Array, state: Delta) -> None:
        self.apply(slots, slots, state)

    def evict(self, slots: Array) -> None:
        self._slots.reset(slots)
        for slot in slots.tolist():
            self._logs.pop(slot, None)

    def nbytes(self, slots: Array | None) -> int:
        if slots is None:
            return self._slots.nbytes + sum(log.nbytes for log in self._logs.values())
        return sum(9 + (self._logs[slot].nbytes if slot in self._logs else 0) for slot in slots.tolist())

    def threshold_of(self, rows: Rows) -> Recompute:
        """Returns the threshold of a pool by the agent's formula, for admissions that rounding could decide."""

        def recompute(pool: int, joined: list[float]) -> float:
            log = self._logs.get(int(rows.slots[rows.pool_slot[pool]]), _Log())
            own = log["distance"][log["admitted"] & (log["label"] == rows.pool_label[pool])]
            distances = np.array([0.0, *own.tolist(), *joined])
            prefixes = (distances[:count] for count in range(2, len(distances) + 1))
            return max([0.0, *(float(np.mean(prefix) - np.std(prefix)) for prefix in prefixes)])

        return recompute

    def _checks(self, rows: Rows, known: Array, new: dict[str, Array]) -> tuple[Array, NDArray[np.float64]]:
        """Returns the rows (of the by-slot order) at which a test was made, and its W."""
        order = rows.by_slot.order
        due = np.flatnonzero(rows.index[order] % _EVERY == 0)
        until = np.cumsum(known)
        slot = rows.slot[order[due]]
        first = (until - known)[rows.by_slot.starts][slot]
        places = zip(due.tolist(), rows.slots[slot].tolist(), first.tolist(), until[due].tolist(), strict=True)
        tested = [(row, w) for row, *place in places if (w := self._check(new, *place)) is not None]
        return np.array([row for row, _ in tested], dtype=np.int64), np.array([w for _, w in tested])

    def _check(self, new: dict[str, Array], slot: int, start: int, end: int) -> float | None:
        """Returns W of the log's distances and those from ``start`` to ``end`` of the step, None if they are too
        few."""
        log = self._log(slot)
        if log.size + end - start <= WARM_UP:
            return None
        own = slice(start, end)
        pool = log.pool(new["distance"][own], new["label"][own])
        if len(pool) <= WARM_UP:
            return None
        kept = _kept(pool)
        if kept is not None and len(kept) <= WARM_UP:
            return None
        w = None if kept is None or _constant(kept) else statistic(kept)
        if w is None or abs(w - self._delta) < _DOUBT:
            return _published(*(np.concatenate((log[name], new[name][own])) for name in ("distance", "label")))
        return w

    def _in_stream_order(
        self, order: Array, statistics: Array, verdicts: Array, risen: Array, delta: dict[str, Array]
    ) -> Tested:
        statistic_of, verdict_of = np.empty(len(order)), np.empty(len(order), bool)
        statistic_of[order], verdict_of[order] = statistics, verdicts
        evidence: dict[int, tuple[Evidence, ...]] = {
            int(row): (Evidence("shapiro_w", float(statistic_of[row]), "", self._delta),) for row in order[risen]
        }
        return Tested(statistic_of, verdict_of, evidence, delta)

    def _log(self, slot: int) -> _Log:
        if slot not in self._logs:
            self._logs[slot] = _Log()
        return self._logs[slot]

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)


def _kept(pool: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Returns the sorted pool without outliers, or None where rounding could decide which they are."""
    mean = float(np.add.reduce(pool)) / len(pool)
    deviation = pool - mean
    reach = 3.0 * sqrt(float(deviation @ deviation) / len(pool))
    if reach <= 3.0 * CONSTANT * mean:
        return None
    low, high = pool.searchsorted((mean - reach, mean + reach)).tolist()
    edges = (*deviation[max(low - 1, 0) : low + 1].tolist(), *deviation[max(high - 1, 0) : high + 1].tolist())
    slack = _EDGE * (mean + reach)
    if any(abs(abs(edge) - reach) <= slack for edge in edges):
        return None
    return pool[low:high]


def _constant(kept: NDArray[np.float64]) -> bool:
    """Returns whether all values are nearly equal, or within the absolute range that scipy takes as equal (1e-19)."""
    return bool(kept[-1] - kept[0] <= max(CONSTANT * kept[-1], 1e-18))


def _published(distances: Array, labels: Array) -> float | None:
    """Returns W as the agent computes it, on its own list: class by class, in the order of their first distances."""
    from scipy.stats import shapiro  # seconds of imports, for the rarest of cases

    classes, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    ordered = classes[np.argsort(first)][(sizes >= _CLASS_MINIMUM)[np.argsort(first)]]
    pool = np.concatenate([distances[labels == label] for label in ordered])
    pool = pool[np.abs(pool - np.mean(pool)) < 3 * np.std(pool)]
    if len(pool) <= WARM_UP:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(shapiro(pool).statistic)


def _joined(parts: list[Array], dtype: Any) -> Array:
    return np.concatenate([*parts, np.empty(0, dtype)])
