"""How the state comes back, and that its log stays bounded; on Apache Kafka, which keeps both over a restart.

First the state of 10,000 principals with 500 own queries each at d=64 is put into the state log, as a finished
checkpoint round holds it. A worker starts on it: seconds and CPU seconds until it is ready, bytes read, memory. Each
principal then asks once more, and the scores must say that this was query 501.

Then a worker with short checkpoint rounds works through ten rounds and more: what the log keeps must not grow.
Run: python -m benchmarks.recovery [--principals N]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from benchmarks._service import Service, retained, service, wait_until
from detector.contracts.batches import take
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import partition_of
from detector.core.engine import Engine
from detector.runtime.sections import DetectionSettings, LimitSettings, WorkerSettings
from detector.stream.detection_config import engine_config
from detector.stream.state_log import StateRecord, encode
from tests.chaos.audit import Counted, Names, counted_records
from tests.chaos.load import records
from tests.chaos.population import Population
from tests.chaos.stage import applied_offset
from tests.chaos.tail import Tail

QUERIES = 500
DIMENSION = 64
_PARTITIONS = 12
_PRINCIPALS_IN_A_CHUNK = 10
_HEADER = [("content-type", PACKED_CONTENT_TYPE.encode())]


def restart(principals: int) -> None:
    """The first half."""
    names = [f"principal-{number:05d}" for number in range(principals)]
    with service("apache", _PARTITIONS) as running:
        nbytes, count = _write_state(running, names)
        print(f"state of {principals:,} principals with {QUERIES} queries at d={DIMENSION}: {count:,} records", end="")
        print(f", {nbytes / 1e6:,.0f} MB, {nbytes / principals / QUERIES:,.0f} bytes a query", flush=True)
        started = time.monotonic()
        running.worker.start()
        running.wait_ready()
        seconds, memory = time.monotonic() - started, running.process.memory_info().rss
        print(
            f"back after {seconds:.1f} s, {running.cpu_seconds:.1f} s of CPU, {nbytes / seconds / 1e6:,.0f} MB/s",
            end="",
        )
        print(f", {memory / 1e6:,.0f} MB resident", flush=True)
        _ask_once_more(running, names)


def _write_state(running: Service, names: list[str]) -> tuple[int, int]:
    """Chunks and the end of a round in every partition's log; bytes and records written."""
    kafka = running.settings.kafka
    written = records_written = 0
    options = {"acks": "all", "max_request_size": kafka.state_record_bytes, "batch_size": 4_000_000}
    with KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, **options) as producer:
        for partition in range(_PARTITIONS):
            mine = [name for name in names if partition_of(name, _PARTITIONS) == partition]
            for value in _state_records(running, mine):
                producer.send(kafka.topics.state_log, value, partition=partition)
                written, records_written = written + len(value), records_written + 1
            producer.flush()
    return written, records_written


def _state_records(running: Service, names: list[str]) -> Iterator[bytes]:
    config = engine_config(running.settings)
    engine = _filled(Engine(config), names)
    chunk = StateRecord("chunk", 0, 0, policy_time=1.0, configuration=config.configuration_hash())
    yield encode(StateRecord("fence", -1, 0))
    keys = engine.keys()
    cuts = range(0, len(keys), _PRINCIPALS_IN_A_CHUNK)
    for sequence, start in enumerate(cuts, 1):
        sections = engine.dump(keys[start : start + _PRINCIPALS_IN_A_CHUNK])
        yield encode(replace(chunk, sequence=sequence, sections=sections))
    yield encode(replace(chunk, kind="round", sequence=len(cuts) + 1, first_chunk=1))


