"""``prada`` in compatible mode: the published agent's verdict for every query, at a fraction of the cost.

At every tenth query (0, 10, 20...) it tests all distances of classes that have ten or more, drops outliers of three
deviations or more, and judges if more than 100 are left; in between, the verdict stays. Wherever rounding could decide
(near the rejection limits, near delta, and on lists without spread), the agent's own formula is evaluated on its own
list.
"""

from __future__ import annotations

import warnings
from math import nan, sqrt
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.configuration import PradaConfig
from detector.core.loops.compiled import allocating, compiled
from detector.core.neighbours.history import Views
from detector.core.neighbours.search import Recompute
from detector.core.signals.base import PRADA, PRADA_FIGURES, Arrays, Events, Proposal, SlotState
from detector.core.signals.shapiro_wilk import CONSTANT_SPREAD, WARM_UP, half_weights, mean_of, squares_of, statistic
from detector.core.state.arrays import Array
from detector.core.state.rows import Grouping, StepRows

EVERY = 10
CLASS_MINIMUM = 10
_DOUBT = 1e-9
_EDGE = 1e-12

TOO_FEW, SURE, DOUBTFUL = range(3)
PASSED, POOLED, CLASSES = range(3)

_LOGGED = {"distance": np.float64, "label": np.int64, "admitted": np.bool_}


