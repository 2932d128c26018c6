"""All that one state record causes: what is published before and after it, and its figures for the metrics."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan

import numpy as np

from detector.contracts.actions import name_of
from detector.contracts.codecs.records import decision_key, encode
from detector.contracts.findings import Decision
from detector.contracts.topics import Topics, partition_of
from detector.core.engine import Observation
from detector.core.exposure import EXPOSURES
from detector.groups.owner import GroupEffects
from detector.policy.activity import Effects
from detector.runtime import metric_defs as names
from detector.stream.intake import DecodedRecords
from detector.stream.state_log import Kind, Message, Position

UNKNOWN = "unknown"
"""The model of a row that could not be read that far."""

_EXCUSED = (
    "most active principals of {} send what cannot be judged, and none is accused of it; see "
    "weirguard_queries_unjudged_total for the reasons, and whether the deployment and its profile fit each other"
)

Series = tuple[names.Metric, tuple[str, ...]]
"""A metric and the values of its labels, in their order."""


@dataclass(slots=True)
class CommitUnit:
    """One state record with all that must precede and follow it, and figures for the metrics.

    ``values``: the record, or its parts if it is too large for one; the sequences of the parts follow on from
    ``position``. ``applied``, ``first_chunk``: as in the record. ``counts`` and ``observed``: what to add to counters
    and histograms. ``uncalibrated``: model versions that were judged without a profile. ``warnings``: what to log once.
    """

    position: Position
    kind: Kind
    values: Sequence[bytes]
    applied: dict[str, int] = field(default_factory=dict)
    before: list[Message] = field(default_factory=list)
    after: list[Message] = field(default_factory=list)
    first_chunk: int | None = None
    counts: Counter[Series] = field(default_factory=Counter)
    observed: defaultdict[Series, list[float]] = field(default_factory=lambda: defaultdict(list))
    uncalibrated: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes in the state log."""
        return sum(map(len, self.values))

    @property
    def log_entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of all that goes into the state log, in order."""
        fence, sequence = self.position
        for at, value in enumerate(self.values):
            yield b"%d|%d" % (fence, sequence + at), value

    def count(self, metric: names.Metric, amount: int, *labels: str) -> None:
        """Adds ``amount`` to the counter ``metric`` with these label values."""
        self.counts[metric, labels] += amount

    def count_answered(self, metric: names.Metric, queries: int, model: str, *labels: str) -> None:
        """Counts ``queries`` that were answered, and what became of them."""
        self.count(metric, queries, model, *labels)
        self.count(names.QUERIES_ANSWERED, queries, model)

    def count_batch(
        self, decoded: DecodedRecords, observation: Observation, effects: Effects, last: Sequence[int]
    ) -> None:
        """Counts what ``decoded`` held and what became of it, judged queries apart; ``last``: the last row of each
        principal."""
        for bad in (row for rows in decoded.rejected.values() for row in rows):
            self.count(names.DEAD_LETTERS, 1, bad.reason)
            self.count_answered(names.QUERIES_UNJUDGED, bad.queries, bad.model or UNKNOWN, bad.reason)
        for _, count, _ in decoded.reported:
            self.count(names.QUERIES_MISSING, count.queries, count.kind)
            if count.kind != "refused":
                metric = names.QUERIES_DROPPED if count.kind == "dropped" else names.QUERIES_UNJUDGED
                self.count_answered(metric, count.queries, count.model, count.reason or count.kind)
        for what, rows in (decoded.repaired + observation.repaired).items():
            self.count(names.REPAIRED, rows, what)
        self.count(names.REKEYED, len(decoded.misrouted))
        self.count(names.EVICTIONS, observation.evicted + effects.forgotten)
        for model, queries in effects.excused.items():
            self.count(names.QUERIES_EXCUSED, queries, model)
            self.warnings.append(_EXCUSED.format(model))
        for model, used in effects.budgets_used:
            self.observed[names.BUDGET_USED, (model,)].append(used)
        self._observe(observation, last)

    def count_findings(self, effects: Effects) -> None:
        """Counts first alerts, and decisions."""
        for alert in (alert for alert in effects.alerts if alert.revision == 1):
            self.count(names.ALERTS, 1, alert.model, alert.signal, alert.severity)
        for decision in effects.decisions:
            origin = decision.causes[0].origin.partition(":")[0] if decision.causes else "operator"
            self.count(names.DECISIONS, 1, name_of(decision.action), decision.mode, origin)

    def count_groups(self, effects: GroupEffects) -> None:
        """Counts the queries that were watched, and new groups."""
        for (model, _), rows in effects.watched.items():
            self.count(names.GROUP_QUERIES, rows, model)
        for (model, _), rows in effects.linked.items():
            self.count(names.GROUP_QUERIES_LINKED, rows, model)
        for alert in (alert for alert in effects.alerts if alert.revision == 1):
            self.count(names.GROUP_ALERTS, 1, alert.model, alert.severity)

    def count_judged(
        self, decoded: DecodedRecords, observation: Observation, profiles: Mapping[tuple[str, str], str | None]
    ) -> None:
        """Counts the judged queries and repeats of ``decoded``; ``profiles`` as in ``Detector.profiles_of``."""
        end, accepted = 0, observation.index >= 0
        for piece in decoded.pieces:
            rows = slice(end, end := end + len(piece))
            repeats = int(np.count_nonzero(observation.repeats[rows]))
            judged = int(np.count_nonzero(accepted[rows]))
            self.count_answered(names.QUERIES, judged - repeats, piece.model)
            self.count_answered(names.QUERIES_REPEATED, repeats, piece.model)
            if judged and profiles.get((piece.model, piece.model_version)) is None:
                self.count(names.QUERIES_UNCALIBRATED, judged, piece.model)
                self.uncalibrated.add(f"{piece.model} {piece.model_version}")

    def _observe(self, observation: Observation, last: Sequence[int]) -> None:
        """Observes score and exposures, as shares, of each principal as of the end of the micro-batch."""
        models = [observation.keys[at].model for at in observation.key_index[last].tolist()]
        for model, score in zip(models, observation.score[last].tolist(), strict=True):
            if not isnan(score):
                self.observed[names.SCORE, (model,)].append(score)
        for name in EXPOSURES:
            for model, percent in zip(models, observation.signals[name][last].tolist(), strict=True):
                if not isnan(percent):
                    self.observed[names.EXPOSURE, (model, name)].append(percent / 100)


class Outbox:
    """Messages that must be published because of the state records of one partition. ``published``: every record up to
    here has its messages on the broker."""

    def __init__(self, topics: Topics, partition: int) -> None:
        self.published: Position = (-1, 0)
        self._topics = topics
        self._partition = partition
        self._waiting: deque[tuple[Position, tuple[Message, ...]]] = deque()

    def add(self, position: Position, messages: tuple[Message, ...]) -> None:
        """Adds the ``messages`` of the record at ``position``, which follows all others so far."""
        self._waiting.append((position, messages))

    def drop(self, watermark: Position) -> None:
        """Notes that all up to ``watermark`` is published."""
        self.published = max(self.published, watermark)
        while self._waiting and self._waiting[0][0] <= self.published:
            self._waiting.popleft()

    def drop_all(self) -> None:
        """Notes that all that waits is published."""
        if self._waiting:
            self.drop(self._waiting[-1][0])

    def waiting(self) -> list[Message]:
        """Returns what may be unpublished, in order."""
        return [message for _, messages in self._waiting for message in messages]

    def messages(self, effects: Effects, position: Position) -> Iterator[Message]:
        """Yields the messages of ``effects``, those of the record at ``position``."""
        for alert in effects.alerts:
            yield Message(self._topics.alerts, None, decision_key(alert.model, alert.principal), encode(alert))
        for decision in effects.decisions:
            yield self.decision(decision, position)
        for audit in effects.audits:
            yield Message(self._topics.audit, None, decision_key(audit.model, audit.principal), encode(audit))

    def spends(self, effects: Effects, partitions: int) -> Iterator[Message]:
        """Yields what the owners of all other partitions are told about shared budgets."""
        for command in effects.spends:
            assert command.spent is not None
            sent = replace(command, spent=replace(command.spent, partition=self._partition))
            for other in (number for number in range(partitions) if number != self._partition):
                yield Message(self._topics.commands, other, sent.principal.encode(), encode(sent))

    def about_groups(self, effects: GroupEffects, partitions: int) -> Iterator[Message]:
        """Yields the messages of ``effects``: alerts on groups, commands to the owners of members, and audits."""
        for alert in effects.alerts:
            yield Message(self._topics.groups, None, decision_key(alert.model, alert.id), encode(alert))
        for command in effects.commands:
            home = partition_of(command.principal, partitions)
            yield Message(self._topics.commands, home, command.principal.encode(), encode(command))
        for audit in effects.audits:
            yield Message(self._topics.audit, None, decision_key(audit.model, audit.principal), encode(audit))

    def decision(self, decision: Decision, epoch: Position) -> Message:
        """Returns ``decision`` as published under ``epoch``."""
        value = encode(replace(decision, epoch=epoch))
        key = decision_key(decision.model, decision.principal)
        return Message(self._topics.decisions, self._partition, key, value)
