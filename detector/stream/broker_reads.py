"""Questions to the broker that Faust has no answer for; kafka-python, from one thread of the worker."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from detector.contracts.errors import BrokerError
from detector.runtime.sections import KafkaSettings

_PATIENCE_SECONDS = 5.0


class BrokerReads:
    """One lazily opened consumer without a group. All methods raise BrokerError when the broker does not answer."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._consumer: KafkaConsumer | None = None

    def first_at_or_after(self, topic: str, partition: int, offset: int) -> int | None:
        """Offset of the first record of ``topic`` at or after ``offset``; None when there is none yet."""
        place = TopicPartition(topic, partition)
        try:
            consumer = self._open()
            consumer.assign([place])
            consumer.seek(place, offset)
            return self._first(consumer, place)
        except KafkaError as error:
            raise BrokerError(f"cannot read {topic}[{partition}] at {offset}: {error}") from error

    def _first(self, consumer: KafkaConsumer, place: TopicPartition) -> int | None:
        deadline = monotonic() + _PATIENCE_SECONDS
        while monotonic() < deadline:
            found = consumer.poll(timeout_ms=200, max_records=1).get(place)
            if found:
                return int(found[0].offset)
        return None

    def ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """End offsets of ``partitions`` of ``topic``."""
        places = [TopicPartition(topic, partition) for partition in partitions]
        try:
            return {place.partition: int(end) for place, end in self._open().end_offsets(places).items()}
        except KafkaError as error:
            raise BrokerError(f"cannot read the ends of {topic}: {error}") from error

    def cut(self, topic: str, partition: int, before: int) -> None:
        """Delete the records of ``topic`` below offset ``before``; nothing happens on the embedded broker."""
        if self._kafka.embedded:
            return
        admin = KafkaAdminClient(**self._kafka.client_arguments())
        try:
            admin.delete_records({TopicPartition(topic, partition): before})
        except KafkaError as error:
            raise BrokerError(f"cannot delete {topic}[{partition}] below {before}: {error}") from error
        finally:
            admin.close()

    def _open(self) -> KafkaConsumer:
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", **self._kafka.client_arguments()
            )
        return self._consumer
