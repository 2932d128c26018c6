"""The partition owner: nothing is lost and nothing applied twice, whichever owner dies at any time."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs.packed_queries import encode_packed
from detector.contracts.codecs.records import decode, encode
from detector.contracts.errors import OwnershipLost, StateLogHole
from detector.contracts.findings import Action, Audit, Command, DeadLetter
from detector.contracts.topics import partition_of
from detector.policy.budgets import ExposureBudget
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.runtime.metric_defs import DEAD_LETTERS, QUERIES, QUERIES_REPEATED, QUERIES_UNJUDGED
from detector.stream.commit_unit import CommitUnit
from detector.stream.partition import Partition
from detector.stream.source_records import ORIGIN, SourceRecord
from detector.stream.state_log import StateRecord
from detector.stream.state_log import decode as decode_record
from detector.stream.state_log import encode as encode_record
from tests.contracts.wire import encode_json_query
from tests.core.exposures import asked, profile, stream
from tests.stream.world import (
    PACKED,
    TOPICS,
    World,
    apply,
    at,
    command,
    decisions_of,
    figures,
    new_partition,
    queries,
    source,
    state_of,
)

BATCH = queries(1200, seed=1)
RECORDS = source(BATCH, [20] * 60)


def undisturbed() -> tuple[World, Partition]:
    world = World(RECORDS)
    owner = world.take_over()
    world.run(owner, len(RECORDS), 1)
    return world, owner


def absorb_all(world: World, partition: Partition) -> None:
    for offset, value in world.log:
        partition.absorb(offset, value)


CALM, CALM_OWNER = undisturbed()
OUTCOME = CALM.outcome()
STATE = state_of(CALM_OWNER)


def test_the_walk_in_equal_steps_is_found_and_nobody_else() -> None:
    alerts, decisions = OUTCOME
    assert {msgspec.json.decode(alert)["principal"] for alert in alerts} == {"thief"}
    assert {msgspec.json.decode(decision)["action"]["name"] for decision in decisions} == {"slow", "refuse"}


@given(
    deaths=st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["", "step", "record"])), max_size=5),
    batch=st.integers(1, 7),
    round_bytes=st.sampled_from([1 << 30, 20_000]),
)
@settings(max_examples=20, deadline=None)
def test_deaths_at_any_moment_change_nothing(deaths: list[tuple[int, str]], batch: int, round_bytes: int) -> None:
    world = World(RECORDS, round_bytes)
    for upto, dies_after in sorted(deaths):
        world.run(world.take_over(), upto, batch, dies_after)
    last = world.take_over()
    world.run(last, len(RECORDS), batch)
    assert world.outcome() == OUTCOME
    assert state_of(last) == STATE


@given(frozen_at=st.integers(1, 50), wakes_at=st.integers(0, 9), batch=st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_what_a_frozen_owner_writes_late_is_ignored_whole(frozen_at: int, wakes_at: int, batch: int) -> None:
    world = World(RECORDS)
    frozen = world.take_over()
    world.run(frozen, frozen_at, batch)
    late = apply(frozen, RECORDS[frozen_at : frozen_at + 1])
    owner = world.take_over()
    world.run(owner, min(frozen_at + wakes_at, 60), batch)
    world.append(late.values[0])
    world.run(owner, 60, batch)
    successor = world.take_over()
    assert successor.cursor.stale_records == 1
    assert state_of(successor) == state_of(owner)
    assert world.outcome() == OUTCOME


def test_an_owner_that_reads_a_newer_fence_stops() -> None:
    world = World(RECORDS)
    owner = world.take_over()
    world.run(owner, 3)
    world.take_over()
    with pytest.raises(OwnershipLost):
        absorb_all(world, owner)


def test_an_owner_whose_recovery_ended_before_its_own_fence_does_not_begin() -> None:
    with pytest.raises(OwnershipLost):
        new_partition().takeover(fence=4, end_of_queries=0)


def test_reading_ones_own_records_again_changes_nothing() -> None:
    world = World(RECORDS)
    owner = world.take_over()
    world.run(owner, 30)
    before = state_of(owner)
    absorb_all(world, owner)
    assert state_of(owner) == before


def test_a_missing_record_of_the_log_stops_recovery() -> None:
    world = World(RECORDS)
    world.run(world.take_over(), 10, 1)
    del world.log[4]
    with pytest.raises(StateLogHole):
        world.take_over()


def test_a_log_that_was_cut_elsewhere_than_at_a_checkpoint_stops_recovery() -> None:
    world = World(RECORDS)
    world.run(world.take_over(), 10, 1)
    del world.log[:4]
    with pytest.raises(StateLogHole, match="retention"):
        world.take_over()


def test_checkpoints_keep_the_log_bounded() -> None:
    lengths = []
    for rounds in (4, 8):
        world = World(source(queries(1200 * rounds, seed=2), [20] * 60 * rounds), round_bytes=20_000)
        world.run(world.take_over(), 60 * rounds)
        lengths.append(sum(len(value) for _, value in world.log))
    assert lengths[1] < 1.5 * lengths[0]


def test_records_are_applied_once_and_gaps_are_told() -> None:
    partition = World(RECORDS).take_over()
    fresh, gap = partition.contiguous(RECORDS[:3])
    apply(partition, fresh)
    again, gap = partition.contiguous(RECORDS[1:5])
    assert ([record.offset for record in again], gap) == ([3, 4], None)
    before_gap, gap = partition.contiguous([RECORDS[3], RECORDS[5], RECORDS[4]])
    assert ([record.offset for record in before_gap], gap) == ([3], (4, 5))
    partition.pass_gap("queries", 9)
    assert partition.contiguous([RECORDS[9]])[0] == [RECORDS[9]]


def test_policy_time_never_goes_back() -> None:
    partition = World(RECORDS).take_over()
    apply(partition, [RECORDS[0], at(RECORDS[1], timestamp=5.0)])
    assert partition.policy_time == RECORDS[0].timestamp


def test_an_owner_who_lost_the_partition_in_a_round_of_checkpoints_writes_no_more_chunks() -> None:
    """The state is gone, and this fence is the last until the next owner writes one."""
    world = World(RECORDS, round_bytes=2_000)
    owner = world.take_over()
    while not owner.checkpointer.due():
        step = apply(owner, RECORDS[owner.applied.get("queries", -1) + 1 :][:1])
        owner.confirm(step, world.append_step(step))
    owner.close()
    assert owner.checkpointer.due()
    assert owner.checkpoint() is None
    assert state_of(world.take_over()) != state_of(owner)


def test_a_new_owner_learns_no_longer_than_a_first_owner_who_died_before_any_query() -> None:
    world = World(RECORDS)
    fence = world.append(encode_record(StateRecord("fence", -1, 0)))
    first = new_partition()
    first.absorb(*world.log[-1])
    first.takeover(fence, end_of_queries=7)
    opening = first.taken_over()
    assert opening is not None
    world.append_step(opening)
    successor = world.take_over()
    assert successor.learn_until == 7
    assert successor.taken_over() is None


def test_a_first_start_learns_from_the_backlog_and_enforces_from_its_end() -> None:
    world = World(RECORDS)
    fence = world.append(encode_record(StateRecord("fence", -1, 0)))
    partition = new_partition()
    partition.absorb(fence, world.log[0][1])
    partition.takeover(fence, end_of_queries=50)
    world.run(partition, 50)
    modes = [msgspec.json.decode(value)["mode"] for value in world.outcome()[1]]
    assert set(modes) == {"observe"}
    world.run(partition, 60)
    assert "enforce" in {msgspec.json.decode(value)["mode"] for value in world.outcome()[1]}


def test_what_a_dead_owner_left_unpublished_is_published_once_recovered() -> None:
    world = World(RECORDS)
    world.run(world.take_over(), 60, 60, dies_after="record")
    assert world.outcome()[0] == set()
    world.take_over()
    assert world.outcome()[0] == OUTCOME[0]


def test_standing_decisions_are_asserted_under_the_new_epoch() -> None:
    world, _ = undisturbed()
    newest = [msgspec.json.decode(m.value) for m in world.published if m.topic == TOPICS.decisions][-1]
    assertion = msgspec.json.decode(world.take_over().assertions()[-1].value)
    assert assertion["epoch"] > newest["epoch"]
    assert assertion | {"epoch": None} == newest | {"epoch": None}


def test_rows_that_live_elsewhere_are_sent_there_with_their_origin() -> None:
    homes = [partition_of(name, 4) for name in BATCH.principals]
    here = homes[0]
    partition = new_partition(here, 4)
    partition.cursor.live = True
    step = apply(partition, RECORDS[:1])
    elsewhere = {home for home in homes if home != here}
    assert {message.partition for message in step.before} == elsewhere
    assert {dict(message.headers)[ORIGIN] for message in step.before} == {f"{here}:0".encode()}
    assert all(message.timestamp == RECORDS[0].timestamp for message in step.before)
    assert {key.principal for key in partition.detector.engine.keys()} <= {
        name for name, home in zip(BATCH.principals, homes, strict=True) if home == here
    }


def test_a_rekeyed_record_counts_once_however_often_it_comes() -> None:
    partition = World(RECORDS).take_over()
    first = at(RECORDS[0], source="rekeyed", headers=PACKED | {ORIGIN: b"0:12"})
    apply(partition, [first, at(first, offset=1)])
    apply(partition, [at(first, offset=2)])
    later = apply(partition, [at(first, offset=3, headers=PACKED | {ORIGIN: b"0:13"})])
    assert figures(later, QUERIES_REPEATED) == {("m",): 20}
    record = decode_record(apply(partition, [at(first, offset=4)]).values[0])
    assert isinstance(record, StateRecord)
    assert (record.applied["rekeyed"], record.origins, record.rows) == (4, {0: 13}, 0)


@pytest.mark.parametrize("origin", [None, b"", b"x:1", b"3", b"-1:-5", b"1:5", b"0:" + b"9" * 23, b"9" * 23 + b":0"])
def test_a_rekeyed_record_without_origin_is_a_dead_letter(origin: bytes | None) -> None:
    headers = PACKED if origin is None else PACKED | {ORIGIN: origin}
    partition = World(RECORDS).take_over()
    record = at(RECORDS[0], source="rekeyed", headers=headers)
    step = apply(partition, [record])
    assert [message.topic for message in step.before] == [TOPICS.dead_letters]
    assert figures(step, DEAD_LETTERS) == {("origin",): 1}
    buried = decode_record(partition.skip(at(record, offset=1), "it ends workers").values[0])
    assert isinstance(buried, StateRecord)
    assert buried.origins == {}


def test_bad_records_become_dead_letters_byte_for_byte_and_good_ones_count() -> None:
    partition = World(RECORDS).take_over()
    bad = SourceRecord("queries", 0, 1.0, b"key", b"{broken", {"trace": b"t"})
    step = apply(partition, [bad, at(RECORDS[0], offset=1)])
    letter = step.before[0]
    assert (letter.topic, letter.key, letter.value) == (TOPICS.dead_letters, b"key", b"{broken")
    described = decode(DeadLetter, dict(letter.headers)["weirguard.dead-letter"])
    assert (described.topic, described.offset, described.row) == (TOPICS.queries, 0, None)
    assert dict(letter.headers)["trace"] == b"t"
    assert step.counts[QUERIES, ("m",)] + step.counts[QUERIES_REPEATED, ("m",)] == 20
    assert figures(step, QUERIES_UNJUDGED) == {("unknown", "syntax"): 1}


def test_a_row_of_another_dimension_is_refused_with_its_record() -> None:
    partition = World(RECORDS).take_over()
    apply(partition, RECORDS[:1])
    wide = queries(20, seed=5, dimension=9)
    step = apply(partition, [SourceRecord("queries", 1, 1.0, b"k", encode_json_query(wide, 0))])
    assert figures(step, DEAD_LETTERS) == {("dimension",): 1}
    assert figures(step, QUERIES_UNJUDGED) == {("m", "dimension"): 1}
    assert [message.topic for message in step.before] == [TOPICS.dead_letters]


def test_a_command_is_applied_once_and_audited() -> None:
    partition = World(RECORDS).take_over()
    word = Command("c1", "add", 1999.0, "eve", "m", "ana", "test", Action("refuse"), None, 60.0)
    step = partition.command(command(0, encode(word)))
    assert [decision.action.name for decision in decisions_of(step)] == ["refuse"]
    audits = [decode(Audit, message.value) for message in step.after if message.topic == TOPICS.audit]
    assert any(audit.actor == "eve" for audit in audits)
    assert partition.contiguous([command(0, encode(word))]) == ([], None)


def test_clear_forgets_the_latch_in_recovery_too() -> None:
    world = World(RECORDS)
    owner = world.take_over()
    world.run(owner, 60)
    word = Command("c1", "clear", 1999.0, "eve", "m", "thief", "an internal test account")
    step = owner.command(command(0, encode(word)))
    world.append_step(step)
    assert decisions_of(step)[-1].action.name == "none"
    successor = world.take_over()
    assert "thief" not in {key.principal for key in successor.detector.engine.keys()}
    assert state_of(successor) == state_of(owner)


@pytest.mark.parametrize("queries_after", [2, 60])
def test_an_exemption_is_kept_in_recovery_from_changes_and_from_a_checkpoint(queries_after: int) -> None:
    world = World(RECORDS, round_bytes=5_000)
    owner = world.take_over()
    word = Command("c1", "allow", 1.0, "eve", "*", "thief", "a test", duration_seconds=1e6, owner="sales")
    world.append_step(owner.command(command(0, encode(word), 1000.0)))
    world.run(owner, queries_after)
    successor = world.take_over()
    assert state_of(successor) == state_of(owner)
    world.run(successor, 60)
    alerts, decisions = world.outcome()
    assert [msgspec.json.decode(alert)["suppressed_by"] for alert in alerts] == ["allowlist: a test (sales)"]
    assert decisions == set()


def test_a_command_that_cannot_be_read_is_a_dead_letter() -> None:
    step = World(RECORDS).take_over().command(command(0, b"{}"))
    assert [message.topic for message in step.before] == [TOPICS.dead_letters]


def test_who_comes_between_the_begin_of_a_round_and_its_first_chunk_outlives_the_cut() -> None:
    """The round begins with the first record; the newcomer's stands before the first chunk and goes with the cut."""
    newcomer = dataclasses.replace(queries(4, seed=5), principals=["late"], principal_index=np.zeros(4, np.int32))
    packed = [
        encode_packed(part) for part in (queries(40, seed=4), newcomer, *(queries(40, at) for at in range(6, 12)))
    ]
    world = World([SourceRecord("queries", number, 1.7e9, None, value, PACKED) for number, value in enumerate(packed)])
    world.round_bytes = 1
    owner = world.take_over()
    world.run(owner, len(packed), 1)
    assert decode_record(world.log[0][1]).kind == "chunk"
    assert "late" in {key.principal for key in world.take_over().detector.engine.keys()}


