"""The thread behind the logger: from the queue to Kafka, patiently and within bounds."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

from detector.contracts.codecs.queries_packed import PACKED_CONTENT_TYPE
from detector.contracts.queries import Count
from detector.serving.complaints import Complaints
from detector.serving.connection import Connection, abandon
from detector.serving.fair_queue import FairQueue
from detector.serving.metrics import Counters
from detector.serving.packing import Record, Unpackable, carried, pack, pack_counts
from detector.serving.rows import Rows
from detector.serving.tallies import Tallies

_LINGER_SECONDS = 0.005
_COUNTS_SECONDS = 1.0
_TAKE_BYTES = 2 << 20
_IN_FLIGHT_BYTES = 8 << 20
_BACK_OFF_SECONDS = (0.1, 5.0)
_HEADERS = [("content-type", PACKED_CONTENT_TYPE.encode())]


class Delivery:
    """Sends what waits in ``queue`` and ``tallies``; nothing that it is given is lost without a count.

    While the broker is away kafka-python holds and repeats at most ``_IN_FLIGHT_BYTES`` bytes of records, and
    the queue fills behind them. A record that Kafka refuses for good turns into counts of dropped queries, and
    the next ones go through a new producer.
    """

    def __init__(self, connection: Connection, queue: FairQueue[Rows], tallies: Tallies, counters: Counters) -> None:
        self._connection = connection
        self._queue = queue
        self._tallies = tallies
        self._counters = counters
        self._complaints = Complaints(logging.getLogger(__name__))
        self._thread = threading.Thread(target=self._run, name="weirguard-logger", daemon=True)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._lock = threading.Lock()
        self._in_flight_bytes = 0
        self._in_flight_queries = 0
        self._producer: Any = None
        self._broken = False
        self._counts_due = 0.0
        self._back_off = _BACK_OFF_SECONDS[0]

    @property
    def in_flight(self) -> int:
        """Queries handed to Kafka's client and not yet acknowledged."""
        return self._in_flight_queries

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is something to send."""
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float) -> None:
        """Send what waits, for at most ``timeout`` seconds."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._finished():
            self._wait()
            try:
                self._step()
                self._back_off = _BACK_OFF_SECONDS[0]
            except Exception as error:  # noqa: BLE001  the thread must outlive any fault of a client
                self._complain("delivery", "cannot send query logs to Kafka (will go on trying): %s", error)
                self._pause()
        self._disconnect()

    def _finished(self) -> bool:
        if not self._closing.is_set():
            return False
        idle = not (len(self._queue) or len(self._tallies) or self._in_flight_bytes)
        return idle or time.monotonic() >= self._deadline

    def _wait(self) -> None:
        """Until there may be something to do. Counts that are not due yet wake by the clock, all else by ``wake``."""
        if self._closing.is_set():
            self._wake.wait(_LINGER_SECONDS)
        else:
            self._wake.wait(_COUNTS_SECONDS if len(self._tallies) else None)
        self._wake.clear()
        self._closing.wait(_LINGER_SECONDS)

    def _step(self) -> None:
        if self._broken:
            self._disconnect()
            raise ConnectionError("Kafka refused a record; a new producer will go on")
        if not (len(self._queue) or len(self._tallies)) or self._in_flight_bytes >= _IN_FLIGHT_BYTES:
            return
        partitions = self._partitions()
        self._send_rows(partitions)
        self._send_counts(partitions)
        if len(self._queue):
            self._wake.set()

    def _partitions(self) -> int:
        if self._producer is None:
            self._producer = self._connection.producer()
        return len(self._producer.partitions_for(self._connection.topics.queries))

    def _send_rows(self, partitions: int) -> None:
        rows = self._queue.take(_TAKE_BYTES)
        unsent = carried(rows)
        try:
            for record in pack(rows, partitions):
                if isinstance(record, Unpackable):
                    self._complain("packing", "a query does not fit a record: %s", record.error)
                else:
                    self._send(record)
                    unsent -= record.queries
        finally:
            self._drop(unsent)

    def _send_counts(self, partitions: int) -> None:
        now = time.monotonic()
        if not len(self._tallies) or (now < self._counts_due and not self._closing.is_set()):
            return
        self._counts_due = now + _COUNTS_SECONDS
        unsent = dict.fromkeys(self._tallies.take())
        try:
            for record in pack_counts(list(unsent), partitions):
                self._send(record)
                for count in record.counts:
                    del unsent[count]
        finally:
            self._give_back(unsent)

    def _send(self, record: Record) -> None:
        future = self._producer.send(
            self._connection.topics.queries, record.value, headers=_HEADERS, partition=record.partition
        )
        self._fly(record, 1)
        future.add_callback(partial(self._arrived, record))
        future.add_errback(partial(self._refused, record))

    def _arrived(self, record: Record, _metadata: object) -> None:
        self._fly(record, -1)
        self._counters.add("sent", record.queries.total())
        self._counters.add("records")

    def _refused(self, record: Record, error: BaseException) -> None:
        self._broken = True
        self._fly(record, -1)
        self._complain("refused", "Kafka refused a record of query logs: %s", error)
        self._drop(record.queries)
        self._give_back(record.counts)

    def _fly(self, record: Record, direction: int) -> None:
        with self._lock:
            self._in_flight_bytes += direction * len(record.value)
            self._in_flight_queries += direction * record.queries.total()
        if direction < 0:
            self._wake.set()

    def _drop(self, queries: Counter[tuple[str, str]]) -> None:
        for (model, principal), number in queries.items():
            self._counters.add("dropped", number)
            self._tallies.add(Count(model, principal, "dropped", number, time.time()))

    def _give_back(self, counts: Iterable[Count]) -> None:
        for count in counts:
            self._tallies.add(count)

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        self._broken = False
        if producer is not None:
            abandon(producer)

    def _pause(self) -> None:
        self._closing.wait(min(self._back_off, max(0.0, self._deadline - time.monotonic())))
        self._back_off = min(2 * self._back_off, _BACK_OFF_SECONDS[1])
        self._wake.set()

    def _complain(self, kind: str, message: str, error: BaseException) -> None:
        self._counters.add("failures")
        self._complaints.say(kind, message, error)
