"""How a real broker answers about a hole in a source."""

from __future__ import annotations

import pytest
from kafka import KafkaProducer

from detector.contracts.errors import BrokerError, SourceGap
from detector.runtime.broker import free_port
from detector.runtime.sections import KafkaSettings
from detector.stream.broker_reads import BrokerReads
from detector.stream.topics import ensure
from tests.conftest import Broker
from tests.stream.test_topics import settings_of


@pytest.fixture
def kafka(broker: Broker, prefix: str) -> KafkaSettings:
    """Ten queries in partition 1."""
    kafka = settings_of(broker, prefix)
    ensure(kafka)
    with KafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        for _ in range(10):
            producer.send(kafka.topics.queries, b"{}", partition=1).get(20)
    return kafka


def test_a_hole_in_which_the_broker_holds_records_is_none(kafka: KafkaSettings) -> None:
    reads, topic = BrokerReads(kafka), kafka.topics.queries
    for expected, found in ((0, 5), (8, 9), (0, 10)):
        with pytest.raises(SourceGap, match=rf"{found} was delivered while {expected} is there"):
            reads.missing(topic, 1, expected, found)
    assert reads.missing(topic, 1, 5, 5) == 0


def test_it_says_what_it_holds_and_where_topics_end(kafka: KafkaSettings) -> None:
    reads, topic = BrokerReads(kafka), kafka.topics.queries
    assert [reads.holds(topic, 1, offset) for offset in (0, 9)] == [True, True]
    assert reads.ends(topic, [0, 1]) == {0: 0, 1: 10}
    assert reads.look().keys() >= {topic, kafka.topics.state_log}


def test_a_broker_that_is_away_is_an_error_of_its_own() -> None:
    nowhere = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}")
    with pytest.raises(BrokerError):
        BrokerReads(nowhere).look()
