"""The partitions of one worker: what a takeover acknowledges."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from detector.stream import faust_internals
from detector.stream.partition_manager import Batching, PartitionManager
from detector.stream.state_log import Message
from tests.stream.world import TOPICS, new_partition


class _Broker:
    """A broker whose sources are all there and never change."""

    def identities(self) -> dict[str, str]:
        return {}

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, 100)


class _Sender:
    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def send(self, message: Message) -> int:
        self.sent.append(message)
        return len(self.sent) - 1

    async def publish(self, messages: Sequence[Message]) -> None:
        self.sent += messages


def test_a_takeover_acknowledges_nothing_of_partitions_whose_records_are_on_their_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    committed: dict[TP, int] = {}

    async def commit(app: Any, offsets: Mapping[TP, int]) -> None:
        committed.update(offsets)

    async def stopped_flow(app: Any) -> None:
        return None

    def nothing(*_: object, **__: object) -> None:
        return None

    names = ("assigned", "restored", "recovered", "took", "logged", "left_out")
    reporter: Any = SimpleNamespace(**dict.fromkeys(names, nothing), health=SimpleNamespace(absorbed=nothing))
    broker: Any = _Broker()
    app: Any = None
    manager = PartitionManager(
        app, TOPICS, lambda number: new_partition(number, 2), broker, reporter, Batching(1 << 20)
    )
    sender: Any = _Sender()
    manager._sender = sender
    monkeypatch.setattr(faust_internals, "commit", commit)
    monkeypatch.setattr(faust_internals, "stopped_flow", stopped_flow)

    async def take(number: int) -> None:
        await manager.reassigned([], [number])
        fence = manager._fences[number]
        manager.absorb(number, fence, sender.sent[fence].value)
        await manager.recovered([number])

    async def run() -> None:
        await take(0)
        manager.partitions[0].applied["judged"] = 7  # a micro-batch is judged, and its state record is not written yet
        committed.clear()
        await take(1)

    asyncio.run(run())
    assert {tp.partition for tp in committed} == {1}
    assert manager.next_offsets()[TP(TOPICS.judged, 0)] == 8
