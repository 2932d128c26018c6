"""The topics: created with the right shape, and checked at start. A wrong one is an error that says what to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from detector.contracts.codecs.limits import RECORD_BYTES
from detector.contracts.errors import BrokerError, ConfigurationError
from detector.runtime.sections import KafkaSettings

_DAY = 86_400_000
_RECORD = 1_048_576
_HEADERS = 65_536
_SETTLE_SECONDS = 10.0
_BOOTSTRAP_MILLISECONDS = 5_000
_SIZE = "max.message.bytes"
_OWN = ("cleanup.policy", _SIZE)
_BROKER_TIME = ("cleanup.policy", "message.timestamp.type")


@dataclass(frozen=True, slots=True)
class TopicShape:
    """What a topic must be: how many partitions, and settings; those in ``checked`` are refused when they differ."""

    name: str
    partitions: int
    config: Mapping[str, str]
    checked: tuple[str, ...] = field(default=("cleanup.policy",))


def shapes(kafka: KafkaSettings) -> list[TopicShape]:
    """Every topic of the service, all with the same number of partitions.

    Sources carry the broker's time: policy time follows them, and a producer's clock must not move it.
    """
    topics, wide = kafka.topics, kafka.partitions
    largest = str(kafka.query_record_bytes)
    queries = {
        "cleanup.policy": "delete",
        "retention.ms": str(7 * _DAY),
        "max.message.bytes": largest,
        "message.timestamp.type": "LogAppendTime",
    }
    state = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "max.message.bytes": str(kafka.state_record_bytes),
    }
    rekeyed = queries | {"max.message.bytes": str(max(kafka.query_record_bytes, RECORD_BYTES) + _HEADERS)}
    own = {"max.message.bytes": str(_RECORD)}
    compacted = own | {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "segment.ms": str(_DAY // 24)}
    kept = own | {"cleanup.policy": "delete", "retention.ms": str(90 * _DAY)}
    letters = kept | {"max.message.bytes": str(letter_bytes(kafka))}
    return [
        TopicShape(topics.queries, wide, queries, _BROKER_TIME),
        TopicShape(topics.rekeyed, wide, rekeyed, (*_BROKER_TIME, _SIZE)),
        TopicShape(topics.commands, wide, kept | {"message.timestamp.type": "LogAppendTime"}, _BROKER_TIME),
        TopicShape(
            topics.state_log, wide, state, ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes")
        ),
        TopicShape(topics.decisions, wide, compacted, _OWN),
        TopicShape(topics.scores, wide, compacted, _OWN),
        TopicShape(topics.alerts, wide, kept, _OWN),
        TopicShape(topics.audit, wide, kept, _OWN),
        TopicShape(topics.dead_letters, wide, letters, _OWN),
    ]


def letter_bytes(kafka: KafkaSettings) -> int:
    """The most bytes of a message in the dead letters."""
    return kafka.query_record_bytes + _RECORD


def largest_bytes(kafka: KafkaSettings) -> int:
    """The most bytes of any message that a worker writes."""
    return max(int(shape.config["max.message.bytes"]) for shape in shapes(kafka) if _SIZE in shape.config)


def ensure(kafka: KafkaSettings) -> None:
    """Create the topics that are missing and check those that are there.

    Raises ConfigurationError for a topic of the wrong shape, BrokerError when the cluster cannot be asked.
    """
    try:
        admin = KafkaAdminClient(bootstrap_timeout_ms=_BOOTSTRAP_MILLISECONDS, **kafka.client_arguments())
    except KafkaError as error:
        raise BrokerError(f"cannot reach Kafka at {kafka.bootstrap_servers} as configured: {error}") from error
    try:
        wanted = shapes(kafka)
        _create(admin, kafka, wanted)
        _check_partitions(admin, wanted)
        if not kafka.embedded:
            _check_configs(admin, wanted)
    except KafkaError as error:
        raise BrokerError(f"topics under {kafka.prefix!r} could not be created or described: {error}") from error
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, kafka: KafkaSettings, wanted: list[TopicShape]) -> None:
    present = set(admin.list_topics())
    for shape in wanted:
        if shape.name not in present:
            new = NewTopic(shape.name, shape.partitions, kafka.replication_factor, topic_configs=dict(shape.config))
            try:
                admin.create_topics([new])
            except TopicAlreadyExistsError:
                continue


def _check_partitions(admin: KafkaAdminClient, wanted: list[TopicShape]) -> None:
    found = _partition_counts(admin, [shape.name for shape in wanted])
    for shape in wanted:
        count = found.get(shape.name, 0)
        if count != shape.partitions:
            raise ConfigurationError(
                f"topic {shape.name} has {count} partitions and kafka.partitions is {shape.partitions}; "
                "set kafka.partitions to what the topics have, or use another kafka.prefix"
            )


def _partition_counts(admin: KafkaAdminClient, names: list[str]) -> dict[str, int]:
    """Partitions by topic; a topic that was just created takes a moment to be known everywhere."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        found = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(names)}
        if all(found.get(name) for name in names) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _check_configs(admin: KafkaAdminClient, wanted: list[TopicShape]) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    resources = [ConfigResource(ConfigResourceType.TOPIC, shape.name) for shape in wanted]
    described = _flatten(admin.describe_configs(resources))
    for shape in wanted:
        for name in shape.checked:
            value = described.get(shape.name, {}).get(name)
            if value is not None and not _as_good(name, value, shape.config[name]):
                needed = shape.config[name]
                raise ConfigurationError(f"topic {shape.name} has {name}={value} and needs {needed}; alter the topic")


def _as_good(name: str, value: str, needed: str) -> bool:
    return int(value) >= int(needed) if name.endswith("message.bytes") else value == needed


def _flatten(described: Any) -> dict[str, dict[str, str]]:
    """kafka-python's answer, resource type to topic to setting to details, as topic to setting to value."""
    flat: dict[str, dict[str, str]] = {}
    for by_name in described.values():
        for topic, settings in by_name.items():
            flat[topic] = {name: _value(details) for name, details in settings.items()}
    return flat


def _value(details: Any) -> str:
    return str(details["value"] if isinstance(details, dict) else details)
