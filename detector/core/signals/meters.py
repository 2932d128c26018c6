"""``coverage``: the share of the owner's model that the principal's queries have reached, in percent (Kesarwani et al.
2018, strategy 2, with bitmaps of visited leaves; ``core.exposure`` has the formula).

Cells are the leaves of the owner's tree, or for other models those of a coarse quantiser, weighted by their share of
the validation set. The cell is computed from the features, so that a log cannot forge it. It is a meter: its score is
NaN and it raises no alarm. Without a validation set in the profile it has no result.

``information_gain``: how much a tree learned from the principal's answers knows of the owner's model, in percent
(Kesarwani et al. 2018, strategy 1; ``core.exposure`` has the formula).

At most 512 of a principal's queries are kept, as sixteen small numbers each, and the tree is learned from them at
queries 20, 160, 1,280 and so on; in between the exposure stays. It is a meter: its score is NaN and it raises no alarm.
Without a validation set in the profile, or if the model gives all its rows one class, it has no result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError, NotMergeable
from detector.core.configuration import EngineConfig
from detector.core.exposure import (
    BITMAP_BYTES,
    BITMAP_CELLS,
    BUCKETS,
    EMPTY,
    NOTHING,
    PAIR,
    Sketches,
    TreeProbe,
    Validation,
    bucket_of,
    first_visits,
    hash_pairs,
    is_due,
    smallest_of,
    visit,
    visited,
)
from detector.core.loops.compiled import compiled
from detector.core.neighbours.history import Views
from detector.core.owner_model.models import Tree
from detector.core.profile.profile import Profile
from detector.core.signals.base import Delta, Proposal
from detector.core.state.arrays import Array, pack
from detector.core.state.columns import ColumnTable, Rings
from detector.core.state.rows import StepRows


def metered(statistic: NDArray[np.float64], delta: Delta) -> Proposal:
    """Returns a proposal with an exposure, ``statistic`` float64 (n,) in percent, that raises no alarm."""
    count = len(statistic)
    return Proposal(statistic, np.full(count, np.nan), np.zeros(count, np.bool_), np.nan, {}, delta)


def silent(count: int) -> Proposal:
    """Returns an empty proposal for ``count`` rows."""
    return metered(np.full(count, np.nan), {})


def one_tag(states: Sequence[Delta]) -> Array:
    """Returns uint64 (slots,): the validation set of all members' ``slot_tag``, 0 if they have none. Raises
    NotMergeable if there are several."""
    tags = np.stack([state["slot_tag"] for state in states])
    tag: Array = tags.max(axis=0)
    if ((tags != tag) & (tags != 0)).any():
        raise NotMergeable("these exposures were measured by different validation sets; clear these principals")
    return tag


NOWHERE = -1
"""The cell of a query that reaches no cell with validation rows."""


class Coverage:
    """State per slot: the bitmap of visited cells, the number of validation rows in them, and the tag of their
    validation set."""

    name: ClassVar[str] = "coverage"
    version: ClassVar[int] = 1
    mergeable: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: EngineConfig) -> None:
        self._meters = {
            (own.model, own.model_version): _cells_of(own, own.validation)
            for own in config.judging
            if own.validation is not None
        }
        self._by_tag = {meter.tag: meter for meter in self._meters.values()}
        self._slots = ColumnTable(
            {"bits": (np.uint8, 0, BITMAP_BYTES), "covered": (np.int64, 0), "tag": (np.uint64, 0)}
        )

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        meter = self._meters.get((rows.model, rows.model_version))
        if meter is None or meter.dimension != rows.features.shape[1]:
            return silent(len(rows))
        self._begin(rows.slots, meter.tag)
        cell, slot = meter.cell(rows), rows.slots[rows.slot]
        first, covered = np.empty(len(rows), np.bool_), np.empty(len(rows), np.int64)
        first_visits(self._slots["bits"], slot, cell, first)
        _add_up(slot, np.where(first, meter.rows[cell], 0), self._slots["covered"], covered)
        key = np.sort(rows.slot[first] * BITMAP_CELLS + cell[first])
        delta = self._of_slots(rows.slots) | _visits(key // BITMAP_CELLS, key % BITMAP_CELLS)
        return metered(100.0 * covered / meter.total, delta)

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        if not delta:
            return
        self._reserve(slots)
        self._slots["bits"][slots[self._slots["tag"][slots] != delta["slot_tag"]]] = 0
        for name in ("covered", "tag"):
            self._slots[name][slots] = delta[f"slot_{name}"]
        visit(self._slots["bits"], slots[delta["visit_slot"]], delta["visit_cell"].astype(np.int64))

    def dump(self, slots: Array, pools: Array) -> Delta:
        self._reserve(slots)
        return self._of_slots(slots) | _visits(*visited(self._slots["bits"][slots]))

    def load(self, slots: Array, pools: Array, state: Delta) -> None:
        self.apply(slots, pools, state)

    def evict(self, slots: Array, pools: Array) -> None:
        self._slots.reset(slots)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        return self._slots.nbytes if slots is None else (BITMAP_BYTES + 16) * len(slots)

    def merge(self, states: list[Delta]) -> Delta:
        """Returns the OR of the members' bitmaps."""
        tag = one_tag(states)
        bits = np.zeros((len(tag), BITMAP_BYTES), np.uint8)
        for state in states:
            visit(bits, state["visit_slot"], state["visit_cell"].astype(np.int64))
        slot, cell = visited(bits)
        covered = np.zeros(len(tag), np.int64)
        for at, meter in enumerate(map(self._by_tag.get, tag.tolist())):
            if meter is not None:
                covered[at] = meter.rows[cell[slot == at]].sum()
        return {"slot_covered": covered, "slot_tag": tag, **_visits(slot, cell)}

    def _begin(self, slots: Array, tag: np.uint64) -> None:
        """Gives those of ``slots`` whose visits are of another validation set an empty state."""
        self._reserve(slots)
        stale = slots[self._slots["tag"][slots] != tag]
        if len(stale):
            self._slots.reset(stale)
            self._slots["tag"][stale] = tag

    def _of_slots(self, slots: Array) -> dict[str, Array]:
        return {f"slot_{name}": self._slots[name][slots] for name in ("covered", "tag")}

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)


