"""Reads scores, alerts and decisions from Kafka in a thread, as an external consumer."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from detector.contracts.codecs.records import KILL_SWITCH_KEY, decode
from detector.contracts.findings import Alert, Decision, Score
from detector.lab.demo.background import Background
from detector.lab.demo.board import Seen
from detector.serving import Connection

_POLL_MILLISECONDS = 100


class Observer(Background):
    """All records of the three topics from offset 0 on, in the order of arrival."""

    def __init__(self, connection: Connection) -> None:
        super().__init__("demo-observer")
        topics = connection.topics
        self._decoders: dict[str, Callable[[bytes], Score | Alert | Decision]] = {
            topics.scores: partial(decode, Score),
            topics.alerts: partial(decode, Alert),
            topics.decisions: partial(decode, Decision),
        }
        self._connection = connection
        self._seen: queue.SimpleQueue[Seen] = queue.SimpleQueue()

    def drain(self) -> Iterator[Seen]:
        """Yields the records read since the last call."""
        while not self._seen.empty():
            yield self._seen.get()

    def work(self) -> None:
        from kafka.errors import KafkaError

        consumer = self._connection.consumer()
        try:
            self._assign(consumer)
            while not self.stop.is_set():
                for records in consumer.poll(timeout_ms=_POLL_MILLISECONDS).values():
                    self._take(records)
        except KafkaError:
            if not self.stop.is_set():
                raise
        finally:
            consumer.close()

    def _assign(self, consumer: Any) -> None:
        from kafka import TopicPartition

        partitions = [TopicPartition(t, n) for t in self._decoders for n in consumer.partitions_for_topic(t) or ()]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)

    def _take(self, records: list[Any]) -> None:
        for record in records:
            if record.value is not None and record.key != KILL_SWITCH_KEY:
                self._seen.put(Seen(self._decoders[record.topic](record.value), time.time()))
