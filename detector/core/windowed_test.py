"""The default mode's test: W over the last distances of a principal, without the published agent's faults.

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

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.arrays import Array
from detector.core.columns import Columns
from detector.core.configuration import PradaConfig
from detector.core.normality import CONSTANT, rejected_statistics
from detector.core.rings import Rings
from detector.core.rows import Grouping, Rows
from detector.core.signal import Delta
from detector.core.tested import WARM_UP, Tested, carried, ordinals

_COLUMNS = ("distances", "inside", "repeats", "w", "below", "constant")


@dataclass(frozen=True, slots=True)
class _Checks:
    """Tests of a step: their rows (of the by-slot order) and the outcome of each."""

    at: Array
    w: NDArray[np.float64]
    constant: NDArray[np.float64]
    below: Array
    tested: Array
    mean: NDArray[np.float64]


_NO_CHECKS = _Checks(np.empty(0, np.int64), *(np.empty(0, dtype) for dtype in (float, float, int, int, float)))


@dataclass(frozen=True, slots=True)
class _Places:
    """Chosen rows of a step: ``at`` in the by-slot order, their ``slot`` (position in ``Rows.slots``) and the
    ``position`` of each among all such rows of its slot so far."""

    at: Array
    slot: Array
    position: Array


class WindowedTest:
    """State per slot: counters, the last W, a ring of distances and one of hashes."""

    def __init__(self, config: PradaConfig) -> None:
        self._config = config
        self._slots = Columns(
            {
                "distances": (np.int64, 0),
                "inside": (np.int64, 0),
                "repeats": (np.int64, 0),
                "w": (np.float64, np.nan),
                "below": (np.int64, 0),
                "constant": (np.float64, np.nan),
            }
        )
        self._window = Rings(config.window, np.float64, np.inf)
        self._hashes = Rings(config.repeat_memory, np.uint64, 0)

    def judge(self, rows: Rows, distance: NDArray[np.float64], admitted: NDArray[np.bool_]) -> Tested:
        self._reserve(rows.slots)
        grouping = rows.by_slot
        order, slot = grouping.order, rows.slot[grouping.order]
        before = {name: self._slots[name][rows.slots] for name in _COLUMNS}
        ordered = distance[order]
        known = np.isfinite(ordered)
        inside = known & ~admitted[order] & (ordered > 0)
        repeat = known & (ordered == 0)
        hashed = _places(grouping, slot, inside, before["inside"])
        hashes = _hashes(rows.features[order[hashed.at]])
        if len(hashes):
            repeat[hashed.at] = self._seen(rows, hashed, hashes, before["inside"])
        counted = known & ~repeat
        measured = _places(grouping, slot, counted, before["distances"])
        values = ordered[measured.at]
        checks = self._check(rows, measured, values, before)
        events = {"distances": counted, "inside": inside, "repeats": repeat}
        after = self._after(grouping, slot, before, events, checks)
        last = grouping.starts + grouping.lengths - 1
        delta = {
            **{f"slot_{name}": column[last] for name, column in after.items()},
            **_ring_rows("distance", measured.slot, measured.position, values),
            **_ring_rows("hash", hashed.slot, hashed.position, hashes),
        }
        return self._tested(rows, after, checks, delta, repeat)

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        del pools
        self._reserve(slots)
        for name in _COLUMNS:
            self._slots[name][slots] = delta[f"slot_{name}"]
        self._window.write(slots[delta["distance_slot"]], delta["distance_position"], delta["distance_value"])
        self._hashes.write(slots[delta["hash_slot"]], delta["hash_position"], delta["hash_value"])

    def dump(self, slots: Array) -> dict[str, Array]:
        self._reserve(slots)
        columns = {f"slot_{name}": self._slots[name][slots] for name in _COLUMNS}
        distances = _ring_dump("distance", self._window, slots, columns["slot_distances"])
        return {**columns, **distances, **_ring_dump("hash", self._hashes, slots, columns["slot_inside"])}

    def load(self, slots: Array, state: Delta) -> None:
        self.apply(slots, slots, state)

    def evict(self, slots: Array) -> None:
        self._slots.reset(slots)
        self._window.evict(slots)
        self._hashes.evict(slots)

    def nbytes(self, slots: Array | None) -> int:
        if slots is None:
            return self._slots.nbytes + self._window.nbytes + self._hashes.nbytes
        return 8 * len(_COLUMNS) * len(slots) + self._window.nbytes_of(slots) + self._hashes.nbytes_of(slots)

    def _seen(self, rows: Rows, hashed: _Places, hashes: Array, before: Array) -> Array:
        """Returns bool: which of the ``hashed`` rows repeat one of the last such rows of their slot."""
        width = self._hashes.width
        held = before[hashed.slot][:, None]
        position = held - 1 - (held - 1 - np.arange(width)) % width
        usable = (position >= 0) & (position >= hashed.position[:, None] - width)
        seen: Array = ((self._hashes.read(rows.slots[hashed.slot]) == hashes[:, None]) & usable).any(1)
        if len(hashes) > 1:
            seen |= _repeated_within(hashed.slot, hashes, hashed.position, width)
        return seen

    def _check(self, rows: Rows, measured: _Places, values: Array, before: dict[str, Array]) -> _Checks:
        """Runs the tests that are due in this step, given the ``values`` of the ``measured`` rows."""
        count = measured.position + 1
        due = np.flatnonzero((count % self._config.check_every == 0) & (count > WARM_UP))
        if not len(due):
            return _NO_CHECKS
        windows = self._windows(rows, measured.slot, measured.position, values, due)
        windows.sort(axis=1)
        w, left = rejected_statistics(windows)
        valid = left > WARM_UP
        due, w, windows = due[valid], w[valid], windows[valid]
        constant, mean = _constant_share(windows)
        below = self._consecutive(measured.slot[due], w, before["below"])
        return _Checks(measured.at[due], w, constant, below, left[valid], mean)

    def _windows(self, rows: Rows, slot: Array, position: Array, values: Array, due: Array) -> NDArray[np.float64]:
        """Returns float64 (checks, window): the distances of each check, in any order, padded with inf."""
        width = self._config.window
        windows: NDArray[np.float64] = self._window.read(rows.slots[slot[due]])
        first = np.searchsorted(slot, slot[due])
        first = np.maximum(first, due + 1 - width)
        fresh = due + 1 - first
        check = np.repeat(np.arange(len(due)), fresh)
        source = np.arange(len(check)) - np.repeat(np.cumsum(fresh) - fresh, fresh) + first[check]
        windows[check, position[source] % width] = values[source]
        return windows

    def _consecutive(self, slot: Array, w: Array, before: Array) -> Array:
        """Returns how many tests in a row have failed as of each check (checks by slot, in stream order)."""
        running: dict[int, int] = {}
        below = np.zeros(len(slot), np.int64)
        failed = (w < self._config.delta).tolist()
        for at, own in enumerate(slot.tolist()):
            running[own] = (running.get(own, int(before[own])) + 1) if failed[at] else 0
            below[at] = running[own]
        return below

    def _after(
        self,
        grouping: Grouping,
        slot: Array,
        before: dict[str, Array],
        events: dict[str, Array],
        checks: _Checks,
    ) -> dict[str, Array]:
        """Returns every counter as of every row, in the by-slot order."""
        after = {}
        for name, event in events.items():
            after[name] = before[name][slot]
            if event.any():
                total = np.cumsum(event)
                after[name] += total - (total - event)[grouping.starts][slot]
        for name, values in (("w", checks.w), ("below", checks.below), ("constant", checks.constant)):
            after[name] = carried(grouping, checks.at, values, before[name])
        return after

    def _tested(
        self,
        rows: Rows,
        after: dict[str, Array],
        checks: _Checks,
        delta: dict[str, Array],
        repeat: Array,
    ) -> Tested:
        order = rows.by_slot.order
        rising = np.flatnonzero(checks.below == self._config.consecutive_checks)
        evidence = {int(order[checks.at[check]]): self._evidence(checks, check, after) for check in rising.tolist()}
        columns = {name: np.empty(len(order)) for name in ("w", "constant", "repeats")}
        for name, column in columns.items():
            column[order] = after[name]
        alarm = np.empty(len(order), bool)
        alarm[order] = after["below"] >= self._config.consecutive_checks
        figures = {"constant_steps": columns["constant"], "repeats": columns["repeats"]}
        repeats = np.empty(len(order), bool)
        repeats[order] = repeat
        return Tested(columns["w"], alarm, evidence, delta, figures, repeats)

    def _evidence(self, checks: _Checks, check: int, after: dict[str, Array]) -> tuple[Evidence, ...]:
        repeats = float(after["repeats"][checks.at[check]])
        return (
            Evidence("shapiro_w", float(checks.w[check]), "", self._config.delta),
            Evidence("consecutive_checks", float(checks.below[check]), "checks", self._config.consecutive_checks),
            Evidence("distances_tested", float(checks.tested[check]), "queries"),
            Evidence("mean_distance", float(checks.mean[check]), "feature units"),
            Evidence("constant_steps", float(checks.constant[check]), "share"),
            Evidence("repeats", repeats, "queries"),
        )

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)


def _places(grouping: Grouping, slot: Array, chosen: Array, before: Array) -> _Places:
    """Returns the chosen rows (bool, by slot), where each slot had ``before`` of them."""
    at = np.flatnonzero(chosen)
    own = slot[at]
    return _Places(at, own, before[own] + ordinals(grouping, own, at))


def _hashes(features: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Returns cryptographic hashes, so that nobody can craft queries that pass for repeats of each other."""
    raw, width = features.tobytes(), features.shape[1] * features.itemsize
    digests = [blake2b(raw[at : at + width], digest_size=8).digest() for at in range(0, len(raw), width)]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _repeated_within(slot: Array, hashes: Array, ordinal: Array, width: int) -> Array:
    """Returns bool: rows that repeat an earlier one of the same slot among these, at most ``width`` ordinals back."""
    order = np.lexsort((ordinal, hashes, slot))
    same = (slot[order][1:] == slot[order][:-1]) & (hashes[order][1:] == hashes[order][:-1])
    near = ordinal[order][1:] - ordinal[order][:-1] <= width
    repeated = np.zeros(len(slot), bool)
    repeated[order[1:][same & near]] = True
    return repeated


def _constant_share(windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns, per sorted window, the share of distances equal to the median to 1e-9, and the mean distance."""
    real = np.isfinite(windows)
    count = real.sum(1)
    middle = windows[np.arange(len(windows)), (count - 1) // 2]
    equal = np.abs(windows - middle[:, None]) <= CONSTANT * middle[:, None]
    return equal.sum(1) / count, np.where(real, windows, 0.0).sum(1) / count


def _ring_rows(name: str, slot: Array, position: Array, values: Array) -> dict[str, Array]:
    return {f"{name}_slot": slot.astype(np.int32), f"{name}_position": position, f"{name}_value": values}


def _ring_dump(name: str, ring: Rings, slots: Array, count: Array) -> dict[str, Array]:
    cell = np.arange(ring.width)
    position = count[:, None] - 1 - (count[:, None] - 1 - cell) % ring.width
    slot, column = np.nonzero(position >= 0)
    return _ring_rows(name, slot, position[slot, column], ring.read(slots)[slot, column])
