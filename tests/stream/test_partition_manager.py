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
        self.beats: list[Sequence[int]] = []

    async def send(self, message: Message) -> int:
        self.sent.append(message)
        return len(self.sent) - 1

    async def publish(self, messages: Sequence[Message]) -> None:
        self.sent += messages

    async def beat(self, partitions: Sequence[int]) -> None:
        self.beats.append(partitions)


class _Group:
    """What the consumer group takes of commits; nothing while it ``rebalances``."""

    def __init__(self) -> None:
        self.committed: dict[TP, int] = {}
        self.rebalances = False

    async def commit(self, app: Any, offsets: Mapping[TP, int]) -> dict[TP, int]:
        taken = {} if self.rebalances else dict(offsets)
        self.committed |= taken
        return taken


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> _Group:
    async def stopped_flow(app: Any) -> None:
        return None

    group = _Group()
    monkeypatch.setattr(faust_internals, "commit", group.commit)
    monkeypatch.setattr(faust_internals, "stopped_flow", stopped_flow)
    return group


def _manager() -> PartitionManager:
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
    return manager


async def _take(manager: PartitionManager, number: int) -> None:
    await manager.reassigned([], [number])
    fence, sender = manager._fences[number], manager._sender
    assert isinstance(sender, _Sender)
    manager.absorb(number, fence, sender.sent[fence].value)
    await manager.recovered([number])


def test_only_what_the_log_covers_is_acknowledged(group: _Group) -> None:
    manager = _manager()

    async def run() -> None:
        await _take(manager, 0)
        live = manager.partitions[0]
        live.applied = {"queries": 3, "judged": 7}  # the state record of the judged ones is on its way
        live.covered = {"queries": 3}
        await _take(manager, 1)

    asyncio.run(run())
    assert group.committed == {TP(TOPICS.queries, 0): 4}
    assert manager.next_offsets()[TP(TOPICS.judged, 0)] == 8


def test_a_worker_says_that_it_is_at_work_once_it_judges_and_of_no_other_partitions(group: _Group) -> None:
    manager = _manager()
    sender: Any = manager._sender

    async def run() -> None:
        await _take(manager, 0)
        assert sender.beats == [[0]]
        await manager.reassigned([], [1])  # not recovered yet
        await manager.beat()
        await manager.reassigned([0], [])
        await manager.beat()

    asyncio.run(run())
    assert sender.beats == [[0], [0], []]


def test_what_a_rebalance_refuses_is_acknowledged_again_and_nothing_twice(group: _Group) -> None:
    manager = _manager()

    async def run() -> None:
        await _take(manager, 0)
        manager.partitions[0].covered = {"queries": 3}
        group.rebalances = True
        await manager.acknowledge()
        assert group.committed == {}
        group.rebalances = False
        await manager.acknowledge()
        assert group.committed.pop(TP(TOPICS.queries, 0)) == 4
        await manager.acknowledge()

    asyncio.run(run())
    assert group.committed == {}
