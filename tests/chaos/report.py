"""What the audit says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

ProblemKind = Literal[
    "lost",
    "counted-twice",
    "miscounted",
    "hole",
    "forked",
    "foreign-fence",
    "unreadable",
    "cut-too-far",
    "unpublished",
    "published-late",
    "acknowledged-unpublished",
    "invented",
    "contradiction",
    "commit-ahead",
    "buried",
    "too-long",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken promise: in which partition, at which offset of which log, and what was seen."""

    kind: ProblemKind
    partition: int
    offset: int
    detail: str


@dataclass(slots=True)
class Report:
    """What was found, and how much was looked at."""

    problems: list[Problem] = field(default_factory=list)
    source_rows: int = 0
    counted_rows: int = 0
    state_records: int = 0
    parts: int = 0
    letters: int = 0
    void_records: int = 0
    fences: int = 0
    rounds: int = 0
    commits: int = 0
    outbox_messages: int = 0
    alerts: int = 0
    decisions: int = 0
    repeated_messages: int = 0

    def kinds(self) -> Counter[str]:
        return Counter(problem.kind for problem in self.problems)
