"""Odd things that any broker may show: topics that were made again, record times that cannot be, null headers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiokafka
import pytest
from kafka.admin import KafkaAdminClient

from detector.cli.operator import carry_out
from detector.contracts.codecs.records import decode
from detector.contracts.findings import Action, Command, Decision
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import partition_of
from detector.replay.calibrate import read_topic
from detector.runtime.sections import KafkaSettings
from detector.stream.source_records import AHEAD_SECONDS
from detector.stream.topics import ensure, existing
from tests.conftest import Broker
from tests.contracts.wire import encode_json_query
from tests.e2e.service import PARTITIONS, running_service
from tests.e2e.test_service import _rows, send, until
from tests.stream.test_topics import settings_of
from tests.stream.world import queries


@pytest.mark.parametrize("which", ["queries", "commands"])
def test_a_source_that_was_made_again_is_refused_at_the_next_start(
    broker: Broker, prefix: str, tmp_path: Path, which: str
) -> None:
    with running_service(broker, prefix, tmp_path) as service:
        send(service, 100, seed=1)
        service.read(service.topics.state_log, lambda found: _rows(found) >= 100)
        service.worker.leave()
        topic = getattr(service.topics, which)
        with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
            admin.delete_topics([topic])
        until(lambda: topic not in existing(service.kafka))
        ensure(service.kafka)
        service.worker.start()
        until(lambda: not service.worker.running)
        assert topic in service.last_words()
        assert "made again" in service.last_words()


def test_a_record_from_the_far_future_does_not_make_a_ban_last_for_years(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    if not broker.embedded:
        pytest.skip("Apache Kafka stamps these records itself; tests/stream has the rule")
    with running_service(broker, prefix, tmp_path) as service:
        stamped = int((time.time() + 5 * 365 * 86_400) * 1000)
        value = encode_json_query(queries(1, seed=1), 0)
        for partition in range(PARTITIONS):
            service.producer.send(service.topics.queries, value, partition=partition, timestamp_ms=stamped)
        service.producer.flush()
        until(lambda: service.metric("weirguard_record_times_clamped_total") == PARTITIONS)
        command = Command("c1", "add", time.time(), "eve", "m", "bo", "test", Action("refuse"), "enforce", 60.0)
        carry_out(service.kafka, command, 20)
        (record,) = service.read(service.topics.decisions, lambda found: len(found) >= 1)
        assert decode(Decision, record.value).expires_at < time.time() + 60 + AHEAD_SECONDS
        assert service.worker.log.read_text().count("a record's timestamp is not believed") <= 2


async def send_with_null_headers(kafka: KafkaSettings, batch: QueryBatch, name: str) -> None:
    """kafka-python refuses to write them; others do not."""
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await producer.start()
    for row in range(len(batch)):
        headers = [(name, None)] if row % 2 else []
        home = partition_of(batch.principals[batch.principal_index[row]], PARTITIONS)
        value = encode_json_query(batch, row)
        await producer.send_and_wait(kafka.topics.queries, value, partition=home, headers=headers)
    await producer.stop()


@pytest.mark.parametrize("name", ["content-type", "weirguard-origin", "other"])
def test_a_null_header_is_no_header(broker: Broker, prefix: str, name: str) -> None:
    kafka = settings_of(broker, prefix, PARTITIONS)
    ensure(kafka)
    asyncio.run(send_with_null_headers(kafka, queries(20, seed=2), name))
    traffic = read_topic(kafka, time.time() - 3600)
    assert (sum(len(piece) for piece in traffic.pieces), traffic.refused) == (20, 0)
