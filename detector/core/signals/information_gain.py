"""``information_gain``: how much a tree learned from the principal's answers knows of the owner's model, in percent
(Kesarwani et al. 2018, strategy 1; ``core.exposure.learning`` has the formula).

At most 512 of a principal's queries are kept, as sixteen small numbers each, and the tree is learned from them at
queries 20, 160, 1,280 and so on; in between the exposure stays. It is a meter: its score is NaN and it raises no alarm.
Without a validation set in the profile, or if the model gives all its rows one class, it has no result.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detector.core.configuration import EngineConfig
from detector.core.exposure import (
    BUCKETS,
    EMPTY,
    NOTHING,
    PAIR,
    Sketches,
    TreeProbe,
    Validation,
    bucket_of,
    hash_pairs,
    is_due,
    raw_features,
    smallest_of,
)
from detector.core.neighbours.history import Views
from detector.core.signals.base import Delta, Proposal
from detector.core.signals.meters import metered, one_tag, silent
from detector.core.state.arrays import Array
from detector.core.state.columns import Columns
from detector.core.state.rings import Rings
from detector.core.state.rows import Rows

Pairs = NDArray[Any]
"""Of dtype ``PAIR``."""


class InformationGain:
    """State per slot: the kept pairs, the last exposure, and the tag of the validation set."""

    name: ClassVar[str] = "information_gain"
    version: ClassVar[int] = 1
    mergeable: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: EngineConfig) -> None:
        own = {(profile.model, profile.model_version): profile.validation for profile in config.judging}
        meters = {key: _Meter(validation) for key, validation in own.items() if validation is not None}
        self._meters = {key: meter for key, meter in meters.items() if meter.asks}
        self._by_tag = {meter.tag: meter for meter in self._meters.values()}
        self._slots = Columns({"exposure": (np.float64, np.nan), "tag": (np.uint64, 0)})
        self._kept = Rings(BUCKETS, PAIR, NOTHING)

    def observe(self, rows: Rows, views: Views) -> Proposal:
        meter = self._meters.get((rows.model, rows.model_version))
        if meter is None or meter.dimension != rows.features.shape[1]:
            return silent(len(rows))
        self._begin(rows.slots, meter.tag)
        pairs = meter.pairs(rows)
        places = self._kept.find(rows.slots[rows.slot], bucket_of(pairs["hash"]))
        at = np.flatnonzero(pairs["hash"] < self._kept.values["hash"][places])
        exposure = self._exposures(rows, meter, pairs, at)
        chosen = at[smallest_of(pairs["hash"][at], rows.slot[at])] if len(at) else at
        last = np.empty(len(rows.slots))
        last[rows.slot] = exposure
        tag = np.full(len(rows.slots), meter.tag)
        delta = {"slot_exposure": last, "slot_tag": tag, **_events(rows.slot[chosen], pairs[chosen])}
        self.apply(rows.slots, rows.pools, delta)
        return metered(exposure, delta)

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        if not delta:
            return
        self._reserve(slots)
        self._kept.evict(slots[self._slots["tag"][slots] != delta["slot_tag"]])
        for name in ("exposure", "tag"):
            self._slots[name][slots] = delta[f"slot_{name}"]
        pairs = _pairs(delta)
        self._kept.write(slots[delta["pair_slot"]], bucket_of(pairs["hash"]), pairs)

    def dump(self, slots: Array, pools: Array) -> Delta:
        self._reserve(slots)
        kept = self._kept.read(slots)
        slot, held = np.nonzero(kept["hash"] != EMPTY)
        columns = {f"slot_{name}": self._slots[name][slots] for name in ("exposure", "tag")}
        return columns | _events(slot, kept[slot, held])

    def load(self, slots: Array, pools: Array, state: Delta) -> None:
        self.apply(slots, pools, state)

    def evict(self, slots: Array, pools: Array) -> None:
        self._slots.reset(slots)
        self._kept.evict(slots)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        if slots is None:
            return self._slots.nbytes + self._kept.nbytes
        return 16 * len(slots) + self._kept.nbytes_of(slots)

    def merge(self, states: list[Delta]) -> Delta:
        """Returns the merged sample, identical to sampling the combined stream, and its exposure."""
        tag = one_tag(states)
        slot = np.concatenate([state["pair_slot"] for state in states]).astype(np.int64)
        pairs = np.concatenate([_pairs(state) for state in states])
        chosen = smallest_of(pairs["hash"], slot)
        slot, pairs = slot[chosen], pairs[chosen]
        exposure = np.full(len(tag), np.nan)
        for at in np.unique(slot).tolist():
            meter = self._by_tag.get(tag[at])
            exposure[at] = np.nan if meter is None else meter.exposure(pairs[slot == at])
        return {"slot_exposure": exposure, "slot_tag": tag, **_events(slot, pairs)}

    def _begin(self, slots: Array, tag: np.uint64) -> None:
        """Gives those of ``slots`` whose pairs are of another validation set an empty state."""
        self._reserve(slots)
        stale = slots[self._slots["tag"][slots] != tag]
        if len(stale):
            self.evict(stale, stale)
            self._slots["tag"][stale] = tag

    def _exposures(self, rows: Rows, meter: _Meter, pairs: Pairs, at: Array) -> NDArray[np.float64]:
        """Returns float64 (n,): the exposure as of each row; rows ``at`` may be kept."""
        exposure: NDArray[np.float64] = self._slots["exposure"][rows.slots[rows.slot]]
        for row in np.flatnonzero(is_due(rows.index + 1)).tolist():
            slot = int(rows.slot[row])
            own = np.flatnonzero(rows.slot == slot)
            held = self._kept.read(rows.slots[slot : slot + 1]).ravel()
            seen = pairs[at[(rows.slot[at] == slot) & (at <= row)]]
            joined = np.concatenate((held[held["hash"] != EMPTY], seen))
            chosen = smallest_of(joined["hash"], np.zeros(len(joined), np.int64))
            exposure[own[own >= row]] = meter.exposure(joined[chosen])
        return exposure

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)


class _Meter:
    """One model version's validation set."""

    def __init__(self, validation: Validation) -> None:
        self.tag = validation.tag
        self.dimension = validation.features.shape[1]
        self._levels = validation.levels
        rows = validation.features[:, self._levels.columns]
        self._probe = TreeProbe(self._levels.sketch(rows), validation.labels)

    @property
    def asks(self) -> bool:
        return self._probe.is_informative

    def pairs(self, rows: Rows) -> Pairs:
        """Returns (n,): each query with the model's class."""
        pairs = np.empty(len(rows), PAIR)
        sketches: Sketches = self._levels.sketch(raw_features(rows, self._levels.columns))
        pairs["sketch"], pairs["label"] = sketches, rows.pool_label[rows.pool]
        pairs["hash"] = hash_pairs(sketches, pairs["label"], self.tag)
        return pairs

    def exposure(self, pairs: Pairs) -> float:
        return self._probe.exposure(pairs["sketch"], pairs["label"])


def _events(slot: Array, pairs: Pairs) -> dict[str, Array]:
    named = {f"pair_{name}": np.ascontiguousarray(pairs[name]) for name in ("hash", "label", "sketch")}
    return {"pair_slot": slot.astype(np.int32), **named}


def _pairs(delta: Delta) -> Pairs:
    pairs = np.empty(len(delta["pair_slot"]), PAIR)
    for name in ("hash", "label", "sketch"):
        pairs[name] = delta[f"pair_{name}"]
    return pairs