class _Leaves:
    """The leaves of the owner's tree that hold validation rows: ``rows`` int64 (c,) in each, ``total`` in all."""

    def __init__(self, tree: Tree, validation: Validation) -> None:
        self.dimension = validation.features.shape[1]
        record = hashlib.blake2b(pack(tree), digest_size=8).digest()
        self.tag = np.uint64(int.from_bytes(record, "little")) ^ validation.tag
        if len(tree.features) != self.dimension:
            raise ConfigurationError(
                f"the owner's tree has {len(tree.features)} features and the validation set {self.dimension}; "
                "calibrate with those of one model version"
            )
        self._tree = tree
        counts = np.bincount(tree.leaf(validation.features), minlength=tree.leaves)
        self._cell = np.where(counts > 0, np.cumsum(counts > 0) - 1, NOWHERE)
        self.rows: Array = counts[counts > 0]
        self.total = len(validation.features)

    def cell(self, rows: StepRows) -> Array:
        """Returns int64 (n,). A query that leaves out a feature on its path reaches no leaf."""
        features, absent = rows.raw_features(), rows.missing
        if absent is None:
            return np.asarray(self._cell[self._tree.leaf(features)])
        ends = [self._tree.leaf(np.where(absent, np.float32(value), features)) for value in (-np.inf, np.inf)]
        return np.where(ends[0] == ends[1], self._cell[ends[0]], NOWHERE)


class _Quantised:
    """The cells of a model without leaves; see ``_Leaves``."""

    def __init__(self, validation: Validation) -> None:
        self.dimension = validation.features.shape[1]
        self.tag = validation.tag
        self._levels, self._cells = validation.levels, validation.cells
        self.rows, self.total = self._cells.rows, len(validation.features)

    def cell(self, rows: StepRows) -> Array:
        return self._cells.cell(self._levels.sketch(rows.raw_features(self._levels.columns)))


def _cells_of(profile: Profile, validation: Validation) -> _Leaves | _Quantised:
    model = profile.owner_model
    return _Leaves(model, validation) if isinstance(model, Tree) else _Quantised(validation)


def _visits(slot: Array, cell: Array) -> dict[str, Array]:
    return {"visit_slot": slot.astype(np.int32), "visit_cell": cell.astype(np.int32)}


@compiled
def _add_up(slot: Array, gain: Array, totals: Array, after: Array) -> None:
    """Row after row, adds ``gain`` int64 (n,) to the slot's entry of ``totals`` (slots,); ``after`` (n,) receives
    it."""
    for row in range(len(slot)):
        totals[slot[row]] += gain[row]
        after[row] = totals[slot[row]]


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
        meters = {key: _ValidationMeter(validation) for key, validation in own.items() if validation is not None}
        self._meters = {key: meter for key, meter in meters.items() if meter.asks}
        self._by_tag = {meter.tag: meter for meter in self._meters.values()}
        self._slots = ColumnTable({"exposure": (np.float64, np.nan), "tag": (np.uint64, 0)})
        self._kept = Rings(BUCKETS, PAIR, NOTHING)

    def observe(self, rows: StepRows, views: Views) -> Proposal:
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
        delta = {"slot_exposure": last, "slot_tag": tag, **_pair_rows(rows.slot[chosen], pairs[chosen])}
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
        return columns | _pair_rows(slot, kept[slot, held])

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
        return {"slot_exposure": exposure, "slot_tag": tag, **_pair_rows(slot, pairs)}

    def _begin(self, slots: Array, tag: np.uint64) -> None:
        """Gives those of ``slots`` whose pairs are of another validation set an empty state."""
        self._reserve(slots)
        stale = slots[self._slots["tag"][slots] != tag]
        if len(stale):
            self.evict(stale, stale)
            self._slots["tag"][stale] = tag

    def _exposures(self, rows: StepRows, meter: _ValidationMeter, pairs: Pairs, at: Array) -> NDArray[np.float64]:
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


class _ValidationMeter:
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

    def pairs(self, rows: StepRows) -> Pairs:
        """Returns (n,): each query with the model's class."""
        pairs = np.empty(len(rows), PAIR)
        sketches: Sketches = self._levels.sketch(rows.raw_features(self._levels.columns))
        pairs["sketch"], pairs["label"] = sketches, rows.pool_label[rows.pool]
        pairs["hash"] = hash_pairs(sketches, pairs["label"], self.tag)
        return pairs

    def exposure(self, pairs: Pairs) -> float:
        return self._probe.exposure(pairs["sketch"], pairs["label"])


def _pair_rows(slot: Array, pairs: Pairs) -> dict[str, Array]:
    named = {f"pair_{name}": np.ascontiguousarray(pairs[name]) for name in ("hash", "label", "sketch")}
    return {"pair_slot": slot.astype(np.int32), **named}


def _pairs(delta: Delta) -> Pairs:
    pairs = np.empty(len(delta["pair_slot"]), PAIR)
    for name in ("hash", "label", "sketch"):
        pairs[name] = delta[f"pair_{name}"]
    return pairs
