"""Groups in the stream: two owners that send each other judged queries and commands, and die and come back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest

from detector.contracts.batches import take
from detector.contracts.codecs.packed_queries import encode_packed
from detector.contracts.codecs.records import decode
from detector.contracts.findings import Audit, Command, Decision, GroupAlert
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import partition_of, watch_partition
from detector.groups.judged_record import decode_judged
from detector.stream.commit_unit import CommitUnit
from detector.stream.partition import Partition
from detector.stream.partition_manager import Batching, apply_together
from detector.stream.source_records import SourceRecord
from detector.stream.state_log import Message, StateRecord, encode
from tests.groups.rings import calibrated, others, ring, stream, uniform
from tests.stream.world import PACKED, TOPICS, new_partition, state_of

PARTITIONS = 2
HOME = watch_partition("credit", "1", PARTITIONS)
SOURCE_OF = {TOPICS.queries: "queries", TOPICS.judged: "judged", TOPICS.commands: "commands"}


@dataclass
class Cluster:
    """Two partitions with their topics and state logs. ``round_bytes``: how often they write checkpoints."""

    round_bytes: int = 1 << 30
    topics: dict[tuple[str, int], list[SourceRecord]] = field(default_factory=lambda: defaultdict(list))
    published: list[Message] = field(default_factory=list)
    logs: dict[int, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    owners: dict[int, Partition] = field(default_factory=dict)
    time: float = 1_000.0

    def __post_init__(self) -> None:
        for number in range(PARTITIONS):
            self.take_over(number)

    def take_over(self, number: int) -> None:
        partition = new_partition(number, PARTITIONS, self.round_bytes, profiles=(calibrated(),))
        fence = self._log(number, encode(StateRecord("fence", -1, 0)))
        for offset, value in self.logs[number]:
            partition.absorb(offset, value)
        self._publish(partition.takeover(fence, 0))
        opening = partition.taken_over()
        self.owners[number] = partition
        if opening is not None:
            self._write(partition, opening)

    def send(self, queries: QueryBatch, row: int, end: int) -> None:
        """The rows go to the partitions of their principals, one record each."""
        home = np.array([partition_of(name, PARTITIONS) for name in queries.principals])
        for number in range(PARTITIONS):
            rows = row + np.flatnonzero(home[queries.principal_index[row:end]] == number)
            if len(rows):
                self._append(TOPICS.queries, number, encode_packed(take(queries, rows), ()), PACKED)

    def settle(self) -> None:
        """Applies everything, until nothing follows from it any more."""
        while sum(self.step(number) for number in range(PARTITIONS)):
            pass

    def step(self, number: int, dies: str = "") -> bool:
        """Applies what has come to one partition; the owner ``dies`` before the state record is ``logged``, or before
        what follows from it is ``published``."""
        partition, batching = self.owners[number], Batching(1 << 20)
        worked = False
        for topic in SOURCE_OF:
            fresh, gap = partition.contiguous(self.topics[topic, number])
            assert gap is None
            for records in batching.cut(number, fresh):
                worked = True
                ((_, _, unit),), _ = apply_together([(partition, records)], batching.quarantine)
                if not dies:
                    self._write(partition, unit)
                    continue
                self._publish(unit.before)
                if dies == "published":
                    self._log_unit(number, unit)
                return True
        return worked

    def groups(self) -> dict[str, GroupAlert]:
        alerts = (decode(GroupAlert, own.value) for own in self.published if own.topic == TOPICS.groups)
        return {alert.id: alert for alert in sorted(alerts, key=lambda alert: alert.revision)}

    def members(self) -> set[str]:
        return {member.principal for own in self.groups().values() for member in own.members}

    def decisions(self) -> dict[str, Decision]:
        found = [decode(Decision, own.value) for own in self.published if own.topic == TOPICS.decisions]
        return {own.principal: own for own in sorted(found, key=lambda own: own.epoch)}

    def _write(self, partition: Partition, unit: CommitUnit) -> None:
        self._publish(unit.before)
        offset = self._log_unit(partition.number, unit)
        self._publish(unit.after)
        partition.confirm(unit, offset)
        while (chunk := partition.checkpoint()) is not None:
            partition.confirm(chunk, self._log_unit(partition.number, chunk))
            if chunk.kind == "round":
                kept = [(at, value) for at, value in self.logs[partition.number] if at >= (chunk.first_chunk or 0)]
                self.logs[partition.number] = kept

    def _log_unit(self, number: int, unit: CommitUnit) -> int:
        first, *_ = [self._log(number, value) for _, value in unit.log_entries]
        return first

    def _log(self, number: int, value: bytes) -> int:
        log = self.logs[number]
        log.append((log[-1][0] + 1 if log else 0, value))
        return log[-1][0]

    def _publish(self, messages: list[Message]) -> None:
        self.published += messages
        for message in messages:
            if message.topic in (TOPICS.judged, TOPICS.commands):
                assert message.partition is not None
                self._append(message.topic, message.partition, message.value, {})

    def _append(self, topic: str, number: int, value: bytes, headers: dict[str, bytes]) -> None:
        self.time += 1.0
        log = self.topics[topic, number]
        log.append(SourceRecord(SOURCE_OF[topic], len(log), self.time, None, value, headers))


def _traffic() -> QueryBatch:
    return stream([*others(30), *ring(12, 240)])


def _run(cluster: Cluster, queries: QueryBatch, size: int = 200) -> Cluster:
    for start in range(0, len(queries), size):
        cluster.send(queries, start, min(start + size, len(queries)))
        cluster.settle()
    return cluster


@pytest.fixture(scope="module")
def undisturbed() -> Cluster:
    return _run(Cluster(), _traffic())


def test_a_ring_over_two_partitions_is_found_and_each_member_is_refused_or_slowed(undisturbed: Cluster) -> None:
    members = undisturbed.members()
    assert len({name for name in members if name.startswith("ring")}) >= 10
    assert len({name for name in members if name.startswith("honest")}) <= 1
    decisions = undisturbed.decisions()
    for name in members:
        origins = {cause.origin for cause in decisions[name].causes}
        assert origins & {f"group:{group}" for group in undisturbed.groups()}, name
    assert {partition_of(name, PARTITIONS) for name in members} == {0, 1}
    assert {own.family for own in undisturbed.groups().values()} == {"structure"}


def test_the_response_to_a_group_follows_the_family_of_its_evidence() -> None:
    cluster = _run(Cluster(), stream([*others(30), *uniform(8, 4)]))
    assert len([name for name in cluster.members() if name.startswith("ring")]) == 8
    families = {own.family for own in cluster.groups().values()}
    joins = [topic.value for number in range(PARTITIONS) for topic in cluster.topics[TOPICS.commands, number]]
    assert {decode(Command, join).family for join in joins} == families == {"content"}
    by_group = {
        own.action.name
        for own in cluster.decisions().values()
        if all(cause.origin.startswith("group:") for cause in own.causes)
    }
    assert by_group == {"slow"}


def test_judged_queries_are_sent_only_where_the_model_version_is_watched(undisturbed: Cluster) -> None:
    sent = [own for own in undisturbed.published if own.topic == TOPICS.judged]
    assert sent
    assert {own.partition for own in sent} == {HOME}


def test_repeated_judged_queries_change_nothing(undisturbed: Cluster) -> None:
    cluster = _run(Cluster(), _traffic())
    owner = cluster.owners[HOME]
    before = list(owner.groups.dump())
    for message in [own for own in cluster.published if own.topic == TOPICS.judged]:
        cluster._append(TOPICS.judged, HOME, message.value, {})
    published = len(cluster.published)
    cluster.settle()
    assert list(owner.groups.dump()) == before
    assert len(cluster.published) == published
    assert cluster.groups() == undisturbed.groups()


@pytest.mark.parametrize(("round_bytes", "dies"), [(1 << 30, "published"), (20_000, "published"), (1 << 30, "logged")])
def test_owners_that_die_halfway_change_nothing(undisturbed: Cluster, round_bytes: int, dies: str) -> None:
    cluster, queries = Cluster(round_bytes), _traffic()
    for number, start in enumerate(range(0, len(queries), 200)):
        cluster.send(queries, start, min(start + 200, len(queries)))
        victim = number % PARTITIONS
        if cluster.step(victim, dies):
            cluster.take_over(victim)
        cluster.settle()
    for number in range(PARTITIONS):
        live = cluster.owners[number]
        cluster.take_over(number)
        recovered = cluster.owners[number]
        assert state_of(recovered)[2:] == state_of(live)[2:]
    assert cluster.members() == undisturbed.members()
    assert _without_time(cluster.decisions()) == _without_time(undisturbed.decisions())


def _without_time(decisions: dict[str, Decision]) -> dict[str, tuple[str, str, set[str]]]:
    return {
        name: (decision.action.name, decision.mode, {cause.origin.partition(":")[0] for cause in decision.causes})
        for name, decision in decisions.items()
    }


def test_a_dismissed_group_releases_its_members_and_takes_nobody_else() -> None:
    cluster = _run(Cluster(), _traffic())
    (group,) = [own for own in cluster.groups().values() if own.size >= 10]
    command = Command("c1", "dismiss", 2_000.0, "alice", "credit", group.id, "an office", model_version="1")
    from detector.contracts.codecs.records import encode as encode_record

    cluster._append(TOPICS.commands, HOME, encode_record(command), {})
    cluster.settle()
    dismissed = cluster.groups()[group.id]
    assert (dismissed.dismissed_by, dismissed.revision) == ("alice", group.revision + 1)
    audits = [decode(Audit, own.value) for own in cluster.published if own.topic == TOPICS.audit]
    assert any(audit.detail.get("command") == "c1" and audit.kind == "command" for audit in audits)
    leaves = [
        own
        for own in cluster.topics[TOPICS.commands, 0] + cluster.topics[TOPICS.commands, 1]
        if own.value is not None and b'"leave"' in own.value
    ]
    assert len(leaves) == group.size
    alone = [own for own in cluster.decisions().values() if own.action.name != "none"]
    assert not [cause for own in alone for cause in own.causes if cause.origin == f"group:{group.id}"]
    again = replace(command, id="c2")
    cluster._append(TOPICS.commands, HOME, encode_record(again), {})
    cluster.settle()
    audits = [decode(Audit, own.value) for own in cluster.published if own.topic == TOPICS.audit]
    assert any(audit.detail.get("command") == "c2" and audit.kind == "command_refused" for audit in audits)


def test_backlog_is_learned_from_and_enforced_only_when_a_member_comes_back() -> None:
    cluster, queries = Cluster(), _traffic()
    for owner in cluster.owners.values():
        owner.learn_until = 1 << 40
    half = len(queries) * 9 // 10
    for start in range(0, half, 200):
        cluster.send(queries, start, min(start + 200, half))
        cluster.settle()
    assert cluster.members()
    assert not cluster.topics[TOPICS.commands, 0] + cluster.topics[TOPICS.commands, 1]
    for owner in cluster.owners.values():
        owner.learn_until = 0
    cluster.send(queries, half, len(queries))
    cluster.settle()
    assert cluster.topics[TOPICS.commands, 0] + cluster.topics[TOPICS.commands, 1]


def test_a_bad_judged_record_is_a_dead_letter_and_the_others_count(undisturbed: Cluster) -> None:
    cluster = Cluster()
    value = next(own.value for own in undisturbed.published if own.topic == TOPICS.judged)
    fields = msgspec.msgpack.decode(value)
    wrong = [b"", b"nonsense", msgspec.msgpack.encode({**fields, "cells": np.full(400, 9_999, "<i4").tobytes()})]
    for one in [*wrong, value]:
        cluster._append(TOPICS.judged, HOME, one, {})
    cluster.settle()
    letters = [own for own in cluster.published if own.topic == TOPICS.dead_letters]
    assert len(letters) == len(wrong)
    assert cluster.owners[HOME].applied["judged"] == len(wrong)
    record = decode_judged(value)
    (own,) = cluster.owners[HOME].groups._watched.values()
    assert own.applied[record.source, record.partition] == (int(record.offset[-1]), int(record.queries.row[-1]))


def test_rows_of_another_profile_change_nothing(undisturbed: Cluster) -> None:
    value = next(own.value for own in undisturbed.published if own.topic == TOPICS.judged)
    fields = msgspec.msgpack.decode(value)
    cluster = Cluster()
    cluster._append(TOPICS.judged, HOME, msgspec.msgpack.encode({**fields, "profile": "0" * 12}), {})
    cluster.settle()
    assert list(cluster.owners[HOME].groups.dump()) == []
    assert not [own for own in cluster.published if own.topic == TOPICS.dead_letters]
