"""Checks that the topics are still those that the state belongs to, by requests that Faust cannot make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import msgspec
import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from detector.contracts.errors import BrokerError, ConfigurationError, SourceGap, StateLogError, read_error
from detector.contracts.topics import Topics
from detector.runtime import odd_batches
from detector.runtime.sections import KafkaSettings
from detector.stream import topics
from detector.stream.topics import ExistingTopic, misfit, shapes

if TYPE_CHECKING:
    from detector.stream.partition import Partition

SECTION = "sources"
"""The section of each state record with the identities of the source topics of its offsets."""
_VERSION = 1
_SHORT_FETCHES = 3
"""A topic must end too early this often in a row: after a change of leaders it may briefly seem to."""
_PATIENCE_SECONDS = 5.0

_log = structlog.get_logger("weirguard.stream")


class BrokerReads:
    """Requests by kafka-python, from one thread of the worker: by one lazily opened consumer without a group, for
    committed records alone. All methods raise BrokerError when the broker does not answer."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._consumer: KafkaConsumer | None = None
        self._watch = TopicWatch(kafka)

    def missing(self, topic: str, partition: int, expected: int, found: int) -> int:
        """Returns how many offsets from ``expected`` to below ``found`` were deleted before they were read.

        The others hold no record: transaction markers, or records of an aborted transaction. Raises SourceGap where the
        broker holds a record there.
        """
        place = TopicPartition(topic, partition)
        with self._consumer_for(f"{topic}[{partition}] at {expected}") as consumer:
            start = int(consumer.beginning_offsets([place])[place])
            if start >= found:
                return found - expected
            position, is_record = self._next(consumer, place, max(start, expected), found)
        if position < found:
            there = f"{position} is there" if is_record else f"the broker shows nothing at {position}"
            raise SourceGap(f"{topic}[{partition}]: {found} was delivered while {there}")
        return max(start - expected, 0)

    def _next(self, consumer: KafkaConsumer, place: TopicPartition, start: int, end: int) -> tuple[int, bool]:
        """Returns the offset of the first record from ``start`` on and True; or how far it read and False, when that is
        at ``end`` or there is no progress for a while."""
        consumer.assign([place])
        consumer.seek(place, start)
        at, deadline = -1, monotonic() + _PATIENCE_SECONDS
        while monotonic() < deadline:
            records = consumer.poll(timeout_ms=200, max_records=1).get(place)
            position = records[0].offset if records else consumer.position(place)
            if records or position >= end:
                return position, bool(records)
            if position > at:
                at, deadline = position, monotonic() + _PATIENCE_SECONDS
        return at, False

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Returns the end offsets of ``partitions`` of ``topic``; the embedded broker's are low by less than its last
        batch."""
        places = [TopicPartition(topic, partition) for partition in partitions]
        with self._consumer_for(f"the ends of {topic}") as consumer:
            return {place.partition: int(end) for place, end in consumer.end_offsets(places).items()}

    def holds(self, topic: str, partition: int, offset: int) -> bool:
        """Returns whether ``topic`` holds a record at ``offset``."""
        with self._consumer_for(f"{topic}[{partition}] at {offset}") as consumer:
            return self._next(consumer, TopicPartition(topic, partition), offset, offset + 1) == (offset, True)

    def identities(self) -> dict[str, str]:
        """Returns the identity of each topic, empty where the broker has none.

        Topics that only we write are made again where they are gone. Raises ConfigurationError when a topic has changed
        since the start.
        """
        found = topics.existing(self._kafka)
        renewed = self._watch.check(found)
        if renewed:
            _log.error("topics were deleted; records that had not been read are lost", topics=sorted(renewed))
            topics.ensure(self._kafka)
        return {name: topic.identity for name, topic in found.items()}

    def cut(self, topic: str, partition: int, before: int) -> None:
        """Deletes the records of ``topic`` below offset ``before``; does nothing on the embedded broker."""
        if self._kafka.embedded:
            return
        admin = KafkaAdminClient(**self._kafka.client_arguments())
        try:
            admin.delete_records({TopicPartition(topic, partition): before})
        except KafkaError as error:
            raise BrokerError(f"cannot delete {topic}[{partition}] below {before}: {error}") from error
        finally:
            admin.close()

    @contextmanager
    def _consumer_for(self, what: str) -> Iterator[KafkaConsumer]:
        try:
            if self._consumer is None:
                self._consumer = odd_batches.new_consumer(self._kafka)
            yield self._consumer
        except KafkaError as error:
            raise read_error(f"cannot read {what}", error) from error


class TopicWatch:
    """Compares the topics with those of the check before. Pure."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._topics = kafka.topics
        self._shapes = shapes(kafka)
        names = kafka.topics
        self._needed = {names.state_log, names.queries, names.rekeyed, names.judged, names.commands}
        self._identities: dict[str, str] = {}
        self._absent: set[str] = set()

    def check(self, found: Mapping[str, ExistingTopic]) -> set[str]:
        """Returns the topics that only we write, of ``found``, that are gone or were made again: no state depends on
        them.

        Raises ConfigurationError for one with another number of partitions, and for a source or state log that is gone
        or was made again. Gone means absent twice in a row: a broker that has just started may not know it yet.
        """
        absent = {shape.name for shape in self._shapes if shape.name not in found}
        gone, self._absent = absent & self._absent, absent
        changed = {
            name for name, topic in found.items() if self._identities.get(name, topic.identity) != topic.identity
        }
        self._identities |= {name: topic.identity for name, topic in found.items()}
        for shape in self._shapes:
            trouble = misfit(shape, found[shape.name]) if shape.name in found else None
            if trouble:
                raise ConfigurationError(trouble)
        for name in sorted((gone | changed) & self._needed):
            raise ConfigurationError(_deleted(self._topics, name, gone=name in gone))
        return gone | changed


