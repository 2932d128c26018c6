"""State records: what is written can be read, of any size, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs import encode as encode_json
from detector.contracts.codecs import encode_packed
from detector.contracts.errors import NewerStateLog, StateLogError, StateLogHole
from detector.contracts.findings import Action, Command
from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig
from detector.core.engine import Engine
from detector.groups.owner import GroupOwner
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.stream.checkpoint import Checkpointer
from detector.stream.commit_unit import CommitUnit
from detector.stream.detector import Detector
from detector.stream.intake import RecordDecoder
from detector.stream.partition import LogWriter, Partition
from detector.stream.source_records import SourceRecord
from detector.stream.state_log import (
    FORMAT,
    Assembly,
    Message,
    RecordPart,
    StateRecord,
    decode,
    encode,
    encode_in_parts,
)
from tests.stream.test_partition import OUTCOME, RECORDS, STATE
from tests.stream.world import PACKED, TOPICS, World, apply, command, state_of

RECORD = StateRecord(
    kind="delta",
    fence=7,
    sequence=3,
    applied={"queries": 41, "commands": 0},
    origins={2: 17},
    source=(40, 41),
    rows=12,
    policy_time=1000.5,
    learn_until=5,
    published=(7, 2),
    outbox=(Message("alerts", None, b"k", b"v", (("h", b"x"),), 3.25), Message("decisions", 4, None, b"w")),
    sections={"engine": (1, b"\x00"), "policy": (2, b"")},
    owner="host:1",
    configuration="abc",
)


def test_a_record_is_read_as_it_was_written() -> None:
    assert decode(encode(RECORD)) == RECORD


def test_a_later_format_is_refused_with_what_to_do() -> None:
    fields = msgspec.msgpack.decode(encode(RECORD)) | {"format": FORMAT + 1}
    with pytest.raises(NewerStateLog, match="run the version that wrote it"):
        decode(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("value", [b"", b"garbage", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"a": 1})])
def test_bytes_that_are_no_record_are_an_error_of_the_log(value: bytes) -> None:
    with pytest.raises(StateLogError):
        decode(value)


def test_a_record_with_unknown_fields_is_an_error_of_the_log() -> None:
    fields = msgspec.msgpack.decode(encode(RECORD)) | {"surprise": 1}
    with pytest.raises(StateLogError, match="surprise"):
        decode(msgspec.msgpack.encode(fields))


SMALL = 2_500
"""Most records of these tests are in parts with this limit."""


def _record(nbytes: int) -> StateRecord:
    return StateRecord("delta", 3, 5, {"queries": 7}, sections={"engine": (1, bytes(nbytes))})


def _parts(record: StateRecord, most: int) -> list[RecordPart]:
    found = [decode(value) for value in encode_in_parts(record, most)]
    assert all(isinstance(part, RecordPart) for part in found)
    return [part for part in found if isinstance(part, RecordPart)]


@given(nbytes=st.integers(0, 40_000), most=st.integers(1_100, 20_000))
@settings(max_examples=100, deadline=None)
def test_what_is_written_fits_and_comes_back_whole(nbytes: int, most: int) -> None:
    record, assembly = _record(nbytes), Assembly()
    values = encode_in_parts(record, most)
    messages = [Message(TOPICS.state_log, 0, b"%d|%d" % (2**62, 2**62), value) for value in values]
    assert max(message.nbytes for message in messages) <= most
    assert [assembly.add(decode(value)) for value in values] == [None] * (len(values) - 1) + [record]


def test_a_record_that_fits_is_written_as_earlier_versions_read_it_and_a_part_is_not() -> None:
    (whole,) = encode_in_parts(_record(100))
    assert msgspec.msgpack.decode(whole)["format"] == 1
    assert {msgspec.msgpack.decode(value)["format"] for value in encode_in_parts(_record(9_000), SMALL)} == {2}


def test_parts_have_the_sequences_that_follow_on_from_the_records() -> None:
    parts = _parts(_record(9_000), SMALL)
    assert len(parts) > 3
    assert [part.position for part in parts] == [(3, 5 + at) for at in range(len(parts))]


def test_a_part_that_is_missing_or_followed_by_something_else_is_a_hole() -> None:
    first, second, *_ = _parts(_record(9_000), SMALL)
    for following in (first, second), (first, _record(1)):
        assembly = Assembly()
        if following[1] is second:
            with pytest.raises(StateLogHole):
                assembly.add(second)
            continue
        assembly.add(first)
        with pytest.raises(StateLogHole):
            assembly.add(following[1])


def test_a_part_of_a_part_is_an_error_of_the_log() -> None:
    inner = encode(RecordPart("delta", 3, 5, 0, 2, b""))
    with pytest.raises(StateLogError, match="part of a part"):
        Assembly().add(RecordPart("delta", 3, 5, 0, 1, inner))


@given(
    deaths=st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["", "step", "part", "record"])), max_size=5),
    batch=st.integers(1, 7),
    round_bytes=st.sampled_from([1 << 30, 20_000]),
    sizes=st.lists(st.integers(1_200, 30_000), min_size=6, max_size=6),
)
@settings(max_examples=20, deadline=None)
def test_owners_with_any_limits_who_die_at_any_moment_change_nothing(
    deaths: list[tuple[int, str]], batch: int, round_bytes: int, sizes: list[int]
) -> None:
    world = World(RECORDS, round_bytes)
    for size, (upto, dies_after) in zip(sizes, sorted(deaths), strict=False):
        world.record_bytes = size
        world.run(world.take_over(), upto, batch, dies_after)
    world.record_bytes = sizes[-1]
    last = world.take_over()
    world.run(last, len(RECORDS), batch)
    assert world.outcome() == OUTCOME
    assert state_of(last) == STATE


def test_the_parts_that_a_dead_owner_wrote_count_for_nothing() -> None:
    world = World(RECORDS, record_bytes=SMALL)
    world.run(world.take_over(), 40, 40, dies_after="part")
    successor = world.take_over()
    assert any(isinstance(decode(value), RecordPart) for _, value in world.log)
    assert successor.applied == {}
    world.run(successor, 60, 7)
    assert state_of(successor) == STATE
    assert world.outcome() == OUTCOME


def test_parts_that_a_frozen_owner_writes_late_are_ignored() -> None:
    world = World(RECORDS, record_bytes=SMALL)
    frozen = world.take_over()
    world.run(frozen, 20, 20)
    late = [value for _, value in apply(frozen, RECORDS[20:40]).log_entries]
    world.append(late[0])
    owner = world.take_over()
    world.append(late[1])
    world.run(owner, 60, 9)
    for value in late[2:]:
        world.append(value)
    successor = world.take_over()
    assert successor.cursor.stale_records == len(late) - 1
    assert state_of(successor) == state_of(owner) == STATE


def test_a_missing_part_stops_recovery() -> None:
    world = World(RECORDS, record_bytes=SMALL)
    world.run(world.take_over(), 60, 20)
    parts = [at for at, (_, value) in enumerate(world.log) if isinstance(decode(value), RecordPart)]
    del world.log[parts[1]]
    with pytest.raises(StateLogHole):
        world.take_over()


def test_a_log_that_was_cut_within_the_parts_of_a_checkpoint_stops_recovery_and_one_cut_before_them_does_not() -> None:
    world = World(RECORDS, round_bytes=20_000, record_bytes=SMALL)
    owner = world.take_over()
    world.run(owner, 60, 5)
    first = decode(world.log[0][1])
    assert isinstance(first, RecordPart)
    assert (first.of, first.number) == ("chunk", 0)
    assert state_of(world.take_over()) == state_of(owner) == STATE
    del world.log[0]
    with pytest.raises(StateLogHole, match="retention"):
        world.take_over()


def test_reading_ones_own_parts_again_changes_nothing() -> None:
    world = World(RECORDS, record_bytes=SMALL)
    owner = world.take_over()
    world.run(owner, 30, 10)
    before = state_of(owner)
    for offset, value in world.log:
        owner.absorb(offset, value)
    assert state_of(owner) == before


# -- what makes records large ------------------------------------------------------------------------------------------


def _partition(config: EngineConfig, record_bytes: int) -> Partition:
    judge = Detector(Engine(config), Ledger(Policy(mode="enforce", enforce_uncalibrated=True), "test"))
    writer = LogWriter("w", "test", record_bytes)
    groups = GroupOwner((), "test", 1 << 20)
    checkpointer = Checkpointer(judge, groups, 1, 1_000_000)
    own = Partition(RecordDecoder(0, 1, TOPICS), judge, groups, checkpointer, writer)
    own.cursor.live, own.cursor.fence = True, 0
    return own


def _packed(names: list[str], features: int, rows: int, offset: int = 0) -> SourceRecord:
    rng = np.random.default_rng(offset)
    index = (np.arange(rows) % len(names)).astype(np.int32)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    y = np.full((rows, 2), 0.5, np.float32)
    batch = QueryBatch(
        "m", "1", "probabilities", [f"{offset}-{i}" for i in range(rows)], np.zeros(rows), names, index, x, y
    )
    return SourceRecord("queries", offset, 1000.0, None, encode_packed(batch), PACKED)


def _chunks(own: Partition) -> Iterator[CommitUnit]:
    offset = 0
    while (step := own.checkpoint()) is not None:
        own.confirm(step, offset)
        own.checkpointer._credit = 1
        offset += 1
        yield step


def _check_and_recover(steps: list[CommitUnit], own: Partition, config: EngineConfig, record_bytes: int) -> None:
    """All of ``steps`` fit, one of them only in parts, and a successor makes the same of them."""
    entries = [entry for step in steps for entry in step.log_entries]
    assert max(Message(TOPICS.state_log, 0, key, value).nbytes for key, value in entries) <= record_bytes
    assert len(entries) > len(steps)
    successor = _partition(config, record_bytes)
    successor.cursor.live = False
    for offset, (_, value) in enumerate(entries, start=1):
        successor.absorb(offset, value)
    assert state_of(successor) == state_of(own)


def test_one_source_record_full_of_newcomers_fits() -> None:
    own = _partition(EngineConfig(), 65_536)
    step = apply(own, [_packed([f"key:{at:032x}" for at in range(1_500)], 4, 1_500)])
    _check_and_recover([step], own, EngineConfig(), 65_536)


@pytest.mark.parametrize("mode", ["default", "compatible"])
def test_a_checkpoint_of_one_principal_with_a_long_history_fits(mode: str) -> None:
    config = EngineConfig(mode=mode)  # type: ignore[arg-type]  # a parameter
    own = _partition(config, 65_536)
    steps = [apply(own, [_packed(["ana"], 784, 100, offset)]) for offset in range(3)]
    own.checkpointer.logged(sum(step.nbytes for step in steps))
    own.checkpointer.logged(1)
    chunks = list(_chunks(own))
    assert [step.kind for step in chunks] == ["chunk", "round"]
    assert len(chunks[0].values) > 6
    _check_and_recover([*steps, *chunks], own, config, 65_536)


def test_a_checkpoint_of_commands_with_long_reasons_fits() -> None:
    own = _partition(EngineConfig(), 65_536)
    steps = []
    for at in range(100):
        ban = Command(f"c{at}", "add", 1000.0, "eve", "m", f"p{at}", "\x01" * 4_096, Action("refuse"), None, 3600.0)
        steps.append(own.command(command(at, encode_json(ban))))
    own.checkpointer.logged(sum(step.nbytes for step in steps))
    own.checkpointer.logged(1)
    _check_and_recover([*steps, *_chunks(own)], own, EngineConfig(), 65_536)


def test_positions_stay_in_a_row_when_some_records_have_parts() -> None:
    own = _partition(EngineConfig(), 4_000)
    steps = [apply(own, [_packed([f"{offset}-{at}" for at in range(60)], 4, 60, offset)]) for offset in range(3)]
    assert all(len(step.values) > 1 for step in steps)
    for before, after in pairwise(steps):
        assert after.position == (before.position[0], before.position[1] + len(before.values))
