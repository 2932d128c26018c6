"""The pieces that reach into Faust: each still fits, and each is still needed."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from types import SimpleNamespace
from typing import Any

import aiokafka
import cramjam
import faust
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.channels import Channel
from faust.transport.consumer import Consumer, ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.record import MemoryRecords as KafkaPythonRecords

from detector.contracts.codecs.limits import UNREAD_CONTENT_TYPE
from detector.runtime import odd_batches
from detector.runtime.broker import EmbeddedBroker
from detector.runtime.odd_batches import MOST_BYTES, is_bomb
from detector.stream import faust_internals
from detector.stream.faust_internals import Application, LenientRecords


def test_the_versions_are_those_that_were_read() -> None:
    assert (version("faust-streaming"), version("aiokafka")) == ("0.15.3", "0.14.0")


def test_faust_still_never_clears_the_event_that_says_no_fetch_is_in_flight() -> None:
    assert "not_waiting_next_records.clear" not in inspect.getsource(Consumer)
    assert "not_waiting_next_records.wait" in inspect.getsource(Consumer.wait_for_stopped_flow)


def test_faust_still_fixes_the_fetch_wait() -> None:
    assert "fetch_max_wait_ms=1500" in inspect.getsource(faust_internals._original_consumer)
    assert "self._fetch_max_wait_ms" in inspect.getsource(aiokafka.AIOKafkaConsumer)


def test_faust_would_still_make_folders_for_tables_that_need_none() -> None:
    assert "datadir.mkdir" in inspect.getsource(faust.App._create_directories)
    assert "self._create_directories()" in inspect.getsource(faust.App)
    assert Application._create_directories is not faust.App._create_directories


def test_faust_still_reads_what_transactions_gave_up() -> None:
    assert 'isolation_level: str = "read_uncommitted"' in inspect.getsource(faust_internals._original_consumer)
    assert "isolation_level=self._isolation_level" in inspect.getsource(aiokafka.AIOKafkaConsumer.start)


def test_faust_still_leaves_the_size_of_an_answer_to_aiokafka() -> None:
    assert "fetch_max_bytes" not in inspect.getsource(faust_internals._original_consumer)
    assert "fetch_max_bytes=self._fetch_max_bytes" in inspect.getsource(aiokafka.AIOKafkaConsumer.start)
    assert inspect.signature(aiokafka.AIOKafkaConsumer).parameters["fetch_max_bytes"].default > 50_000_000


@pytest.mark.parametrize(("largest", "answer"), [(8_500_000, 16_777_216), (67_108_864, 67_108_864)])
def test_the_consumer_is_made_with_our_limits_and_for_committed_records(
    monkeypatch: pytest.MonkeyPatch, largest: int, answer: int
) -> None:
    made: Any = SimpleNamespace(_max_partition_fetch_bytes=largest)
    monkeypatch.setattr(faust_internals, "_original_consumer", lambda *_: made)
    consumer = faust_internals._create_worker_consumer(None, None)
    assert (consumer._fetch_max_wait_ms, consumer._isolation_level) == (100, "read_committed")
    assert consumer._fetch_max_bytes == answer
    assert faust_internals._create_embedded_consumer(None, None)._fetch_max_wait_ms == 20


def test_how_far_reading_is_comes_from_aiokafka_itself() -> None:
    async def run(bootstrap: str) -> tuple[list[Any], list[bool]]:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap)
        inner = SimpleNamespace(_thread=SimpleNamespace(_consumer=consumer))
        app = SimpleNamespace(_consumer=inner, consumer=inner, weirguard_delivered={TP("topic", 0): 2})
        none = [faust_internals.fetch_states(SimpleNamespace(_consumer=None)), faust_internals.fetch_states(app)]
        connected = [faust_internals.any_connection(app)]
        await consumer.start()
        place = aiokafka.TopicPartition("topic", 0)
        consumer.assign([place, aiokafka.TopicPartition("topic", 1)])
        consumer.seek(place, 0)
        while await consumer.position(place) < 3:
            await consumer.getmany(timeout_ms=100)
        found = faust_internals.fetch_states(app)[TP("topic", 0)]
        connected.append(faust_internals.any_connection(app))
        await consumer.stop()
        return [
            *none,
            (found.end, found.position, found.delivered, abs(found.answered_at - time.time()) < 60),
        ], connected

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
    faust_internals.install(embedded=True)
    assert thread._highwaters is faust_internals._embedded_highwaters
    assert thread._create_worker_consumer is faust_internals._create_embedded_consumer
    faust_internals.install(embedded=False)
    assert thread._create_worker_consumer is faust_internals._create_worker_consumer
    assert thread._highwaters is faust_internals._original_highwaters
    assert ThreadDelegateConsumer._getmany is faust_internals._getmany


def test_the_event_is_clear_while_a_fetch_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[bool]:
        consumer = SimpleNamespace(not_waiting_next_records=asyncio.Event())
        seen = []

        async def fetch(self: Any, partitions: Any, timeout: float) -> None:  # noqa: ASYNC109 - as Faust calls it
            seen.append(consumer.not_waiting_next_records.is_set())
            assert timeout <= faust_internals.FLOW_POLL_SECONDS

        monkeypatch.setattr(faust_internals, "_original_getmany", fetch)
        await faust_internals._getmany(consumer, None, 1.0)
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
            app=SimpleNamespace(weirguard_manager=owner, weirguard_delivered={mine: 3}),
            call_thread=call,
            _ensure_consumer=lambda: consumer,
        )
        monkeypatch.setattr(faust_internals, "_original_seek", committed)
        return dict(await faust_internals._seek_to_state(thread))

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
        ends = asyncio.run(faust_internals.true_ends(broker.bootstrap, [TP("topic", 0), TP("topic", 1)]))
    assert claimed < 30
    assert ends == {TP("topic", 0): 30, TP("topic", 1): 0}


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
        self._read_offset: dict[TP, int | None] = defaultdict(lambda: None)
        self._buffered_partitions: set[TP] = set()
        self._fetched = fetched, active
        self.app = SimpleNamespace(
            consumer_generation_id=1,
            weirguard_sources=frozenset({"queries"}),
            weirguard_delivered={},
            weirguard_deliveries=SimpleNamespace(send=self._send, _subscribers=[SimpleNamespace(queue=self.queue)]),
            weirguard_taken=asyncio.Event(),
            monitor=SimpleNamespace(stream_inbound_time={}, track_tp_end_offset=lambda *_: None),
        )

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - as Faust calls it
        return self._fetched

    async def _send(self, value: list[Message]) -> None:
        self.delivered.append(value)

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
        return consumer, [message async for _, message in faust_internals.getmany(consumer, 1.0)]

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

        asyncio.get_running_loop().call_soon(consumer.app.weirguard_taken.set)
        asyncio.get_running_loop().call_later(0.01, setattr, consumer, "flow_active", False)

    consumer, _ = taken({ZERO: [0]}, fill)
    assert consumer.delivered == []
    assert not any(consumer._read_offset.values())


def test_delivery_goes_on_as_soon_as_the_agent_has_taken() -> None:
    def fill(consumer: FaustConsumer) -> None:
        for at in range(4):
            consumer.queue.put_nowait(SimpleNamespace(value=[at]))
        asyncio.get_running_loop().call_soon(take, consumer)

    def take(consumer: FaustConsumer) -> None:
        stream = SimpleNamespace(channel=consumer)
        found.extend(faust_internals.messages(consumer.app, stream, [9]))

    found = list[Any]()
    consumer, _ = taken({ZERO: [0]}, fill)
    assert found == [9, 0, 1, 2, 3]
    assert consumer.delivered == [[Message(ZERO, 0)]]


def test_a_new_generation_ends_the_fetch() -> None:
    async def run() -> list[Message]:
        consumer = FaustConsumer({LOG: [Record(0), Record(1)]}, None)
        seen = []
        async for _, message in faust_internals.getmany(consumer, 1.0):
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


_GOOD, _BAD = b"HHHH", b"\xff\xfeHH"


def _batch(records: int, compression: int = 0, bad: bool = True, base: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset in range(records):
        headers = [("a", None), (_GOOD.decode(), b"x" * offset)]
        builder.append(offset, timestamp=1000 + offset, key=b"k", value=b"v%d" % offset, headers=headers)
    return bytes(builder.build()).replace(_GOOD, _BAD) if bad else bytes(builder.build())


def _read_by_kafka_python(data: bytes) -> list[Any]:
    odd_batches.install()
    records, found = KafkaPythonRecords(data), []
    while (batch := records.next_batch()) is not None:
        found += [(record.offset, record.timestamp, record.key, record.value, *record.headers) for record in batch]
    return found


def _read(data: bytes) -> list[Any]:
    records, found = LenientRecords(data), []
    while records.has_next():
        batch = records.next_batch()
        assert batch is not None
        assert batch.is_control_batch is False
        found += [(record.offset, record.timestamp, record.key, record.value, *record.headers) for record in batch]
    assert records.next_batch() is None
    return found


@pytest.mark.parametrize("read", [_read, _read_by_kafka_python])
def test_a_name_that_is_no_text_is_read_as_what_can_be_shown_of_it(read: Callable[[bytes], list[Any]]) -> None:
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(_batch(1)).next_batch())
    found = read(_batch(3))
    assert found == [(at, 1000 + at, b"k", b"v%d" % at, ("a", None), ("\ufffd\ufffdHH", b"x" * at)) for at in range(3)]


def test_batches_before_and_after_are_read_as_ever() -> None:
    data = _batch(2, bad=False) + _batch(3) + _batch(1, bad=False)
    assert [row[-1][0] for row in _read(data)] == ["HHHH", "HHHH", *["\ufffd\ufffdHH"] * 3, "HHHH"]
    plain, ours = MemoryRecords(data), LenientRecords(data)
    assert plain.size_in_bytes() == ours.size_in_bytes()


def test_the_marker_that_ends_a_transaction_is_read_as_aiokafka_reads_it() -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=1,
        producer_id=7,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1_000,
    )
    builder.append(0, timestamp=1000, key=b"\x00\x00\x00\x00", value=b"\x00\x00\x00\x00\x00\x00", headers=[])
    batch = LenientRecords(bytes(builder.build())).next_batch()
    assert batch is not None
    assert next(batch).key == b"\x00\x00\x00\x00"


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_a_batch_that_would_take_all_memory_is_not_read_and_its_records_say_so(codec: int) -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=MOST_BYTES * 2,
    )
    for offset in range(3):
        builder.append(offset, timestamp=1000 + offset, key=b"k", value=bytes(MOST_BYTES // 3), headers=[])
    data = bytes(builder.build())
    unread = ("content-type", UNREAD_CONTENT_TYPE)
    assert _read(data) == [(at, 1002, None, None if at else data[61:], unread) for at in range(3)]
    assert _read_by_kafka_python(data) == [(at, 1000, None, None) for at in range(3)]
    assert _read(_batch(3, compression=codec, bad=False)) == _read(_batch(3, bad=False))


@pytest.mark.parametrize(("codec", "name"), [(1, "gzip"), (3, "lz4"), (4, "zstd")])
def test_what_just_fits_is_read(codec: int, name: str) -> None:
    packed = bytes(getattr(cramjam, name).compress(bytes(10_000_000)))
    assert not is_bomb(codec, packed, 10_000_000)
    assert is_bomb(codec, packed, 9_999_999)
    assert not is_bomb(0, packed, 1)
