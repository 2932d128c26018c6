"""What became of the answered queries of one principal of one model, as far as they were not judged; and how much of a
model's traffic that is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

HALF = 150
"""Answered queries of a principal after which the older half of the recent ones is forgotten."""
MOST_REASONS = 16
"""The most reasons that are counted apart for each principal; further ones count as ``OTHER``."""
OTHER = "other"
_MOST = 1 << 53
"""No figure goes beyond this: the sum of some dozen of them still is a number that a record can hold."""

QUIET = 2_000
"""Judged queries to a model after which earlier ones that could not be judged are no matter any more."""
MOST_ACTIVE = 128
"""The most principals of a model that are watched, of each kind; the latest stay."""
CLEAN = 10
"""A principal is clean once this many of their queries were judged in a row."""
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
    """Who asks a model while some queries to it cannot be judged. Of each kind those active last are told apart:
    else whoever makes up many accounts of one kind has the others forgotten.

    ``odd``: whose last queries were not all judged; an unjudged query is their last but for ``CLEAN`` plus so many, a
    number below 0. ``starting``: so many were, and none other since the watch began. ``clean``: ``CLEAN`` were.
    ``quiet``: queries since the last that could not be judged.
    """

    touched: int = 0
    quiet: int = 0
    odd: dict[str, int] = msgspec.field(default_factory=dict)
    starting: dict[str, int] = msgspec.field(default_factory=dict)
    clean: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return 700 + 150 * (len(self.odd) + len(self.starting) + len(self.clean))

    @property
    def watched(self) -> bool:
        """Whether any recent query was not judged; else there is nothing to watch."""
        return bool(self.odd or self.starting or self.clean)

    def deployment(self) -> bool:
        """Whether the deployment is at fault, and not those who send what cannot be judged: few others are clean.

        Accounts that somebody makes up do not change that others are clean.
        """
        return len(self.odd) >= LEAST_ODD and len(self.odd) > MOST_ODD * len(self.clean)

    def judge(self, principals: Sequence[str]) -> None:
        """Further queries, of these principals in log order, were judged."""
        if not self.watched:
            return
        left = QUIET - self.quiet
        if len(principals) >= left:
            self.quiet = 0
            self.odd, self.starting, self.clean = {}, {}, {}
            return
        self.quiet += len(principals)
        for principal in principals:
            self._see(principal, CLEAN if (run := self._forget(principal)) in (-1, CLEAN) else run + 1)

    def refuse(self, principal: str) -> None:
        """``principal`` sent what cannot be judged."""
        self.quiet = 0
        self._forget(principal)
        self._see(principal, -CLEAN)

    def _forget(self, principal: str) -> int:
        for kind in (self.clean, self.odd, self.starting):
            if principal in kind:
                return kind.pop(principal)
        return 0

    def _see(self, principal: str, run: int) -> None:
        kind = self.odd if run < 0 else self.clean if run == CLEAN else self.starting
        if len(kind) >= MOST_ACTIVE:
            del kind[next(iter(kind))]
        kind[principal] = run


def _add(counts: dict[str, int], reason: str, queries: int) -> None:
    known = reason in counts or len(counts) < MOST_REASONS
    name = reason if known else OTHER
    counts[name] = min(counts.get(name, 0) + queries, _MOST)
