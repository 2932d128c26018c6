"""Delivers source records to the agent one fetch at a time.

In Faust's own way each record costs three tasks, two queues and an event, some 0.3 ms: more than judging it. Records of
the state log, which are few and large, still go that way. ``tests/stream/test_faust_internals.py`` fails when this no
longer fits; the versions are pinned in ``pyproject.toml``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from time import monotonic
from typing import Any

from faust.types import TP

RECORDS_AT_ONCE = 500
_DELIVERIES_WAITING = 4
"""More than this, and fetching waits for the agent."""

_LOOK_SECONDS = 0.005


def messages(stream: Any, first: list[Any]) -> list[Any]:
    """``first``, as the agent's ``stream`` gave it, and all that waits behind it."""
    found, queue = list(first), stream.channel.queue
    while not queue.empty():
        found += queue.get_nowait().value
    return found


async def getmany(self: Any, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's own signature
    """In place of ``Consumer.getmany``: source records go to the app's ``weirguard_deliveries``, others are yielded.

    ``self`` is Faust's consumer.
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
    generation = consumer.app.consumer_generation_id
    while any(agent.queue.qsize() >= _DELIVERIES_WAITING for agent in consumer.app.weirguard_deliveries._subscribers):
        await consumer.sleep(_LOOK_SECONDS)
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
