"""The alerts, audits and score that a service published about one principal, matched with a replay of their queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Alert, Audit, Score
from detector.runtime.times import rfc3339
from detector.stream.explaining import Course, Timed, later


@dataclass(frozen=True, slots=True)
class PublishedRecords:
    """Alerts and audits of one principal of one model; ``score``: the latest one."""

    alerts: Sequence[Alert]
    audits: Sequence[Audit]
    score: Score | None

    @property
    def cleared_at(self) -> float:
        """When an operator last cleared the principal, seconds UTC; minus infinity for never."""
        clears = [one.occurred_at for one in self.audits if one.kind == "command" and one.detail["kind"] == "clear"]
        return max(clears, default=-np.inf)


def since_cleared(queries: list[Timed], known: PublishedRecords) -> list[Timed]:
    """Drops the ``queries`` before the last clear. Raises ConfigurationError if none is left."""
    rest = later(queries, known.cleared_at)
    if not rest:
        raise ConfigurationError(f"the account was cleared at {rfc3339(known.cleared_at)} and has sent no query since")
    return rest


def by_row(known: PublishedRecords, course: Course) -> list[tuple[int, Alert | Audit]]:
    """Returns the records since the first query of ``course``, in order, each with the query that caused it."""
    everything: list[Alert | Audit] = [*known.alerts, *known.audits]
    records = [one for one in everything if one.occurred_at >= course.time[0]]
    first: dict[float, int] = {}
    for alert in known.alerts:  # a later revision may have the same time
        first[alert.occurred_at] = min(_row_of(alert, course), first.get(alert.occurred_at, len(course)))
    rows = [
        _row_of(one, course) if isinstance(one, Alert) else first.get(one.occurred_at, _row_at(one.occurred_at, course))
        for one in records
    ]
    return sorted(zip(rows, records, strict=True), key=lambda own: (own[0], own[1].occurred_at))


def differences(known: PublishedRecords, course: Course, configuration: str) -> Iterator[str]:
    """Yields sentences on how the service's results may differ from ``course``, the replay of its topics."""
    if known.cleared_at > -np.inf:
        yield f"The account was cleared at {rfc3339(known.cleared_at)}; earlier queries do not count."
    if lost := _lost(known.score, course):
        yield (
            f"{lost:,} of the account's queries are no longer kept; the explanation covers the rest, counted from 1, "
            "and may differ from the service's results."
        )
    if known.score is not None and known.score.flagged != bool(course.flagged[-1]):
        yield f"In the service, the account is {'' if known.score.flagged else 'not '}flagged."
    if others := {one.configuration for one in known.alerts} - {configuration}:
        yield f"The alerts were raised under another configuration: {', '.join(sorted(others))}."


def _lost(score: Score | None, course: Course) -> int:
    """Returns the number of queries that the service counted and the topics no longer hold."""
    if score is None:
        return 0
    if score.judged is None or score.repeats is None:
        return max(score.queries - course.versions.count(score.model_version), 0)
    return max(score.judged + score.repeats - len(course), 0)


def _row_of(alert: Alert, course: Course) -> int:
    """Returns the row by query number if all queries are present, else by time."""
    for version in dict.fromkeys(course.versions):
        rows = [row for row, own in enumerate(course.versions) if own == version]
        if alert.query_index < len(rows) and course.time[rows[alert.query_index]] == alert.occurred_at:
            return rows[alert.query_index]
    return _row_at(alert.occurred_at, course)


def _row_at(time: float, course: Course) -> int:
    return min(int(np.searchsorted(course.time, time)), len(course) - 1)
