"""Topics that others made: what may lose records is refused with the command that alters it; a first one is adopted."""

from __future__ import annotations

import re

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

from detector.contracts.errors import ConfigurationError
from detector.runtime.sections import KafkaSettings
from detector.stream.topics import TopicShape, ensure, existing, shapes
from tests.conftest import Broker
from tests.stream.test_topics import settings_of


def make(kafka: KafkaSettings, *wanted: TopicShape, partitions: int, **configs: str) -> None:
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
        admin.create_topics([NewTopic(shape.name, partitions, 1, topic_configs=configs) for shape in wanted])


def alter(kafka: KafkaSettings, topic: str, **configs: str) -> None:
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
        named = {name.replace("_", "."): value for name, value in configs.items()}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=named)])


def obey(kafka: KafkaSettings, error: str) -> int:
    """Do what the commands in ``error`` would do; how many there were."""
    commands = re.findall(r"--entity-name (\S+) --add-config (\S+?)(?:;|$)", error)
    for topic, settings in commands:
        pairs = re.findall(r"([^,=]+)=(?:\[(.+?)\]|([^,]*))", settings)
        alter(kafka, topic, **{name.replace(".", "_"): listed or plain for name, listed, plain in pairs})
    return len(commands)


def test_topics_with_a_brokers_defaults_are_refused_until_they_are_altered_as_it_says(
    broker: Broker, prefix: str
) -> None:
    kafka = settings_of(broker, prefix)
    make(kafka, *shapes(kafka), partitions=kafka.partitions)
    with pytest.raises(ConfigurationError) as refused:
        ensure(kafka)
    text = str(refused.value)
    for expected in (
        f"topic {kafka.topics.state_log} has retention.ms=604800000 and needs -1",
        f"topic {kafka.topics.decisions} has cleanup.policy=delete and needs compact",
        f"topic {kafka.topics.queries} has message.timestamp.type=CreateTime and needs LogAppendTime",
    ):
        assert expected in text
    assert obey(kafka, text) >= 5
    ensure(kafka)


@pytest.mark.parametrize(
    ("topic", "setting", "value"),
    [
        ("state_log", "cleanup_policy", "compact,delete"),
        ("state_log", "retention_bytes", "1000000000"),
        ("state_log", "max_message_bytes", "1048588"),
        ("queries", "cleanup_policy", "compact"),
        ("queries", "max_message_bytes", "1000"),
        ("rekeyed", "max_message_bytes", "1048576"),
        ("commands", "message_timestamp_type", "CreateTime"),
        ("decisions", "cleanup_policy", "compact,delete"),
        ("scores", "max_message_bytes", "1000"),
        ("gates", "cleanup_policy", "delete"),
        ("alerts", "max_message_bytes", "1000"),
        ("audit", "cleanup_policy", "compact"),
        ("dead_letters", "message_timestamp_type", "CreateTime"),
        ("dead_letters", "max_message_bytes", "1048588"),
        ("state_log", "min_insync_replicas", "2"),
    ],
)
def test_each_setting_that_may_lose_records_is_refused(
    broker: Broker, made: KafkaSettings, topic: str, setting: str, value: str
) -> None:
    name = getattr(made.topics, topic)
    with KafkaAdminClient(bootstrap_servers=made.bootstrap_servers) as admin:
        before = _setting(admin, name, setting)
    alter(made, name, **{setting: value})
    try:
        with pytest.raises(ConfigurationError, match=re.escape(setting.replace("_", "."))) as refused:
            ensure(made)
        assert obey(made, str(refused.value)) == 1
        ensure(made)
    finally:
        alter(made, name, **{setting: before})


def _setting(admin: KafkaAdminClient, topic: str, setting: str) -> str:
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    return str(described["topic"][topic][setting.replace("_", ".")]["value"])


@pytest.fixture(scope="module")
def made(broker: Broker) -> KafkaSettings:
    """Topics as they should be, to be put out of order and back."""
    kafka = settings_of(broker, "test-settings")
    ensure(kafka)
    return kafka


@pytest.mark.parametrize("topic", ["queries", "commands", "decisions", "dead_letters"])
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_topic_that_a_client_made_by_being_first_is_made_right(
    broker: Broker, prefix: str, topic: str, partitions: int
) -> None:
    kafka = settings_of(broker, prefix)
    (first,) = (shape for shape in shapes(kafka) if shape.name == getattr(kafka.topics, topic))
    make(kafka, first, partitions=partitions)
    ensure(kafka)
    assert {found.partitions for found in existing(kafka).values()} == {3}


def test_once_there_is_a_state_log_nothing_is_widened(broker: Broker, prefix: str) -> None:
    kafka = settings_of(broker, prefix)
    ensure(kafka)
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
        admin.delete_topics([kafka.topics.queries])
    while kafka.topics.queries in existing(kafka):
        pass
    (queries,) = (shape for shape in shapes(kafka) if shape.name == kafka.topics.queries)
    make(kafka, queries, partitions=1)
    with pytest.raises(ConfigurationError, match=r"has 1 partitions and kafka\.partitions is 3"):
        ensure(kafka)
    assert existing(kafka)[kafka.topics.queries].partitions == 1


def test_asking_for_topics_makes_none(broker: Broker, prefix: str) -> None:
    assert existing(settings_of(broker, prefix)) == {}
