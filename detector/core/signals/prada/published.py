"""The compatible mode's test: the published PRADA agent's verdict for every query, at a fraction of the cost.

At every tenth query (0, 10, 20...) it tests all distances of classes that have ten or more, drops outliers of three
deviations or more, and judges if more than 100 are left; in between, the verdict stands. Wherever rounding could decide
(near the rejection limits, near delta, and on lists without spread), the agent's own formula is evaluated on its own
list.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.configuration import PradaConfig
from detector.core.neighbours.search import Recompute
from detector.core.signals.base import Delta
from detector.core.signals.prada import published_loop as loop
from detector.core.signals.prada.result import WARM_UP, Tested
from detector.core.state.arrays import Array
from detector.core.state.columns import Columns
from detector.core.state.rows import Rows

_LOG = (("distance", np.float64), ("label", np.int64), ("admitted", np.bool_))


class _Log:
    """One principal's distances in order of arrival, and the sorted pool of those that count so far."""

    def __init__(self) -> None:
        self.size = 0
        self._columns = {name: np.empty(8, dtype) for name, dtype in _LOG}
        self._pool, self._classes, self._marks = np.empty(0), np.empty((2, 0), np.int64), np.zeros(3, np.int64)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name][: self.size]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values()) + self._pool.nbytes + self._classes.nbytes

    def append(self, rows: dict[str, Array]) -> None:
        count = len(rows["distance"])
        for name, column in self._columns.items():
            if self.size + count > len(column):
                grown = np.empty(max(self.size + count, len(column) * 3 // 2), column.dtype)
                grown[: self.size] = column[: self.size]
                self._columns[name] = grown
            self._columns[name][self.size : self.size + count] = rows[name]
        self.size += count

    def test(self, ends: Array, delta: float) -> tuple[NDArray[np.float64], Array]:
        """Returns W of the first ``ends[i]`` distances, and whether there are enough for one."""
        w, outcome = np.empty(len(ends)), np.empty(len(ends), np.int64)
        passed, pooled, classes = self._marks.tolist()
        pool = np.empty(self.size)
        pool[:pooled] = self._pool[:pooled]
        room = np.empty((2, classes + self.size - passed), np.int64)
        room[:, :classes] = self._classes
        loop.test(loop.Log(self["distance"], self["label"], pool, room, self._marks), ends, delta, w, outcome)
        self._pool, self._classes = pool, room[:, : self._marks[loop.CLASSES]].copy()
        for at in np.flatnonzero(outcome == loop.DOUBTFUL).tolist():
            exact = _published(self["distance"][: ends[at]], self["label"][: ends[at]])
            outcome[at] = loop.TOO_FEW if exact is None else loop.SURE
            w[at] = np.nan if exact is None else exact
        return w, outcome != loop.TOO_FEW


class ReferenceTest:
    """State per slot: a log of all distances, W and the verdict."""

    def __init__(self, config: PradaConfig) -> None:
        self._delta = config.delta
        self._slots = Columns({"w": (np.float64, np.nan), "verdict": (np.bool_, False)})
        self._logs: dict[int, _Log] = {}

    def judge(self, rows: Rows, distance: NDArray[np.float64], admitted: NDArray[np.bool_]) -> Tested:
        """Judges ``rows`` and learns from them. ``distance`` float64 (n,), inf if there is none, and ``admitted``
        bool (n,)."""
        self._reserve(rows.slots)
        order = rows.by_slot.order
        known = order[np.isfinite(distance[order])]
        new: dict[str, Array] = {
            "row_slot": rows.slot[known].astype(np.int32),
            "row_distance": distance[known],
            "row_label": rows.pool_label[rows.pool[known]],
            "row_admitted": admitted[known],
        }
        given = loop.Given(
            rows.slots, order, rows.by_slot.lengths, np.isfinite(distance), np.ascontiguousarray(rows.index)
        )
        standing = self._test(given, self._append(rows.slots, new))
        w, alarm, risen = standing.w_of_row, np.empty(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
        loop.stand(given, standing, self._delta, alarm, risen)
        evidence: dict[int, tuple[Evidence, ...]] = {
            row: (Evidence("shapiro_w", float(w[row]), "", self._delta),) for row in np.flatnonzero(risen).tolist()
        }
        return Tested(w, alarm, evidence, {**self._columns(rows.slots), **new})

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        """Applies what ``judge`` returned: recovery alone."""
        del pools
        self._reserve(slots)
        self._slots["w"][slots] = delta["slot_w"]
        self._slots["verdict"][slots] = delta["slot_verdict"]
        self._append(slots, delta)

    def dump(self, slots: Array) -> dict[str, Array]:
        logs = [self._logs.get(slot, _Log()) for slot in slots.tolist()]
        sizes = [log.size for log in logs]
        return {
            **self._columns(slots),
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

    def _append(self, slots: Array, rows: Delta) -> NDArray[np.int64]:
        """Appends ``rows`` to the logs; returns int64 (s,): how many distances each slot had before."""
        edges = np.searchsorted(rows["row_slot"], np.arange(len(slots) + 1)).tolist()
        before = np.zeros(len(slots), np.int64)
        for at, slot in enumerate(slots.tolist()):
            log = self._logs.setdefault(slot, _Log()) if edges[at] < edges[at + 1] else self._logs.get(slot)
            if log is not None:
                before[at] = log.size
                log.append({name: rows[f"row_{name}"][edges[at] : edges[at + 1]] for name, _ in _LOG})
        return before

    def _test(self, given: loop.Given, before: Array) -> loop.Standing:
        """Makes the tests that are due, where the slot has enough distances."""
        count = len(given.order)
        tested, w = np.zeros(count, np.bool_), np.empty(count)
        rows, ends = np.empty(count, np.int64), np.empty(count, np.int64)
        edges = loop.due(given, before, rows, ends)
        for at in np.flatnonzero(np.diff(edges)).tolist():
            own = slice(edges[at], edges[at + 1])
            w[rows[own]], tested[rows[own]] = self._logs[int(given.slots[at])].test(ends[own], self._delta)
        return loop.Standing(self._slots["w"], self._slots["verdict"], tested, w)

    def _columns(self, slots: Array) -> dict[str, Array]:
        self._reserve(slots)
        return {"slot_w": self._slots["w"][slots], "slot_verdict": self._slots["verdict"][slots]}

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)


def _published(distances: Array, labels: Array) -> float | None:
    """Returns W as the agent computes it, on its own list: class by class, in the order of their first distances."""
    from scipy.stats import shapiro  # seconds of imports, for the rarest of cases

    classes, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    ordered = classes[np.argsort(first)][(sizes >= loop.CLASS_MINIMUM)[np.argsort(first)]]
    pool = np.concatenate([distances[labels == label] for label in ordered])
    pool = pool[np.abs(pool - np.mean(pool)) < 3 * np.std(pool)]
    if len(pool) <= WARM_UP:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(shapiro(pool).statistic)


def _joined(parts: list[Array], dtype: Any) -> Array:
    return np.concatenate([*parts, np.empty(0, dtype)])
