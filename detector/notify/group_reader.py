"""Reads the topics of notifications for one receiver, in its consumer group, and commits delivered records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from kafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from detector.contracts.errors import read_error
from detector.contracts.topics import Topics
from detector.notify.notification import READERS
from detector.runtime import odd_batches
from detector.runtime.sections import KafkaSettings
from detector.serving.connection import Connection, TopicMissing

FIRST_SECONDS: Final = 3_600.0
"""A new receiver begins with records of the last hour."""

_POLL_MILLISECONDS = 200
_REPLY_MILLISECONDS = 5_000
_SESSION_MILLISECONDS, _HEARTBEAT_MILLISECONDS = 10_000, 3_000
_MOST_RECORDS = 100

LETTERS = "dead_letters"
"""The topic of dead letters, by its attribute in ``Topics``."""


class GroupReader:
    """A consumer in the group ``group`` that gives the records of the topics in ``READERS`` and the dead letters.

    ``moved`` is called when the assignment changes: every partition is then read from its committed offset, and
    uncommitted records come again, here or elsewhere. Raises KafkaError or BrokerError.
    """

    def __init__(self, kafka: KafkaSettings, group: str, clock: Callable[[], float], moved: Callable[[], None]) -> None:
        odd_batches.install()
        self._embedded = kafka.embedded
        self._clock = clock
        self._notify_moved = moved
        self._names = {getattr(kafka.topics, name): name for name in (*READERS, LETTERS)}
        self._next: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._rebalanced = _Rebalanced()
        self._consumer = Connection(",".join(kafka.servers), Topics(kafka.prefix), kafka.client_arguments()).consumer(
            group_id=group,
            client_id=group,
            max_poll_records=_MOST_RECORDS,
            session_timeout_ms=_SESSION_MILLISECONDS,
            heartbeat_interval_ms=_HEARTBEAT_MILLISECONDS,
        )
        try:
            self._subscribe()
        except BaseException:
            self.close()
            raise

    def _subscribe(self) -> None:
        for topic in self._names:
            if not self._consumer.partitions_for_topic(topic):
                raise TopicMissing(topic)
        self._consumer.subscribe([*self._names], listener=self._rebalanced)

    def close(self) -> None:
        """Leaves the group, so that others take over at once."""
        self._consumer.close(autocommit=False, timeout_ms=1_000)

    @property
    def joined(self) -> bool:
        """Whether the group has assigned partitions to this reader, possibly none."""
        return self._rebalanced.ever

    def poll(self) -> Iterator[tuple[str, Any]]:
        """Yields the records that arrive within ``_POLL_MILLISECONDS``, with the attribute of their topic. Each must be
        passed to :meth:`done` before the next."""
        records = self._poll()
        if self._take_over():
            return
        for record in records:
            if self._rebalanced.flag:
                return
            yield self._names[record.topic], record

    def wait(self, seconds: float) -> bool:
        """Stays in the group for ``seconds`` without reading; returns False if the assignment changed meanwhile."""
        deadline = time.monotonic() + seconds
        while not self._rebalanced.flag and time.monotonic() < deadline:
            self._consumer.pause(*self._consumer.assignment())
            left = deadline - time.monotonic()
            self._poll(max(1, min(_POLL_MILLISECONDS, int(1000 * left))))
        if not self._rebalanced.flag:
            self._consumer.resume(*self._consumer.assignment())
        return not self._rebalanced.flag

    def done(self, record: Any, resume_at: int | None = None) -> None:
        """Commits ``record``; reading resumes at ``resume_at``, or else after it."""
        partition = TopicPartition(record.topic, record.partition)
        self._next[partition] = record.offset + 1
        self._commit({partition: record.offset + 1 if resume_at is None else resume_at})

    def settle(self, resume_offset: Callable[[int], int | None]) -> None:
        """Commits the dead letters up to ``resume_offset`` of each partition; all that were read if it is None."""
        resumed = {at: resume_offset(at.partition) for at in self._next if self._names[at.topic] == LETTERS}
        self._commit({at: self._next[at] if offset is None else offset for at, offset in resumed.items()})

    def lag(self) -> int:
        """Returns the records that wait in the partitions of this reader (on the embedded broker, too few)."""
        partitions = [at for at in self._consumer.assignment() if at in self._next]
        ends = self._consumer.end_offsets(partitions, timeout_ms=_REPLY_MILLISECONDS) if partitions else {}
        return sum(max(end - self._next[at], 0) for at, end in ends.items())

    def _poll(self, milliseconds: int = _POLL_MILLISECONDS) -> list[Any]:
        try:
            batches = self._consumer.poll(timeout_ms=milliseconds)
        except KafkaError as error:
            raise read_error("cannot read the topics of alerts", error) from None
        return [record for records in batches.values() for record in records]

    def _take_over(self) -> bool:
        """Seeks newly assigned partitions to the committed offsets; returns whether there are any."""
        if not self._rebalanced.flag:
            return False
        self._rebalanced.flag = False
        assigned = sorted(self._consumer.assignment())
        begun = {at: self._consumer.committed(at, timeout_ms=_REPLY_MILLISECONDS) for at in assigned}
        fresh = self._first_offsets([at for at, offset in begun.items() if offset is None])
        self._next = {at: fresh[at] if offset is None else offset for at, offset in begun.items()}
        self._committed = {at: offset for at, offset in begun.items() if offset is not None}
        for at, offset in self._next.items():
            self._consumer.seek(at, offset)
        self._commit(fresh)
        self._notify_moved()
        return True

    def _first_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Returns the offset of each partition at which a new receiver begins. The embedded broker cannot look up a
        time."""
        if not partitions or self._embedded:
            return dict.fromkeys(partitions, 0)
        since = int(1000 * (self._clock() - FIRST_SECONDS))
        found = self._consumer.offsets_for_times(dict.fromkeys(partitions, since), timeout_ms=_REPLY_MILLISECONDS)
        ends = self._consumer.end_offsets(partitions, timeout_ms=_REPLY_MILLISECONDS)
        return {at: found[at].offset if found.get(at) else ends[at] for at in partitions}

    def _commit(self, offsets: dict[TopicPartition, int]) -> None:
        news = {at: offset for at, offset in offsets.items() if self._committed.get(at) != offset}
        if news:
            self._consumer.commit(
                {at: OffsetAndMetadata(offset, "", -1) for at, offset in news.items()}, timeout_ms=_REPLY_MILLISECONDS
            )
            self._committed |= news


class _Rebalanced(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Notes that the assignment changed. Called on the thread that talks to the broker, which it must not block."""

    def __init__(self) -> None:
        self.flag = False
        self.ever = False

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.flag = True

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.flag = self.ever = True
