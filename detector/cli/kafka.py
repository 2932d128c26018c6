"""Kafka for the operator's commands: reads topics to their end, follows them, and writes to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detector.contracts.codecs import encode
from detector.contracts.codecs.records import decode
from detector.contracts.errors import BrokerError, ConfigurationError, InvalidRecord, not_read
from detector.contracts.findings import Audit, Command
from detector.contracts.topics import partition_of
from detector.runtime import odd_batches
from detector.runtime.sections import KafkaSettings

_BOOTSTRAP_MILLISECONDS = 5_000
_REPLY_MILLISECONDS = 10_000
_POLL_MILLISECONDS = 100
_QUIET_SECONDS = 0.3
_READ_SECONDS = 120.0


class Topic:
    """Reads all partitions of the topic ``name``, or only that of ``principal``. A context manager. Raises
    BrokerError."""

    def __init__(self, settings: KafkaSettings, name: str, principal: str | None = None) -> None:
        import kafka

        odd_batches.install()
        self.name = name
        self._embedded = settings.embedded
        self._count = _partitions(settings, name)
        with _broker_errors(settings):
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
        """The number of partitions of the topic."""
        return self._count

    def to_end(self) -> Iterator[Any]:
        """Every record from the beginning to the end.

        The embedded broker reports ends that are too low, by less than its last batch: reading goes on until it has
        been quiet for ``_QUIET_SECONDS``.
        """
        self._consumer.seek_to_beginning()
        ends = self._ends()
        deadline = time.monotonic() + _READ_SECONDS
        last_record = time.monotonic()
        while True:
            records = self._poll()
            now = time.monotonic()
            if records:
                last_record = now
                yield from records
            elif now - last_record >= _QUIET_SECONDS and self._reached(ends):
                return
            if now > deadline:
                raise BrokerError(f"{self.name} could not be read to its end within {_READ_SECONDS:g} seconds")

    def until_now(self, since: float) -> Iterator[Any]:
        """Every record with a timestamp of ``since`` (seconds UTC) or later, up to the present end of the topic.

        The embedded broker cannot look up a time, and reports ends that are too low: see ``to_end``.
        """
        ends = self._ends()
        self._seek(since, ends)
        last_record = time.monotonic()
        while True:
            records = self._poll()
            now = time.monotonic()
            last_record = now if records else last_record
            yield from (record for record in records if record.timestamp >= 1000 * since)
            if self._reached(ends) and (not self._embedded or now - last_record >= _QUIET_SECONDS):
                return
            if now - last_record > _READ_SECONDS:
                raise BrokerError(f"{self.name} was silent for {_READ_SECONDS:g} seconds before its end")

    def seek_to_end(self) -> None:
        """Skips to new records (on the embedded broker, to some of its last batch)."""
        for partition, end in self._ends().items():
            self._consumer.seek(partition, end)

    def follow(self, seconds: float | None = None) -> Iterator[Any]:
        """Yields records as they come, for ``seconds`` or without end."""
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
            raise BrokerError(
                f"the broker does not report the end of {self.name}: {error}; check that it runs"
            ) from error
        return ends

    def _reached(self, ends: dict[Any, int]) -> bool:
        return all(self._consumer.position(partition) >= end for partition, end in ends.items() if end)


def write(settings: KafkaSettings, topic: str, **record: Any) -> None:
    """Writes one record and waits for its acknowledgement. Raises BrokerError.

    ``record``: arguments of kafka-python's ``send``.
    """
    import kafka

    _partitions(settings, topic)
    with _broker_errors(settings):
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
    """Sends ``command`` to the owner of its principal and returns the owner's audit record of it.

    Raises BrokerError if there is none after ``wait_seconds``.
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
        f"out when one takes partition {partition} of {settings.topics.commands}; check that `weirguard run` is ready"
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
            f"kafka.partitions is {settings.partitions} and {settings.topics.commands} has {partitions}; set it to "
            f"{partitions}"
        )
    return partition_of(principal, partitions)


def _partitions(settings: KafkaSettings, name: str) -> int:
    """The number of partitions of the topic ``name``. Raises BrokerError.

    Uses the admin client, which never creates a topic: the broker would create it with its own settings, which the
    detector refuses.
    """
    from kafka.admin import KafkaAdminClient

    with _broker_errors(settings):
        admin = KafkaAdminClient(**settings.client_arguments(), bootstrap_timeout_ms=_BOOTSTRAP_MILLISECONDS)
        try:
            count = sum(len(topic["partitions"]) for topic in admin.describe_topics([name]))
        finally:
            admin.close()
    if not count:
        raise BrokerError(f"there is no topic {name}; start the detector, which creates it, or correct the prefix")
    return count


@contextmanager
def _broker_errors(settings: KafkaSettings) -> Iterator[None]:
    from kafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise BrokerError(f"cannot use Kafka at {settings.bootstrap_servers} as configured: {error}") from error
