"""All that reaches into private parts of Faust 0.15.3 and aiokafka 0.14; nothing else in the project does.

Each piece documents what happens without it. ``tests/stream/test_faust_internals.py`` fails when a piece is no
longer needed or no longer fits; the versions are pinned in ``pyproject.toml``.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

import aiokafka
import faust
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords
from faust.stores.base import Store
from faust.tables.table import Table
from faust.transport.consumer import ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from detector.contracts.codecs.limits import UNREAD_CONTENT_TYPE
from detector.runtime.odd_batches import LenientBytes, is_bomb
from detector.stream.exit_codes import Exit, stop_now
from detector.stream.source_records import FetchState

if TYPE_CHECKING:
    from detector.stream.partition_manager import PartitionManager

FETCH_WAIT_SECONDS = 0.1
EMBEDDED_FETCH_WAIT_SECONDS = 0.02
FETCH_BYTES = 16_777_216
"""The most bytes that one answer of a broker brings, apart from a single record that is larger."""
FLOW_POLL_SECONDS = 0.25
RECORDS_AT_ONCE = 500
_DELIVERIES_WAITING = 4
"""More than this, and fetching waits for the agent."""
_ROOM_POLL_SECONDS = 0.05

_BATCH_LENGTH = struct.Struct(">8xi")
"""Of a batch, after its base offset: how many bytes follow."""
_BATCH_HEAD = 61
"""Bytes of a batch before its records."""
_UNREAD = [("content-type", UNREAD_CONTENT_TYPE)]

_original_getmany = ThreadDelegateConsumer._getmany
_original_consumer = driver.AIOKafkaConsumerThread._create_worker_consumer
_original_seek = driver.AIOKafkaConsumerThread.seek_to_committed
_original_highwaters = driver.AIOKafkaConsumerThread._highwaters


class Application(faust.App):
    """A Faust app in which an agent's error ends the process, since Faust would acknowledge the event and continue. It
    writes to no disk."""

    weirguard_manager: PartitionManager
    weirguard_store: type[Store[bytes, bytes]]
    weirguard_sources: frozenset[str]
    weirguard_deliveries: Any
    weirguard_delivered: dict[Any, int]
    weirguard_taken: asyncio.Event

    def _create_directories(self) -> None:
        """Makes no folder: Faust would keep a file per table there, and our state is in Kafka."""

    async def on_stop(self) -> None:
        """Reports that the worker is not ready from here on."""
        self.weirguard_manager.stopping()
        await super().on_stop()

    async def _on_agent_error(self, agent: Any, error: BaseException) -> None:
        stop_now(Exit.UNEXPECTED, f"agent {agent.name} failed", error)


class StateTable(Table[bytes, bytes]):
    """A Faust table whose store is of the app's ``weirguard_store``."""

    def _new_store_by_url(self, url: Any) -> Store[bytes, bytes]:
        app: Any = self.app
        store: Store[bytes, bytes] = app.weirguard_store(url, app, self, table_name=self.name)
        return store


def install(embedded: bool) -> None:
    """Puts the pieces in place, once per process; ``embedded`` adds the embedded broker's own."""
    fetcher.MemoryRecords = LenientRecords
    delegate: Any = ThreadDelegateConsumer
    thread: Any = driver.AIOKafkaConsumerThread
    delegate._getmany = _getmany
    delegate.getmany = getmany
    thread._create_worker_consumer = _create_embedded_consumer if embedded else _create_worker_consumer
    thread.seek_to_committed = _seek_to_state
    thread._highwaters = _embedded_highwaters if embedded else _original_highwaters


