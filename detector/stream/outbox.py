"""Messages that must be published because of state records, and up to which record they are known to be published."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from detector.contracts.codecs.records import decision_key, encode
from detector.contracts.findings import Decision
from detector.contracts.topics import Topics
from detector.policy.activity import Effects
from detector.stream.record import Message, Position


class Outbox:
    """The outbox of one partition. ``published``: every record up to here has its messages on the broker."""

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

    def decision(self, decision: Decision, epoch: Position) -> Message:
        """Returns ``decision`` as published under ``epoch``."""
        value = encode(replace(decision, epoch=epoch))
        key = decision_key(decision.model, decision.principal)
        return Message(self._topics.decisions, self._partition, key, value)
