"""The accounts that have learned most together: chosen as a plain greedy search chooses, and limited in that order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.batches import cut
from detector.contracts.findings import Command
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.state.arrays import pack, unpack
from detector.groups.joint import JointLimit, most_learned, ordinary
from detector.groups.judged_record import JudgedRecord, encode_judged
from detector.groups.links import sampled_cells
from detector.groups.owner import GroupEffects, GroupOwner
from detector.groups.queries import selected_queries
from tests.groups.rings import calibrated, others, stream, uniform


@given(st.lists(st.frozensets(st.integers(0, 19), max_size=8), max_size=12), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_the_lazy_search_chooses_as_the_plain_one(sets: list[frozenset[int]], most: int) -> None:
    bits = np.array([[at in own for at in range(20)] for own in sets], np.bool_).reshape(-1, 20)
    assert most_learned(np.packbits(bits, axis=1), most) == list(_plain(sets, most))


def _plain(sets: Sequence[frozenset[int]], most: int) -> Iterator[tuple[int, int]]:
    union: frozenset[int] = frozenset()
    for _ in range(most):
        added = [len(own - union) for own in sets]
        if max(added, default=0) == 0:
            return
        best = added.index(max(added))
        yield best, added[best]
        union |= sets[best]


def test_as_many_honest_queries_reach_what_is_said() -> None:
    size = 400
    drawn = np.random.default_rng(1).integers(0, size, (200, 300))
    reached = np.mean([len(np.unique(own)) / size for own in drawn])
    assert ordinary(300, size) == pytest.approx(reached, abs=0.005)
    assert (ordinary(0, size), ordinary(10**9, size)) == (0.0, 1.0)


def _judged(log: QueryBatch, size: int) -> Iterator[tuple[bytes, JudgedRecord]]:
    """The records of ``log``, those of a second each."""
    profile, start = calibrated(), 0
    engine, sampled = Engine(EngineConfig(profiles=(profile,))), sampled_cells(profile.reference)
    for start in range(0, len(log), size):
        observation = engine.observe([cut(log, start, min(start + size, len(log)))])
        own = selected_queries(observation.profiled, observation, sampled)
        rows = len(own)
        record = JudgedRecord(
            *(profile.model, profile.model_version, profile.hash, "queries", 0, own),
            offset=np.full(rows, start),
            time=log.occurred_at[start + own.row],
            learning=np.zeros(rows, np.bool_),
        )
        yield next(iter(encode_judged(record))), record


def _log() -> QueryBatch:
    """Forty honest accounts, and six whose queries are everywhere; about a quarter of an hour."""
    return stream([*others(40), *uniform(6, 200)])


def _watched(limit: JointLimit, size: int = 100, twice: bool = False) -> tuple[GroupOwner, list[Command]]:
    """The owner after the whole log, and its commands about the most-learned accounts; ``twice``: half of it is watched
    by another owner with the same state."""
    owner, commands, records = (
        GroupOwner((calibrated(),), "c", 1 << 22, limit),
        list[Command](),
        list(_judged(_log(), size)),
    )
    for at, record in enumerate(records):
        if twice and at == len(records) // 2:
            before, owner = owner, GroupOwner((calibrated(),), "c", 1 << 22, limit)
            for section in before.dump():
                owner.absorb(section)
        effects: GroupEffects = owner.observe([record])
        commands += [own for own in effects.commands if own.group == "most-learned"]
    return owner, commands


def test_without_a_limit_it_is_measured_and_nobody_is_told() -> None:
    owner, commands = _watched(JointLimit(5))
    reached = owner.joint()["credit", "reached"]
    assert 0.3 < reached < 1
    assert 0 < owner.joint()["credit", "ordinary"] < 1
    assert not commands
    fewer = _watched(JointLimit(2))[0].joint()["credit", "reached"]
    assert 0 < fewer < reached


def test_above_the_limit_those_who_added_most_are_told_first_and_once() -> None:
    owner, commands = _watched(JointLimit(5, 0.3))
    told = [own.principal for own in commands if own.kind == "join"]
    left = [own.principal for own in commands if own.kind == "leave"]
    (watched,) = owner._watched.values()
    now = list(watched.joint.limited)
    assert now and len(now) <= 5
    assert {name for name in told if told.count(name) > left.count(name)} == set(now)
    assert {own.issuer for own in commands} == {"group:most-learned"}
    accounts = watched.watch._accounts
    names = sorted(accounts.slot_of)
    most = most_learned(accounts.reached[[accounts.slot_of[name] for name in names]], 5)
    shares = np.cumsum([added for _, added in most]) / accounts.regions
    needed = next(at for at, share in enumerate(shares, 1) if share > 0.3)
    assert set(now) <= {names[at] for at, _ in most[:needed]} | set(told)
    assert not _watched(JointLimit(5, 0.99))[1]


def test_neither_recovery_nor_a_state_of_before_changes_who_is_told() -> None:
    whole, commands = _watched(JointLimit(5, 0.3))
    recovered, same = _watched(JointLimit(5, 0.3), twice=True)
    assert same == commands
    assert list(recovered.dump()) == list(whole.dump())
    (section,) = whole.dump()
    body = unpack(section[1])
    del body["watched"]["joint"], body["watched"]["watch"]["accounts"]["reached"]
    older = GroupOwner((calibrated(),), "c", 1 << 22)
    older.absorb((section[0], pack(body)))
    assert older.joint() == {("credit", "reached"): 0.0, ("credit", "ordinary"): 0.0}


def test_an_account_counts_from_its_first_query_again_once_it_was_forgotten() -> None:
    owner, _ = _watched(JointLimit(5))
    (watched,) = owner._watched.values()
    accounts = watched.watch._accounts
    name = next(name for name, slot in accounts.slot_of.items() if accounts.reached[slot].any())
    slot = accounts.slot_of[name]
    accounts.drop(slot)
    assert accounts.slots(["somebody"])[0].tolist() == [slot]
    assert not accounts.reached[slot].any()