async def _getmany(self: Any, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's own signature
    """Makes ``wait_for_stopped_flow`` wait.

    Faust sets the event behind it and never clears it, so a fetch in flight survives a rebalance: recovery stalls, or
    records are handed over out of order. Clearing it around each fetch, and keeping fetches short, cures both.
    """
    self.not_waiting_next_records.clear()
    try:
        return await _original_getmany(self, active_partitions, min(timeout, FLOW_POLL_SECONDS))
    finally:
        self.not_waiting_next_records.set()


def _create_worker_consumer(self: Any, transport: Any) -> aiokafka.AIOKafkaConsumer:
    """Fetches wait 100 ms at the broker, not the 1.5 s that Faust hard-codes: rebalances wait behind a fetch.

    Records of aborted transactions are left out: Faust reads them except with its own transactions. An answer
    may have 50 MB by default, which a worker that is behind would hold all the time.
    """
    consumer = _original_consumer(self, transport)
    consumer._fetch_max_bytes = max(FETCH_BYTES, consumer._max_partition_fetch_bytes)
    consumer._fetch_max_wait_ms = int(FETCH_WAIT_SECONDS * 1000)
    consumer._isolation_level = "read_committed"
    return consumer


def _create_embedded_consumer(self: Any, transport: Any) -> aiokafka.AIOKafkaConsumer:
    """Fetches wait 20 ms: the embedded broker answers only when the wait is over, even where there are records."""
    consumer = _create_worker_consumer(self, transport)
    consumer._fetch_max_wait_ms = int(EMBEDDED_FETCH_WAIT_SECONDS * 1000)
    return consumer


async def _embedded_highwaters(self: Any, partitions: Iterable[TP]) -> Mapping[TP, int]:
    """Returns true ends, by Fetch: the embedded broker answers ListOffsets(latest) with the first offset of its last
    batch plus one, where recovery would stop and lose the rest of the state.
    """
    wanted = list(partitions)
    if not wanted:
        return {}
    bootstrap = driver.server_list(self.transport.url, self.transport.default_port)
    return await true_ends(bootstrap, wanted)


async def true_ends(bootstrap: Any, partitions: Iterable[TP]) -> dict[TP, int]:
    """Returns end offsets by Fetch, which the embedded broker answers rightly."""
    probe = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100, max_partition_fetch_bytes=1
    )
    await probe.start()
    try:
        claimed = dict(await probe.end_offsets([aiokafka.TopicPartition(*tp) for tp in partitions]))
        behind = [tp for tp, end in claimed.items() if end]
        if behind:
            probe.assign(behind)
            for tp in behind:
                probe.seek(tp, claimed[tp] - 1)
            await asyncio.wait_for(_until_known(probe, behind), 30)
        return {TP(*tp): max(end, probe.highwater(tp) or 0) if tp in behind else end for tp, end in claimed.items()}
    finally:
        await probe.stop()


async def _until_known(probe: aiokafka.AIOKafkaConsumer, partitions: list[Any]) -> None:
    while any(probe.highwater(tp) is None for tp in partitions):
        await probe.getmany(timeout_ms=100)


async def _seek_to_state(self: Any) -> Mapping[TP, int]:
    """Continues reading where the state ends, whatever is committed.

    aiokafka does not seek at all where nothing, or offset 0, is committed; records that were fetched and thrown away
    during recovery are then lost. What is committed may also be ahead of, or behind, the state; the state is the truth.
    """
    committed = await _original_seek(self)
    wanted: dict[TP, int] = self.app.weirguard_manager.next_offsets()
    consumer = self._ensure_consumer()
    self.app.weirguard_delivered.clear()

    async def seek() -> dict[TP, int]:
        assigned = {tp: offset for tp, offset in wanted.items() if tp in consumer.assignment()}
        for tp, offset in assigned.items():
            consumer.seek(aiokafka.TopicPartition(*tp), offset)
        return assigned

    return {**committed, **await self.call_thread(seek)}


async def stopped_flow(app: Any) -> None:
    """Returns once no fetch is in flight; call after Faust, or ``app.consumer.stop_flow``, has stopped the flow."""
    await app.consumer.wait_for_stopped_flow()


