"""The Apache Kafka node of the tests."""

from __future__ import annotations

from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tests.brokers.node import KafkaNode


def _write(bootstrap: str, value: bytes) -> None:
    with KafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        producer.send("kept", value, partition=0).get(timeout=20)


def _read(bootstrap: str, count: int) -> list[bytes]:
    with KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=20_000) as consumer:
        consumer.assign([TopicPartition("kept", 0)])
        consumer.seek_to_beginning()
        return [next(consumer).value for _ in range(count)]


def test_what_was_written_outlives_a_stop_and_a_kill(tmp_path: Path) -> None:
    with KafkaNode(tmp_path) as node:
        with KafkaAdminClient(bootstrap_servers=node.bootstrap) as admin:
            admin.create_topics({"kept": {"num_partitions": 1, "replication_factor": 1}})
        _write(node.bootstrap, b"first")
        node.restart()
        _write(node.bootstrap, b"second")
        node.restart(kill=True)
        assert _read(node.bootstrap, 2) == [b"first", b"second"]
