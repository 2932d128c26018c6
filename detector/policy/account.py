"""Counts the unjudged and dropped queries of one principal of one model, and the model's traffic around them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

HALF = 150
"""Answered queries in each half of a principal's recent ones; the older half is dropped when the newer one is full."""
MOST_REASONS = 16
"""Reasons counted separately for each principal; further ones count as ``OTHER``."""
OTHER = "other"
_MOST = 1 << 53
"""Upper bound of each count, so that a record can hold the sum of dozens of them."""

QUIET = 2_000
"""Judged queries in a row to a model after which its earlier unjudged ones no longer count."""
MOST_ACTIVE = 128
"""Principals watched at most for each model and kind; the most recent stay."""
CLEAN = 10
"""Queries in a row that must be judged before a principal is clean."""
LEAST_ODD, MOST_ODD = 4, 2
"""The deployment is at fault if at least ``LEAST_ODD`` principals send queries that cannot be judged, and more than
``MOST_ODD`` for each clean principal."""


class Account(msgspec.Struct, array_like=True):
    """The unjudged and dropped queries of one principal of one model.

    ``unjudged`` and ``dropped``: queries by reason. ``touched``: the number of the last event that changed these.

    ``answered`` and ``odd``: answered and unjudged queries in the newer half of the recent ones; ``answered_before``
    and ``odd_before``: the same in the older half. All are 0 while no recent query was unjudged. ``accused``: whether
    the unjudged queries make the principal a suspect.
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
        """Whether further judged queries change this account."""
        return self.accused or self.recent > 0

    @property
    def nbytes(self) -> int:
        return 500 + 150 * (len(self.unjudged) + len(self.dropped))

    def drop(self, reason: str, queries: int) -> None:
        """Counts queries that were lost before they were logged."""
        _add(self.dropped, reason, queries)

    def refuse(self, reason: str, queries: int, limit: int) -> None:
        """Counts answered queries that could not be judged."""
        _add(self.unjudged, reason, queries)
        self.answered += queries
        self.odd += queries
        if self.answered >= HALF:
            self.turn(limit)

    def judge(self, queries: int, limit: int) -> int | None:
        """Counts judged queries; returns the index of the one that ended the accusation, or None."""
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
        """Drops the older half; returns whether this ends the accusation, since few recent queries were unjudged."""
        self.answered_before, self.odd_before = self.answered, self.odd
        self.answered = self.odd = 0
        ends = self.accused and 2 * self.recent < limit
        if ends:
            self.accused = False
        if not self.watched:
            self.answered_before = 0
        return ends


class Watch(msgspec.Struct, array_like=True):
    """The principals that query a model while some of its queries cannot be judged.

    Each kind has a limit of its own, so that many made-up accounts of one kind cannot evict the others.

    ``odd``: principals with an unjudged query among their last ``CLEAN``, with the number of judged queries since,
    minus ``CLEAN``. ``starting``: principals with fewer than ``CLEAN`` queries since the watch began, all judged, with
    their number. ``clean``: principals whose last ``CLEAN`` queries were judged. ``quiet``: queries since the last
    unjudged one.
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
        """Whether a recent query was not judged; otherwise there is nothing to watch."""
        return bool(self.odd or self.starting or self.clean)

    def deployment(self) -> bool:
        """Returns whether the deployment is at fault, not the principals with unjudged queries: few others are clean.

        Made-up accounts do not change that others are clean.
        """
        return len(self.odd) >= LEAST_ODD and len(self.odd) > MOST_ODD * len(self.clean)

    def judge(self, principals: Sequence[str]) -> None:
        """Counts judged queries of these principals, in log order."""
        if not self.watched:
            return
        left = QUIET - self.quiet
        if len(principals) >= left:
            self.quiet = 0
            self.odd, self.starting, self.clean = {}, {}, {}
            return
        self.quiet += len(principals)
        for principal in principals:
            self._put_run(principal, CLEAN if (run := self._pop_run(principal)) in (-1, CLEAN) else run + 1)

    def refuse(self, principal: str) -> None:
        """Counts an unjudged query of ``principal``."""
        self.quiet = 0
        self._pop_run(principal)
        self._put_run(principal, -CLEAN)

    def _pop_run(self, principal: str) -> int:
        for kind in (self.clean, self.odd, self.starting):
            if principal in kind:
                return kind.pop(principal)
        return 0

    def _put_run(self, principal: str, run: int) -> None:
        kind = self.odd if run < 0 else self.clean if run == CLEAN else self.starting
        if len(kind) >= MOST_ACTIVE:
            del kind[next(iter(kind))]
        kind[principal] = run


def _add(counts: dict[str, int], reason: str, queries: int) -> None:
    known = reason in counts or len(counts) < MOST_REASONS
    name = reason if known else OTHER
    counts[name] = min(counts.get(name, 0) + queries, _MOST)