class DistanceLog:
    """One principal's distances in order of arrival, and the sorted pool of those that count so far."""

    def __init__(self) -> None:
        self.size = 0
        self._columns: Arrays = {name: np.empty(8, dtype) for name, dtype in _LOGGED.items()}
        self._pool, self._classes, self._marks = np.empty(0), np.empty((2, 0), np.int64), np.zeros(3, np.int64)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name][: self.size]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values()) + self._pool.nbytes + self._classes.nbytes

    def append(self, rows: Arrays, start: int, end: int) -> None:
        """Adds entries ``start`` to ``end`` of ``rows``."""
        size = self.size + end - start
        for name, column in self._columns.items():
            if size > len(column):
                grown = np.empty(max(size, len(column) * 3 // 2), column.dtype)
                grown[: self.size] = column[: self.size]
                self._columns[name] = grown
            self._columns[name][self.size : size] = rows[name][start:end]
        self.size = size

    def test(self, ends: Array, delta: float) -> tuple[NDArray[np.float64], Array]:
        """Returns W of the first ``ends[i]`` distances, and whether there are enough for one."""
        w, outcome = np.empty(len(ends)), np.empty(len(ends), np.int64)
        passed, pooled, classes = self._marks.tolist()
        pool = np.empty(self.size)
        pool[:pooled] = self._pool[:pooled]
        room = np.empty((2, classes + self.size - passed), np.int64)
        room[:, :classes] = self._classes
        run_tests(LogArrays(self["distance"], self["label"], pool, room, self._marks), ends, delta, w, outcome)
        self._pool, self._classes = pool, room[:, : self._marks[CLASSES]].copy()
        for at in np.flatnonzero(outcome == DOUBTFUL).tolist():
            exact = _published(self["distance"][: ends[at]], self["label"][: ends[at]])
            outcome[at] = TOO_FEW if exact is None else SURE
            w[at] = np.nan if exact is None else exact
        return w, outcome != TOO_FEW


class PublishedPrada(SlotState):
    """State per slot: a log of all distances, W and the verdict. Statistic and score are those of the default mode."""

    name: ClassVar[str] = PRADA
    version: ClassVar[int] = 1
    figures = PRADA_FIGURES

    def __init__(self, config: PradaConfig) -> None:
        super().__init__({"w": (np.float64, np.nan), "verdict": (np.bool_, False)})
        self._threshold = config.delta
        self._logs: dict[int, DistanceLog] = {}

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        return self.judge(rows, views.nearest_own.grown, views.nearest_own.joined)

    def judge(self, rows: StepRows, distance: NDArray[np.float64], admitted: NDArray[np.bool_]) -> Proposal:
        """Judges ``rows`` and learns from them. ``distance`` float64 (n,), inf if there is none, and ``admitted``
        bool (n,): whether the row joined the growing set."""
        self._begin(rows.slots)
        order = rows.by_slot.order
        known = order[np.isfinite(distance[order])]
        fresh: Arrays = {
            "slot": rows.slot[known].astype(np.int32),
            "distance": distance[known],
            "label": rows.pool_label[rows.pool[known]],
            "admitted": admitted[known],
        }
        w, tested = self._test(rows, np.isfinite(distance), self._append(rows.slots, fresh))
        alarm, risen = np.empty(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
        last_w, last_verdict = self._columns["w"], self._columns["verdict"]
        carry_verdicts(rows.slots, rows.by_slot, tested, self._threshold, last_w, last_verdict, w, alarm, risen)
        evidence: dict[int, tuple[Evidence, ...]] = {
            row: (Evidence("shapiro_w", float(w[row]), "", self._threshold),) for row in np.flatnonzero(risen).tolist()
        }
        return Proposal(
            statistic=w,
            score=(1.0 - w) / (1.0 - self._threshold),
            alarm=alarm,
            threshold=self._threshold,
            evidence=evidence,
            delta=self._delta(rows.slots, {"row": fresh}),
        )

    def threshold_of(self, rows: StepRows) -> Recompute:
        """Returns the threshold of a pool by the agent's formula, for admissions that rounding could decide."""

        def recompute(pool: int, joined: list[float]) -> float:
            log = self._logs.get(int(rows.slots[rows.pool_slot[pool]]), DistanceLog())
            distances_of_class = log["distance"][log["admitted"] & (log["label"] == rows.pool_label[pool])]
            distances = np.array([0.0, *distances_of_class.tolist(), *joined])
            prefixes = (distances[:count] for count in range(2, len(distances) + 1))
            return max([0.0, *(float(np.mean(prefix) - np.std(prefix)) for prefix in prefixes)])

        return recompute

    def evict(self, slots: Array, pools: Array) -> None:
        super().evict(slots, pools)
        for slot in slots.tolist():
            self._logs.pop(slot, None)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        logs = self._logs if slots is None else self._logs.keys() & set(slots.tolist())
        return super().nbytes(slots, pools) + sum(self._logs[slot].nbytes for slot in logs)

    def _events_of(self, slots: Array) -> Events:
        logs = [self._logs.get(slot, DistanceLog()) for slot in slots.tolist()]
        owner = np.repeat(np.arange(len(slots), dtype=np.int32), [log.size for log in logs])
        columns = {
            name: np.concatenate([*(log[name] for log in logs), np.empty(0, kind)]) for name, kind in _LOGGED.items()
        }
        return {"row": {"slot": owner, **columns}}

    def _apply_events(self, slots: Array, events: Events) -> None:
        self._append(slots, events["row"])

    def _append(self, slots: Array, rows: Arrays) -> NDArray[np.int64]:
        """Appends ``rows`` to the logs; returns int64 (s,): how many distances each slot had before."""
        edges = np.searchsorted(rows["slot"], np.arange(len(slots) + 1)).tolist()
        before = np.zeros(len(slots), np.int64)
        for at, slot in enumerate(slots.tolist()):
            log = self._logs.setdefault(slot, DistanceLog()) if edges[at] < edges[at + 1] else self._logs.get(slot)
            if log is not None:
                before[at] = log.size
                log.append(rows, edges[at], edges[at + 1])
        return before

    def _test(
        self, rows: StepRows, known: NDArray[np.bool_], before: Array
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Makes the tests that are due, where the slot has enough distances; ``known`` bool (n,) has one, and slots had
        ``before`` int64 (s,). Returns, of each row, W float64 (n,) and whether it was tested, bool (n,)."""
        count = len(rows)
        tested, w = np.zeros(count, np.bool_), np.empty(count)
        due, ends = np.empty(count, np.int64), np.empty(count, np.int64)
        edges = find_due(rows.by_slot, known, np.ascontiguousarray(rows.index), before, due, ends)
        for at in np.flatnonzero(np.diff(edges)).tolist():
            part = slice(edges[at], edges[at + 1])
            w[due[part]], tested[due[part]] = self._logs[int(rows.slots[at])].test(ends[part], self._threshold)
        return w, tested


def _published(distances: Array, labels: Array) -> float | None:
    """Returns W as the agent computes it, on its own list: class by class, in the order of their first distances."""
    from scipy.stats import shapiro  # seconds of imports, for the rarest of cases

    classes, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    ordered = classes[np.argsort(first)][(sizes >= CLASS_MINIMUM)[np.argsort(first)]]
    pool = np.concatenate([distances[labels == label] for label in ordered])
    pool = pool[np.abs(pool - np.mean(pool)) < 3 * np.std(pool)]
    if len(pool) <= WARM_UP:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(shapiro(pool).statistic)


class LogArrays(NamedTuple):
    """``distance`` float64 and ``label`` int64 in order of arrival. ``pool`` float64: those of classes with ten or
    more, ascending. ``classes`` int64 (2, m): label and number of each. ``marks`` int64 (3,): how many distances have
    been looked at, how many are in the pool, and the number of classes."""

    distance: NDArray[np.float64]
    label: NDArray[np.int64]
    pool: NDArray[np.float64]
    classes: NDArray[np.int64]
    marks: NDArray[np.int64]


@allocating
def run_tests(
    log: LogArrays, ends: NDArray[np.int64], delta: float, w: NDArray[np.float64], outcome: NDArray[np.int64]
) -> None:
    """Writes W of the first ``ends[i]`` distances, and whether they are too few, or rounding could decide."""
    count = len(log.distance)
    fresh, half, work = np.empty(count), np.empty(count // 2 + 1), np.empty(count // 2 + 1)
    for at in range(len(ends)):
        added = fresh[: _fresh(log, ends[at], fresh)]
        added.sort()
        _merge(log.pool, log.marks[POOLED], added)
        log.marks[POOLED] += len(added)
        w[at], outcome[at] = _judged(log.pool[: log.marks[POOLED]], delta, half, work)


@compiled
def _fresh(log: LogArrays, end: int, fresh: NDArray[np.float64]) -> int:
    """Writes the distances that count from now on. Returns how many they are."""
    labels, classes, count = log.label, log.classes, 0
    for entry in range(log.marks[PASSED], end):
        label, at = labels[entry], 0
        while at < log.marks[CLASSES] and classes[0, at] != label:
            at += 1
        if at == log.marks[CLASSES]:
            classes[0, at], classes[1, at] = label, 0
            log.marks[CLASSES] += 1
        classes[1, at] += 1
        if classes[1, at] < CLASS_MINIMUM:
            continue
        first = 0 if classes[1, at] == CLASS_MINIMUM else entry
        for earlier in range(first, entry + 1):
            if labels[earlier] == label:
                fresh[count] = log.distance[earlier]
                count += 1
    log.marks[PASSED] = end
    return count


@allocating
def _merge(pool: NDArray[np.float64], count: int, fresh: NDArray[np.float64]) -> None:
    """Merges ``fresh`` into the first ``count`` values of ``pool``; both are in ascending order."""
    end = count
    for number in range(len(fresh) - 1, -1, -1):
        start = _below(pool[:end], fresh[number])
        pool[start + number + 1 : end + number + 1] = pool[start:end]
        pool[start + number] = fresh[number]
        end = start


@compiled
def _below(ascending: NDArray[np.float64], border: float) -> int:
    """Returns how many values are below ``border``."""
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < border:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _judged(
    pool: NDArray[np.float64], delta: float, half: NDArray[np.float64], work: NDArray[np.float64]
) -> tuple[float, int]:
    """Returns W of the sorted pool without outliers, and how sure it is."""
    if len(pool) <= WARM_UP:
        return nan, TOO_FEW
    low, high = _without_outliers(pool, work)
    if high == 0:
        return nan, DOUBTFUL
    if high - low <= WARM_UP:
        return nan, TOO_FEW
    sample = pool[low:high]
    # scipy takes values within 1e-19 as equal.
    if sample[-1] - sample[0] <= max(CONSTANT_SPREAD * sample[-1], 1e-18):
        return nan, DOUBTFUL
    half_weights(len(sample), half, work)
    w = statistic(sample, half, work)
    return w, SURE if abs(w - delta) >= _DOUBT else DOUBTFUL


@compiled
def _without_outliers(pool: NDArray[np.float64], work: NDArray[np.float64]) -> tuple[int, int]:
    """Returns from where to where the pool has no outliers, or (0, 0) where rounding could decide which they are."""
    count, mean = len(pool), mean_of(pool, work)
    reach = 3.0 * sqrt(squares_of(pool, mean, work) / count)
    if reach <= 3.0 * CONSTANT_SPREAD * mean:
        return 0, 0
    low, high = _below(pool, mean - reach), _below(pool, mean + reach)
    for border in (low, high):
        for at in range(max(border - 1, 0), min(border + 1, count)):
            if abs(abs(pool[at] - mean) - reach) <= _EDGE * (mean + reach):
                return 0, 0
    return low, high


@allocating
def find_due(
    groups: Grouping,
    known: NDArray[np.bool_],
    index: NDArray[np.int64],
    before: NDArray[np.int64],
    due: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Writes, group by group, the rows at which a test is ``due``, and the distances of their slot as of each: those
    that are ``known``, and ``before`` of them. Returns int64 (s + 1,): where those of each group begin and end."""
    edges = np.zeros(len(groups.starts) + 1, np.int64)
    number = 0
    for at in range(len(groups.starts)):
        count = before[at]
        for row in groups.order[groups.starts[at] : groups.starts[at] + groups.lengths[at]]:
            count += known[row]
            if index[row] % EVERY == 0 and count > WARM_UP:
                due[number], ends[number] = row, count
                number += 1
        edges[at + 1] = number
    return edges


@compiled
def carry_verdicts(
    slots: NDArray[np.int64],
    groups: Grouping,
    tested: NDArray[np.bool_],
    delta: float,
    last_w: NDArray[np.float64],
    last_verdict: NDArray[np.bool_],
    w: NDArray[np.float64],
    verdict: NDArray[np.bool_],
    risen: NDArray[np.bool_],
) -> None:
    """Writes to ``w`` and ``verdict`` the last ones as of each row, and to ``risen`` where a verdict of theft begins;
    updates the last ones by slot."""
    for at in range(len(slots)):
        slot = slots[at]
        for row in groups.order[groups.starts[at] : groups.starts[at] + groups.lengths[at]]:
            if tested[row]:
                failed = w[row] < delta
                risen[row] = failed and not last_verdict[slot]
                last_w[slot], last_verdict[slot] = w[row], failed
            w[row], verdict[row] = last_w[slot], last_verdict[slot]
