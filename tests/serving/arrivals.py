"""Topics for logger and gate, what is published there and what arrives."""

from __future__ import annotations

import time
from collections.abc import Callable

import kafka
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import TopicAlreadyExistsError

from detector.contracts.findings import Decision
from detector.contracts.queries import Count, DecodedQueries
from detector.contracts.topics import partition_of
from detector.serving import Connection
from tests.contracts.wire import decode_queries
from tests.serving.doubles import record

PARTITIONS = 4
LATER = 4_000_000_000.0


def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def create_topics(connection: Connection) -> None:
    """Also over topics that a client's question created: the embedded broker does that, bidden or not."""
    with KafkaAdminClient(bootstrap_servers=connection.bootstrap_servers) as admin:
        for name in (connection.topics.queries, connection.topics.decisions, connection.topics.gates):
            try:
                admin.create_topics([NewTopic(name=name, num_partitions=PARTITIONS, replication_factor=1)])
            except TopicAlreadyExistsError:
                continue


def publish(
    connection: Connection, *records: tuple[bytes, bytes | None], partition: int | None = None, at: float | None = None
) -> None:
    """``at``: what the records say of their time, seconds UTC."""
    producer = connection.producer()
    milliseconds = None if at is None else int(1_000 * at)
    for key, value in records:
        place = partition_of("thief", PARTITIONS) if partition is None else partition
        producer.send(connection.topics.decisions, value, key=key, partition=place, timestamp_ms=milliseconds).get(
            timeout=10
        )
    producer.close()


def tell(connection: Connection, *decisions: Decision) -> None:
    publish(connection, *map(record, decisions))


def received(connection: Connection, enough: Callable[[list[DecodedQueries]], bool]) -> list[DecodedQueries]:
    """What the queries topic holds, decoded, once it is enough; every row and count is checked for its partition."""
    consumer = connection.consumer()
    name = connection.topics.queries
    consumer.assign([kafka.TopicPartition(name, number) for number in range(PARTITIONS)])
    arrived: list[DecodedQueries] = []

    def read() -> bool:
        for records in consumer.poll(timeout_ms=200).values():
            for one in records:
                assert one.key is None
                decoded = decode_queries(one.value, dict(one.headers)["content-type"].decode(), timestamp=0.0)
                principals = decoded.batch.principals if decoded.batch else []
                for principal in [*principals, *(count.principal for count in decoded.counts)]:
                    assert partition_of(principal, PARTITIONS) == one.partition
                arrived.append(decoded)
        return enough(arrived)

    assert until(read)
    consumer.close()
    return arrived


def rows_of(arrived: list[DecodedQueries]) -> int:
    return sum(len(decoded.rows) for decoded in arrived)


def counts_of(arrived: list[DecodedQueries]) -> list[Count]:
    return [count for decoded in arrived for count in decoded.counts]
