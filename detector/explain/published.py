"""What a running service holds about one principal: queries, alerts, audits and the score, from its topics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import merge

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Alert, Audit, Score
from detector.contracts.topics import partition_of
from detector.replay.principal import (
    PrincipalQueries,
    PrincipalReplay,
    TimedQueries,
    queries_after,
    queries_in_partition,
    queries_of,
)
from detector.replay.topics import Topic, read_alerts, read_audits, read_scores, source_record
from detector.runtime.sections import KafkaSettings
from detector.runtime.text import rfc3339


@dataclass(frozen=True, slots=True)
class PublishedRecords:
    """Alerts and audits of one principal of one model; ``score``: the latest one."""

    alerts: Sequence[Alert]
    audits: Sequence[Audit]
    score: Score | None

    @property
    def cleared_at(self) -> float:
        """When an operator last cleared the principal, seconds UTC; minus infinity for never."""
        clears = [
            audit.occurred_at for audit in self.audits if audit.kind == "command" and audit.detail["kind"] == "clear"
        ]
        return max(clears, default=-np.inf)


def read_queries(kafka: KafkaSettings, principal: str) -> PrincipalQueries:
    """Returns the principal's queries that the topics still hold, from their own partition. Raises BrokerError."""
    topics = kafka.topics
    with Topic(kafka, topics.queries, principal) as queries, Topic(kafka, topics.rekeyed, principal) as rekeyed:
        sources = {"queries": queries, "rekeyed": rekeyed}
        streams = [map(partial(source_record, name), topic.until_now(0.0)) for name, topic in sources.items()]
        records = merge(*streams, key=lambda record: record.timestamp)
        partition = partition_of(principal, len(queries))
        found = queries_of(principal, queries_in_partition(records, partition, len(queries), topics))
    if not found.by_model:
        found.names.update(name for _, name in read_scores(kafka))
    return found


def read_records(kafka: KafkaSettings, model: str, principal: str) -> PublishedRecords:
    """Returns what the topics hold about ``principal``. Raises BrokerError."""
    alerts, audits = read_alerts(kafka, model, principal), read_audits(kafka, model, principal)
    return PublishedRecords(alerts, audits, read_scores(kafka).get((model, principal)))


def since_cleared(queries: list[TimedQueries], known: PublishedRecords) -> list[TimedQueries]:
    """Drops the ``queries`` before the last clear. Raises ConfigurationError if none is left."""
    rest = queries_after(queries, known.cleared_at)
    if not rest:
        raise ConfigurationError(f"the account was cleared at {rfc3339(known.cleared_at)} and has sent no query since")
    return rest


def by_row(known: PublishedRecords, replay: PrincipalReplay) -> list[tuple[int, Alert | Audit]]:
    """Returns the records since the first query of ``replay``, in order, each with the query that caused it."""
    everything: list[Alert | Audit] = [*known.alerts, *known.audits]
    records = [record for record in everything if record.occurred_at >= replay.time[0]]
    first: dict[float, int] = {}
    for alert in known.alerts:  # a later revision may have the same time
        first[alert.occurred_at] = min(_row_of(alert, replay), first.get(alert.occurred_at, len(replay)))
    rows = [
        _row_of(record, replay)
        if isinstance(record, Alert)
        else first.get(record.occurred_at, _row_at(record.occurred_at, replay))
        for record in records
    ]
    return sorted(zip(rows, records, strict=True), key=lambda pair: (pair[0], pair[1].occurred_at))


def differences(known: PublishedRecords, replay: PrincipalReplay, configuration: str) -> Iterator[str]:
    """Yields sentences on how the service's results may differ from ``replay``, the replay of its topics."""
    if known.cleared_at > -np.inf:
        yield f"The account was cleared at {rfc3339(known.cleared_at)}; earlier queries do not count."
    if missing := _lost(known.score, replay):
        yield (
            f"{missing:,} of the account's queries are no longer kept; the explanation covers the rest, counted from "
            "1, and may differ from the service's results."
        )
    if known.score is not None and known.score.flagged != bool(replay.flagged[-1]):
        yield f"In the service, the account is {'' if known.score.flagged else 'not '}flagged."
    if others := {alert.configuration for alert in known.alerts} - {configuration}:
        yield f"The alerts were raised under another configuration: {', '.join(sorted(others))}."


def _lost(score: Score | None, replay: PrincipalReplay) -> int:
    """Returns the number of queries that the service counted and the topics no longer hold."""
    if score is None:
        return 0
    if score.judged is None or score.repeats is None:
        return max(score.queries - replay.versions.count(score.model_version), 0)
    return max(score.judged + score.repeats - len(replay), 0)


def _row_of(alert: Alert, replay: PrincipalReplay) -> int:
    """Returns the row by query number if all queries are present, else by time."""
    for version in dict.fromkeys(replay.versions):
        rows = [row for row, judging_version in enumerate(replay.versions) if judging_version == version]
        if alert.query_index < len(rows) and replay.time[rows[alert.query_index]] == alert.occurred_at:
            return rows[alert.query_index]
    return _row_at(alert.occurred_at, replay)


def _row_at(time: float, replay: PrincipalReplay) -> int:
    return min(int(np.searchsorted(replay.time, time)), len(replay) - 1)
