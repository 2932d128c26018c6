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

from dataclasses import dataclass, replace
from math import log
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import NotMergeable
from detector.core.arrays import Array
from detector.core.columns import Columns
from detector.core.configuration import PAGE, EngineConfig
from detector.core.exposure.asked import missing, sent
from detector.core.owner_model.margins import Close, Margins
from detector.core.profile import Profile
from detector.core.rings import Rings
from detector.core.rows import Grouping, Rows
from detector.core.signal import Delta, Proposal
from detector.core.tested import last_of
from detector.core.views import Views

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
_BOUND = round(_NAT * log((1 - _MISSED) / _FALSE))

_COUNTERS = ("queries", "inside", "shares", "cusum")
_FIGURES = ("all_leaves", "pooled", "cusum", "score")

Floats = NDArray[np.float64]


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
        widest = max([judge.leaves for judge in self._judges.values()] + [1])
        width = -(-widest // PAGE) * PAGE
        self._slots = Columns({"profile": (np.uint64, 0)} | dict.fromkeys(_COUNTERS, (np.int64, 0)))
        self._leaves = {name: Rings(width, np.int32, 0) for name in ("queries", "inside")}

    def observe(self, rows: Rows, views: Views) -> Proposal:
        judge = self._judges.get((rows.model, rows.model_version))
        if judge is None:
            return _proposal({name: np.full(len(rows), np.nan) for name in _FIGURES}, {})
        self._reserve(rows.slots)
        order = rows.by_slot.order
        close = judge.close(rows)
        counted = (close.known & ~views.repeats)[order]
        inside = close.inside[order] & counted
        leaves = self._in_leaves(rows, judge, close.leaf[order], counted, inside)
        steps = np.where(inside, judge.up, judge.down) * counted
        added = np.stack((counted, inside, leaves.gain, steps), dtype=np.int64)
        after = _added(rows.by_slot, added, self._before(rows.slots, judge.tag))
        after[-1] = _lifted(rows.by_slot, after[-1])
        last = last_of(rows.by_slot, after.T)
        delta = {f"slot_{name}": column for name, column in zip(_COUNTERS, last.T.copy(), strict=True)}
        delta["slot_profile"] = np.full(len(rows.slots), judge.tag)
        delta |= leaves.delta
        self.apply(rows.slots, rows.pools, delta)
        return _proposal(judge.figures(after, order), delta)

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        del pools
        if not delta:
            return
        self._reserve(slots)
        stale = slots[self._slots["profile"][slots] != delta["slot_profile"]]
        for name in ("profile", *_COUNTERS):
            self._slots[name][slots] = delta[f"slot_{name}"]
        for name, counts in self._leaves.items():
            counts.evict(stale)
            counts.write(slots[delta["leaf_slot"]], delta["leaf_number"], delta[f"leaf_{name}"])

    def dump(self, slots: Array, pools: Array) -> Delta:
        del pools
        self._reserve(slots)
        counts = {name: held.read(slots) for name, held in self._leaves.items()}
        slot, leaf = np.nonzero(counts["queries"])
        own = {f"slot_{name}": self._slots[name][slots] for name in ("profile", *_COUNTERS)}
        return own | _leaf_rows(slot, leaf, {name: held[slot, leaf] for name, held in counts.items()})

    def load(self, slots: Array, pools: Array, state: Delta) -> None:
        self.apply(slots, pools, state)

    def evict(self, slots: Array, pools: Array) -> None:
        del pools
        self._slots.reset(slots)
        for counts in self._leaves.values():
            counts.evict(slots)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        del pools
        if slots is None:
            return self._slots.nbytes + sum(counts.nbytes for counts in self._leaves.values())
        own = 8 * (1 + len(_COUNTERS)) * len(slots)
        return own + sum(counts.nbytes_of(slots) for counts in self._leaves.values())

    def merge(self, states: list[Delta]) -> Delta:
        """Returns summed counts and shares. The sequential test adds up too, to at least its value over the members'
        queries in any order."""
        tags = {int(tag) for state in states for tag in state["slot_profile"]} - {0}
        if len(tags) > 1:
            raise NotMergeable("the members' queries were counted by different profiles; count them by one")
        joined = {name: np.concatenate([state[name] for state in states]) for name in states[0]}
        number, member = np.unique(joined["leaf_number"], return_inverse=True)
        leaf = {name: np.zeros(len(number), np.int64) for name in self._leaves}
        for name, counts in leaf.items():
            np.add.at(counts, member, joined[f"leaf_{name}"])
        own = {f"slot_{name}": joined[f"slot_{name}"].sum(keepdims=True) for name in _COUNTERS}
        own["slot_shares"] = _share(leaf["queries"], leaf["inside"]).sum(keepdims=True)
        own["slot_profile"] = joined["slot_profile"].max(keepdims=True)
        return own | _leaf_rows(np.zeros_like(number), number, leaf)

    def _before(self, slots: Array, tag: np.uint64) -> Array:
        """Returns int64 (counters, n): those of ``slots``, 0 where they belong to another profile."""
        counters: Array = np.stack([self._slots[name][slots] for name in _COUNTERS])
        counters *= self._slots["profile"][slots] == tag
        return counters

    def _in_leaves(self, rows: Rows, judge: _Judge, leaf: Array, counted: Array, inside: Array) -> _InLeaves:
        """Returns what the rows, in the order of ``Rows.by_slot``, add to the leaves they reach."""
        gain = np.zeros(len(rows), np.int64)
        if not judge.leaves:
            return _InLeaves(gain, _leaf_rows(gain[:0], gain[:0], dict.fromkeys(self._leaves, gain[:0])))
        at = np.flatnonzero(counted)
        width = self._leaves["queries"].width
        cells, cell = np.unique(rows.slot[rows.by_slot.order[at]] * width + leaf[at], return_inverse=True)
        reached = Grouping.of(cell, len(cells))
        slot, number = cells // width, cells % width
        own = self._slots["profile"][rows.slots[slot]] == judge.tag
        held = {name: np.where(own, counts.at(rows.slots[slot], number), 0) for name, counts in self._leaves.items()}
        at = at[reached.order]
        queries = _added(reached, np.ones(len(at), np.int64), held["queries"])
        within = _added(reached, inside[at], held["inside"])
        gain[at] = _share(queries, within) - _share(queries - 1, within - inside[at])
        after = {"queries": last_of(reached, queries), "inside": last_of(reached, within)}
        return _InLeaves(gain, _leaf_rows(slot, number, after))

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)


