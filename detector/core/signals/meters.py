"""The meters of exposure, which estimate how much of the owner's model a principal has learned (Kesarwani et al. 2018).
Their scores are NaN and they raise no alarm. Without a validation set in the profile they have no result.

``coverage`` (strategy 2, with bitmaps of visited leaves; ``core.exposure`` has the formula) is the share of the model
that the principal's queries have reached, in percent. Cells are the leaves of the owner's tree, or for other models
those of a coarse quantiser, weighted by their share of the validation set. The cell is computed from the features, so
that a log cannot forge it.

``information_gain`` (strategy 1) is how much a tree learned from the principal's answers knows of the owner's model, in
percent. At most 512 of a principal's queries are kept, as sixteen small numbers each, and the tree is learned from them
at queries 20, 160, 1,280 and so on; in between the exposure stays. If the model gives all validation rows one class,
there is no result.

``effective_queries`` is the number of queries that were new to the principal: the sum of their prices, 1 for one that
is as far from all own earlier ones as validation rows are from one another, and next to nothing for a near repeat.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.core.configuration import EngineConfig
from detector.core.exposure import (
    BITMAP_BYTES,
    BITMAP_CELLS,
    BUCKETS,
    EFFECTIVE_QUERIES,
    EMPTY,
    NOTHING,
    PAIR,
    PRICE,
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
from detector.core.profile import Profile
from detector.core.signals.base import Events, Proposal, SlotState
from detector.core.state.arrays import Array, pack
from detector.core.state.columns import Rings
from detector.core.state.rows import StepRows

NOWHERE = -1
"""The cell of a query that reaches no cell with validation rows."""

Floats = NDArray[np.float64]
Pairs = NDArray[Any]
"""Of dtype ``PAIR``."""


class Coverage(SlotState):
    """State per slot: the bitmap of visited cells, the number of validation rows in them, and the tag of their
    validation set."""

    name: ClassVar[str] = "coverage"
    version: ClassVar[int] = 1

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {"covered": (np.int64, 0), "tag": (np.uint64, 0)}, unlogged={"bits": (np.uint8, 0, BITMAP_BYTES)}, tag="tag"
        )
        self._cells = {
            (profile.model, profile.model_version): _cells_of(profile, profile.validation)
            for profile in config.judging
            if profile.validation is not None
        }

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        cells = self._cells.get((rows.model, rows.model_version))
        if cells is None or cells.dimension != rows.features.shape[1]:
            return Proposal.empty(len(rows))
        self._begin(rows.slots, cells.tag)
        cell, slot = cells.cell(rows), rows.slots[rows.slot]
        first, covered = np.empty(len(rows), np.bool_), np.empty(len(rows), np.int64)
        first_visits(self._columns["bits"], slot, cell, first)
        _add_up(slot, np.where(first, cells.rows[cell], 0), self._columns["covered"], covered)
        visits = np.sort(rows.slot[first] * BITMAP_CELLS + cell[first])
        delta = self._delta(rows.slots, _visits(visits // BITMAP_CELLS, visits % BITMAP_CELLS))
        return Proposal.meter(100.0 * covered / cells.total, delta)

    def _events_of(self, slots: Array) -> Events:
        return _visits(*visited(self._columns["bits"][slots]))

    def _apply_events(self, slots: Array, events: Events) -> None:
        visits = events["visit"]
        visit(self._columns["bits"], slots[visits["slot"]], visits["cell"].astype(np.int64))


def _visits(slot: Array, cell: Array) -> Events:
    return {"visit": {"slot": slot.astype(np.int32), "cell": cell.astype(np.int32)}}


class _TreeCells:
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


class _QuantisedCells:
    """The cells of a model without leaves; see ``_TreeCells``."""

    def __init__(self, validation: Validation) -> None:
        self.dimension = validation.features.shape[1]
        self.tag = validation.tag
        self._levels, self._cells = validation.levels, validation.cells
        self.rows, self.total = self._cells.rows, len(validation.features)

    def cell(self, rows: StepRows) -> Array:
        return self._cells.cell(self._levels.sketch(rows.raw_features(self._levels.columns)))


def _cells_of(profile: Profile, validation: Validation) -> _TreeCells | _QuantisedCells:
    model = profile.owner_model
    return _TreeCells(model, validation) if isinstance(model, Tree) else _QuantisedCells(validation)


@compiled
def _add_up(slot: Array, gain: NDArray[Any], totals: NDArray[Any], after: NDArray[Any]) -> None:
    """Row after row, adds ``gain`` (n,) to the entry of ``totals`` (slots,) of ``slot`` int64 (n,), and copies it to
    ``after`` (n,); these three are all int64 or all float64."""
    for row in range(len(slot)):
        totals[slot[row]] += gain[row]
        after[row] = totals[slot[row]]


class InformationGain(SlotState):
    """State per slot: a sample of the queries with their answers, the last exposure, and the tag of the validation
    set."""

    name: ClassVar[str] = "information_gain"
    version: ClassVar[int] = 1

    def __init__(self, config: EngineConfig) -> None:
        self._sample = Rings(BUCKETS, PAIR, NOTHING)
        super().__init__({"exposure": (np.float64, np.nan), "tag": (np.uint64, 0)}, rings=[self._sample], tag="tag")
        validations = {(profile.model, profile.model_version): profile.validation for profile in config.judging}
        probes = {key: _AnswerProbe(validation) for key, validation in validations.items() if validation is not None}
        self._probes = {key: probe for key, probe in probes.items() if probe.is_informative}

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        probe = self._probes.get((rows.model, rows.model_version))
        if probe is None or probe.dimension != rows.features.shape[1]:
            return Proposal.empty(len(rows))
        self._begin(rows.slots, probe.tag)
        pairs = probe.pairs(rows)
        cells = self._sample.find(rows.slots[rows.slot], bucket_of(pairs["hash"]))
        at = np.flatnonzero(pairs["hash"] < self._sample.values["hash"][cells])
        exposure = self._exposures(rows, probe, pairs, at)
        chosen = at[smallest_of(pairs["hash"][at], rows.slot[at])] if len(at) else at
        self._columns["exposure"][rows.slots[rows.slot]] = exposure
        events = _sampled(rows.slot[chosen], pairs[chosen])
        self._apply_events(rows.slots, events)
        return Proposal.meter(exposure, self._delta(rows.slots, events))

    def _events_of(self, slots: Array) -> Events:
        pairs = self._sample.read(slots)
        slot, bucket = np.nonzero(pairs["hash"] != EMPTY)
        return _sampled(slot, pairs[slot, bucket])

    def _apply_events(self, slots: Array, events: Events) -> None:
        sampled = events["pair"]
        pairs = np.empty(len(sampled["slot"]), PAIR)
        for name in ("hash", "label", "sketch"):
            pairs[name] = sampled[name]
        self._sample.write(slots[sampled["slot"]], bucket_of(pairs["hash"]), pairs)

    def _exposures(self, rows: StepRows, probe: _AnswerProbe, pairs: Pairs, at: Array) -> Floats:
        """Returns float64 (n,): the exposure as of each row; rows ``at`` may join the sample."""
        exposure: Floats = self._columns["exposure"][rows.slots[rows.slot]]
        for row in np.flatnonzero(is_due(rows.index + 1)).tolist():
            slot = int(rows.slot[row])
            rows_of_slot = np.flatnonzero(rows.slot == slot)
            sample = self._sample.read(rows.slots[slot : slot + 1]).ravel()
            fresh = pairs[at[(rows.slot[at] == slot) & (at <= row)]]
            joined = np.concatenate((sample[sample["hash"] != EMPTY], fresh))
            chosen = smallest_of(joined["hash"], np.zeros(len(joined), np.int64))
            exposure[rows_of_slot[rows_of_slot >= row]] = probe.exposure(joined[chosen])
        return exposure


def _sampled(slot: Array, pairs: Pairs) -> Events:
    columns = {name: np.ascontiguousarray(pairs[name]) for name in ("hash", "label", "sketch")}
    return {"pair": {"slot": slot.astype(np.int32), **columns}}


class _AnswerProbe:
    """One model version's validation set."""

    def __init__(self, validation: Validation) -> None:
        self.tag = validation.tag
        self.dimension = validation.features.shape[1]
        self._levels = validation.levels
        rows = validation.features[:, self._levels.columns]
        self._probe = TreeProbe(self._levels.sketch(rows), validation.labels)
        self.is_informative = self._probe.is_informative

    def pairs(self, rows: StepRows) -> Pairs:
        """Returns (n,): each query with the model's class."""
        pairs = np.empty(len(rows), PAIR)
        sketches = self._levels.sketch(rows.raw_features(self._levels.columns))
        pairs["sketch"], pairs["label"] = sketches, rows.pool_label[rows.pool]
        pairs["hash"] = hash_pairs(sketches, pairs["label"], self.tag)
        return pairs

    def exposure(self, pairs: Pairs) -> float:
        return self._probe.exposure(pairs["sketch"], pairs["label"])


class EffectiveQueries(SlotState):
    """State per slot: the sum of the prices of the queries so far."""

    name: ClassVar[str] = EFFECTIVE_QUERIES
    version: ClassVar[int] = 1
    figures = (PRICE,)

    def __init__(self, config: EngineConfig) -> None:
        super().__init__({"learned": (np.float64, 0.0)})
        self._spacing = {
            (profile.model, profile.model_version): profile.validation.spacing(profile.reference.scale)
            for profile in config.judging
            if profile.validation is not None and profile.validation.features.shape[1] == profile.reference.dimension
        }

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        spacing = self._spacing.get((rows.model, rows.model_version))
        if spacing is None or not views.has_reference:
            return Proposal.empty(len(rows))
        self._begin(rows.slots)
        price = np.where(views.repeats, 0.0, np.minimum(views.nearest_own.distance / spacing, 1.0) ** 2)
        learned = np.empty(len(rows))
        _add_up(rows.slots[rows.slot], price, self._columns["learned"], learned)
        return replace(Proposal.meter(learned, self._delta(rows.slots, {})), figures={PRICE: price})
