"""Reads topics as they grow, from their first record on, into memory."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from tests.chaos.audit import Names
from tests.chaos.logs import CONSUMER_OFFSETS, Commit, Entry, Logs

_HEARTBEAT = b'["*","detector"]'
"""The key of heartbeats, which are no decisions."""


class Tail:
    """A thread with a consumer without a group. Compacted and cut topics are seen whole, because they are seen early.

    ``embedded``: the broker has no offsets topic; what is committed is asked for twice a second instead.
    """

    def __init__(self, bootstrap: str, prefix: str, *, embedded: bool) -> None:
        self._logs = Logs()
        self._seen: list[Commit] | None = [] if embedded else None
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def snapshot(self) -> tuple[Logs, list[Commit] | None]:
        """What has been read so far, and what was seen committed before. Raises what ended the thread, if anything."""
        if self._error is not None:
            raise self._error
        commits = None if self._seen is None else list(self._seen)
        return self._logs.copy(), commits

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 (raised again in ``snapshot``)
            self._error = error

    def _read(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=300,
            fetch_min_bytes=100_000,
            max_partition_fetch_bytes=20_000_000,
            reconnect_backoff_max_ms=500,
        )
        consumer.assign(self._places(consumer))
        consumer.seek_to_beginning()
        while not self._stopping.is_set():
            for place, records in consumer.poll(timeout_ms=300, max_records=5_000).items():
                for record in records:
                    if record.key != _HEARTBEAT:
                        self._logs.add(place.topic, _entry(place.partition, record))
            self._ask_for_commits()
        consumer.close()

    def _places(self, consumer: KafkaConsumer) -> list[TopicPartition]:
        names = Names(self._prefix)
        topics = [names.queries, names.judged, names.commands, names.state, names.groups, names.alerts]
        topics += [names.decisions, names.audit, names.dead_letters]
        if self._seen is None:
            topics.append(CONSUMER_OFFSETS)
        return [TopicPartition(topic, p) for topic in topics for p in consumer.partitions_for_topic(topic) or ()]

    def _ask_for_commits(self) -> None:
        if self._seen is None:
            return
        try:
            with KafkaAdminClient(bootstrap_servers=self._bootstrap) as admin:
                found = admin.list_group_offsets({self._prefix: None})
        except KafkaError:
            return
        for place, offset in found.get(self._prefix, {}).items():
            self._seen.append(Commit(place.topic, place.partition, offset.offset, 0))


def _entry(partition: int, record: Any) -> Entry:
    return Entry(partition, record.offset, record.timestamp, record.key, record.value, tuple(record.headers))