def _filled(engine: Engine, names: list[str]) -> Engine:
    generator = np.random.default_rng(5)
    for _ in range(QUERIES // 2):
        rows = np.tile(np.arange(len(names), dtype=np.int32), 2)
        engine.observe([_batch(generator, names, rows)])
    return engine


def _batch(
    generator: np.random.Generator, names: list[str], rows: np.ndarray[tuple[int], np.dtype[np.int32]]
) -> QueryBatch:
    count = len(rows)
    return QueryBatch(
        model="model",
        model_version="1",
        output_kind="probabilities",
        event_ids=["e"] * count,
        occurred_at=np.full(count, time.time()),
        principals=names,
        principal_index=rows,
        features=generator.normal(0.0, 1.0, (count, DIMENSION)).astype(np.float32),
        outputs=generator.dirichlet(np.ones(4), count).astype(np.float32),
    )


def _ask_once_more(running: Service, names: list[str]) -> None:
    """One further query by everybody; prints for how many the score topic says that it was number 501."""
    kafka = running.settings.kafka
    batch = _batch(np.random.default_rng(6), names, np.arange(len(names), dtype=np.int32))
    homes = np.asarray([partition_of(name, _PARTITIONS) for name in names])
    with KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, max_request_size=1_000_000) as producer:
        for partition in range(_PARTITIONS):
            rows = np.flatnonzero(homes == partition)
            for part in np.array_split(rows, len(rows) // 200 + 1):
                one = replace(
                    take(batch, part),
                    principals=[names[at] for at in part],
                    principal_index=np.arange(len(part), dtype=np.int32),
                )
                producer.send(kafka.topics.queries, encode_packed(one), headers=_HEADER, partition=partition)
    right = sum(queries == QUERIES + 1 for queries in _scores(running, len(names)).values())
    print(f"query {QUERIES + 1} was counted as such for {right:,} of {len(names):,} principals", flush=True)


def _scores(running: Service, wanted: int) -> dict[str, int]:
    kafka = running.settings.kafka
    found: dict[str, int] = {}
    with KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, group_id=None, enable_auto_commit=False, consumer_timeout_ms=20_000
    ) as consumer:
        consumer.assign([TopicPartition(kafka.topics.scores, number) for number in range(kafka.partitions)])
        consumer.seek_to_beginning()
        for record in consumer:
            score = json.loads(record.value)
            found[score["principal"]] = score["queries"]
            if len(found) == wanted:
                break
    return found


def boundedness(rounds: int) -> None:
    """The second half: bytes that the log keeps, at the end of each round of its one partition.

    55 principals with 200 stored queries each: their state is complete within the first round.
    """
    worker = WorkerSettings(session_timeout_seconds=6.0, checkpoint_bytes=2_000_000)
    detection = DetectionSettings(limits=LimitSettings(history_queries=200))
    population = Population(12, honest=50, thieves=5, dimension=DIMENSION)
    with service("apache", 1, worker, detection) as running:
        kafka = running.settings.kafka
        running.worker.start()
        running.wait_ready()
        with (
            Tail(kafka.bootstrap_servers, kafka.prefix, embedded=False) as tail,
            KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin,
            KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all") as producer,
        ):
            sizes = list(_keep_filling(running, population, (tail, admin, producer), rounds))
    peak_early, peak_late = (max(half) for half in (sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]))
    print(f"the log kept at most {peak_early / 1e6:.1f} MB in the first half, {peak_late / 1e6:.1f} MB in the second")


def _keep_filling(
    running: Service, population: Population, clients: tuple[Tail, KafkaAdminClient, KafkaProducer], rounds: int
) -> Iterator[int]:
    """Feed the worker until ``rounds`` checkpoint rounds have ended; yields what the log keeps, every 2,000 queries."""
    tail, admin, producer = clients
    kafka, ended = running.settings.kafka, -1
    while ended < rounds:
        end = _send(producer, kafka.topics.queries, population)
        _wait_applied(tail, kafka.prefix, end)
        log = counted_records(tail.snapshot()[0], kafka.prefix, 0)
        first, _ = retained(admin, kafka.topics.state_log, 1)[0]
        kept = sum(_size(one) for one in log if one.entry.offset >= first)
        rounds_now = sum(one.header["kind"] == "round" for one in log)
        if rounds_now > ended:
            written = sum(_size(one) for one in log)
            print(
                f"after {rounds_now:2} rounds: {written / 1e6:6.1f} MB written, {kept / 1e6:5.1f} MB kept", flush=True
            )
            ended = rounds_now
        yield kept


def _size(record: Counted) -> int:
    return len(record.entry.value or b"")


def _wait_applied(tail: Tail, prefix: str, end: int) -> None:
    def applied() -> bool:
        return applied_offset(tail.snapshot()[0], Names(prefix), 0) >= end

    wait_until("the queries applied", applied, every=0.3)


def _send(producer: KafkaProducer, topic: str, population: Population) -> int:
    """2,000 queries; the offset of the last record."""
    last = -1
    for _ in range(10):
        batch = replace(population.draw(200), occurred_at=np.full(200, time.time()))
        for one in records(batch, 1, json_share=0.0):
            last = producer.send(topic, one.value, one.key, _HEADER, partition=0).get(timeout=60).offset
    return last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--principals", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    restart(options.principals)
    boundedness(options.rounds)


if __name__ == "__main__":
    main()
