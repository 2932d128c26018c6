"""The topics: created with the right shape, and checked at start. Errors say what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import InvalidPartitionsError, KafkaError, TopicAlreadyExistsError

from detector.contracts.codecs.limits import RECORD_BYTES
from detector.contracts.errors import BrokerError, ConfigurationError
from detector.runtime.sections import KafkaSettings

_DAY = 86_400_000
_ORDINARY_BYTES = 1_048_576
_ENVELOPE_BYTES = 65_536
_SETTLE_SECONDS = 10.0
_DOUBT_SECONDS = 1.0
"""The time until a change by another worker, or an operator, is known everywhere."""
_BOOTSTRAP_MILLISECONDS = 5_000
_ADVISED = (("unclean.leader.election.enable", "true", "false"), ("min.insync.replicas", "1", "2"))
"""(setting, value that may lose records where there are replicas, safer value)."""

_log = structlog.get_logger("weirguard.stream")


@dataclass(frozen=True, slots=True)
class TopicShape:
    """The required shape of a topic: partitions, and settings; those in ``checked`` are refused when they differ."""

    name: str
    partitions: int
    config: Mapping[str, str]
    checked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExistingTopic:
    """A topic as the cluster has it. ``identity``: Kafka's topic id, another one once it was deleted and made again;
    empty where the broker has none."""

    partitions: int
    replicas: int
    identity: str


def shapes(kafka: KafkaSettings) -> list[TopicShape]:
    """Returns every topic of the service, all with the same number of partitions.

    Sources carry the broker's time: policy time follows them, and a producer's clock must not move it. So do dead
    letters, whose retention counts from their refusal, however old they are. A re-keyed record may be larger than in
    queries: it is written without its producer's compression.
    """
    topics, wide = kafka.topics, kafka.partitions
    broker_time = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
    week, season = {"retention.ms": str(7 * _DAY)}, {"retention.ms": str(90 * _DAY)}
    state = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    compacted = {"cleanup.policy": "compact"}
    forgetful = {"cleanup.policy": "compact,delete"}
    cleaned = {"min.cleanable.dirty.ratio": "0.1", "segment.ms": str(_DAY // 24)}

    def shape(name: str, checked: Mapping[str, str], largest: int, others: Mapping[str, str]) -> TopicShape:
        needed = {**checked, "max.message.bytes": str(largest)}
        return TopicShape(name, wide, {**needed, **others}, tuple(needed))

    return [
        shape(topics.queries, broker_time, kafka.query_record_bytes, week),
        shape(topics.rekeyed, broker_time, max(kafka.query_record_bytes, RECORD_BYTES) + _ENVELOPE_BYTES, week),
        shape(topics.judged, broker_time, max(kafka.query_record_bytes, RECORD_BYTES) + _ENVELOPE_BYTES, week),
        shape(topics.commands, broker_time, _ORDINARY_BYTES, season),
        shape(topics.state_log, state, kafka.state_record_bytes, {}),
        shape(topics.decisions, compacted, _ORDINARY_BYTES, cleaned),
        shape(topics.scores, compacted, _ORDINARY_BYTES, cleaned),
        shape(topics.groups, compacted, _ORDINARY_BYTES, cleaned),
        shape(topics.gates, forgetful, _ORDINARY_BYTES, cleaned | {"retention.ms": str(2 * _DAY)}),
        shape(topics.alerts, {"cleanup.policy": "delete"}, _ORDINARY_BYTES, season),
        shape(topics.audit, {"cleanup.policy": "delete"}, _ORDINARY_BYTES, season),
        shape(topics.dead_letters, broker_time, letter_bytes(kafka), season),
    ]


def letter_bytes(kafka: KafkaSettings) -> int:
    """Returns the most bytes of a message in the dead letters."""
    return kafka.query_record_bytes + _ORDINARY_BYTES


def largest_bytes(kafka: KafkaSettings) -> int:
    """Returns the most bytes of any message that a worker writes."""
    return max(int(shape.config["max.message.bytes"]) for shape in shapes(kafka))


def ensure(kafka: KafkaSettings) -> None:
    """Creates missing topics and checks existing ones.

    Where there is no state log yet, a topic that an early producer or reader made is altered; nothing else is. Raises
    ConfigurationError for topics of the wrong shape, BrokerError when the cluster does not answer.
    """
    wanted = shapes(kafka)
    with _admin(kafka) as admin:
        found = describe(admin, wanted)
        touched = [shape for shape in wanted if shape.name not in found]
        if kafka.topics.state_log not in found and not kafka.embedded:
            touched += _adopt(admin, wanted, found)
        _create(admin, kafka, [shape for shape in wanted if shape.name not in found])
        deadline = time.monotonic() + (_SETTLE_SECONDS if touched else _DOUBT_SECONDS)
        while wrong := _wrong(admin, kafka, wanted):
            if time.monotonic() >= deadline:
                raise ConfigurationError("; ".join(wrong))
            time.sleep(0.05)
        if not kafka.embedded:
            _advise(wanted, describe(admin, wanted), _settings(admin, wanted))


def existing(kafka: KafkaSettings) -> dict[str, ExistingTopic]:
    """Returns the topics that exist now, by name. Raises BrokerError."""
    with _admin(kafka) as admin:
        return describe(admin, shapes(kafka))


def describe(admin: KafkaAdminClient, wanted: Sequence[TopicShape]) -> dict[str, ExistingTopic]:
    """Returns the ``wanted`` topics that exist. The request creates none, even where the cluster creates topics by
    itself."""
    found = {}
    for topic in admin.describe_topics([shape.name for shape in wanted]):
        partitions = topic["partitions"]
        if partitions:
            replicas = min(len(partition["replica_nodes"]) for partition in partitions)
            found[topic["name"]] = ExistingTopic(len(partitions), replicas, str(topic.get("topic_id") or ""))
    return found


def misfit(shape: TopicShape, found: ExistingTopic | None) -> str | None:
    """Returns the error if the topic has another number of partitions than is set; None otherwise."""
    count = found.partitions if found else 0
    if count == shape.partitions:
        return None
    return (
        f"topic {shape.name} has {count} partitions and kafka.partitions is {shape.partitions}; "
        "set kafka.partitions to what the topics have, or use another kafka.prefix"
    )


@contextmanager
def _admin(kafka: KafkaSettings) -> Iterator[KafkaAdminClient]:
    try:
        admin = KafkaAdminClient(bootstrap_timeout_ms=_BOOTSTRAP_MILLISECONDS, **kafka.client_arguments())
    except KafkaError as error:
        raise BrokerError(f"cannot reach Kafka at {kafka.bootstrap_servers} as configured: {error}") from error
    try:
        yield admin
    except KafkaError as error:
        raise BrokerError(f"topics under {kafka.prefix!r} could not be created or described: {error}") from error
    finally:
        admin.close()


def _adopt(
    admin: KafkaAdminClient, wanted: Sequence[TopicShape], found: Mapping[str, ExistingTopic]
) -> list[TopicShape]:
    """Alters topics that a broker made by itself, with its own defaults, for a client that came before the detector.

    Nothing was judged yet, so no account's partition changes: a record in another than its principal's is re-keyed.
    """
    narrow = [shape for shape in wanted if shape.name in found and found[shape.name].partitions <= shape.partitions]
    for shape in narrow:
        _log.warning("topic was there before the first start; its partitions and settings are set", topic=shape.name)
        if found[shape.name].partitions < shape.partitions:
            with suppress(InvalidPartitionsError):  # another worker was faster
                admin.create_partitions({shape.name: shape.partitions})
        admin.alter_configs([_resource(shape.name, dict(shape.config))])
    return narrow


def _create(admin: KafkaAdminClient, kafka: KafkaSettings, missing: Sequence[TopicShape]) -> None:
    for shape in missing:
        new = NewTopic(shape.name, shape.partitions, kafka.replication_factor, topic_configs=dict(shape.config))
        with suppress(TopicAlreadyExistsError):
            admin.create_topics([new])


def _wrong(admin: KafkaAdminClient, kafka: KafkaSettings, wanted: Sequence[TopicShape]) -> list[str]:
    """Returns a sentence for each topic with a wrong setting."""
    found = describe(admin, wanted)
    sentences = [sentence for shape in wanted if (sentence := misfit(shape, found.get(shape.name)))]
    if sentences or kafka.embedded:
        return sentences
    settings = _settings(admin, wanted)
    faults = (_fault(kafka, shape, settings[shape.name], found[shape.name].replicas) for shape in wanted)
    return [sentence for sentence in faults if sentence]


def _settings(admin: KafkaAdminClient, wanted: Sequence[TopicShape]) -> dict[str, dict[str, str]]:
    """Returns every setting of each topic, by name; none where they may not be read."""
    described = admin.describe_configs([_resource(shape.name) for shape in wanted], config_filter="all")
    return {
        topic: {name: str(details["value"]) for name, details in settings.items()}
        for by_name in described.values()
        for topic, settings in by_name.items()
    }


def _fault(kafka: KafkaSettings, shape: TopicShape, has: Mapping[str, str], replicas: int) -> str | None:
    """Returns what must be altered on this topic, and how; settings that cannot be read count as wrong."""
    if not has:
        return (
            f"the settings of topic {shape.name} cannot be read; allow this user to describe configurations of topics"
        )
    needed = {name: shape.config[name] for name in shape.checked if not _suffices(name, has, shape.config[name])}
    if int(has.get("min.insync.replicas", 1)) > replicas:
        needed["min.insync.replicas"] = str(replicas)
    if not needed:
        return None
    differences = ", ".join(f"{name}={has.get(name)} and needs {value}" for name, value in needed.items())
    settings = ",".join(f"{name}=[{value}]" if "," in value else f"{name}={value}" for name, value in needed.items())
    return (
        f"topic {shape.name} has {differences}; alter it: kafka-configs.sh --bootstrap-server {kafka.servers[0]} "
        f"--alter --entity-type topics --entity-name {shape.name} --add-config {settings}"
    )


def _advise(
    wanted: Sequence[TopicShape], found: Mapping[str, ExistingTopic], settings: Mapping[str, Mapping[str, str]]
) -> None:
    """Logs what is allowed but could be safer: how long records are kept, and what the loss of a broker costs."""
    for shape in wanted:
        has, usual = settings[shape.name], shape.config.get("retention.ms", "-1")
        if 0 <= int(kept := has.get("retention.ms", "-1")) < int(usual):
            _log.warning("topic keeps records for less time than usual", topic=shape.name, ms=kept, usual=usual)
        for name, value, safer in _ADVISED if found[shape.name].replicas > 1 else ():
            if has.get(name) == value:
                _log.warning(
                    "losing a broker may lose records", topic=shape.name, setting=f"{name}={value}", safer=safer
                )


def _suffices(name: str, has: Mapping[str, str], needed: str) -> bool:
    value = has.get(name)
    if value is None:
        return False
    return int(value) >= int(needed) if name == "max.message.bytes" else value == needed


def _resource(topic: str, configs: dict[str, str] | None = None) -> Any:
    return ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)
