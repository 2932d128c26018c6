"""``prada`` (Juuti, Szyller, Marchal, Asokan, EuroS&P 2019): synthetic queries keep a controlled distance.

Each query has a distance to the nearest vector of its predicted class's growing set (``core.neighbours``). Distances of
honest queries look normal, so a low Shapiro-Wilk W of them indicates a thief. The mode decides how W is computed and
judged: here by a window of the last distances (default), in ``prada_published`` with the published agent's verdict for
every query (compatible). The default mode is without the agent's faults:

* Exact repeats (retries, health checks) are left out and counted: a distance of 0, or a query inside the growing set
  whose BLAKE2 hash is among the last of those.
* Only the last ``window`` distances count, over all classes (the paper's pool), so that neither a long honest
  past hides an attack nor many classes delay the test. It runs at every ``check_every``-th distance.
* A window without spread has no shape: W is then NaN and the check is no evidence either way, but the share of
  equal steps is reported (``constant_steps``). Judging it takes a profile, since one-hot queries of honest
  users repeat the same step too.
* An alarm takes ``consecutive_checks`` failed tests in a row.
"""

from __future__ import annotations

from hashlib import blake2b
from math import inf, isfinite, sqrt
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.configuration import MAX_INTEGER, PradaConfig
from detector.core.loops.compiled import allocating, compiled
from detector.core.neighbours.history import Views
from detector.core.signals.base import PRADA, PRADA_FIGURES, Events, Proposal, SlotState
from detector.core.signals.shapiro_wilk import CONSTANT_SPREAD, LANES, WARM_UP, pairwise, statistic, weight_table
from detector.core.state.arrays import Array, Sections, unpack
from detector.core.state.columns import BLANK, PAGE, Ring, Rings, lacking, page_of, put
from detector.core.state.rows import Grouping, StepRows


class WindowedPrada(SlotState):
    """State per slot: counters, the last W, a ring of distances and one of hashes. The ``order`` of the distances is
    derived from them: it is not logged, and missing after recovery until the next test.

    The statistic is W, the score (1 - W) / (1 - delta). ``distances`` counts those in or before the window, ``inside``
    hashes, ``below`` failed tests in a row; ``constant`` is the share of equal steps."""

    name: ClassVar[str] = PRADA
    version: ClassVar[int] = 1
    figures = PRADA_FIGURES

    def __init__(self, config: PradaConfig) -> None:
        self._config = config
        self._window = Rings(config.window, np.float64, np.inf)
        self._hashes = Rings(config.repeat_memory, np.uint64, 0)
        self._order = Rings(config.window, np.uint16, 0)
        counters = dict.fromkeys(("distances", "inside", "repeats", "below"), (np.int64, 0))
        last = dict.fromkeys(("w", "constant"), (np.float64, np.nan))
        super().__init__({**counters, **last}, rings=[self._window, self._hashes, self._order])

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        return self.judge(rows, views.nearest_own.grown, views.nearest_own.joined)

    def judge(self, rows: StepRows, distance: NDArray[np.float64], admitted: NDArray[np.bool_]) -> Proposal:
        """Judges ``rows`` and learns from them. ``distance`` float64 (n,), inf or NaN if there is none, and
        ``admitted`` bool (n,): whether the row joined the growing set."""
        self._begin(rows.slots)
        hashes = _hashes(rows.features, np.isfinite(distance) & (distance > 0) & ~admitted)
        queries = DistanceRows(rows.slots, rows.by_slot, distance, admitted, hashes)
        for rings, pages in zip(self._rings, pages_needed(self._state(), queries), strict=True):
            rings.stock(pages)
        output = WindowOutput.of(len(rows))
        rule = WindowRule(
            self._config.delta,
            min(self._config.check_every, MAX_INTEGER),
            min(self._config.consecutive_checks, MAX_INTEGER),
            weight_table(self._config.window),
        )
        judge_windows(self._state(), queries, rule, _Buffers.of(self._config.window, rule.every), output)
        w, constant, repeats = output.figures
        distances, inside, _ = output.written.tolist()
        events = {"distance": output.distances.first(distances), "hash": output.hashes.first(inside)}
        return Proposal(
            statistic=w,
            score=(1.0 - w) / (1.0 - self._config.delta),
            alarm=output.alarm,
            threshold=self._config.delta,
            evidence=self._evidence(output),
            delta=self._delta(rows.slots, events),
            repeats=output.repeat,
            figures=dict(zip(PRADA_FIGURES, (constant, repeats), strict=True)),
        )

    def _state(self) -> WindowState:
        columns: list[Any] = [self._columns[name] for name in self._logged]
        return WindowState(*columns, *(rings.ring() for rings in self._rings))

    def _events_of(self, slots: Array) -> Events:
        distances = _ring_events(self._window, slots, self._columns["distances"][slots])
        return {"distance": distances, "hash": _ring_events(self._hashes, slots, self._columns["inside"][slots])}

    def _apply_events(self, slots: Array, events: Events) -> None:
        self._order.evict(slots)
        for rings, event in ((self._window, events["distance"]), (self._hashes, events["hash"])):
            rings.write(slots[event["slot"]], event["position"], event["value"])

    def _evidence(self, output: WindowOutput) -> dict[int, tuple[Evidence, ...]]:
        config = self._config
        evidence: dict[int, tuple[Evidence, ...]] = {}
        for row, tested, mean in output.rises[: output.written[2]].tolist():
            w, constant, repeats = output.figures[:, int(row)].tolist()
            evidence[int(row)] = (
                Evidence("shapiro_w", w, "", config.delta),
                Evidence("consecutive_checks", float(config.consecutive_checks), "checks", config.consecutive_checks),
                Evidence("distances_tested", tested, "queries"),
                Evidence("mean_distance", mean, "feature units"),
                Evidence("constant_steps", constant, "share"),
                Evidence("repeats", repeats, "queries"),
            )
        return evidence


