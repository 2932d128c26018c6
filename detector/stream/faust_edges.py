"""All that reaches into private parts of Faust 0.15.3 and aiokafka 0.14; nothing else in the project does.

Each piece says what happens without it. ``tests/stream/test_faust_internals.py`` fails when a piece is no longer needed
or no longer fits; the versions are pinned in ``pyproject.toml``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import aiokafka
from faust.transport.consumer import ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from detector.stream import bulk_delivery, header_names
from detector.stream.reading import Reading

FETCH_WAIT_SECONDS = 0.1
FETCH_BYTES = 16_777_216
"""The most bytes that one answer of a broker brings, apart from a single record that is larger."""
FLOW_POLL_SECONDS = 0.25

_original_getmany = ThreadDelegateConsumer._getmany
_original_consumer = driver.AIOKafkaConsumerThread._create_worker_consumer
_original_seek = driver.AIOKafkaConsumerThread.seek_to_committed
_original_highwaters = driver.AIOKafkaConsumerThread._highwaters


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

    Records of transactions that were given up are left out: Faust reads them but for its own transactions. An answer
    may have 50 MB by default, which a worker that is behind would hold all the time.
    """
    consumer = _original_consumer(self, transport)
    consumer._fetch_max_bytes = max(FETCH_BYTES, consumer._max_partition_fetch_bytes)
    consumer._fetch_max_wait_ms = int(FETCH_WAIT_SECONDS * 1000)
    consumer._isolation_level = "read_committed"
    return consumer


async def _embedded_highwaters(self: Any, partitions: Iterable[TP]) -> Mapping[TP, int]:
    """The embedded broker answers ListOffsets(latest) with the first offset of its last batch plus one.

    Recovery would stop there and lose the rest of the state. Its Fetch answers tell the true end.
    """
    wanted = list(partitions)
    if not wanted:
        return {}
    bootstrap = driver.server_list(self.transport.url, self.transport.default_port)
    return await true_ends(bootstrap, wanted)


async def true_ends(bootstrap: Any, partitions: Iterable[TP]) -> dict[TP, int]:
    """End offsets by Fetch, which the embedded broker answers rightly."""
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
    """Reading goes on where the state ends, whatever is committed.

    aiokafka does not seek at all where nothing, or offset 0, is committed; records that were fetched and thrown away
    during recovery are then lost. What is committed may also be ahead of, or behind, the state; the state is the truth.
    """
    committed = await _original_seek(self)
    wanted: dict[TP, int] = self.app.weirguard_owner.next_offsets()
    consumer = self._ensure_consumer()
    self.app.weirguard_delivered.clear()

    async def seek() -> dict[TP, int]:
        mine = {tp: offset for tp, offset in wanted.items() if tp in consumer.assignment()}
        for tp, offset in mine.items():
            consumer.seek(aiokafka.TopicPartition(*tp), offset)
        return mine

    return {**committed, **await self.call_thread(seek)}


def install(embedded: bool) -> None:
    """Put the pieces in place, once per process; ``embedded`` adds the embedded broker's own."""
    header_names.install()
    delegate: Any = ThreadDelegateConsumer
    thread: Any = driver.AIOKafkaConsumerThread
    delegate._getmany = _getmany
    delegate.getmany = bulk_delivery.getmany
    thread._create_worker_consumer = _create_worker_consumer
    thread.seek_to_committed = _seek_to_state
    thread._highwaters = _embedded_highwaters if embedded else _original_highwaters


async def stopped_flow(app: Any) -> None:
    """Return once no fetch is in flight; call after Faust, or ``app.consumer.stop_flow``, has stopped the flow."""
    await app.consumer.wait_for_stopped_flow()


async def commit(app: Any, offsets: Mapping[TP, int]) -> None:
    """Commits the reading position. A former owner may have died between state and commit, and what was left
    uncommitted is not read again: without this it would look like a lag until the next record."""
    mine = {tp: offset for tp, offset in offsets.items() if offset > 0 and tp in app.consumer.assignment()}
    if mine:
        await app.consumer._commit(mine)


def readings(app: Any) -> dict[TP, Reading]:
    """Of each assigned partition that was fetched; aiokafka's own figures, read from another thread."""
    consumer = app._consumer and app.consumer._thread._consumer
    subscription = consumer and consumer._subscription.subscription
    assignment = subscription and subscription.assignment
    if not assignment:
        return {}
    delivered = app.weirguard_delivered
    states = {TP(*tp): assignment.state_value(tp) for tp in assignment.tps}
    return {
        tp: Reading(_stable_end(state), state._position, delivered.get(tp, -1), state.timestamp / 1000)
        for tp, state in states.items()
        if state and state.timestamp and state._position is not None
    }


def _stable_end(state: Any) -> int:
    """The last stable offset; the embedded broker, and old ones, tell none."""
    return int(state.highwater if state.lso is None or state.lso < 0 else state.lso)


def any_connection(app: Any) -> bool:
    """Whether the consumer has a connection to some broker."""
    consumer = app._consumer and app.consumer._thread._consumer
    return bool(consumer) and any(one.connected() for one in list(consumer._client._conns.values()))


def committed_offsets(app: Any) -> dict[TP, int]:
    """What this worker has committed, by partition; Faust has no public reader for it."""
    if app._consumer is None:
        return {}
    return {tp: offset for tp, offset in dict(app.consumer._committed_offset).items() if offset is not None}
