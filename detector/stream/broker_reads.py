"""Requests to the broker that Faust cannot make; by kafka-python, from one thread of the worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from detector.contracts.errors import BrokerError, SourceGap, not_read
from detector.runtime import odd_batches
from detector.runtime.sections import KafkaSettings
from detector.stream import topics
from detector.stream.topic_watch import TopicWatch

_PATIENCE_SECONDS = 5.0
_MOST_RECORDS = 1

_log = structlog.get_logger("weirguard.stream")


class BrokerReads:
    """One lazily opened consumer without a group, for committed records alone. All methods raise BrokerError when the
    broker does not answer."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._consumer: KafkaConsumer | None = None
        self._watch = TopicWatch(kafka)

    def missing(self, topic: str, partition: int, expected: int, found: int) -> int:
        """Returns how many offsets from ``expected`` to below ``found`` were deleted before they were read.

        The others hold no record: transaction markers, or records of an aborted transaction. Raises SourceGap where the
        broker holds a record there.
        """
        place = TopicPartition(topic, partition)
        with self._named(f"cannot read {topic}[{partition}] at {expected}"):
            consumer = self._open()
            consumer.assign([place])
            start = int(consumer.beginning_offsets([place])[place])
            if start < found:
                consumer.seek(place, max(start, expected))
                self._nothing_before(consumer, place, found)
        return max(min(start, found) - expected, 0)

    def _nothing_before(self, consumer: KafkaConsumer, place: TopicPartition, found: int) -> None:
        """Reads until the consumer is at ``found``; without progress for a while, or at a record, it is no gap."""
        at, deadline = -1, monotonic() + _PATIENCE_SECONDS
        while monotonic() < deadline:
            records = consumer.poll(timeout_ms=200, max_records=_MOST_RECORDS).get(place)
            position = records[0].offset if records else consumer.position(place)
            if position >= found:
                return
            if records:
                raise SourceGap(f"{place.topic}[{place.partition}]: {found} was delivered while {position} is there")
            if position > at:
                at, deadline = position, monotonic() + _PATIENCE_SECONDS
        raise SourceGap(f"{place.topic}[{place.partition}]: {found} was delivered and the broker shows nothing at {at}")

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Returns the end offsets of ``partitions`` of ``topic``; the embedded broker's are low by less than its last
        batch."""
        places = [TopicPartition(topic, partition) for partition in partitions]
        with self._named(f"cannot read the ends of {topic}"):
            return {place.partition: int(end) for place, end in self._open().end_offsets(places).items()}

    def holds(self, topic: str, partition: int, offset: int) -> bool:
        """Returns whether ``topic`` holds a record at ``offset``."""
        place = TopicPartition(topic, partition)
        with self._named(f"cannot read {topic}[{partition}] at {offset}"):
            consumer = self._open()
            consumer.assign([place])
            consumer.seek(place, offset)
            deadline = monotonic() + _PATIENCE_SECONDS
            while monotonic() < deadline:
                records = consumer.poll(timeout_ms=200, max_records=_MOST_RECORDS).get(place)
                if records:
                    return bool(records[0].offset == offset)
        return False

    def look(self) -> dict[str, str]:
        """Returns the identity of each topic, empty where the broker has none.

        Topics that only we write are made again where they are gone. Raises ConfigurationError when a topic has changed
        since the start.
        """
        found = topics.look(self._kafka)
        renewed = self._watch.check(found)
        if renewed:
            _log.error("topics were deleted; what stood there is lost to their readers", topics=sorted(renewed))
            topics.ensure(self._kafka)
        return {name: one.identity for name, one in found.items()}

    def cut(self, topic: str, partition: int, before: int) -> None:
        """Deletes the records of ``topic`` below offset ``before``; does nothing on the embedded broker."""
        if self._kafka.embedded:
            return
        admin = KafkaAdminClient(**self._kafka.client_arguments())
        try:
            admin.delete_records({TopicPartition(topic, partition): before})
        except KafkaError as error:
            raise BrokerError(f"cannot delete {topic}[{partition}] below {before}: {error}") from error
        finally:
            admin.close()

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaError as error:
            raise not_read(what, error) from error

    def _open(self) -> KafkaConsumer:
        if self._consumer is None:
            odd_batches.install()
            self._consumer = KafkaConsumer(
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                **self._kafka.client_arguments(),
            )
        return self._consumer
