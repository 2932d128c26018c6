"""Sends a population's queries at a steady rate, packed and as single JSON records, and knows what it sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from detector.contracts.batches import take
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import partition_of
from tests.chaos.audit import Names
from tests.chaos.population import Population
from tests.contracts.wire import encode_json_query

_TICK_SECONDS = 0.05
_PACKED_HEADERS = [("content-type", PACKED_CONTENT_TYPE.encode())]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to send: its partition, its value, whether it is packed, and how many queries it carries."""

    partition: int
    key: bytes | None
    value: bytes
    packed: bool
    rows: int


def records(batch: QueryBatch, partitions: int, json_share: float) -> Iterator[Outgoing]:
    """``batch`` as records: the first ``json_share`` of the principals one by one in JSON, the others packed."""
    homes = np.asarray([partition_of(name, partitions) for name in batch.principals])[batch.principal_index]
    single = batch.principal_index < json_share * len(batch.principals)
    for partition in np.unique(homes):
        packed = np.flatnonzero((homes == partition) & ~single)
        if len(packed):
            yield Outgoing(int(partition), None, encode_packed(_only(batch, packed)), True, len(packed))
    for row in np.flatnonzero(single).tolist():
        key = batch.principals[batch.principal_index[row]].encode()
        yield Outgoing(int(homes[row]), key, encode_json_query(batch, row), False, 1)


def _only(batch: QueryBatch, rows: np.ndarray[Any, np.dtype[np.int64]]) -> QueryBatch:
    """These rows, and of the principals only those who have some."""
    part = take(batch, rows)
    used, index = np.unique(part.principal_index, return_inverse=True)
    return replace(part, principals=[part.principals[at] for at in used], principal_index=index.astype(np.int32))


class Load:
    """A thread that sends ``queries_per_second`` from ``population`` until it is stopped.

    It catches up after the broker was down. ``rows``: queries handed over. ``last``: by partition the offset of the
    last record that the broker took, final after ``stop``.
    """

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        partitions: int,
        population: Population,
        queries_per_second: float,
        json_share: float = 0.1,
    ) -> None:
        self.rows = 0
        self.last: dict[int, int] = {}
        self._topic = Names(prefix).queries
        self._partitions = partitions
        self._population = population
        self._per_tick = max(1, round(queries_per_second * _TICK_SECONDS))
        self._json_share = json_share
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", linger_ms=5, delivery_timeout_ms=300_000, request_timeout_ms=10_000
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._error: BaseException | None = None
        self._drawing = threading.Lock()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send no more and wait for the broker to take all. Raises what a send raised."""
        self._stopping.set()
        self._thread.join()
        self._producer.flush(timeout=120)
        self.check()

    def check(self) -> None:
        """Raise what a send raised, if one did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let go of the broker, whatever is still to be sent."""
        self._stopping.set()
        with suppress(KafkaTimeoutError):
            self._producer.close(timeout=0)

    def send(self, rows: int) -> None:
        """One batch of ``rows`` queries, now."""
        for record in records(self._draw(rows), self._partitions, self._json_share):
            self._put(record)

    def send_each(self, timestamp: float) -> list[tuple[int, int]]:
        """A query to each partition in a record that says it is of ``timestamp``; partitions and offsets."""
        batch = self._draw(20 * self._partitions)
        first = {record.partition: record for record in records(batch, self._partitions, 0.0)}
        sent = [self._put(record, round(timestamp * 1000)).get(60) for record in first.values()]
        return [(one.partition, one.offset) for one in sent]

    def send_as(self, name: str) -> tuple[int, int]:
        """A query of ``name``; its partition and offset."""
        batch = replace(self._draw(1), principals=[name], principal_index=np.zeros(1, np.int32))
        (record,) = records(batch, self._partitions, 1.0)
        sent = self._put(record).get(60)
        return sent.partition, sent.offset

    def _draw(self, rows: int) -> QueryBatch:
        with self._drawing:
            return replace(self._population.draw(rows), occurred_at=np.full(rows, time.time()))

    def _put(self, record: Outgoing, timestamp_ms: int | None = None) -> Any:
        headers = _PACKED_HEADERS if record.packed else None
        to = {"partition": record.partition, "timestamp_ms": timestamp_ms}
        sent = self._producer.send(self._topic, record.value, record.key, headers, **to)
        self.rows += record.rows
        return sent.add_callback(self._taken).add_errback(self._failed)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            try:
                self.send(self._per_tick)
            except Exception as error:  # noqa: BLE001 (raised again in ``stop``)
                self._failed(error)
                return
            due += _TICK_SECONDS
            self._stopping.wait(max(0.0, due - time.monotonic()))

    def _taken(self, where: Any) -> None:
        self.last[where.partition] = max(where.offset, self.last.get(where.partition, -1))

    def _failed(self, error: BaseException) -> None:
        self._error = self._error or error