def distances_in(sections: Sections) -> NDArray[np.float64]:
    """Returns float64 (m,): the distances in the next W of one principal, in no order, from its ``Engine.dump``."""
    state = unpack(sections[PRADA][1])
    distances: NDArray[np.float64] = state["distance_value" if "distance_value" in state else "row_distance"]
    return distances


def _hashes(features: NDArray[np.float32], wanted: Array) -> NDArray[np.uint64]:
    """Returns cryptographic hashes of the ``wanted`` rows, so that nobody can craft queries that pass for repeats of
    each other; 0 for the others."""
    hashes = np.zeros(len(wanted), np.uint64)
    raw, width = np.ascontiguousarray(features).data.cast("B"), features.shape[1] * features.itemsize
    starts = (np.flatnonzero(wanted) * width).tolist()
    digests = [blake2b(raw[at : at + width], digest_size=8).digest() for at in starts]
    hashes[wanted] = np.frombuffer(b"".join(digests), "<u8")
    return hashes


def _ring_events(ring: Rings, slots: Array, count: Array) -> dict[str, Array]:
    """Returns what is in the ``ring`` of ``slots``, which have had ``count`` values each."""
    cell = np.arange(ring.width)
    position = count[:, None] - 1 - (count[:, None] - 1 - cell) % ring.width
    slot, column = np.nonzero(position >= 0)
    value = ring.read(slots)[slot, column]
    return {"slot": slot.astype(np.int32), "position": position[slot, column], "value": value}


class WindowState(NamedTuple):
    """State by slot: the columns of ``WindowedPrada``; the last distances, float64, and hashes, uint64; ``order``
    uint16: the cells of the window in ascending order of their distances, as of the last test, of slots that have
    pages."""

    distances: NDArray[np.int64]
    inside: NDArray[np.int64]
    repeats: NDArray[np.int64]
    below: NDArray[np.int64]
    w: NDArray[np.float64]
    constant: NDArray[np.float64]
    window: Ring
    hashes: Ring
    order: Ring


class DistanceRows(NamedTuple):
    """``slots`` int64 and the rows of each, ``groups``. Of each row ``distance`` float64, ``admitted`` bool, and
    ``hashes`` uint64 if it is not admitted and at a distance above 0."""

    slots: NDArray[np.int64]
    groups: Grouping
    distance: NDArray[np.float64]
    admitted: NDArray[np.bool_]
    hashes: NDArray[np.uint64]


class WindowRule(NamedTuple):
    """As in ``PradaConfig``, with the ``weight_table`` of its window."""

    delta: float
    every: int
    consecutive: int
    weights: NDArray[np.float64]


class RingEvents(NamedTuple):
    """Values that joined a ring: the position of the ``slot`` int32, the ``position`` in the ring int64, ``value``."""

    slot: NDArray[np.int32]
    position: NDArray[np.int64]
    value: Array

    def first(self, count: int) -> dict[str, Array]:
        """Returns the first ``count`` by name."""
        return {name: column[:count] for name, column in self._asdict().items()}


