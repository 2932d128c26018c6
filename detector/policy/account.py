"""What became of the answered queries of one principal of one model, as far as they were not judged; and how much of a
model's traffic that is."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

HALF = 150
"""Answered queries of a principal after which the older half of the recent ones is forgotten."""
MOST_REASONS = 16
"""So many reasons are told apart for each principal; further ones are counted as ``OTHER``."""
OTHER = "other"

MODEL_HALF = 1_000
"""The same for all queries of a model."""
MOST_ACTIVE = 256
"""So many principals that were active in such a half are told apart."""
LEAST_ACTIVE = 4


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
    """The recent queries to one model, in two halves, from the first that could not be judged on: how many were
    ``answered`` in this half, and whose they were, with whether any of theirs was unjudged."""

    touched: int = 0
    answered: int = 0
    active: dict[str, bool] = msgspec.field(default_factory=dict)
    active_before: dict[str, bool] = msgspec.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return 500 + 150 * (len(self.active) + len(self.active_before))

    @property
    def watched(self) -> bool:
        """Whether any recent query was not judged; else there is nothing to watch."""
        return any(self.active.values()) or any(self.active_before.values())

    def deployment(self) -> bool:
        """Whether most active principals send what cannot be judged: that is the deployment's fault, not theirs."""
        active = self.active_before.keys() | self.active.keys()
        odd = {name for half in (self.active_before, self.active) for name, is_odd in half.items() if is_odd}
        return len(active) >= LEAST_ACTIVE and 2 * len(odd) > len(active)

    def judge(self, principals: Iterable[str]) -> None:
        """Further queries, of these principals in log order, were judged."""
        waiting = list(principals)
        while waiting and self.watched:
            part = waiting[: MODEL_HALF - self.answered]
            for principal in dict.fromkeys(part):
                self._see(principal, odd=False)
            self._answer(len(part))
            waiting = waiting[len(part) :]

    def refuse(self, principal: str, queries: int) -> None:
        """``principal`` sent what cannot be judged."""
        self._see(principal, odd=True)
        self._answer(min(queries, MODEL_HALF - self.answered))

    def _see(self, principal: str, *, odd: bool) -> None:
        if principal in self.active or len(self.active) < MOST_ACTIVE:
            self.active[principal] = odd or self.active.get(principal, False)

    def _answer(self, queries: int) -> None:
        self.answered += queries
        if self.answered == MODEL_HALF:
            self.active_before, self.active, self.answered = self.active, {}, 0
            if not self.watched:
                self.active_before = {}


def _add(counts: dict[str, int], reason: str, queries: int) -> None:
    known = reason in counts or len(counts) < MOST_REASONS
    name = reason if known else OTHER
    counts[name] = counts.get(name, 0) + queries