def check_restored(
    broker: BrokerReads, topics: Topics, sources: Sequence[str], partitions: Sequence[Partition]
) -> dict[int, int]:
    """Gives restored ``partitions`` the identities of their sources. Returns the end offsets of queries, by partition.

    Raises ConfigurationError where a source was deleted and made again since the state was written, BrokerError.
    """
    identities, ends = broker.identities(), {}
    for source in sources:
        topic = getattr(topics, source)
        identity = identities.get(topic)
        ends[source] = broker.ends(topic, [partition.number for partition in partitions])
        for partition in partitions:
            known, end = partition.identities.get(source), ends[source][partition.number]
            if known and identity and known != identity:
                raise ConfigurationError(_deleted(topics, topic))
            applied = partition.applied.get(source, -1)
            if applied >= end and not broker.holds(topic, partition.number, applied):
                raise ConfigurationError(_cut_short(topics, topic, partition.number, end, applied + 1))
    now = {source: identity for source in sources if (identity := identities.get(getattr(topics, source)))}
    for partition in partitions:
        partition.identities |= now
    return ends["queries"]


class EndCheck:
    """Checks, by the result of each fetch, that sources still end where they must. Pure."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._short: Counter[tuple[str, int]] = Counter()

    def check(self, ends: Mapping[tuple[str, int], int], applied: Mapping[tuple[str, int], int]) -> None:
        """Takes the latest ``ends`` and last ``applied`` offsets by (source, partition). Raises ConfigurationError."""
        short = {place: end for place, end in ends.items() if end <= applied.get(place, -1)}
        self._short = Counter({place: self._short[place] + 1 for place in short})
        for (source, number), times in self._short.items():
            if times >= _SHORT_FETCHES:
                due, end = applied[source, number] + 1, ends[source, number]
                raise ConfigurationError(_cut_short(self._topics, getattr(self._topics, source), number, end, due))


def encode_identities(identities: Mapping[str, str]) -> tuple[int, bytes]:
    """Returns the section of a state record for ``identities``, by source."""
    return _VERSION, msgspec.msgpack.encode(identities)


def decode_identities(section: tuple[int, bytes]) -> dict[str, str]:
    """Returns the identities in ``section``, by source. Raises StateLogError."""
    try:
        return msgspec.msgpack.decode(section[1], type=dict[str, str])
    except msgspec.DecodeError as error:
        raise StateLogError(f"the identities of the sources are unreadable ({error})") from error


def _deleted(topics: Topics, name: str, gone: bool = False) -> str:
    """Returns the error, with the remedy, for a topic that is not the one that the state belongs to."""
    return f"topic {name} was deleted{'' if gone else ' and made again'}; {_remedy(topics, name)}"


def _cut_short(topics: Topics, name: str, partition: int, end: int, due: int) -> str:
    """Returns the same about a topic that ends at ``end``, before ``due``, where reading continues."""
    return (
        f"{name}[{partition}] ends at {end} and all below {due} is applied already: the topic was deleted and made "
        f"again, or its log was cut; {_remedy(topics, name)}"
    )


def _remedy(topics: Topics, name: str) -> str:
    others = f"{topics.state_log}, {topics.decisions} and {topics.scores}"
    lost = (
        "what is known of the accounts is lost with it"
        if name == topics.state_log
        else "its records would be taken for those that were applied, and left out"
    )
    return (
        f"{lost}. Bring it back as it was. Or start again, knowing nothing of the accounts: stop all workers, delete "
        f"the topics {others} and start; or use another kafka.prefix"
    )
