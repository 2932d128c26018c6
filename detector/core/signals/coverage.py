"""``coverage``: the share of the owner's model that the principal's queries have reached, in percent (Kesarwani et al.
2018, strategy 2, with bitmaps of visited leaves; ``core.exposure.bitmaps`` has the formula).

Cells are the leaves of the owner's tree, or for other models those of a coarse quantiser, weighted by their share of
the validation set. The cell is computed from the features, so that a log cannot forge it. It is a meter: its score is
NaN and it raises no alarm. Without a validation set in the profile it has no result.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.core.configuration import EngineConfig
from detector.core.exposure import (
    BITMAP_BYTES,
    BITMAP_CELLS,
    Validation,
    first_visits,
    missing_mask,
    raw_features,
    visit,
    visited,
)
from detector.core.loops.compiled import compiled
from detector.core.neighbours.history import Views
from detector.core.owner_model.models import Tree
from detector.core.profile.profile import Profile
from detector.core.signals.base import Delta, Proposal
from detector.core.signals.meters import metered, one_tag, silent
from detector.core.state.arrays import Array, pack
from detector.core.state.columns import Columns
from detector.core.state.rows import Rows

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
            (own.model, own.model_version): _meter(own, own.validation)
            for own in config.judging
            if own.validation is not None
        }
        self._by_tag = {meter.tag: meter for meter in self._meters.values()}
        self._slots = Columns({"bits": (np.uint8, 0, BITMAP_BYTES), "covered": (np.int64, 0), "tag": (np.uint64, 0)})

    def observe(self, rows: Rows, views: Views) -> Proposal:
        meter = self._meters.get((rows.model, rows.model_version))
        if meter is None or meter.dimension != rows.features.shape[1]:
            return silent(len(rows))
        self._begin(rows.slots, meter.tag)
        cell, slot = meter.cell(rows), rows.slots[rows.slot]
        first, covered = np.empty(len(rows), np.bool_), np.empty(len(rows), np.int64)
        first_visits(self._slots["bits"], slot, cell, first)
        _add_up(slot, np.where(first, meter.rows[cell], 0), self._slots["covered"], covered)
        key = np.sort(rows.slot[first] * BITMAP_CELLS + cell[first])
        delta = self._of_slots(rows.slots) | _events(key // BITMAP_CELLS, key % BITMAP_CELLS)
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
        return self._of_slots(slots) | _events(*visited(self._slots["bits"][slots]))

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
        return {"slot_covered": covered, "slot_tag": tag, **_events(slot, cell)}

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
        record = hashlib.blake2b(pack(tree.to_record()), digest_size=8).digest()
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

    def cell(self, rows: Rows) -> Array:
        """Returns int64 (n,). A query that leaves out a feature on its path reaches no leaf."""
        features, absent = raw_features(rows), missing_mask(rows)
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

    def cell(self, rows: Rows) -> Array:
        return self._cells.cell(self._levels.sketch(raw_features(rows, self._levels.columns)))


def _meter(profile: Profile, validation: Validation) -> _Leaves | _Quantised:
    model = profile.owner_model
    return _Leaves(model, validation) if isinstance(model, Tree) else _Quantised(validation)


def _events(slot: Array, cell: Array) -> dict[str, Array]:
    return {"visit_slot": slot.astype(np.int32), "visit_cell": cell.astype(np.int32)}


@compiled
def _add_up(slot: Array, gain: Array, totals: Array, after: Array) -> None:
    """Row after row, adds ``gain`` int64 (n,) to the slot's entry of ``totals`` (slots,); ``after`` (n,) receives
    it."""
    for row in range(len(slot)):
        totals[slot[row]] += gain[row]
        after[row] = totals[slot[row]]
