"""How the operator's commands reach Kafka: topics read to their end, followed, and written to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detector.contracts.codecs import encode
from detector.contracts.codecs.records import decode
from detector.contracts.compression import not_read
from detector.contracts.errors import BrokerError, ConfigurationError, InvalidRecord
from detector.contracts.findings import Audit, Command
from detector.contracts.partitioning import partition_of
from detector.runtime import odd_batches
from detector.runtime.sections import KafkaSettings

_BOOTSTRAP_MILLISECONDS = 5_000
_REPLY_MILLISECONDS = 10_000
_POLL_MILLISECONDS = 100
_QUIET_SECONDS = 0.3
_READ_SECONDS = 120.0


class Topic:
    """All partitions of the topic ``name``, or that of ``principal`` alone, for one reader. Use as a context. Raises
    BrokerError."""

    def __init__(self, settings: KafkaSettings, name: str, principal: str | None = None) -> None:
        import kafka

        odd_batches.install()
        self.name = name
        self._embedded = settings.embedded
        self._count = _partitions(settings, name)
        with _named(settings):
            self._consumer = kafka.KafkaConsumer(
                **settings.client_arguments(),
                bootstrap_timeout_ms=_BOOTSTRAP_MILLISECONDS,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=_POLL_MILLISECONDS,
                isolation_level="read_committed",
            )
        wanted = range(self._count) if principal is None else [partition_of(principal, self._count)]
        self._partitions = [kafka.TopicPartition(name, number) for number in wanted]
        self._consumer.assign(self._partitions)

    def __enter__(self) -> Topic:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def __len__(self) -> int:
        """How many partitions the topic has."""
        return self._count

    def to_end(self) -> Iterator[Any]:
        """Every record from the beginning to the end.

        The embedded broker claims ends that are too low, by less than its last batch: so it is read on until it
        has been quiet for a moment.
        """
        self._consumer.seek_to_beginning()
        ends = self._ends()
        deadline = time.monotonic() + _READ_SECONDS
        heard = time.monotonic()
        while True:
            records = self._poll()
            now = time.monotonic()
            if records:
                heard = now
                yield from records
            elif now - heard >= _QUIET_SECONDS and self._reached(ends):
                return
            if now > deadline:
                raise BrokerError(f"{self.name} could not be read to its end within {_READ_SECONDS:g} seconds")

    def until_now(self, since: float) -> Iterator[Any]:
        """Every record whose timestamp is ``since`` (seconds UTC) or later, to where the topic ends now.

        The embedded broker finds no record by its time, and claims ends that are too low: see ``to_end``.
        """
        ends = self._ends()
        self._seek(since, ends)
        heard = time.monotonic()
        while True:
            records = self._poll()
            now = time.monotonic()
            heard = now if records else heard
            yield from (record for record in records if record.timestamp >= 1000 * since)
            if self._reached(ends) and (not self._embedded or now - heard >= _QUIET_SECONDS):
                return
            if now - heard > _READ_SECONDS:
                raise BrokerError(f"{self.name} was silent for {_READ_SECONDS:g} seconds before its end")

    def seek_to_end(self) -> None:
        """Go on with what comes from now on (on the embedded broker, with some of its last batch)."""
        for partition, end in self._ends().items():
            self._consumer.seek(partition, end)

    def follow(self, seconds: float | None = None) -> Iterator[Any]:
        """Records as they come, for ``seconds`` or for ever."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            yield from self._poll()

    def _seek(self, since: float, ends: dict[Any, int]) -> None:
        self._consumer.seek_to_beginning()
        if self._embedded:
            return
        found = self._consumer.offsets_for_times(dict.fromkeys(self._partitions, int(1000 * since)))
        for partition, first in found.items():
            self._consumer.seek(partition, ends[partition] if first is None else first.offset)

    def _poll(self) -> list[Any]:
        from kafka.errors import KafkaError

        try:
            batches = self._consumer.poll(timeout_ms=_POLL_MILLISECONDS)
        except KafkaError as error:
            raise not_read(f"cannot read {self.name}", error) from error
        return [record for records in batches.values() for record in records]

    def _ends(self) -> dict[Any, int]:
        from kafka.errors import KafkaError

        try:
            ends: dict[Any, int] = self._consumer.end_offsets(self._partitions, timeout_ms=_REPLY_MILLISECONDS)
        except KafkaError as error:
            raise BrokerError(f"the broker does not say where {self.name} ends: {error}; is it up?") from error
        return ends

    def _reached(self, ends: dict[Any, int]) -> bool:
        return all(self._consumer.position(partition) >= end for partition, end in ends.items() if end)


def write(settings: KafkaSettings, topic: str, **record: Any) -> None:
    """Write one record (kafka-python's arguments of ``send``) and wait until it is acknowledged. Raises BrokerError."""
    import kafka

    _partitions(settings, topic)
    with _named(settings):
        producer = kafka.KafkaProducer(
            **settings.client_arguments(),
            bootstrap_timeout_ms=_BOOTSTRAP_MILLISECONDS,
            max_block_ms=_REPLY_MILLISECONDS,
            delivery_timeout_ms=3 * _REPLY_MILLISECONDS,
            request_timeout_ms=_REPLY_MILLISECONDS,
        )
        try:
            producer.send(topic, **record).get(timeout=4 * _REPLY_MILLISECONDS / 1000)
        finally:
            producer.close(timeout=1)


def carry_out(settings: KafkaSettings, command: Command, wait_seconds: float) -> Audit:
    """Send ``command`` to the owner of its principal and return what the owner put on record about it.

    Raises BrokerError when nothing is on record after ``wait_seconds``.
    """
    value = encode(command)
    with Topic(settings, settings.topics.audit) as audit:
        audit.seek_to_end()
        partition = _partition(settings, command.principal)
        write(settings, settings.topics.commands, key=command.principal.encode(), value=value, partition=partition)
        for record in audit.follow(wait_seconds):
            answer = _answer(record.value, command)
            if answer is not None:
                return answer
    raise BrokerError(
        f"the command was written, and no detector has answered within {wait_seconds:g} seconds; it will be carried "
        f"out when one takes partition {partition} of {settings.topics.commands}: is `weirguard run` up and ready?"
    )


def _answer(value: bytes | None, command: Command) -> Audit | None:
    try:
        audit = decode(Audit, value)
    except InvalidRecord:
        return None
    return audit if audit.detail.get("command") == command.id else None


def _partition(settings: KafkaSettings, principal: str) -> int:
    partitions = _partitions(settings, settings.topics.commands)
    if partitions != settings.partitions:
        raise ConfigurationError(
            f"kafka.partitions is {settings.partitions} and {settings.topics.commands} has {partitions}; set it to that"
        )
    return partition_of(principal, partitions)


def _partitions(settings: KafkaSettings, name: str) -> int:
    """How many partitions the topic ``name`` has. The admin client asks, since it alone never has a topic made; a
    broker would make one with its own settings, which the detector then refuses. Raises BrokerError."""
    from kafka.admin import KafkaAdminClient

    with _named(settings):
        admin = KafkaAdminClient(**settings.client_arguments(), bootstrap_timeout_ms=_BOOTSTRAP_MILLISECONDS)
        try:
            count = sum(len(topic["partitions"]) for topic in admin.describe_topics([name]))
        finally:
            admin.close()
    if not count:
        raise BrokerError(f"there is no topic {name}; start the detector, which creates it, or correct the prefix")
    return count


@contextmanager
def _named(settings: KafkaSettings) -> Iterator[None]:
    from kafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise BrokerError(f"cannot use Kafka at {settings.bootstrap_servers} as configured: {error}") from error
