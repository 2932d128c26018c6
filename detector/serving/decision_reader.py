"""The thread of the gate: reads the decisions topic from its beginning, and then new records as they come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from detector.contracts.codecs.records import HEARTBEAT_KEY, HEARTBEAT_SECONDS, KILL_SWITCH_KEY
from detector.contracts.errors import BrokerError, InvalidRecord, read_error
from detector.serving.connection import Connection, TopicMissing
from detector.serving.decisions import DecisionTable
from detector.serving.isolation import load
from detector.serving.metrics import Counters, RateLimitedLogger
from detector.serving.threads import LONGEST_PAUSE_SECONDS, BackgroundThread

_POLL_MILLISECONDS = 200
_REPLY_MILLISECONDS = 5_000
_QUIET_SECONDS = 3 * HEARTBEAT_SECONDS
"""How long a detector may be silent until the gate counts it as away."""


class DecisionReader(BackgroundThread):
    """Fills ``table``, and records since when it may be out of date.

    An idle poll looks the same whether the broker is up or down (kafka-python 3.0.12). So it asks for the ends of all
    partitions every ``contact_seconds``, and not after each record: the answer waits behind a fetch, and the next
    decision would wait for both. If that fails, or an end is lower because the broker lost its records, it reads the
    topic again.
    """

    def __init__(
        self,
        connection: Connection,
        table: DecisionTable,
        counters: Counters,
        clock: Callable[[], float],
        contact_seconds: float,
    ) -> None:
        super().__init__("weirguard-gate")
        self._connection = connection
        self._table = table
        self._counters = counters
        self._clock = clock
        self._contact_seconds = contact_seconds
        self._log = RateLimitedLogger(logging.getLogger(__name__))
        self._heard = dict[int, float]()
        """Of each partition of the detector, its last heartbeat; replaced, never changed."""
        self.ready = threading.Event()
        self.latest_contact = float("-inf")
        """The last time, by ``clock``, at which the table was known to be complete."""
        self.current_at = float("-inf")
        """The last time at which the table was complete and the detector at work, as far as it sends heartbeats."""
        self.latest_record = float("-inf")
        """Kafka's time of the newest decision, seconds UTC. A detector publishes what stands once a minute."""

    def resume(self, before: DecisionReader) -> None:
        """Takes over what ``before`` knew, of a process that was forked since."""
        self.latest_contact, self.current_at = before.latest_contact, before.current_at
        self._heard, self.latest_record = before._heard, before.latest_record

    @property
    def latest_sign(self) -> float:
        """The last time at which all partitions of the detector were at work; ``latest_record`` while a detector of an
        earlier version sends no heartbeats."""
        return min(self._heard.values(), default=self.latest_record)

    def _report_error(self, error: BaseException) -> None:
        """Counts and logs ``error``. A gate often starts before its topics: for some seconds that is no failure."""
        if isinstance(error, TopicMissing) and self._back_off < LONGEST_PAUSE_SECONDS:
            return
        self._counters.add("failures")
        self._log.warning("session", "cannot read decisions (will try again): %s", error)

    def _work(self) -> None:
        load()
        consumer = self._connection.consumer()
        try:
            topic = _Topic(consumer, self._connection.topics.decisions)
            self._catch_up(topic)
            self._read_on(topic)
        finally:
            consumer.close(timeout_ms=1_000)

    def _catch_up(self, topic: _Topic) -> None:
        """Reads to the ends seen at the start. Sets the kill switch last, so that no intermediate value takes
        effect."""
        self._heard = {number: at for number, at in self._heard.items() if number in topic.numbers}
        switches = []
        while not topic.caught_up():
            for record in topic.poll():
                if record.key == KILL_SWITCH_KEY:
                    switches.append(record)
                elif record.key == HEARTBEAT_KEY:
                    self.hear(record.partition, min(record.timestamp / 1000, self._clock()))
                else:
                    self._apply(record)
            if self._closing.is_set():
                return
        if switches:
            self._apply(switches[-1])
        else:
            self._table.set_kill_switch(None)
        self.note_contact()
        self._reset_back_off()

    def _read_on(self, topic: _Topic) -> None:
        while not self._closing.is_set():
            records = topic.poll()
            for record in records:
                if record.key == HEARTBEAT_KEY:  # by the clock of the gate: that of the detector may be wrong
                    self.hear(record.partition, self._clock())
                else:
                    self._apply(record)
            self._table.sweep(self._clock())
            if abs(self._clock() - self.latest_contact) >= self._contact_seconds:
                topic.require_contact()
                self.note_contact()

    def hear(self, partition: int, at: float) -> None:
        """Notes a heartbeat. A reader that starts again sees old ones again."""
        self._heard = self._heard | {partition: max(at, self._heard.get(partition, at))}

    def note_contact(self) -> None:
        """Notes that the table is complete now."""
        self.latest_contact = self._clock()
        heard = min(self._heard.values(), default=self.latest_contact)
        self.current_at = min(self.latest_contact, heard + _QUIET_SECONDS)
        self.ready.set()

    def _apply(self, record: Any) -> None:
        if record.key != KILL_SWITCH_KEY:
            self.latest_record = max(self.latest_record, record.timestamp / 1000)
        try:
            self._counters.add("applied" if self._table.apply(record.key, record.value) else "outdated")
        except InvalidRecord as error:
            self._counters.add("unreadable")
            self._log.warning("unreadable", "a record of the decisions topic was skipped: %s", error)


class _Topic:
    """All partitions of a topic, assigned to ``consumer`` from the beginning."""

    def __init__(self, consumer: Any, name: str) -> None:
        from kafka import TopicPartition

        self._consumer = consumer
        self._name = name
        self.numbers: frozenset[int] = frozenset(consumer.partitions_for_topic(name) or ())
        if not self.numbers:
            raise TopicMissing(name)
        self._partitions = [TopicPartition(name, number) for number in sorted(self.numbers)]
        consumer.assign(self._partitions)
        self._ends = self._read_ends()

    def poll(self) -> list[Any]:
        """Returns the records that arrive within ``_POLL_MILLISECONDS``. Raises BrokerError if they cannot be read."""
        from kafka.errors import KafkaError

        try:
            batches = self._consumer.poll(timeout_ms=_POLL_MILLISECONDS)
        except KafkaError as error:
            raise read_error(f"cannot read {self._name}", error) from None
        return [record for records in batches.values() for record in records]

    def caught_up(self) -> bool:
        """Returns whether it has read to the ends seen at the start. The embedded broker's ends are too low, never too
        high."""
        return all(self._position(partition) >= end for partition, end in self._ends.items() if end)

    def require_contact(self) -> None:
        """Raises KafkaError unless every partition answers, BrokerError when they are not those of the start."""
        before, self._ends = self._ends, self._read_ends()
        if any(self._ends[partition] < end for partition, end in before.items()):
            raise BrokerError(f"records of {self._name} are gone, as after a loss of the broker; reading it again")
        if self._consumer.partitions_for_topic(self._name) != self.numbers:
            raise BrokerError(f"the partitions of {self._name} have changed; reading it again")

    def _position(self, partition: Any) -> int:
        return self._consumer.position(partition, timeout_ms=_REPLY_MILLISECONDS) or 0

    def _read_ends(self) -> dict[Any, int]:
        ends: dict[Any, int] = self._consumer.end_offsets(self._partitions, timeout_ms=_REPLY_MILLISECONDS)
        return ends