class WindowOutput(NamedTuple):
    """As of each row ``figures`` float64 (3, n): W, constant share, repeats; ``alarm`` bool; and ``repeat`` bool.

    The others begin with as many entries as ``written`` int64 (3,) says: the ``distances`` and ``hashes`` that joined
    the rings, by slot, and ``rises`` float64 (n, 3): row, distances tested, mean distance."""

    figures: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    repeat: NDArray[np.bool_]
    written: NDArray[np.int64]
    distances: RingEvents
    hashes: RingEvents
    rises: NDArray[np.float64]

    @classmethod
    def of(cls, count: int) -> WindowOutput:
        """Returns an empty output for ``count`` rows."""
        distances, hashes = (
            RingEvents(np.empty(count, np.int32), np.empty(count, np.int64), np.empty(count, dtype))
            for dtype in (np.float64, np.uint64)
        )
        alarm, repeat = np.empty(count, np.bool_), np.zeros(count, np.bool_)
        return cls(np.empty((3, count)), alarm, repeat, np.zeros(3, np.int64), distances, hashes, np.empty((count, 3)))


class _Buffers(NamedTuple):
    """Of the window: ``cells`` as in the ring; the order ``known`` from the last test; ``order`` and ``sample``
    ascending; ``work`` for sums; ``fresh`` and ``fresh_order``: the distances since the last test, ascending."""

    cells: NDArray[np.float64]
    known: NDArray[np.uint16]
    order: NDArray[np.uint16]
    sample: NDArray[np.float64]
    work: NDArray[np.float64]
    fresh: NDArray[np.float64]
    fresh_order: NDArray[np.uint16]

    @classmethod
    def of(cls, width: int, every: int) -> _Buffers:
        """Returns those of a window of this ``width``, tested at each ``every``-th distance."""
        fresh = min(every, width)
        return cls(
            np.empty(width),
            np.empty(width, np.uint16),
            np.empty(width, np.uint16),
            np.empty(width),
            np.empty(width + LANES),
            np.empty(fresh),
            np.empty(fresh, np.uint16),
        )


@compiled
def pages_needed(state: WindowState, queries: DistanceRows) -> tuple[int, int, int]:
    """Returns how many pages of the window, of the hashes, and of the order the rows may take."""
    groups, window, hashes, order = queries.groups, 0, 0, 0
    for at in range(len(queries.slots)):
        slot, distances, inside = queries.slots[at], 0, 0
        for row in groups.order[groups.starts[at] : groups.starts[at] + groups.lengths[at]]:
            if isfinite(queries.distance[row]) and queries.distance[row] > 0.0:
                distances += 1
                inside += not queries.admitted[row]
        count = state.distances[slot]
        window += lacking(state.window, slot, count, distances)
        hashes += lacking(state.hashes, slot, state.inside[slot], inside)
        if count + distances > WARM_UP:
            order += lacking(state.order, slot, 0, count + distances)
    return window, hashes, order


@compiled
def judge_windows(
    state: WindowState, queries: DistanceRows, rule: WindowRule, buffers: _Buffers, output: WindowOutput
) -> None:
    """Row after row, leaves out repeats, tests the window when that is due, and updates ``state``."""
    window, joined, event = state.window, output.distances, 0
    groups, distances, admitted = queries.groups, queries.distance, queries.admitted
    figures, alarm, repeat = output.figures, output.alarm, output.repeat
    for at in range(len(queries.slots)):
        slot = queries.slots[at]
        for row in groups.order[groups.starts[at] : groups.starts[at] + groups.lengths[at]]:
            distance = distances[row]
            if isfinite(distance):
                if distance == 0.0 or (not admitted[row] and _repeats(state, queries, output, at, row)):
                    state.repeats[slot] += 1
                    repeat[row] = True
                else:
                    position = state.distances[slot]
                    put(window, slot, position, distance)
                    joined.slot[event], joined.position[event], joined.value[event] = at, position, distance
                    event += 1
                    state.distances[slot] += 1
                    if (position + 1) % rule.every == 0 and position >= WARM_UP:
                        _sort(state, slot, rule.every, buffers)
                        _test(state, slot, row, rule, buffers, output)
            figures[0, row], figures[1, row], figures[2, row] = state.w[slot], state.constant[slot], state.repeats[slot]
            alarm[row] = state.below[slot] >= rule.consecutive
    output.written[0] = event


