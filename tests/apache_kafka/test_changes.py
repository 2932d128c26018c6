"""What Apache Kafka may do to a worker: transactions, compression, topics that change."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiokafka
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

from detector.cli.operator import carry_out
from detector.contracts.findings import Action, Command
from detector.contracts.topics import partition_of
from detector.replay.topics import Topic
from detector.stream.topics import existing, shapes
from tests.conftest import Broker
from tests.contracts.wire import encode_json_query
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import _rows, gate_of, send, until
from tests.stream.world import queries

CODECS = ("gzip", "lz4", "snappy", "zstd")


async def transactions(service: Service, codec: str | None) -> None:
    """Twenty queries of each of four accounts in two transactions; the second and a third are aborted."""
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=service.kafka.bootstrap_servers,
        compression_type=codec,
        transactional_id=f"{service.kafka.prefix}-{codec}",
    )
    await producer.start()
    for name, kept in (("committed", True), ("aborted", False), ("too", False)):
        await producer.begin_transaction()
        batch = queries(20, seed=5)
        for row in range(len(batch)):
            home = partition_of(batch.principals[batch.principal_index[row]], PARTITIONS)
            value = encode_json_query(batch, row).replace(b'"5-', f'"{codec}-{name}-'.encode())
            await producer.send(service.topics.queries, value, partition=home)
        await (producer.commit_transaction() if kept else producer.abort_transaction())
    await producer.stop()


def test_of_transactions_what_was_committed_is_judged_and_what_was_given_up_is_not_waited_for(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    codecs = (None, *CODECS)
    with running_service(broker, prefix, tmp_path) as service:
        for codec in codecs:
            asyncio.run(transactions(service, codec))
        log = service.read(service.topics.state_log, lambda found: _rows(found) >= 20 * len(codecs))
        assert _rows(log) == 20 * len(codecs)
        until(lambda: service.metric("weirguard_records_behind") == 0)
        assert service.metric("weirguard_source_gaps_total") >= len(codecs) - 1
        assert service.metric("weirguard_source_records_lost_total") == 0
        assert service.metric("weirguard_restarts_total") == 0
        service.worker.kill()  # the next one begins at the last committed record, with markers behind it
        until(lambda: service.metric("weirguard_restarts_total") == 1 and service.worker.ready())
        until(lambda: service.metric("weirguard_records_behind") == 0)


def test_records_that_retention_took_are_counted_as_lost(broker: Broker, prefix: str, tmp_path: Path) -> None:
    with running_service(broker, prefix, tmp_path) as service:
        send(service, 100, seed=1)
        service.read(service.topics.state_log, lambda found: _rows(found) >= 100)
        before = ends(service)
        service.worker.freeze()
        send(service, 100, seed=2)
        after = ends(service)
        with KafkaAdminClient(bootstrap_servers=service.kafka.bootstrap_servers) as admin:
            admin.delete_records(after)
        service.worker.kill()
        send(service, 100, seed=3)
        service.read(service.topics.state_log, lambda found: _rows(found) >= 200)
        lost = sum(after.values()) - sum(before.values())
        until(lambda: service.metric("weirguard_source_records_lost_total") == lost > 0)


def ends(service: Service) -> dict[TopicPartition, int]:
    places = [TopicPartition(service.topics.queries, number) for number in range(PARTITIONS)]
    with KafkaConsumer(bootstrap_servers=service.kafka.bootstrap_servers) as consumer:
        return dict(consumer.end_offsets(places))


def test_all_compressions_are_read_by_worker_gate_and_commands(broker: Broker, prefix: str, tmp_path: Path) -> None:
    with running_service(broker, prefix, tmp_path) as service:
        with KafkaAdminClient(bootstrap_servers=service.kafka.bootstrap_servers) as admin:
            for at, shape in enumerate(shapes(service.kafka)):
                change = {"compression.type": CODECS[1 + at % 3]}
                admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, shape.name, configs=change)])
        for at in range(3):  # each codec on each of the commands, answers and decisions
            who, how = f"mallory-{at}", Action("refuse")
            command = Command(f"c{at}", "add", time.time(), "eve", "m", who, "test", how, "enforce", 600.0)
            assert carry_out(service.kafka, command, 20).detail["command"] == f"c{at}"
        send(service, 300, seed=1)
        service.read(service.topics.state_log, lambda found: _rows(found) >= 300)
        with gate_of(service) as gate:
            assert gate.wait_until_ready(20)
            assert gate.check("m", "mallory-0").action == "refuse"
        for topic in (service.topics.decisions, service.topics.audit, service.topics.queries, service.topics.scores):
            with Topic(service.kafka, topic) as reader:
                assert list(reader.until_now())


def remake(service: Service, topic: str, **configs: str) -> None:
    with KafkaAdminClient(bootstrap_servers=service.kafka.bootstrap_servers) as admin:
        before = existing(service.kafka)[topic].identity
        admin.delete_topics([topic])
        until(lambda: topic not in existing(service.kafka))
        admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=configs)])
        until(lambda: topic in existing(service.kafka) and existing(service.kafka)[topic].identity != before)


def test_a_topic_that_is_made_again_stops_the_worker_if_state_depends_on_it(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    with running_service(broker, prefix, tmp_path) as service:
        send(service, 100, seed=1)
        service.read(service.topics.state_log, lambda found: _rows(found) >= 100)
        remake(service, service.topics.decisions, **{"cleanup.policy": "compact"})
        until(lambda: "topics were deleted" in service.worker.log.read_text(), 60)
        assert service.worker.ready()
        remake(service, service.topics.queries, **{"message.timestamp.type": "LogAppendTime"})
        send(service, 400, seed=2)
        until(lambda: not service.worker.running, 60)
        assert f"topic {service.topics.queries} was deleted and made again" in service.last_words()
        service.worker.start()  # by now the topic reaches beyond what was applied; its identity tells
        until(lambda: not service.worker.running, 60)
        assert service.last_words().count("was deleted and made again") == 2
