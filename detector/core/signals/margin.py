"""``margin``: queries close to where the owner's model changes its answer (Forgotten Siblings: Quiring, Arp and Rieck,
EuroS&P 2018). A thief who maps the boundary has to query there, honest accounts seldom do; ``core.owner_model.margins``
defines close.

Three figures, each 1 in the score where it would block: ``all_leaves``, the published mean over all leaves of a tree of
the share of queries in the leaf's margin, leaves with five queries or fewer counting as 0; ``pooled``, the share over
all queries, from the 30th on; and ``cusum``, Wald's sequential test of a share three times the honest one against the
honest one, held at 0 from below (Page's test), so that a long honest past hides nothing. Exact repeats do not count.

Counts and sums are integers: shares of leaves in units of 2^-30, likelihoods in 2^-20, so that they are the same
however the stream is cut. Without margins in the profile, the signal has no result, and it raises no alarm of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import NotMergeable
from detector.core.configuration import EngineConfig
from detector.core.loops.compiled import compiled
from detector.core.neighbours.history import Views
from detector.core.owner_model.margins import MarginResult, Margins
from detector.core.profile.profile import Profile
from detector.core.signals.base import Delta, Proposal
from detector.core.state.arrays import Array
from detector.core.state.columns import PAGE, ColumnTable, Rings
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


class _Counters(NamedTuple):
    """int64 (slots,) each: queries counted, those in a margin, the sum of leaf shares, and the sequential test."""

    queries: Array
    inside: Array
    shares: Array
    cusum: Array


class _Leaves(NamedTuple):
    """int32 (places,) each: queries counted in a leaf, and those in its margin."""

    queries: Array
    inside: Array


_COLUMNS = ("profile", *_Counters._fields)
_LEAF = np.dtype([(name, np.int32) for name in _Leaves._fields])


class Margin:
    """State per slot: the tag of its profile, queries counted and those in a margin, the sum of leaf shares, the
    sequential test; and per reached leaf, queries counted and those in the margin."""

    name: ClassVar[str] = "margin"
    version: ClassVar[int] = 1
    mergeable: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = _FIGURES[:-1]

    def __init__(self, config: EngineConfig) -> None:
        profiles = [own for own in config.judging if own.margins is not None]
        self._judges = {(own.model, own.model_version): _Judge(own, own.margins) for own in profiles if own.margins}
        widest = max([judge.rule.leaves for judge in self._judges.values()] + [1])
        width = -(-widest // PAGE) * PAGE
        self._slots = ColumnTable({"profile": (np.uint64, 0)} | dict.fromkeys(_Counters._fields, (np.int64, 0)))
        self._leaves = Rings(width, _LEAF, 0)

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        judge = self._judges.get((rows.model, rows.model_version))
        if judge is None:
            return _proposal({name: np.full(len(rows), np.nan) for name in _FIGURES}, {})
        self._begin(rows.slots, judge.tag)
        close, slot = judge.close(rows), rows.slots[rows.slot]
        counted = close.known & ~views.repeats
        at = np.flatnonzero(counted) if judge.rule.leaves else _NONE
        place = np.zeros(len(rows), np.int64)
        if len(at):
            place[at] = self._leaves.places(slot[at], close.leaf[at])
        counters = _Counters(*(self._slots[name] for name in _Counters._fields))
        figures = np.empty((len(_FIGURES), len(rows)))
        _count(_Asked(slot, counted, close.inside, place), counters, self._counts, judge.rule, figures)
        delta = self._of_slots(rows.slots) | self._reached(rows.slot[at], close.leaf[at], place[at])
        return _proposal(dict(zip(_FIGURES, figures, strict=True)), delta)

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        del pools
        if not delta:
            return
        self._reserve(slots)
        stale = slots[self._slots["profile"][slots] != delta["slot_profile"]]
        for name in _COLUMNS:
            self._slots[name][slots] = delta[f"slot_{name}"]
        self._leaves.evict(stale)
        counts = np.empty(len(delta["leaf_slot"]), _LEAF)
        for name in _Leaves._fields:
            counts[name] = delta[f"leaf_{name}"]
        self._leaves.write(slots[delta["leaf_slot"]], delta["leaf_number"], counts)

    def dump(self, slots: Array, pools: Array) -> Delta:
        del pools
        self._reserve(slots)
        counts = self._leaves.read(slots)
        slot, leaf = np.nonzero(counts["queries"])
        reached = _Leaves(*(counts[name][slot, leaf] for name in _Leaves._fields))
        return self._of_slots(slots) | _leaf_rows(slot, leaf, reached)

    def load(self, slots: Array, pools: Array, state: Delta) -> None:
        self.apply(slots, pools, state)

    def evict(self, slots: Array, pools: Array) -> None:
        del pools
        self._slots.reset(slots)
        self._leaves.evict(slots)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        del pools
        if slots is None:
            return self._slots.nbytes + self._leaves.nbytes
        return 8 * len(_COLUMNS) * len(slots) + self._leaves.nbytes_of(slots)

    def merge(self, states: list[Delta]) -> Delta:
        """Returns summed counts and shares. The sequential test adds up too, to at least its value over the members'
        queries in any order."""
        tags = {int(tag) for state in states for tag in state["slot_profile"]} - {0}
        if len(tags) > 1:
            raise NotMergeable("the members' queries were counted by different profiles; count them by one")
        joined = {name: np.concatenate([state[name] for state in states]) for name in states[0]}
        number, member = np.unique(joined["leaf_number"], return_inverse=True)
        counts = _Leaves(*(np.zeros(len(number), np.int32) for _ in _Leaves._fields))
        for name, column in counts._asdict().items():
            np.add.at(column, member, joined[f"leaf_{name}"])
        own = {f"slot_{name}": joined[f"slot_{name}"].sum(keepdims=True) for name in _Counters._fields}
        shares = map(_share, counts.queries.tolist(), counts.inside.tolist())
        own["slot_shares"] = np.array([sum(shares)])
        own["slot_profile"] = joined["slot_profile"].max(keepdims=True)
        return own | _leaf_rows(np.zeros_like(number), number, counts)

    def _begin(self, slots: Array, tag: np.uint64) -> None:
        """Gives those of ``slots`` whose state belongs to another profile that of a new account."""
        self._reserve(slots)
        stale = slots[self._slots["profile"][slots] != tag]
        if len(stale):
            self.evict(stale, stale)
            self._slots["profile"][stale] = tag

    def _of_slots(self, slots: Array) -> dict[str, Array]:
        return {f"slot_{name}": self._slots[name][slots] for name in _COLUMNS}

    @property
    def _counts(self) -> _Leaves:
        values = self._leaves.values
        return _Leaves(*(values[name] for name in _Leaves._fields))

    def _reached(self, slot: Array, leaf: Array, place: Array) -> dict[str, Array]:
        """Returns the counts of the leaves that rows reach, by slot."""
        first = np.unique(slot * self._leaves.width + leaf, return_index=True)[1]
        counts = _Leaves(*(column[place[first]] for column in self._counts))
        return _leaf_rows(slot[first], leaf[first], counts)

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)


class _Judge:
    """One profile's margins."""

    def __init__(self, profile: Profile, margins: Margins) -> None:
        self.tag = np.uint64(int(profile.hash, 16))
        up, down = math.log(_FACTOR), math.log((1 - _FACTOR * margins.rate) / (1 - margins.rate))
        leaves = margins.leaves if margins.leaves <= MOST_LEAVES else 0
        self.rule = _Rule(round(_NAT * up), round(_NAT * down), leaves)
        self._model, self._margins = profile.owner_model, margins

    def close(self, rows: StepRows) -> MarginResult:
        """Returns which rows are in a margin; unknown where the model needs features that were left out."""
        if self._model is not None:
            close, absent = self._margins.close(self._model, rows.raw_features(), None), rows.missing
            return close if absent is None else replace(close, known=close.known & ~absent.any(axis=1))
        return self._margins.close(None, rows.features, rows.top)