@compiled
def _repeats(state: WindowState, queries: DistanceRows, output: WindowOutput, at: int, row: int) -> bool:
    """Returns whether the row repeats an earlier query; remembers the hash of its features. Repeats drive out none."""
    slot, hashed, ring = queries.slots[at], queries.hashes[row], state.hashes
    position = state.inside[slot]
    is_known = False
    for cell in range(min(position, ring.table.shape[1] * PAGE)):
        if ring.values[ring.table[slot, cell // PAGE], cell % PAGE] == hashed:
            is_known = True
            break
    if is_known:
        return True
    put(ring, slot, position, hashed)
    event, joined = output.written[1], output.hashes
    joined.slot[event], joined.position[event], joined.value[event] = at, position, hashed
    output.written[1] += 1
    state.inside[slot] += 1
    return False


@allocating
def _sort(state: WindowState, slot: int, every: int, buffers: _Buffers) -> None:
    """Writes the window's distances to the buffers in ascending order, and keeps that order."""
    width, count = len(buffers.cells), state.distances[slot]
    known = state.order.table[slot, 0] != BLANK and every < width
    _gather(state.window, slot, count, buffers.cells)
    if known:
        _gather(state.order, slot, count - every, buffers.known)
        _merge(buffers.known[: min(count - every, width)], (count - every) % width, buffers)
    else:
        buffers.order[: min(count, width)] = np.argsort(buffers.cells[: min(count, width)])
        for rank in range(min(count, width)):
            buffers.sample[rank] = buffers.cells[buffers.order[rank]]
    for place in range((min(count, width) + PAGE - 1) // PAGE):
        state.order.values[page_of(state.order, slot, place)] = buffers.order[place * PAGE : place * PAGE + PAGE]


@compiled
def _gather(ring: Ring, slot: int, count: int, cells: Array) -> None:
    """Copies the cells of a slot that has had ``count`` values."""
    for place in range((min(count, len(cells)) + PAGE - 1) // PAGE):
        page = ring.table[slot, place]
        for cell in range(PAGE):
            cells[place * PAGE + cell] = ring.values[page, cell]


@compiled
def _merge(order: NDArray[np.uint16], first: int, buffers: _Buffers) -> None:
    """Merges the fresh distances, from cell ``first`` on, into those of ``order`` that they do not replace."""
    cells, every = buffers.cells, len(buffers.fresh)
    _sort_fresh(first, buffers)
    at = fresh = 0
    least = buffers.fresh[0]
    for cell in order:
        age = np.int64(cell) - first
        if age < 0:
            age += len(cells)
        if age < every:
            continue
        distance = cells[cell]
        while least < distance:
            buffers.order[at], buffers.sample[at] = buffers.fresh_order[fresh], least
            at, fresh = at + 1, fresh + 1
            least = buffers.fresh[fresh] if fresh < every else inf
        buffers.order[at], buffers.sample[at] = cell, distance
        at += 1
    for rest in range(fresh, every):
        buffers.order[at], buffers.sample[at] = buffers.fresh_order[rest], buffers.fresh[rest]
        at += 1


@compiled
def _sort_fresh(first: int, buffers: _Buffers) -> None:
    for number in range(len(buffers.fresh)):
        cell = (first + number) % len(buffers.cells)
        at = number
        while at > 0 and buffers.fresh[at - 1] > buffers.cells[cell]:
            buffers.fresh[at], buffers.fresh_order[at] = buffers.fresh[at - 1], buffers.fresh_order[at - 1]
            at -= 1
        buffers.fresh[at], buffers.fresh_order[at] = buffers.cells[cell], cell


@compiled
def _test(state: WindowState, slot: int, row: int, rule: WindowRule, buffers: _Buffers, output: WindowOutput) -> None:
    """Tests the window without its outliers, which lie three deviations or more from its mean."""
    sample, work = buffers.sample[: min(state.distances[slot], len(buffers.sample))], buffers.work
    count = len(sample)
    for at in range(count):
        work[at] = sample[at]
    mean = pairwise(work, count) / count
    for at in range(count):
        work[at] = (sample[at] - mean) * (sample[at] - mean)
    reach = 3.0 * sqrt(pairwise(work, count) / count)
    low, high = 0, count
    while low < high and not abs(sample[low] - mean) < reach:
        low += 1
    while high > low and not abs(sample[high - 1] - mean) < reach:
        high -= 1
    if high - low <= WARM_UP:
        return
    state.w[slot] = statistic(sample[low:high], rule.weights[high - low], work)
    state.constant[slot] = _constant_share(sample)
    state.below[slot] = state.below[slot] + 1 if state.w[slot] < rule.delta else 0
    if state.below[slot] == rule.consecutive:
        rise = output.written[2]
        output.rises[rise, 0], output.rises[rise, 1], output.rises[rise, 2] = row, high - low, mean
        output.written[2] += 1


@compiled
def _constant_share(sample: NDArray[np.float64]) -> float:
    """Returns the share of distances equal to the median to 1e-9."""
    middle = sample[(len(sample) - 1) // 2]
    low = high = (len(sample) - 1) // 2
    while low > 0 and middle - sample[low - 1] <= CONSTANT_SPREAD * middle:
        low -= 1
    while high < len(sample) and sample[high] - middle <= CONSTANT_SPREAD * middle:
        high += 1
    return (high - low) / len(sample)