def test_partitions_share_the_budget_of_an_organisation_and_a_successor_knows_what_was_spent() -> None:
    """Each judges its own accounts; what one has counted reaches the other as a command, and its state log."""

    def partition(number: int) -> Partition:
        partition = new_partition(number, 2, profiles=[profile()])
        budget = ExposureBudget("firm", for_life=20.0, per="organisation")
        partition.detector.ledger = Ledger(Policy(mode="enforce", budgets=(budget,)))
        partition.absorb(0, encode_record(StateRecord("fence", -1, 0)))
        partition.takeover(0, 0)
        return partition

    def asks(partition: Partition, name: str, rows: int, offset: int = 0) -> CommitUnit:
        batch = dataclasses.replace(stream(asked(offset + 3, rows), [name] * rows), organisation=["acme"] * rows)
        (record,) = source(batch, [rows])
        return apply(partition, [at(record, offset=offset)])

    names = {partition_of(name, 2): name for name in ("ann", "bo", "cy", "dan")}
    first, second = partition(0), partition(1)
    sent = [message for message in asks(first, names[0], 30).after if message.topic == TOPICS.commands]
    assert sent and {message.partition for message in sent} == {1}
    log = [second.command(command(number, message.value or b"")) for number, message in enumerate(sent)]
    (decision,) = decisions_of(asks(second, names[1], 1))
    assert (decision.action.name, decision.mode, decision.principal) == ("slow", "enforce", names[1])
    successor = partition(1)
    for number, unit in enumerate(log, start=1):
        for _, value in unit.log_entries:
            successor.absorb(number, value)
    keys = successor.detector.ledger.budgets.keys()
    assert keys and all(second.detector.ledger.budgets.of(key) for key in keys)