async def commit(app: Any, offsets: Mapping[TP, int]) -> dict[TP, int]:
    """Commits ``offsets`` of the partitions that are ours, and returns those that the group took: none while it
    rebalances. Waits while no coordinator answers."""
    assigned = {tp: offset for tp, offset in offsets.items() if offset > 0 and tp in app.consumer.assignment()}
    return assigned if assigned and await app.consumer._commit(assigned) else {}


def fetch_states(app: Any) -> dict[TP, FetchState]:
    """Returns the state of each assigned partition that was fetched: aiokafka's own figures, from another thread."""
    consumer = app._consumer and app.consumer._thread._consumer
    subscription = consumer and consumer._subscription.subscription
    assignment = subscription and subscription.assignment
    if not assignment:
        return {}
    delivered = app.weirguard_delivered
    states = {TP(*tp): assignment.state_value(tp) for tp in assignment.tps}
    return {
        tp: FetchState(_stable_end(state), state._position, delivered.get(tp, -1), state.timestamp / 1000)
        for tp, state in states.items()
        if state and state.timestamp and state._position is not None
    }


def _stable_end(state: Any) -> int:
    """Returns the last stable offset, or the end where the broker reports none, as the embedded one."""
    return int(state.highwater if state.lso is None or state.lso < 0 else state.lso)


def any_connection(app: Any) -> bool:
    """Returns whether the consumer has a connection to some broker."""
    consumer = app._consumer and app.consumer._thread._consumer
    return bool(consumer) and any(connection.connected() for connection in list(consumer._client._conns.values()))


def committed_offsets(app: Any) -> dict[TP, int]:
    """Returns what this worker has committed, by partition; Faust has no public reader for it."""
    if app._consumer is None:
        return {}
    return {tp: offset for tp, offset in dict(app.consumer._committed_offset).items() if offset is not None}


# -- deliveries --------------------------------------------------------------------------------------------------------


def messages(app: Any, stream: Any, first: list[Any]) -> list[Any]:
    """Returns ``first``, as the agent's ``stream`` gave it, and all that waits behind it."""
    found, queue = list(first), stream.channel.queue
    while not queue.empty():
        found += queue.get_nowait().value
    app.weirguard_taken.set()
    return found


