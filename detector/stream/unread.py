"""Queries without features that policy counts: those that a logger reports, and those that could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detector.contracts.principals import names_one
from detector.contracts.queries import BadRow, Count
from detector.policy.activity import Counted

if TYPE_CHECKING:
    from detector.stream.intake import Intake


def counted(
    intake: Intake, lives_here: Callable[[str], bool], clocks: NDArray[np.float64], backlog: NDArray[np.bool_]
) -> list[Counted]:
    """The counts in ``intake``, and of its refused rows those of a known principal who ``lives_here``, in log order:
    for others the rows were sent on.
    ``clocks`` float64 and ``backlog`` bool (records,): policy time and learning as of each record."""
    counts = intake.counts
    if intake.refused:
        more = [one for one in _unread(intake) if lives_here(one[1].principal)]
        counts = sorted([*more, *counts], key=lambda one: (one[0], one[2]))
    return [Counted(count, float(clocks[at]), row, bool(backlog[at])) for at, count, row in counts]


def unread(bad: BadRow, time: float) -> Count | None:
    """The count that stands for a row that could not be read; None where nobody knows whose it is."""
    if not (names_one(bad.model) and names_one(bad.principal) and bad.queries > 0):
        return None
    return Count(bad.model, bad.principal, "unjudged", bad.queries, time, bad.reason)


def _unread(intake: Intake) -> Iterator[tuple[int, Count, int]]:
    """Record, count and the row of ``intake`` before which it stood."""
    for at, rows in intake.refused.items():
        start, end = np.searchsorted(intake.record_of, (at, at + 1)).tolist()
        for bad in rows:
            count = unread(bad, 0.0)
            if count is not None:
                yield at, count, start + int(np.searchsorted(intake.row_of[start:end], bad.row))