class _Rule(NamedTuple):
    """``up`` and ``down``: what a query inside or outside the margins adds to the sequential test. ``leaves``: the
    number of leaves that are counted, 0 for none."""

    up: int
    down: int
    leaves: int


class _Asked(NamedTuple):
    """For each of n queries: its ``slot`` int64 (n,), whether it is ``counted`` and ``inside`` a margin, bool (n,), and
    the ``place`` of its leaf's counts int64 (n,)."""

    slot: Array
    counted: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    place: Array


def _proposal(figures: dict[str, Floats], delta: Delta) -> Proposal:
    score = figures.pop("score")
    return Proposal(score, score, np.zeros(len(score), np.bool_), 1.0, {}, delta, figures=figures)


def _leaf_rows(slot: Array, number: Array, counts: _Leaves) -> dict[str, Array]:
    rows = {f"leaf_{name}": column for name, column in counts._asdict().items()}
    return {"leaf_slot": slot.astype(np.int32), "leaf_number": number.astype(np.int32), **rows}


@compiled
def _count(asked: _Asked, counters: _Counters, leaves: _Leaves, rule: _Rule, figures: Floats) -> None:
    """Row after row, counts the query, and sets ``figures`` (figures, n) as of it."""
    for row in range(len(asked.slot)):
        slot, inside = asked.slot[row], asked.inside[row]
        if asked.counted[row]:
            counters.queries[slot] += 1
            counters.inside[slot] += inside
            counters.cusum[slot] = max(counters.cusum[slot] + (rule.up if inside else rule.down), 0)
            if rule.leaves > 0:
                counters.shares[slot] += _gain(leaves, asked.place[row], inside)
        _show(counters, slot, rule.leaves, figures[:, row])


@compiled
def _gain(leaves: _Leaves, place: int, inside: bool) -> int:
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
def _show(counters: _Counters, slot: int, leaves: int, figures: Floats) -> None:
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