async def getmany(self: Any, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's own signature
    """Delivers source records to the agent one fetch at a time; yields the others.

    In Faust's own way each record costs three tasks, two queues and an event, some 0.3 ms: more than judging it.
    Records of the state log, which are few and large, still go that way. Stands in for ``Consumer.getmany``, and
    ``self`` is Faust's consumer; source records go to the app's ``weirguard_deliveries``.
    """
    records, active = await self._wait_next_records(timeout)
    if records is None or self.should_stop:
        return
    if not self.flow_active:
        await _seek_again(self)
        return
    generation = self.app.consumer_generation_id
    owned = {tp: batch for tp, batch in records.items() if _is_ours(self, tp, active)}
    sources = {tp: batch for tp, batch in owned.items() if tp.topic in self.app.weirguard_sources}
    if sources:
        await _deliver(self, sources)
    for tp, message in _one_by_one(self, owned, sources):
        if not self.flow_active or self.app.consumer_generation_id != generation:
            return
        yield tp, message


async def _seek_again(consumer: Any) -> None:
    try:
        await consumer.perform_seek()
    except Exception as error:  # noqa: BLE001 - as Faust does: the next fetch tries again
        consumer.log.warning("seeking failed while the flow was stopped: %s", error)


def _is_ours(consumer: Any, tp: TP, active: Collection[TP] | None) -> bool:
    return active is None or tp in active or tp in consumer._buffered_partitions


async def _deliver(consumer: Any, records: dict[TP, list[Any]]) -> None:
    """Puts one list of messages into the agent's channel. Messages that are not put are fetched again once the flow
    resumes."""
    if not await _room(consumer):
        return
    delivery = []
    for tp, batch in records.items():
        fresh = [record for record in batch if record.offset >= (consumer._read_offset[tp] or 0)]
        await _skip_holes(consumer, tp, fresh)
        delivery += [consumer._to_message(tp, record) for record in fresh]
        consumer.app.monitor.stream_inbound_time[tp] = monotonic()
    if not delivery:
        return
    await consumer.app.weirguard_deliveries.send(value=delivery)
    for message in delivery:
        consumer._read_offset[message.tp] = message.offset
        consumer.app.weirguard_delivered[message.tp] = message.offset


async def _room(consumer: Any) -> bool:
    """Waits until the agent has taken enough. Returns False if the flow was stopped before that.

    The queue itself has no limit: Faust cancels tasks that wait to put into a queue that it clears, and that ends the
    worker.
    """
    generation, taken = consumer.app.consumer_generation_id, consumer.app.weirguard_taken
    while any(agent.queue.qsize() >= _DELIVERIES_WAITING for agent in consumer.app.weirguard_deliveries._subscribers):
        taken.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(taken.wait(), _ROOM_POLL_SECONDS)
        if not consumer.flow_active or consumer.should_stop or consumer.app.consumer_generation_id != generation:
            return False
    return True


async def _skip_holes(consumer: Any, tp: TP, batch: list[Any]) -> None:
    """Informs the bookkeeping of commits of offsets that will never come, such as those of transaction markers."""
    last = consumer._read_offset[tp]
    for record in batch:
        if last and record.offset > last + 1:
            await consumer._add_gap(tp, last + 1, record.offset - 1)
        last = record.offset


def _one_by_one(consumer: Any, owned: dict[TP, list[Any]], sources: Collection[TP]) -> Iterator[tuple[TP, Any]]:
    rest = {tp: batch for tp, batch in owned.items() if tp not in sources}
    for tp, record in consumer.scheduler.iterate(rest):
        consumer.app.monitor.track_tp_end_offset(tp, consumer.highwater(tp))
        yield tp, consumer._to_message(tp, record)


# -- batches that aiokafka cannot read ---------------------------------------------------------------------------------


class LenientRecords:
    """The batches of one fetch, in place of aiokafka's ``MemoryRecords``, which fails on the whole fetch, always, for
    batches that any client of librdkafka can write.

    A batch with a header name that is not UTF-8 is read once more by aiokafka's own Python reader, each wrong byte as
    U+FFFD. One that would take all memory (``bombs``) is not decompressed: a record that says so stands in for each of
    its own, and the first of these holds the batch's bytes as they came.
    """

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._data = data
        self._start = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _LenientBatch | None:
        batch = self._records.next_batch()
        if batch is None:
            return None
        start = self._start
        self._start = start + _BATCH_LENGTH.size + _BATCH_LENGTH.unpack_from(self._data, start)[0]
        return _LenientBatch(batch, memoryview(self._data)[start : self._start])


class _LenientBatch:
    """aiokafka's ``batch``, whose bytes are ``data``."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        codec = self._batch.compression_type
        if codec and is_bomb(codec, packed := bytes(self._data[_BATCH_HEAD:])):
            yield from _stand_ins(self._batch, packed)
            return
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except UnicodeDecodeError:
            yield from islice(_read_leniently(bytes(self._data)), read, None)

    def __next__(self) -> Any:
        """Returns a control record, as aiokafka reads it; it has no headers."""
        return next(self._batch)


def _stand_ins(batch: Any, data: bytes) -> Iterator[Any]:
    """Yields a record in place of each of ``batch``, whose compressed records are ``data``."""
    value: bytes | None = data
    for offset in range(batch.base_offset, batch.next_offset):
        yield _DefaultRecordPy(offset, batch.max_timestamp, batch.timestamp_type, None, value, _UNREAD)
        value = None


def _read_leniently(data: bytes) -> Iterator[Any]:
    batch: Any = _DefaultRecordBatchPy(data)
    batch._maybe_uncompress()
    batch._buffer = LenientBytes(batch._buffer)
    return iter(batch)
