"""PRADA (Juuti, Szyller, Marchal, Asokan, EuroS&P 2019): synthetic queries keep a controlled distance.

Each query's distance to the nearest vector of its predicted class's growing set is recorded; it joins that set if it is
farther than T = max(T, mean - deviation) of the distances that joined before. Distances of honest queries look normal,
so a low Shapiro-Wilk W of them indicates a thief. The mode decides how W is computed and judged: ``windowed``
(default) and ``published`` (compatible: the published agent's verdict for every query).

States cannot be merged: nearest neighbours change when two principals' sets are pooled.

The default mode's test: W over the last distances of a principal, without the published agent's faults.

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
from typing import ClassVar, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import NotMergeable
from detector.contracts.findings import Evidence
from detector.core.configuration import MOST, EngineConfig, PradaConfig
from detector.core.loops.compiled import compiled
from detector.core.neighbours.history import Views
from detector.core.neighbours.search import Thresholds
from detector.core.signals.base import Delta, Proposal
from detector.core.signals.prada_published import ReferenceTest
from detector.core.signals.shapiro_wilk import CONSTANT, LANES, WARM_UP, Tested, pairwise, statistic, weight_table
from detector.core.state.arrays import Array, Sections, unpack
from detector.core.state.columns import BLANK, PAGE, ColumnTable, Ring, Rings, lacking, page_of, put
from detector.core.state.rows import StepRows

_THRESHOLDS = {name: f"pool_{name}" for name in ("threshold", "count", "mean", "squares")}


class Prada:
    """The ``prada`` signal: statistic W, score (1 - W) / (1 - delta)."""

    name: ClassVar[str] = "prada"
    version: ClassVar[int] = 1
    mergeable: ClassVar[bool] = False
    figures: ClassVar[tuple[str, ...]] = ("constant_steps", "repeats")

    def __init__(self, config: EngineConfig) -> None:
        self._delta = config.prada.delta
        self._pools = ColumnTable(
            {
                "threshold": (np.float64, 0.0),
                "count": (np.int64, 0),
                "mean": (np.float64, 0.0),
                "squares": (np.float64, 0.0),
            }
        )
        compatible = config.mode == "compatible"
        self._test: WindowedTest | ReferenceTest = (ReferenceTest if compatible else WindowedTest)(config.prada)

    def observe(self, rows: StepRows, views: Views) -> Proposal:
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


_COUNTS = ("distances", "inside", "repeats", "below")
_FIGURES = ("w", "constant")


class WindowedTest:
    """State per slot: counters, the last W, a ring of distances and one of hashes. The ``order`` of the distances is
    derived from them: it is not logged, and missing after recovery until the next test."""

    def __init__(self, config: PradaConfig) -> None:
        self._config = config
        self._slots = ColumnTable(
            {"counts": (np.int64, 0, len(_COUNTS)), "figures": (np.float64, np.nan, len(_FIGURES))}
        )
        self._window = Rings(config.window, np.float64, np.inf)
        self._hashes = Rings(config.repeat_memory, np.uint64, 0)
        self._order = Rings(config.window, np.uint16, 0)
        self._rings = (self._window, self._hashes, self._order)

    def judge(self, rows: StepRows, distance: NDArray[np.float64], admitted: NDArray[np.bool_]) -> Tested:
        """Judges ``rows`` and learns from them. ``distance`` float64 (n,), inf or NaN if there is none, and
        ``admitted`` bool (n,)."""
        self._reserve(rows.slots)
        grouping = rows.by_slot
        inside = np.isfinite(distance) & (distance > 0) & ~admitted
        hashes = _hashes(rows.features, inside)
        given = Given(rows.slots, grouping.order, grouping.starts, grouping.lengths, distance, admitted, hashes)
        for rings, pages in zip(self._rings, needs(self._held(), given), strict=True):
            rings.stock(pages)
        said = _room(len(rows))
        rule = Rule(
            self._config.delta,
            min(self._config.check_every, MOST),
            min(self._config.consecutive_checks, MOST),
            weight_table(self._config.window),
        )
        run(self._held(), given, rule, said)
        w, constant, repeats = said.figures
        figures = {"constant_steps": constant, "repeats": repeats}
        return Tested(w, said.alarm, self._evidence(said), self._delta(rows.slots, said), figures, said.repeat)

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        """Applies what ``judge`` returned: recovery alone."""
        del pools
        self._reserve(slots)
        self._order.evict(slots)
        for names, columns in ((_COUNTS, self._slots["counts"]), (_FIGURES, self._slots["figures"])):
            for at, name in enumerate(names):
                columns[slots, at] = delta[f"slot_{name}"]
        self._window.write(slots[delta["distance_slot"]], delta["distance_position"], delta["distance_value"])
        self._hashes.write(slots[delta["hash_slot"]], delta["hash_position"], delta["hash_value"])

    def dump(self, slots: Array) -> dict[str, Array]:
        columns = self._columns(slots)
        distances = _ring_dump("distance", self._window, slots, columns["slot_distances"])
        return {**columns, **distances, **_ring_dump("hash", self._hashes, slots, columns["slot_inside"])}

    def load(self, slots: Array, state: Delta) -> None:
        self.apply(slots, slots, state)

    def evict(self, slots: Array) -> None:
        self._slots.reset(slots)
        for rings in self._rings:
            rings.evict(slots)

    def nbytes(self, slots: Array | None) -> int:
        if slots is None:
            return self._slots.nbytes + sum(rings.nbytes for rings in self._rings)
        return 8 * len(_COUNTS + _FIGURES) * len(slots) + sum(rings.nbytes_of(slots) for rings in self._rings)

    def _held(self) -> Held:
        return Held(self._slots["counts"], self._slots["figures"], *(rings.ring() for rings in self._rings))

    def _columns(self, slots: Array) -> dict[str, Array]:
        self._reserve(slots)
        counts, figures = self._slots["counts"][slots].T, self._slots["figures"][slots].T
        named = zip(_COUNTS + _FIGURES, (*counts, *figures), strict=True)
        return {f"slot_{name}": np.ascontiguousarray(column) for name, column in named}

    def _delta(self, slots: Array, said: Said) -> dict[str, Array]:
        distances, hashes, _ = said.written.tolist()
        return {
            **self._columns(slots),
            **_ring_rows("distance", said.distance_at[:distances], said.distance[:distances]),
            **_ring_rows("hash", said.hash_at[:hashes], said.hash[:hashes]),
        }

    def _evidence(self, said: Said) -> dict[int, tuple[Evidence, ...]]:
        config = self._config
        evidence: dict[int, tuple[Evidence, ...]] = {}
        for row, tested, mean in said.rises[: said.written[2]].tolist():
            w, constant, repeats = said.figures[:, int(row)].tolist()
            evidence[int(row)] = (
                Evidence("shapiro_w", w, "", config.delta),
                Evidence("consecutive_checks", float(config.consecutive_checks), "checks", config.consecutive_checks),
                Evidence("distances_tested", tested, "queries"),
                Evidence("mean_distance", mean, "feature units"),
                Evidence("constant_steps", constant, "share"),
                Evidence("repeats", repeats, "queries"),
            )
        return evidence

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)
        for rings in self._rings:
            rings.reserve(slots)


def _room(count: int) -> Said:
    return Said(
        figures=np.empty((3, count)),
        alarm=np.empty(count, np.bool_),
        repeat=np.zeros(count, np.bool_),
        written=np.zeros(3, np.int64),
        distance=np.empty(count),
        distance_at=np.empty((count, 2), np.int64),
        hash=np.empty(count, np.uint64),
        hash_at=np.empty((count, 2), np.int64),
        rises=np.empty((count, 3)),
    )


def _hashes(features: NDArray[np.float32], wanted: Array) -> NDArray[np.uint64]:
    """Returns cryptographic hashes of the ``wanted`` rows, so that nobody can craft queries that pass for repeats of
    each other; 0 for the others."""
    hashes = np.zeros(len(wanted), np.uint64)
    raw, width = np.ascontiguousarray(features).data.cast("B"), features.shape[1] * features.itemsize
    starts = (np.flatnonzero(wanted) * width).tolist()
    hashes[wanted] = np.frombuffer(b"".join([_digest(raw[at : at + width]) for at in starts]), "<u8")
    return hashes


def _digest(row: memoryview) -> bytes:
    return blake2b(row, digest_size=8).digest()


def _ring_rows(name: str, at: Array, values: Array) -> dict[str, Array]:
    """Returns the rows of a delta, ``at`` int64 (n, 2) of position in the slots and in the ring."""
    return {f"{name}_slot": at[:, 0].astype(np.int32), f"{name}_position": at[:, 1].copy(), f"{name}_value": values}


def _ring_dump(name: str, ring: Rings, slots: Array, count: Array) -> dict[str, Array]:
    cell = np.arange(ring.width)
    position = count[:, None] - 1 - (count[:, None] - 1 - cell) % ring.width
    slot, column = np.nonzero(position >= 0)
    return _ring_rows(name, np.stack((slot, position[slot, column]), axis=1), ring.read(slots)[slot, column])


DISTANCES, INSIDE, REPEATS, BELOW = range(4)
W, SHARE = range(2)


class Held(NamedTuple):
    """State by slot: ``counts`` int64 (slots, 4) and ``figures`` float64 (slots, 2), in the order of the names above;
    the last distances, float64, and hashes, uint64; ``order`` uint16: the cells of the window in ascending order of
    their distances, as of the last test, of slots that have pages."""

    counts: NDArray[np.int64]
    figures: NDArray[np.float64]
    window: Ring
    hashes: Ring
    order: Ring


class Given(NamedTuple):
    """``slots`` int64, and the rows grouped by position in them. Of each row ``distance`` float64, ``admitted`` bool,
    and ``hashes`` uint64 if it is not admitted and at a distance above 0."""

    slots: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    distance: NDArray[np.float64]
    admitted: NDArray[np.bool_]
    hashes: NDArray[np.uint64]


class Rule(NamedTuple):
    """As in ``PradaConfig``, with the ``weight_table`` of its window."""

    delta: float
    every: int
    consecutive: int
    weights: NDArray[np.float64]


class Said(NamedTuple):
    """As of each row ``figures`` float64 (3, n): W, constant share, repeats; ``alarm`` bool; and ``repeat`` bool.

    The others begin with as many rows as ``written`` int64 (3,) says: what joined the rings, by slot, ``distance`` with
    ``distance_at`` and ``hash`` with ``hash_at`` int64 (n, 2): the position of the slot, and that in the ring; and
    ``rises`` float64 (n, 3): row, distances tested, mean distance."""

    figures: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    repeat: NDArray[np.bool_]
    written: NDArray[np.int64]
    distance: NDArray[np.float64]
    distance_at: NDArray[np.int64]
    hash: NDArray[np.uint64]
    hash_at: NDArray[np.int64]
    rises: NDArray[np.float64]


class _Scratch(NamedTuple):
    """Of the window: ``cells`` as in the ring; the order ``known`` from the last test; ``order`` and ``sample``
    ascending; ``work`` for sums; ``fresh`` and ``fresh_order``: the distances since the last test, ascending."""

    cells: NDArray[np.float64]
    known: NDArray[np.uint16]
    order: NDArray[np.uint16]
    sample: NDArray[np.float64]
    work: NDArray[np.float64]
    fresh: NDArray[np.float64]
    fresh_order: NDArray[np.uint16]


@compiled
def needs(held: Held, given: Given) -> tuple[int, int, int]:
    """Returns how many pages of the window, of the hashes, and of the order the rows may take."""
    window = hashes = order = 0
    for at in range(len(given.slots)):
        slot, distances, inside = given.slots[at], 0, 0
        for row in given.order[given.starts[at] : given.starts[at] + given.lengths[at]]:
            if isfinite(given.distance[row]) and given.distance[row] > 0.0:
                distances += 1
                inside += not given.admitted[row]
        count = held.counts[slot, DISTANCES]
        window += lacking(held.window, slot, count, distances)
        hashes += lacking(held.hashes, slot, held.counts[slot, INSIDE], inside)
        if count + distances > WARM_UP:
            order += lacking(held.order, slot, 0, count + distances)
    return window, hashes, order


@compiled
def run(held: Held, given: Given, rule: Rule, said: Said) -> None:
    """Judges the rows, each as of itself, and updates ``held``."""
    window, counts, figures, event = held.window, held.counts, held.figures, 0
    scratch = _scratch(window.table.shape[1] * PAGE, rule.every)
    order, distances, admitted = given.order, given.distance, given.admitted
    values, places = said.distance, said.distance_at
    shown, alarm, repeat = said.figures, said.alarm, said.repeat
    for at in range(len(given.slots)):
        slot = given.slots[at]
        for place in range(given.starts[at], given.starts[at] + given.lengths[at]):
            row = order[place]
            distance = distances[row]
            if isfinite(distance):
                if distance == 0.0 or (not admitted[row] and _repeats(held, given, said, at, row)):
                    counts[slot, REPEATS] += 1
                    repeat[row] = True
                else:
                    position = counts[slot, DISTANCES]
                    put(window, slot, position, distance)
                    values[event], places[event, 0], places[event, 1] = distance, at, position
                    event += 1
                    counts[slot, DISTANCES] += 1
                    if (position + 1) % rule.every == 0 and position >= WARM_UP:
                        _sort(held, slot, rule.every, scratch)
                        _test(held, slot, row, rule, scratch, said)
            shown[0, row], shown[1, row], shown[2, row] = figures[slot, W], figures[slot, SHARE], counts[slot, REPEATS]
            alarm[row] = counts[slot, BELOW] >= rule.consecutive
    said.written[0] = event


@compiled
def _scratch(width: int, every: int) -> _Scratch:
    fresh = min(every, width)
    return _Scratch(
        np.empty(width),
        np.empty(width, np.uint16),
        np.empty(width, np.uint16),
        np.empty(width),
        np.empty(width + LANES),
        np.empty(fresh),
        np.empty(fresh, np.uint16),
    )


@compiled
def _repeats(held: Held, given: Given, said: Said, at: int, row: int) -> bool:
    """Returns whether the row repeats an earlier query; remembers the hash of its features."""
    slot, own, ring = given.slots[at], given.hashes[row], held.hashes
    position = held.counts[slot, INSIDE]
    found = False
    for cell in range(min(position, ring.table.shape[1] * PAGE)):
        if ring.values[ring.table[slot, cell // PAGE], cell % PAGE] == own:
            found = True
            break
    put(ring, slot, position, own)
    event = said.written[1]
    said.hash[event], said.hash_at[event, 0], said.hash_at[event, 1] = own, at, position
    said.written[1] += 1
    held.counts[slot, INSIDE] += 1
    return found


@compiled
def _sort(held: Held, slot: int, every: int, scratch: _Scratch) -> None:
    """Writes the window's distances to the scratch in ascending order, and keeps that order."""
    width, count = len(scratch.cells), held.counts[slot, DISTANCES]
    known = held.order.table[slot, 0] != BLANK and every < width
    _gather(held.window, slot, count, scratch.cells)
    if known:
        _gather(held.order, slot, count - every, scratch.known)
        _merge(scratch.known[: min(count - every, width)], (count - every) % width, scratch)
    else:
        scratch.order[: min(count, width)] = np.argsort(scratch.cells[: min(count, width)])
        for rank in range(min(count, width)):
            scratch.sample[rank] = scratch.cells[scratch.order[rank]]
    for place in range((min(count, width) + PAGE - 1) // PAGE):
        held.order.values[page_of(held.order, slot, place)] = scratch.order[place * PAGE : place * PAGE + PAGE]


@compiled
def _gather(ring: Ring, slot: int, count: int, cells: Array) -> None:
    """Copies the cells of a slot that has had ``count`` values."""
    for place in range((min(count, len(cells)) + PAGE - 1) // PAGE):
        cells[place * PAGE : place * PAGE + PAGE] = ring.values[ring.table[slot, place]]


@compiled
def _merge(order: NDArray[np.uint16], first: int, scratch: _Scratch) -> None:
    """Merges the fresh distances, from cell ``first`` on, into those of ``order`` that they do not replace."""
    cells, every = scratch.cells, len(scratch.fresh)
    _sort_fresh(first, scratch)
    at = fresh = 0
    least = scratch.fresh[0]
    for cell in order:
        age = np.int64(cell) - first
        if age < 0:
            age += len(cells)
        if age < every:
            continue
        distance = cells[cell]
        while least < distance:
            scratch.order[at], scratch.sample[at] = scratch.fresh_order[fresh], least
            at, fresh = at + 1, fresh + 1
            least = scratch.fresh[fresh] if fresh < every else inf
        scratch.order[at], scratch.sample[at] = cell, distance
        at += 1
    for rest in range(fresh, every):
        scratch.order[at], scratch.sample[at] = scratch.fresh_order[rest], scratch.fresh[rest]
        at += 1


@compiled
def _sort_fresh(first: int, scratch: _Scratch) -> None:
    for number in range(len(scratch.fresh)):
        cell = (first + number) % len(scratch.cells)
        at = number
        while at > 0 and scratch.fresh[at - 1] > scratch.cells[cell]:
            scratch.fresh[at], scratch.fresh_order[at] = scratch.fresh[at - 1], scratch.fresh_order[at - 1]
            at -= 1
        scratch.fresh[at], scratch.fresh_order[at] = scratch.cells[cell], cell


@compiled
def _test(held: Held, slot: int, row: int, rule: Rule, scratch: _Scratch, said: Said) -> None:
    """Tests the window without its outliers, which lie three deviations or more from its mean."""
    counts, figures = held.counts[slot], held.figures[slot]
    sample, work = scratch.sample[: min(counts[DISTANCES], len(scratch.sample))], scratch.work
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
    figures[W] = statistic(sample[low:high], rule.weights[high - low], work)
    figures[SHARE] = _constant_share(sample)
    counts[BELOW] = counts[BELOW] + 1 if figures[W] < rule.delta else 0
    if counts[BELOW] == rule.consecutive:
        rise = said.written[2]
        said.rises[rise, 0], said.rises[rise, 1], said.rises[rise, 2] = row, high - low, mean
        said.written[2] += 1


@compiled
def _constant_share(sample: NDArray[np.float64]) -> float:
    """Returns the share of distances equal to the median to 1e-9."""
    middle = sample[(len(sample) - 1) // 2]
    low = high = (len(sample) - 1) // 2
    while low > 0 and middle - sample[low - 1] <= CONSTANT * middle:
        low -= 1
    while high < len(sample) and sample[high] - middle <= CONSTANT * middle:
        high += 1
    return (high - low) / len(sample)
