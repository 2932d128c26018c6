"""The pieces that reach into Faust: each still fits, and each is still needed."""

from __future__ import annotations

import asyncio
import inspect
import time
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
import pytest
from faust.transport.consumer import Consumer, ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from detector.runtime.broker import EmbeddedBroker
from detector.stream import faust_edges
from detector.stream.app import Application


def test_the_versions_are_those_that_were_read() -> None:
    assert (version("faust-streaming"), version("aiokafka")) == ("0.15.3", "0.14.0")


def test_faust_still_never_clears_the_event_that_says_no_fetch_is_in_flight() -> None:
    assert "not_waiting_next_records.clear" not in inspect.getsource(Consumer)
    assert "not_waiting_next_records.wait" in inspect.getsource(Consumer.wait_for_stopped_flow)


def test_faust_still_fixes_the_fetch_wait() -> None:
    assert "fetch_max_wait_ms=1500" in inspect.getsource(faust_edges._original_consumer)
    assert "self._fetch_max_wait_ms" in inspect.getsource(aiokafka.AIOKafkaConsumer)


def test_faust_would_still_make_folders_for_tables_that_need_none() -> None:
    assert "datadir.mkdir" in inspect.getsource(faust.App._create_directories)
    assert "self._create_directories()" in inspect.getsource(faust.App)
    assert Application._create_directories is not faust.App._create_directories


def test_faust_still_reads_what_transactions_gave_up() -> None:
    assert 'isolation_level: str = "read_uncommitted"' in inspect.getsource(faust_edges._original_consumer)
    assert "isolation_level=self._isolation_level" in inspect.getsource(aiokafka.AIOKafkaConsumer.start)


def test_faust_still_leaves_the_size_of_an_answer_to_aiokafka() -> None:
    assert "fetch_max_bytes" not in inspect.getsource(faust_edges._original_consumer)
    assert "fetch_max_bytes=self._fetch_max_bytes" in inspect.getsource(aiokafka.AIOKafkaConsumer.start)
    assert inspect.signature(aiokafka.AIOKafkaConsumer).parameters["fetch_max_bytes"].default > 50_000_000


@pytest.mark.parametrize(("largest", "answer"), [(8_500_000, 16_777_216), (67_108_864, 67_108_864)])
def test_the_consumer_is_made_with_our_limits_and_for_committed_records(
    monkeypatch: pytest.MonkeyPatch, largest: int, answer: int
) -> None:
    made: Any = SimpleNamespace(_max_partition_fetch_bytes=largest)
    monkeypatch.setattr(faust_edges, "_original_consumer", lambda *_: made)
    consumer = faust_edges._create_worker_consumer(None, None)
    assert (consumer._fetch_max_wait_ms, consumer._isolation_level) == (100, "read_committed")
    assert consumer._fetch_max_bytes == answer


def test_how_far_reading_is_comes_from_aiokafka_itself() -> None:
    async def run(bootstrap: str) -> tuple[list[Any], list[bool]]:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap)
        inner = SimpleNamespace(_thread=SimpleNamespace(_consumer=consumer))
        app = SimpleNamespace(_consumer=inner, consumer=inner, weirguard_delivered={TP("topic", 0): 2})
        none = [faust_edges.readings(SimpleNamespace(_consumer=None)), faust_edges.readings(app)]
        connected = [faust_edges.any_connection(app)]
        await consumer.start()
        place = aiokafka.TopicPartition("topic", 0)
        consumer.assign([place, aiokafka.TopicPartition("topic", 1)])
        consumer.seek(place, 0)
        while await consumer.position(place) < 3:
            await consumer.getmany(timeout_ms=100)
        found = faust_edges.readings(app)[TP("topic", 0)]
        connected.append(faust_edges.any_connection(app))
        await consumer.stop()
        return [*none, (found.end, found.position, found.delivered, abs(found.heard_at - time.time()) < 60)], connected

    with EmbeddedBroker() as broker:
        with KafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            for _ in range(3):
                producer.send("topic", b"x", partition=0).get(10)
        found, connected = asyncio.run(run(broker.bootstrap))
    assert found == [{}, {}, (3, 3, 2, True)]
    assert connected == [False, True]


def test_aiokafka_still_does_not_seek_where_nothing_is_committed() -> None:
    assert "if offset and offset > 0:" in inspect.getsource(aiokafka.AIOKafkaConsumer.seek_to_committed)


def test_install_puts_the_pieces_in_and_the_brokers_own_one_only_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    thread: Any = driver.AIOKafkaConsumerThread
    for name in ("_create_worker_consumer", "seek_to_committed", "_highwaters"):
        monkeypatch.setattr(thread, name, getattr(thread, name))
    monkeypatch.setattr(ThreadDelegateConsumer, "_getmany", ThreadDelegateConsumer._getmany)
    faust_edges.install(embedded=True)
    assert thread._highwaters is faust_edges._embedded_highwaters
    faust_edges.install(embedded=False)
    assert thread._highwaters is faust_edges._original_highwaters
    assert ThreadDelegateConsumer._getmany is faust_edges._getmany


def test_the_event_is_clear_while_a_fetch_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[bool]:
        consumer = SimpleNamespace(not_waiting_next_records=asyncio.Event())
        seen = []

        async def fetch(self: Any, partitions: Any, timeout: float) -> None:  # noqa: ASYNC109 - as Faust calls it
            seen.append(consumer.not_waiting_next_records.is_set())
            assert timeout <= faust_edges.FLOW_POLL_SECONDS

        monkeypatch.setattr(faust_edges, "_original_getmany", fetch)
        await faust_edges._getmany(consumer, None, 1.0)
        return [*seen, consumer.not_waiting_next_records.is_set()]

    assert asyncio.run(run()) == [False, True]


def test_reading_goes_on_where_the_state_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = TP("queries", 0), TP("queries", 1)
    sought: dict[tuple[str, int], int] = {}

    async def committed(self: Any) -> dict[TP, int]:
        return {mine: 7, TP("log", 0): 3}

    async def run() -> dict[TP, int]:
        async def call(work: Any) -> Any:
            return await work()

        consumer = SimpleNamespace(
            assignment=lambda: {mine}, seek=lambda tp, offset: sought.update({tuple(tp): offset})
        )
        owner = SimpleNamespace(next_offsets=lambda: {mine: 0, other: 5})
        thread = SimpleNamespace(
            app=SimpleNamespace(weirguard_owner=owner, weirguard_delivered={mine: 3}),
            call_thread=call,
            _ensure_consumer=lambda: consumer,
        )
        monkeypatch.setattr(faust_edges, "_original_seek", committed)
        return dict(await faust_edges._seek_to_state(thread))

    assert asyncio.run(run()) == {mine: 0, TP("log", 0): 3}
    assert sought == {("queries", 0): 0}


def test_the_embedded_broker_still_tells_a_wrong_end_and_fetch_the_right_one() -> None:
    with EmbeddedBroker() as broker:
        with KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=200) as producer:
            for _ in range(30):
                producer.send("topic", b"x", partition=0)
            producer.flush()
        with KafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
            claimed = consumer.end_offsets([TopicPartition("topic", 0)])[TopicPartition("topic", 0)]
        ends = asyncio.run(faust_edges.true_ends(broker.bootstrap, [TP("topic", 0), TP("topic", 1)]))
    assert claimed < 30
    assert ends == {TP("topic", 0): 30, TP("topic", 1): 0}