class _Judge:
    """One profile's margins. ``up`` and ``down``: what a query inside or outside them adds to the sequential test."""

    def __init__(self, profile: Profile, margins: Margins) -> None:
        self.tag = np.uint64(int(profile.hash, 16))
        self.leaves = margins.leaves if margins.leaves <= MOST_LEAVES else 0
        self.up = round(_NAT * log(_FACTOR))
        self.down = round(_NAT * log((1 - _FACTOR * margins.rate) / (1 - margins.rate)))
        self._model, self._margins = profile.owner_model, margins

    def close(self, rows: Rows) -> Close:
        """Returns which rows are in a margin; unknown where the model needs features that were left out."""
        if self._model is not None:
            close, absent = self._margins.close(self._model, sent(rows), None), missing(rows)
            return close if absent is None else replace(close, known=close.known & ~absent.any(axis=1))
        return self._margins.close(None, rows.features, rows.top)

    def figures(self, after: Array, order: Array) -> dict[str, NDArray[np.float64]]:
        """Returns, by name and as of each row, the figures from the counters int64 (counters, n) in ``order``; NaN
        before any query counted."""
        figures = np.empty((len(_FIGURES), after.shape[1]))
        figures[:, order] = self._figures(*after.astype(np.float64))
        return dict(zip(_FIGURES, figures, strict=True))

    def _figures(self, queries: Floats, inside: Floats, shares: Floats, cusum: Floats) -> tuple[Floats, ...]:
        queries = np.where(queries > 0, queries, np.nan)
        known = queries / queries
        all_leaves = known * shares / _SHARE / (self.leaves or np.nan)
        share = inside / queries
        pooled = np.where(queries >= LEAST_POOLED, share, 0.0)
        blocked = np.fmax(np.fmax(all_leaves, pooled) / BLOCKED_AT, cusum / _BOUND)
        return all_leaves, share, known * cusum / _NAT, known * blocked


@dataclass(frozen=True, slots=True)
class _InLeaves:
    """``gain`` int64 (n,): what each row adds to the sum of shares; ``delta``: the counts of the leaves reached."""

    gain: Array
    delta: dict[str, Array]


def _proposal(figures: dict[str, Floats], delta: Delta) -> Proposal:
    score = figures.pop("score")
    return Proposal(score, score, np.zeros(len(score), np.bool_), 1.0, {}, delta, figures=figures)


def _added(grouping: Grouping, values: Array, before: Array) -> Array:
    """Returns int64 (..., n): running sums of ``values`` (..., n) within each group, from ``before`` (..., groups) on,
    in the grouping's order."""
    total: Array = np.cumsum(values, axis=-1, dtype=np.int64)
    total -= np.repeat((total - values)[..., grouping.starts] - before, grouping.lengths, axis=-1)
    return total


def _lifted(grouping: Grouping, path: Array) -> Array:
    """Returns int64 (n,): the running sums ``path`` (n,) held at 0 from below: each less the minimum so far in its
    group. An offset between groups larger than their range lets one pass compute all minima."""
    low = np.minimum(path, 0)
    apart = np.repeat(np.arange(len(grouping.lengths)) * (1 - low.min()), grouping.lengths)
    lifted: Array = path - np.minimum.accumulate(low - apart) - apart
    return lifted


def _share(queries: Array, inside: Array) -> Array:
    """Returns int64: the share of a leaf's queries that are inside, 0 until it has enough."""
    share: Array = np.where(queries > LEAST_IN_LEAF, (inside.astype(np.int64) * _SHARE) // np.maximum(queries, 1), 0)
    return share


def _leaf_rows(slot: Array, number: Array, counts: dict[str, Array]) -> dict[str, Array]:
    rows = {f"leaf_{name}": column.astype(np.int32) for name, column in counts.items()}
    return {"leaf_slot": slot.astype(np.int32), "leaf_number": number.astype(np.int32), **rows}
