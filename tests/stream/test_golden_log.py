"""A state log that an earlier build wrote, in this format or one before, is still read, and what follows is as if
nothing had been. Statistics and scores may differ by 1e-9, as loops add up in other orders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from detector.core.state.arrays import unpack
from detector.policy.entry import Entry, decode_changes
from detector.policy.records import UNCALIBRATED
from detector.stream.partition import Partition
from detector.stream.state_log import FORMAT, decode
from tests.stream.golden import GOLDEN, RECORDS, WRITTEN, golden_world
from tests.stream.world import World, state_of

GOLDENS = sorted(GOLDEN.parent.glob("state-log-v*.msgpack"))


def golden(path: Path) -> World:
    log = [(offset, value) for offset, value in msgspec.msgpack.decode(path.read_bytes())]
    world = World(RECORDS, round_bytes=5_000, log=log)
    world._end = log[-1][0] + 1
    return world


_FIELDS = 6
"""Fields of an entry in these logs."""


def known_of_old(partition: Partition) -> list[Any]:
    """The state of ``partition`` without what builds of before did not write: the alert of a latch, and why to doubt a
    signal's cause, and graded actions. The blocks of the history are left out, which were of queries, and not of rows
    that joined."""
    applied, time, engine, *others, ledger, accounting, groups, exemptions = state_of(partition)
    states = [{name: unpack(body) for name, (_, body) in sections.items()} for sections in engine]
    for state in states:
        for part in (state["engine"], *state["engine"]["history"]):
            del part["block"]
    entries = [{key: _of_old(entry) for key, entry in decode_changes(section).items()} for section in ledger]
    return [applied, time, states, *others, entries, accounting, groups, exemptions]


def _of_old(entry: Entry | None) -> Any:
    plain = msgspec.to_builtins(entry)
    return [[latch[:-2] for latch in plain[0]], *_without_doubt(plain[1:_FIELDS])]


def _without_doubt(plain: Any) -> Any:
    if isinstance(plain, list | tuple):
        return [_without_doubt(part) for part in plain]
    if isinstance(plain, dict):
        known = {name: part for name, part in plain.items() if name != "graded"}
        return {name: "" if part == UNCALIBRATED else _without_doubt(part) for name, part in known.items()}
    return plain


def said(world: World) -> Any:
    """Alerts and decisions, without the doubts and graded actions, which builds of before did not write."""
    alerts, decisions = (sorted(map(msgspec.json.decode, values), key=str) for values in world.outcome())
    return alerts, [*{str(plain): plain for plain in map(_without_doubt, decisions)}.values()]


def alike(one: Any, other: Any) -> bool:
    """Returns whether the two are equal, floats to 1e-9."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.allclose(one, other, rtol=0, atol=1e-9, equal_nan=True)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(part, other[name]) for name, part in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def test_there_is_a_golden_log_of_every_format() -> None:
    before = [f"state-log-v{number}.msgpack" for number in range(1, FORMAT + 1)]
    assert {path.name for path in GOLDENS} == {*before, GOLDEN.name}


def test_the_golden_logs_hold_every_kind_of_record() -> None:
    kinds = [{decode(value).kind for _, value in golden(path).log} for path in GOLDENS]
    assert kinds[0] >= {"fence", "delta", "chunk", "round"}
    assert kinds[1] == kinds[0] | {"part"}


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_recovery_from_the_golden_log_gives_the_state_that_wrote_it(path: Path) -> None:
    recovered, fresh = golden(path).take_over(), golden_world().take_over()
    assert recovered.applied == {"queries": WRITTEN - 1, "commands": 0}
    assert alike(known_of_old(recovered), known_of_old(fresh))
    standing = {decision.principal: decision.action.name for decision in recovered.detector.ledger.active(1045.0)}
    assert standing == {"bo": "refuse", "thief": "refuse"}


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_what_follows_recovery_is_what_would_have_followed_anyway(path: Path) -> None:
    old, new = golden(path), golden_world()
    for world in (old, new):
        world.published.clear()
        world.run(world.take_over(), len(RECORDS), 5)
    assert alike(said(old), said(new))
