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

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.configuration import MOST, PradaConfig
from detector.core.signals.base import Delta
from detector.core.signals.prada import windowed_loop as loop
from detector.core.signals.prada.result import Tested
from detector.core.signals.prada.shapiro_wilk import weight_table
from detector.core.state.arrays import Array
from detector.core.state.columns import Columns
from detector.core.state.rings import Rings
from detector.core.state.rows import Rows

_COUNTS = ("distances", "inside", "repeats", "below")
_FIGURES = ("w", "constant")


class WindowedTest:
    """State per slot: counters, the last W, a ring of distances and one of hashes. The ``order`` of the distances is
    derived from them: it is not logged, and missing after recovery until the next test."""

    def __init__(self, config: PradaConfig) -> None:
        self._config = config
        self._slots = Columns({"counts": (np.int64, 0, len(_COUNTS)), "figures": (np.float64, np.nan, len(_FIGURES))})
        self._window = Rings(config.window, np.float64, np.inf)
        self._hashes = Rings(config.repeat_memory, np.uint64, 0)
        self._order = Rings(config.window, np.uint16, 0)
        self._rings = (self._window, self._hashes, self._order)

    def judge(self, rows: Rows, distance: NDArray[np.float64], admitted: NDArray[np.bool_]) -> Tested:
        """Judges ``rows`` and learns from them. ``distance`` float64 (n,), inf or NaN if there is none, and
        ``admitted`` bool (n,)."""
        self._reserve(rows.slots)
        grouping = rows.by_slot
        inside = np.isfinite(distance) & (distance > 0) & ~admitted
        hashes = _hashes(rows.features, inside)
        given = loop.Given(rows.slots, grouping.order, grouping.starts, grouping.lengths, distance, admitted, hashes)
        for rings, pages in zip(self._rings, loop.needs(self._held(), given), strict=True):
            rings.stock(pages)
        said = _room(len(rows))
        rule = loop.Rule(
            self._config.delta,
            min(self._config.check_every, MOST),
            min(self._config.consecutive_checks, MOST),
            weight_table(self._config.window),
        )
        loop.run(self._held(), given, rule, said)
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

    def _held(self) -> loop.Held:
        return loop.Held(self._slots["counts"], self._slots["figures"], *(rings.ring() for rings in self._rings))

    def _columns(self, slots: Array) -> dict[str, Array]:
        self._reserve(slots)
        counts, figures = self._slots["counts"][slots].T, self._slots["figures"][slots].T
        named = zip(_COUNTS + _FIGURES, (*counts, *figures), strict=True)
        return {f"slot_{name}": np.ascontiguousarray(column) for name, column in named}

    def _delta(self, slots: Array, said: loop.Said) -> dict[str, Array]:
        distances, hashes, _ = said.written.tolist()
        return {
            **self._columns(slots),
            **_ring_rows("distance", said.distance_at[:distances], said.distance[:distances]),
            **_ring_rows("hash", said.hash_at[:hashes], said.hash[:hashes]),
        }

    def _evidence(self, said: loop.Said) -> dict[int, tuple[Evidence, ...]]:
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


def _room(count: int) -> loop.Said:
    return loop.Said(
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
