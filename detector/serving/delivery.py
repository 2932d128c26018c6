"""The thread of the logger: sends the queue to Kafka, with retries and within bounds."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from functools import partial
from typing import Any, Literal

from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE
from detector.contracts.queries import Count
from detector.serving.buffers import FairQueue, Tallies
from detector.serving.connection import (
    Connection,
    TopicMissing,
    close_abruptly,
    drop_inherited,
    partitions_of,
    rebootstrap,
)
from detector.serving.isolation import load
from detector.serving.metrics import Counters, RateLimitedLogger
from detector.serving.packing import QueriesByOwner, Record, Unpackable, count_by_owner, pack, pack_counts
from detector.serving.rows import QueuedRows
from detector.serving.threads import BackgroundThread

_LINGER_SECONDS = 0.005
"""The least time between two looks at the queue: under load, the queries of a record gather meanwhile."""

_BURST_SECONDS = 0.001
"""How long the first query after a pause waits for others, such as those of the same call."""

_COUNTS_SECONDS = 1.0
_SILENCE_SECONDS = 10.0
_TAKE_BYTES = 2 << 20
_IN_FLIGHT_BYTES = 8 << 20
_PATIENCE_SECONDS = 0.3
"""Back-off from which a missing topic is a failure: each look at it takes some seconds."""
_HEADERS = [("content-type", PACKED_CONTENT_TYPE.encode())]


class Delivery(BackgroundThread):
    """Sends the content of ``queue`` and ``tallies``; nothing is lost without a count.

    While the broker is down, at most ``_IN_FLIGHT_BYTES`` bytes of records are held and repeated, and the queue fills
    behind them. When nothing was acknowledged for ``_SILENCE_SECONDS``, the bootstrap servers are asked where the
    brokers are now. A record that Kafka refuses permanently turns into counts of dropped queries, and the next ones go
    through a new producer.
    """

    def __init__(
        self, connection: Connection, queue: FairQueue[QueuedRows], tallies: Tallies, counters: Counters
    ) -> None:
        super().__init__("weirguard-logger")
        self._connection = connection
        self._queue = queue
        self._tallies = tallies
        self._counters = counters
        self._log = RateLimitedLogger(logging.getLogger(__name__))
        self._wake = threading.Event()
        self._deadline = float("inf")
        self._lock = threading.Lock()
        self._packed: deque[Record] = deque()
        self._in_flight_bytes = 0
        self._in_flight_queries = 0
        self._last_contact = 0.0
        self._producer: Any = None
        self._broken = False
        self._counts_due = 0.0
        self._last_look = 0.0

    @property
    def in_flight(self) -> int:
        """Queries packed into records and not yet acknowledged."""
        return self._in_flight_queries

    def wake(self) -> None:
        """Wakes the thread because there is something to send."""
        if not self._wake.is_set():
            self._wake.set()

    def end(self, timeout: float) -> None:
        """Sends what waits, for at most ``timeout`` seconds. Returns at once."""
        self._deadline = time.monotonic() + timeout
        super().end(timeout)
        self._wake.set()

    def drop_inherited(self) -> None:
        """Drops the parent's connection, in a forked process."""
        if self._producer is not None:
            drop_inherited(self._producer)

    def _run(self) -> None:
        super()._run()
        while self._packed:
            self._drop_record(self._packed.popleft(), "closed")
        self._disconnect()

    def _work(self) -> None:
        self._wait()
        self._step()
        self._reset_back_off()

    def _finished(self) -> bool:
        if not self._closing.is_set():
            return False
        idle = not (len(self._queue) or len(self._tallies) or self._in_flight_bytes)
        return idle or time.monotonic() >= self._deadline

    def _wait(self) -> None:
        """Waits until there may be something to do. Due times wake by the clock, all else by ``wake``."""
        if self._closing.is_set():
            self._wake.wait(_LINGER_SECONDS)
        else:
            self._wake.wait(_COUNTS_SECONDS if len(self._tallies) or self._in_flight_bytes else None)
        self._wake.clear()
        time.sleep(max(_BURST_SECONDS, self._last_look + _LINGER_SECONDS - time.monotonic()))

    def _step(self) -> None:
        if self._broken:
            self._disconnect()
            raise ConnectionError("Kafka refused a record; a new producer continues")
        self._check_silence()
        if not (len(self._queue) or len(self._tallies) or self._packed):
            return
        partitions = self._partitions()
        self._last_look = time.monotonic()
        self._flush()
        if self._in_flight_bytes < _IN_FLIGHT_BYTES:
            self._pack_rows(partitions)
            self._pack_counts(partitions)
        self._flush()
        if len(self._queue) and self._in_flight_bytes < _IN_FLIGHT_BYTES:
            self._wake.set()

    def _check_silence(self) -> None:
        """Asks for the brokers again if none has acknowledged anything for ``_SILENCE_SECONDS``."""
        now = time.monotonic()
        if self._producer is None or not self._in_flight_bytes:
            self._last_contact = now
        elif now - self._last_contact > _SILENCE_SECONDS:
            self._report(
                "silence", "no broker has acknowledged query logs for %.0f s (will try again)", now - self._last_contact
            )
            self._last_contact = now
            rebootstrap(self._producer)

    def _partitions(self) -> int:
        if self._producer is None:
            load()
            self._producer = self._connection.producer()
        return partitions_of(self._producer, self._connection.topics.queries)

    def _pack_rows(self, partitions: int) -> None:
        rows = self._queue.take(_TAKE_BYTES)
        unpacked = count_by_owner(rows)
        try:
            for piece in pack(rows, partitions):
                if isinstance(piece, Unpackable):
                    self._log.warning("unjudged", "queries that cannot be judged: %s", piece.error)
                    self._count_lost(piece.queries, "unjudged", piece.error.reason)
                else:
                    self._add_packed(piece)
                unpacked -= piece.queries
        finally:
            self._count_lost(unpacked, "dropped", "fault")

    def _pack_counts(self, partitions: int) -> None:
        now = time.monotonic()
        if not len(self._tallies) or (now < self._counts_due and not self._closing.is_set()):
            return
        self._counts_due = now + _COUNTS_SECONDS
        unpacked = dict.fromkeys(self._tallies.take())
        try:
            for record in pack_counts(list(unpacked), partitions):
                self._add_packed(record)
                for count in record.counts:
                    del unpacked[count]
        finally:
            self._tallies.add(*unpacked)

    def _add_packed(self, record: Record) -> None:
        self._packed.append(record)
        self._track(record, 1)
        for counter, queries in record.repairs.items():
            self._counters.add(counter, queries)
        if record.repairs["converted"]:
            self._log.warning(
                "converted",
                "outputs of model %r, declared as probabilities, are none and were converted; correct output_kind",
                next(iter(record.queries))[0],
            )

    def _flush(self) -> None:
        """Sends the packed records; a record for which the producer has no room stays first."""
        from kafka.errors import IllegalStateError, KafkaTimeoutError

        while self._packed:
            record = self._packed[0]
            try:
                future = self._producer.send(
                    self._connection.topics.queries, record.value, headers=_HEADERS, partition=record.partition
                )
            except KafkaTimeoutError:
                raise
            except IllegalStateError:  # closed by somebody else, as at the exit of the interpreter
                self._broken = True
                raise
            except Exception as error:  # noqa: BLE001  whatever is wrong with it, the others must not wait for it
                self._refused(self._packed.popleft(), error)
                return
            self._packed.popleft()
            future.add_callback(partial(self._acknowledged, record))
            future.add_errback(partial(self._refused, record))

    def _acknowledged(self, record: Record, _metadata: object) -> None:
        self._last_contact = time.monotonic()
        self._counters.add("sent", record.queries.total())
        self._counters.add("records")
        self._track(record, -1)

    def _refused(self, record: Record, error: BaseException) -> None:
        self._broken = True
        self._report("refused", "Kafka refused a record of query logs: %s", error)
        self._drop_record(record, "kafka")

    def _drop_record(self, record: Record, reason: str) -> None:
        self._count_lost(record.queries, "dropped", reason)
        self._tallies.add(*record.counts)
        self._track(record, -1)

    def _track(self, record: Record, direction: int) -> None:
        with self._lock:
            self._in_flight_bytes += direction * len(record.value)
            self._in_flight_queries += direction * record.queries.total()
        if direction < 0:
            self._wake.set()

    def _count_lost(self, queries: QueriesByOwner, kind: Literal["dropped", "unjudged"], reason: str) -> None:
        for (model, principal), number in queries.items():
            self._counters.add(kind, number)
            self._tallies.add(Count(model, principal, kind, number, time.time(), reason))

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        self._broken = False
        if producer is not None:
            close_abruptly(producer)

    def _failed(self, error: BaseException) -> None:
        super()._failed(error)
        self._wake.set()

    def _report_error(self, error: BaseException) -> None:
        """Counts and logs ``error``. A logger often starts before its topic: for some seconds that is no failure."""
        if isinstance(error, TopicMissing):
            self._disconnect()
            if self._back_off < _PATIENCE_SECONDS:
                return
        self._report("delivery", "cannot send query logs to Kafka (will try again): %s", error)

    def _report(self, kind: str, message: str, detail: object) -> None:
        self._counters.add("failures")
        self._log.warning(kind, message, detail)
