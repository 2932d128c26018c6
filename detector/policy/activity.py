"""What goes into the ledger and what comes out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Alert, Audit, Decision, Finding
from detector.contracts.queries import Count

Key = tuple[str, str]
"""(model, principal): whose ledger entry."""

Place = tuple[int, int]
"""Where in the micro-batch: (2 * row + 1, 0) for a row, (2 * at_row, i) for the count ``i``."""

Section = tuple[int, bytes]
"""(format version, bytes): the ledger's or the accounting's part of a state record."""


class Identity(Protocol):
    """Whose row it is, as the engine says it."""

    @property
    def model(self) -> str: ...
    @property
    def model_version(self) -> str: ...
    @property
    def principal(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Counted:
    """A count and its place: before row ``at_row`` (0..n) of the micro-batch, at policy time ``time``."""

    count: Count
    time: float
    at_row: int
    learning: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """At ``place`` a principal is accused of sending what cannot be judged, or (``finding`` None) no longer."""

    place: Place
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Why a row could not be judged, and the model version that was asked."""

    reason: str
    model_version: str


@dataclass(frozen=True, slots=True)
class Activity:
    """What ``n`` rows of a micro-batch mean to policy, in log order.

    ``time`` float64 (n,): policy time in seconds, never falling, within the batch or between batches. ``keys``
    and ``key_index`` int32 (n,): whose row. ``flagged`` bool (n,): the engine's verdict as of the row.
    ``findings``: the rows that made suspects. ``learning`` bool (n,), or None for nowhere: rows of the backlog,
    on which nothing is enforced. ``counts``: queries without features, in order of ``at_row``. ``judged`` bool
    (n,), or None for all: rows that the engine took; ``unjudged`` has the others by row. ``score`` float64 (n,) and
    ``index`` int64 (n,): normalised suspicion and the query's number from 0, as the engine says them; None where
    nobody does, and then no severity rises.
    """

    time: NDArray[np.float64]
    keys: Sequence[Identity]
    key_index: NDArray[np.int32]
    flagged: NDArray[np.bool_]
    findings: Sequence[Finding] = ()
    learning: NDArray[np.bool_] | None = None
    counts: Sequence[Counted] = ()
    judged: NDArray[np.bool_] | None = None
    unjudged: Mapping[int, Unjudged] = field(default_factory=dict)
    score: NDArray[np.float64] | None = None
    index: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def ends_at(self) -> float:
        """The policy time of the last row or count; minus infinity for nothing at all."""
        last_row = float(self.time[-1]) if len(self.time) else -np.inf
        return max([last_row, *(counted.time for counted in self.counts[-1:])])


@dataclass(slots=True)
class Effects:
    """What must be published, in stream order, and recorded.

    Decisions carry the epoch (0, 0): whoever writes the state record stamps it. ``section``: the ledger's delta, and
    ``accounting`` that of the accounts, None where nothing changed. ``clear``: whose engine state is to be
    forgotten, in all model versions. ``excused``: unjudged queries by model, of principals who are not accused as most
    of the model's send such. ``forgotten``: how many accounts went for want of space.
    """

    alerts: list[Alert] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    section: Section | None = None
    accounting: Section | None = None
    clear: list[Key] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)
    forgotten: int = 0

    def emit(self, record: Alert | Decision | Audit) -> None:
        """Files ``record`` under its kind."""
        if isinstance(record, Alert):
            self.alerts.append(record)
        elif isinstance(record, Decision):
            self.decisions.append(record)
        else:
            self.audits.append(record)
