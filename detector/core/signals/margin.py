"""``margin``: queries close to where the owner's model changes its answer (Forgotten Siblings: Quiring, Arp and Rieck,
EuroS&P 2018). A thief who maps the boundary has to query there, honest accounts seldom do; ``core.owner_model.margins``
defines close.

Three figures, each 1 in the score where it would block: ``all_leaves``, the published mean over all leaves of a tree of
the share of queries in the leaf's margin, leaves with five queries or fewer counting as 0; ``pooled``, the share over
all queries, from the 30th on; and ``cusum``, Wald's sequential test of a share three times the honest one against the
honest one, held at 0 from below (Page's test), so that a long honest past hides nothing. Exact repeats do not count.

Counts and sums are integers: shares of leaves in units of 2^-30, likelihoods in 2^-20, so that they are the same
however the stream is cut. Without margins in the profile, the signal has no result; it never raises an alarm itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.configuration import EngineConfig
from detector.core.loops.compiled import compiled
from detector.core.neighbours.history import Views
from detector.core.owner_model.margins import MarginResult, Margins
from detector.core.profile import Profile
from detector.core.signals.base import Delta, Events, Proposal, SlotState
from detector.core.state.arrays import Array
from detector.core.state.columns import PAGE, Rings
from detector.core.state.rows import StepRows

BLOCKED_AT = 0.3
LEAST_IN_LEAF = 5
"""A leaf counts once it has more queries than this."""
LEAST_POOLED = 30
MOST_LEAVES = 4096
"""For larger trees only the pooled share and the sequential test are kept."""

_FACTOR = 3.0
_FALSE, _MISSED = 1e-4, 0.01
_SHARE = 1 << 30
_NAT = 1 << 20
_BOUND = round(_NAT * math.log((1 - _MISSED) / _FALSE))

_FIGURES = ("all_leaves", "pooled", "cusum", "score")

_NONE = np.empty(0, np.int64)

Floats = NDArray[np.float64]


class _SlotCounts(NamedTuple):
    """int64 (slots,) each: queries counted, those in a margin, the sum of leaf shares, and the sequential test."""

    queries: Array
    inside: Array
    shares: Array
    cusum: Array


class _LeafCounts(NamedTuple):
    """int32 (cells,) each: queries counted in a leaf, and those in its margin."""

    queries: Array
    inside: Array


_LEAF = np.dtype([(name, np.int32) for name in _LeafCounts._fields])


class Margin(SlotState):
    """State per slot: the tag of its profile, queries counted and those in a margin, the sum of leaf shares, the
    sequential test; and per reached leaf, queries counted and those in the margin."""

    name: ClassVar[str] = "margin"
    version: ClassVar[int] = 1
    figures = _FIGURES[:-1]

    def __init__(self, config: EngineConfig) -> None:
        self._judged = {
            (profile.model, profile.model_version): _MarginProfile(profile, profile.margins)
            for profile in config.judging
            if profile.margins is not None
        }
        widest = max([judged.rule.leaves for judged in self._judged.values()] + [1])
        self._leaves = Rings(-(-widest // PAGE) * PAGE, _LEAF, 0)
        columns = {"profile": (np.uint64, 0)} | dict.fromkeys(_SlotCounts._fields, (np.int64, 0))
        super().__init__(columns, rings=[self._leaves], tag="profile")

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        judged = self._judged.get((rows.model, rows.model_version))
        if judged is None:
            return _proposal(np.full((len(_FIGURES), len(rows)), np.nan), Delta())
        self._begin(rows.slots, judged.tag)
        close, slot = judged.close(rows), rows.slots[rows.slot]
        counted = close.known & ~views.repeats
        at = np.flatnonzero(counted) if judged.rule.leaves else _NONE
        cell = np.zeros(len(rows), np.int64)
        if len(at):
            cell[at] = self._leaves.places(slot[at], close.leaf[at])
        counts = _SlotCounts(*(self._columns[name] for name in _SlotCounts._fields))
        leaves = _LeafCounts(*(self._leaves.values[name] for name in _LeafCounts._fields))
        figures = np.empty((len(_FIGURES), len(rows)))
        _count(_CountedQueries(slot, counted, close.inside, cell), counts, leaves, judged.rule, figures)
        leaf = rows.slot[at] * self._leaves.width + close.leaf[at]
        cells, first = np.unique(leaf, return_index=True)
        ratios = self._leaves.values[cell[at[first]]]
        return _proposal(figures, self._delta(rows.slots, _leaf_events(*divmod(cells, self._leaves.width), ratios)))

    def _events_of(self, slots: Array) -> Events:
        counts = self._leaves.read(slots)
        slot, leaf = np.nonzero(counts["queries"])
        return _leaf_events(slot, leaf, counts[slot, leaf])

    def _apply_events(self, slots: Array, events: Events) -> None:
        leaves = events["leaf"]
        counts = np.empty(len(leaves["slot"]), _LEAF)
        for name in _LeafCounts._fields:
            counts[name] = leaves[name]
        self._leaves.write(slots[leaves["slot"]], leaves["number"], counts)


def _leaf_events(slot: Array, number: Array, counts: Array) -> Events:
    """Returns the ``counts`` of dtype ``_LEAF`` that leaves have now."""
    columns = {name: np.ascontiguousarray(counts[name]) for name in _LeafCounts._fields}
    return {"leaf": {"slot": slot.astype(np.int32), "number": number.astype(np.int32), **columns}}


def _proposal(figures: Floats, delta: Delta) -> Proposal:
    score, no_alarm = figures[-1], np.zeros(figures.shape[1], np.bool_)
    values = dict(zip(_FIGURES[:-1], figures, strict=False))
    return Proposal(score, score, no_alarm, 1.0, {}, delta, figures=values)


class _MarginProfile:
    """One profile's margins."""

    def __init__(self, profile: Profile, margins: Margins) -> None:
        self.tag = np.uint64(int(profile.hash, 16))
        up, down = math.log(_FACTOR), math.log((1 - _FACTOR * margins.rate) / (1 - margins.rate))
        leaves = margins.leaves if margins.leaves <= MOST_LEAVES else 0
        self.rule = _CountingRule(round(_NAT * up), round(_NAT * down), leaves)
        self._model, self._margins = profile.owner_model, margins

    def close(self, rows: StepRows) -> MarginResult:
        """Returns which rows are in a margin; unknown where the model needs features that were left out."""
        if self._model is not None:
            close, absent = self._margins.close(self._model, rows.raw_features(), None), rows.missing
            return close if absent is None else replace(close, known=close.known & ~absent.any(axis=1))
        return self._margins.close(None, rows.features, rows.top_two)


