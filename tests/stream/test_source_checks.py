"""Topics that change while a worker runs, and state that goes with other topics than there are: each is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from kafka import KafkaProducer

from detector.contracts.errors import BrokerError, ConfigurationError, SourceGap, StateLogError
from detector.runtime.broker import free_port
from detector.runtime.sections import KafkaSettings
from detector.stream.source_checks import BrokerReads, EndCheck, TopicWatch, check_restored, decode_identities
from detector.stream.topics import ExistingTopic, ensure, shapes
from tests.conftest import Broker
from tests.stream.test_topics import settings_of
from tests.stream.world import TOPICS, World, new_partition, queries, source, state_of

KAFKA = KafkaSettings(prefix="test", partitions=3)
THERE = {shape.name: ExistingTopic(3, 1, f"id of {shape.name}") for shape in shapes(KAFKA)}
NEEDED = (TOPICS.queries, TOPICS.rekeyed, TOPICS.judged, TOPICS.commands, TOPICS.state_log)
WRITTEN = tuple(THERE.keys() - set(NEEDED))


@pytest.fixture
def watch() -> TopicWatch:
    watch = TopicWatch(KAFKA)
    assert watch.check(THERE) == watch.check(THERE) == set()
    return watch


def without(*names: str) -> dict[str, ExistingTopic]:
    return {name: found for name, found in THERE.items() if name not in names}


@pytest.mark.parametrize("name", THERE)
def test_partitions_that_are_added_are_said_as_at_the_start(watch: TopicWatch, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} has 4 partitions and kafka\.partitions is 3"):
        watch.check(THERE | {name: replace(THERE[name], partitions=4)})


@pytest.mark.parametrize("name", NEEDED)
def test_a_topic_that_state_depends_on_must_stay_the_one_it_was(watch: TopicWatch, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} was deleted and made again.*start again.*kafka\.prefix"):
        watch.check(THERE | {name: replace(THERE[name], identity="another")})


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_topic_that_we_alone_write_is_made_right_and_nothing_stops(watch: TopicWatch, name: str) -> None:
    changed = THERE | {name: replace(THERE[name], identity="another")}
    assert watch.check(changed) == {name}
    assert watch.check(changed) == set()


def test_gone_is_what_is_absent_twice_in_a_row(watch: TopicWatch) -> None:
    for _ in range(3):
        assert watch.check(without(*THERE)) == set()
        assert watch.check(THERE) == set()
    gone = without(TOPICS.alerts)
    assert [watch.check(gone), watch.check(gone)] == [set(), {TOPICS.alerts}]
    watch.check(without(TOPICS.queries))
    with pytest.raises(ConfigurationError, match=rf"{TOPICS.queries} was deleted;"):
        watch.check(without(TOPICS.queries))


def test_a_broker_without_topic_ids_shows_no_change() -> None:
    watch = TopicWatch(KAFKA)
    nameless = {name: replace(found, identity="") for name, found in THERE.items()}
    assert watch.check(nameless) == watch.check(nameless) == set()


@dataclass
class Answers(BrokerReads):
    """A broker whose answers the test sets; every source ends at ``end`` and holds what is below ``truly``."""

    topic_ids: dict[str, str] = field(default_factory=lambda: {name: found.identity for name, found in THERE.items()})
    end: int = 10
    truly: int = 10

    def identities(self) -> dict[str, str]:
        return self.topic_ids

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, self.end)

    def holds(self, topic: str, partition: int, offset: int) -> bool:
        return offset < self.truly


SOURCES = ("commands", "queries", "rekeyed", "judged")


def test_state_says_which_topics_it_is_of_through_deltas_chunks_and_takeovers() -> None:
    world = World(source(queries(400, 1), [20] * 20), round_bytes=6_000)
    first = world.take_over()
    assert check_restored(Answers(), TOPICS, SOURCES, [first]) == {0: 10}
    world.run(first, 20)
    assert world.log[0][0] > 0, "the log was cut, so that chunks have to carry it"
    successor = world.take_over()
    assert successor.identities == {one: f"id of {getattr(TOPICS, one)}" for one in SOURCES}
    assert state_of(successor) == state_of(first)


@pytest.mark.parametrize("which", SOURCES)
def test_state_of_a_topic_that_was_made_again_is_refused(which: str) -> None:
    topic = getattr(TOPICS, which)
    successor = new_partition()
    check_restored(Answers(), TOPICS, SOURCES, [successor])
    other = Answers({**Answers().topic_ids, topic: "another"})
    with pytest.raises(ConfigurationError, match=f"{topic} was deleted and made again"):
        check_restored(other, TOPICS, SOURCES, [successor])


@pytest.mark.parametrize("which", SOURCES)
def test_state_beyond_the_end_of_its_topic_is_refused(which: str) -> None:
    successor = new_partition()
    successor.applied[which] = 9
    check_restored(Answers(), TOPICS, SOURCES, [successor])
    check_restored(Answers(end=7), TOPICS, SOURCES, [successor])  # the embedded broker's ends are too low
    with pytest.raises(ConfigurationError, match=r"ends at 9 and all below 10 is applied"):
        check_restored(Answers(end=9, truly=9), TOPICS, SOURCES, [successor])


def test_a_broker_that_knows_no_identities_takes_none_away() -> None:
    successor = new_partition()
    check_restored(Answers(), TOPICS, SOURCES, [successor])
    before = dict(successor.identities)
    check_restored(Answers({}), TOPICS, SOURCES, [successor])
    check_restored(Answers(dict.fromkeys(THERE, "")), TOPICS, SOURCES, [successor])
    assert successor.identities == before


def test_a_source_that_goes_on_ending_too_early_is_refused() -> None:
    reach, place = EndCheck(TOPICS), ("queries", 0)
    for _ in range(5):  # for a moment after a change of leaders
        reach.check({place: 5}, {place: 9})
        reach.check({place: 5}, {place: 9})
        reach.check({place: 10}, {place: 9})
    reach.check({place: 5}, {place: 9})
    reach.check({place: 5}, {place: 9})
    with pytest.raises(ConfigurationError, match=r"queries\[0\] ends at 5 and all below 10"):
        reach.check({place: 5}, {place: 9})


def test_identities_that_cannot_be_read_are_an_error_of_the_log() -> None:
    with pytest.raises(StateLogError, match="unreadable"):
        decode_identities((1, b"\xc1"))


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
    assert reads.identities().keys() >= {topic, kafka.topics.state_log}


def test_a_broker_that_is_away_is_an_error_of_its_own() -> None:
    nowhere = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}")
    with pytest.raises(BrokerError):
        BrokerReads(nowhere).identities()
