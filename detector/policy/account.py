"""What became of the answered queries of one principal of one model, as far as they were not judged; and how much of a
model's traffic that is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

HALF = 150
"""Answered queries of a principal after which the older half of the recent ones is forgotten."""
MOST_REASONS = 16
"""So many reasons are counted apart for each principal; further ones count as ``OTHER``."""
OTHER = "other"
_MOST = 1 << 53
"""No figure goes beyond this: the sum of some dozen of them still is a number that a record can hold."""

QUIET = 2_000
"""Judged queries to a model after which earlier ones that could not be judged are no matter any more."""
MOST_ACTIVE = 256
"""So many principals of a model, those active last, are watched."""
CLEAN = 10
"""A principal is clean who had so many queries judged in a row."""
LEAST_ODD, MOST_ODD = 4, 2
"""From so many principals with queries that cannot be judged on, and more than so many for each clean one, the
deployment is at fault."""


class Account(msgspec.Struct, array_like=True):
    """``unjudged`` and ``dropped``: queries by reason. ``touched``: the number of the last event that changed these.

    Of the recent queries, in two halves: how many were ``answered`` and how many of them unjudged (``odd``), now and in
    the half before; nothing while none were unjudged. ``accused``: whether they are a suspicion.
    """

    unjudged: dict[str, int] = msgspec.field(default_factory=dict)
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    touched: int = 0
    answered: int = 0
    odd: int = 0
    answered_before: int = 0
    odd_before: int = 0
    accused: bool = False

    @property
    def recent(self) -> int:
        """Unjudged queries among the recent ones."""
        return self.odd + self.odd_before

    @property
    def share(self) -> float:
        """Unjudged queries as a share of the recent ones."""
        return self.recent / max(self.answered + self.answered_before, 1)

    @property
    def watched(self) -> bool:
        """Whether further judged queries change anything."""
        return self.accused or self.recent > 0

    @property
    def nbytes(self) -> int:
        return 500 + 150 * (len(self.unjudged) + len(self.dropped))

    def drop(self, reason: str, queries: int) -> None:
        """Queries were lost before they were logged."""
        _add(self.dropped, reason, queries)

    def refuse(self, reason: str, queries: int, limit: int) -> None:
        """Answered queries could not be judged."""
        _add(self.unjudged, reason, queries)
        self.answered += queries
        self.odd += queries
        if self.answered >= HALF:
            self.turn(limit)

    def judge(self, queries: int, limit: int) -> int | None:
        """Further queries were judged; gives which of them ended the accusation, or None."""
        passed, released = 0, None
        while self.watched and queries - passed >= HALF - self.answered:
            passed += HALF - self.answered
            self.answered = HALF
            if self.turn(limit):
                released = passed - 1
        if self.watched:
            self.answered += queries - passed
        return released

    def turn(self, limit: int) -> bool:
        """Forget the older half; whether that ended the accusation: few were unjudged lately."""
        self.answered_before, self.odd_before = self.answered, self.odd
        self.answered = self.odd = 0
        ends = self.accused and 2 * self.recent < limit
        if ends:
            self.accused = False
        if not self.watched:
            self.answered_before = 0
        return ends


class Watch(msgspec.Struct, array_like=True):
    """Who asks a model while some queries to it cannot be judged: ``active`` principals, the latest last.

    Of each, how far they are from being *clean*: below 0, an unjudged query is their last but for ``CLEAN`` plus that
    many; else so many judged ones and none other since the watch began, ``CLEAN`` at most. ``quiet``: queries since the
    last that could not be judged.
    """

    touched: int = 0
    quiet: int = 0
    active: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return 500 + 150 * len(self.active)

    @property
    def watched(self) -> bool:
        """Whether any recent query was not judged; else there is nothing to watch."""
        return bool(self.active)

    def deployment(self) -> bool:
        """Whether the deployment is at fault, and not those who send what cannot be judged: few others are clean.

        Accounts that somebody makes up do not change that others are clean.
        """
        clean = sum(run == CLEAN for run in self.active.values())
        odd = sum(run < 0 for run in self.active.values())
        return odd >= LEAST_ODD and odd > MOST_ODD * clean

    def judge(self, principals: Sequence[str]) -> None:
        """Further queries, of these principals in log order, were judged."""
        if not self.watched:
            return
        left = QUIET - self.quiet
        if len(principals) >= left:
            self.quiet, self.active = 0, {}
            return
        self.quiet += len(principals)
        for principal in principals:
            run = self.active.pop(principal, 0)
            self._see(principal, CLEAN if run in (-1, CLEAN) else run + 1)

    def refuse(self, principal: str) -> None:
        """``principal`` sent what cannot be judged."""
        self.quiet = 0
        self.active.pop(principal, None)
        self._see(principal, -CLEAN)

    def _see(self, principal: str, run: int) -> None:
        if len(self.active) >= MOST_ACTIVE:
            del self.active[next(iter(self.active))]
        self.active[principal] = run


def _add(counts: dict[str, int], reason: str, queries: int) -> None:
    known = reason in counts or len(counts) < MOST_REASONS
    name = reason if known else OTHER
    counts[name] = min(counts.get(name, 0) + queries, _MOST)
