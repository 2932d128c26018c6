"""What replaces Faust's way to an agent, on a stand-in for Faust's consumer; end to end it runs in ``tests/e2e``."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
from faust.channels import Channel
from faust.transport.consumer import Consumer
from faust.types import TP

from detector.stream import bulk_delivery

ZERO, ONE, LOG = TP("queries", 0), TP("queries", 1), TP("state", 0)


@dataclass(frozen=True)
class Record:
    offset: int


@dataclass(frozen=True)
class Message:
    tp: TP
    offset: int


class FaustConsumer:
    """The parts of Faust's consumer that are used, over one fetch."""

    def __init__(self, fetched: dict[TP, list[Record]] | None, active: set[TP] | None) -> None:
        self.should_stop = False
        self.queue: asyncio.Queue[object] = asyncio.Queue()
        self.flow_active = True
        self.scheduler = SimpleNamespace(
            iterate=lambda by_tp: chain(*([(tp, r) for r in b] for tp, b in by_tp.items()))
        )
        self.delivered: list[list[Message]] = []
        self.gaps: list[tuple[TP, int, int]] = []
        self.seeks = 0
        self.looks = 0
        self._read_offset: dict[TP, int | None] = defaultdict(lambda: None)
        self._buffered_partitions: set[TP] = set()
        self._fetched = fetched, active
        self.app = SimpleNamespace(
            consumer_generation_id=1,
            weirguard_sources=frozenset({"queries"}),
            weirguard_delivered={},
            weirguard_deliveries=SimpleNamespace(send=self._send, _subscribers=[SimpleNamespace(queue=self.queue)]),
            monitor=SimpleNamespace(stream_inbound_time={}, track_tp_end_offset=lambda *_: None),
        )

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - as Faust calls it
        return self._fetched

    async def _send(self, value: list[Message]) -> None:
        self.delivered.append(value)

    async def sleep(self, seconds: float) -> None:
        self.looks += 1
        if self.looks == 3:
            self.flow_active = False

    async def _add_gap(self, tp: TP, first: int, last: int) -> None:
        self.gaps.append((tp, first, last))

    async def perform_seek(self) -> None:
        self.seeks += 1

    def highwater(self, tp: TP) -> int:
        return 0

    def _to_message(self, tp: TP, record: Record) -> Message:
        return Message(tp, record.offset)


def taken(
    fetched: dict[TP, list[int]], prepare: Callable[[FaustConsumer], None]
) -> tuple[FaustConsumer, list[Message]]:
    """What one call yields, and the consumer afterwards."""

    async def run() -> tuple[FaustConsumer, list[Message]]:
        records = {tp: [Record(offset) for offset in offsets] for tp, offsets in fetched.items()}
        consumer = FaustConsumer(records, {ZERO, ONE, LOG})
        prepare(consumer)
        return consumer, [message async for _, message in bulk_delivery.getmany(consumer, 1.0)]

    return asyncio.run(run())


def test_a_fetch_is_one_delivery_and_the_state_log_goes_faust_s_own_way() -> None:
    consumer, yielded = taken({ZERO: [0, 1], ONE: [4], LOG: [7, 8]}, lambda _: None)
    assert consumer.delivered == [[Message(ZERO, 0), Message(ZERO, 1), Message(ONE, 4)]]
    assert yielded == [Message(LOG, 7), Message(LOG, 8)]
    assert dict(consumer._read_offset) == {ZERO: 1, ONE: 4}


def test_what_was_read_before_is_not_delivered_again() -> None:
    consumer, _ = taken({ZERO: [3, 4, 5]}, lambda one: one._read_offset.update({ZERO: 5}))
    assert consumer.delivered == [[Message(ZERO, 5)]]


def test_offsets_that_never_come_do_not_hold_up_commits() -> None:
    consumer, _ = taken({ZERO: [5, 9]}, lambda one: one._read_offset.update({ZERO: 4}))
    assert consumer.gaps == [(ZERO, 6, 8)]


def test_partitions_that_are_no_longer_ours_are_left_out() -> None:
    consumer, _ = taken({ZERO: [0], TP("queries", 9): [0]}, lambda _: None)
    assert consumer.delivered == [[Message(ZERO, 0)]]


@pytest.mark.parametrize("stop", ["should_stop", "flow_active"])
def test_nothing_is_delivered_while_the_flow_is_stopped(stop: str) -> None:
    consumer, yielded = taken({ZERO: [0], LOG: [0]}, lambda one: setattr(one, stop, stop == "should_stop"))
    assert (consumer.delivered, yielded) == ([], [])
    assert consumer.seeks == (stop == "flow_active")


def test_while_the_agent_is_behind_nothing_is_delivered_and_nothing_counts_as_read() -> None:
    def fill(consumer: FaustConsumer) -> None:
        for _ in range(4):
            consumer.queue.put_nowait(None)

    consumer, _ = taken({ZERO: [0]}, fill)
    assert (consumer.delivered, consumer.looks) == ([], 3)
    assert not any(consumer._read_offset.values())


def test_a_new_generation_ends_the_fetch() -> None:
    async def run() -> list[Message]:
        consumer = FaustConsumer({LOG: [Record(0), Record(1)]}, None)
        seen = []
        async for _, message in bulk_delivery.getmany(consumer, 1.0):
            seen.append(message)
            consumer.app.consumer_generation_id += 1
        return seen

    assert asyncio.run(run()) == [Message(LOG, 0)]


def test_faust_still_does_what_this_stands_in_for() -> None:
    source = inspect.getsource(Consumer.getmany)
    for piece in ("_wait_next_records", "consumer_generation_id", "_buffered_partitions", "perform_seek"):
        assert piece in source
    assert "wait_first(" in inspect.getsource(Consumer._drain_messages)
    assert "_subscribers" in inspect.getsource(Channel)
