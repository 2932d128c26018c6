"""A state log that an earlier build of this format wrote is still read, and what follows is as if nothing had been."""

from __future__ import annotations

import msgspec

from detector.stream.record import decode
from tests.stream.golden import GOLDEN, RECORDS, WRITTEN, golden_world
from tests.stream.world import World, state_of


def golden() -> World:
    log = [(offset, value) for offset, value in msgspec.msgpack.decode(GOLDEN.read_bytes())]
    world = World(RECORDS, round_bytes=5_000, log=log)
    world._end = log[-1][0] + 1
    return world


def test_the_golden_log_holds_every_kind_of_record() -> None:
    assert {decode(value).kind for _, value in golden().log} >= {"fence", "delta", "chunk", "round"}


def test_recovery_from_the_golden_log_gives_the_state_that_wrote_it() -> None:
    recovered, fresh = golden().take_over(), golden_world().take_over()
    assert recovered.applied == {"queries": WRITTEN - 1, "commands": 0}
    assert state_of(recovered) == state_of(fresh)
    standing = {decision.principal: decision.action.name for decision in recovered.judge.ledger.active(1045.0)}
    assert standing == {"bo": "refuse", "thief": "refuse"}


def test_what_follows_recovery_is_what_would_have_followed_anyway() -> None:
    old, new = golden(), golden_world()
    for world in (old, new):
        world.published.clear()
        world.run(world.take_over(), len(RECORDS), 5)
    assert old.outcome() == new.outcome()
