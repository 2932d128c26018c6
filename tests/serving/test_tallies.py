"""Counts of missing queries."""

from __future__ import annotations

from detector.contracts.queries import Count
from detector.serving.buffers import Tallies


def test_counts_add_up_by_model_principal_and_kind() -> None:
    tallies = Tallies(10)
    for moment in (3.0, 1.0):
        tallies.add(Count("m", "p", "dropped", 2, moment))
    tallies.add(Count("m", "p", "refused", 1, 1.0))
    assert tallies.take() == [Count("m", "p", "dropped", 4, 3.0), Count("m", "p", "refused", 1, 1.0)]
    assert tallies.take() == []


def test_a_million_principals_need_no_more_room_than_was_given_and_none_is_forgotten() -> None:
    tallies = Tallies(100)
    for number in range(1_000):
        tallies.add(Count("m", f"p{number}", "dropped", 3, 0.0))
    tallies.add(Count("m", "p5", "dropped", 1, 0.0))
    assert len(tallies) == 100
    assert sum(count.queries for count in tallies.take()) + tallies.unattributed == 3_001