class _CountingRule(NamedTuple):
    """``up`` and ``down``: what a query inside or outside the margins adds to the sequential test. ``leaves``: the
    number of leaves that are counted, 0 for none."""

    up: int
    down: int
    leaves: int


class _CountedQueries(NamedTuple):
    """For each of n queries: its ``slot`` int64 (n,), whether it is ``counted`` and ``inside`` a margin, bool (n,), and
    the ``cell`` of its leaf's counts int64 (n,)."""

    slot: Array
    counted: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    cell: Array


@compiled
def _count(
    queries: _CountedQueries, counters: _SlotCounts, leaves: _LeafCounts, rule: _CountingRule, figures: Floats
) -> None:
    """Row after row, counts the query, and sets ``figures`` (figures, n) as of it."""
    for row in range(len(queries.slot)):
        slot, inside = queries.slot[row], queries.inside[row]
        if queries.counted[row]:
            counters.queries[slot] += 1
            counters.inside[slot] += inside
            counters.cusum[slot] = max(counters.cusum[slot] + (rule.up if inside else rule.down), 0)
            if rule.leaves > 0:
                counters.shares[slot] += _gain(leaves, queries.cell[row], inside)
        _write_figures(counters, slot, rule.leaves, figures[:, row])


@compiled
def _gain(leaves: _LeafCounts, place: int, inside: bool) -> int:
    """Counts a query in its leaf, and returns what that adds to the sum of shares."""
    before = _share(int(leaves.queries[place]), int(leaves.inside[place]))
    leaves.queries[place] += 1
    leaves.inside[place] += inside
    return _share(int(leaves.queries[place]), int(leaves.inside[place])) - before


@compiled
def _share(queries: int, inside: int) -> int:
    """Returns the share of a leaf's queries that are inside, 0 until it has enough."""
    return inside * _SHARE // queries if queries > LEAST_IN_LEAF else 0


@compiled
def _write_figures(counters: _SlotCounts, slot: int, leaves: int, figures: Floats) -> None:
    """Sets ``figures`` (figures,) from the counters; NaN before any query counted."""
    queries = counters.queries[slot]
    if queries == 0:
        figures[:] = math.nan
        return
    share, cusum = counters.inside[slot] / queries, counters.cusum[slot]
    highest = share if queries >= LEAST_POOLED else 0.0
    figures[0] = math.nan
    if leaves > 0:
        figures[0] = counters.shares[slot] / _SHARE / leaves
        highest = max(highest, figures[0])
    figures[1], figures[2] = share, cusum / _NAT
    figures[3] = max(highest / BLOCKED_AT, cusum / _BOUND)
