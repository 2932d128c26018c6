"""The queue and the counts between a service's requests and Kafka."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.queries import Count
from detector.serving.buffers import FairQueue, Tallies


@dataclass(frozen=True)
class Item:
    principal: str
    number: int
    queries: int = 1
    nbytes: int = 1


def _fill(queue: FairQueue[Item], principals: list[str]) -> list[Item]:
    """Put one item for each name, numbered within its principal; what was dropped."""
    seen: Counter[str] = Counter()
    dropped = []
    for principal in principals:
        dropped += queue.put(Item(principal, seen[principal]))
        seen[principal] += 1
    return dropped


_streams = st.lists(st.sampled_from(["flood", "flood", "flood", "flood", "a", "b", "c", "d"]), max_size=300)


@settings(deadline=None)
@given(_streams, st.integers(1, 40))
def test_nothing_is_lost_twice_or_unsaid(principals: list[str], size: int) -> None:
    queue: FairQueue[Item] = FairQueue(size, size)
    dropped = _fill(queue, principals)
    left = queue.take(10**9)
    assert len(left) == min(size, len(principals))
    assert Counter(item.principal for item in left + dropped) == Counter(principals)
    assert len(set(left + dropped)) == len(principals)


@settings(deadline=None)
@given(_streams, st.integers(1, 40))
def test_whoever_lost_something_keeps_as_much_as_anybody(principals: list[str], size: int) -> None:
    queue: FairQueue[Item] = FairQueue(size, size)
    losers = {item.principal for item in _fill(queue, principals)}
    kept = Counter(item.principal for item in queue.take(10**9))
    assert all(kept[loser] >= max(kept.values()) - 1 for loser in losers)


@settings(deadline=None)
@given(_streams, st.integers(1, 40))
def test_each_principal_comes_out_in_the_order_he_went_in(principals: list[str], size: int) -> None:
    queue: FairQueue[Item] = FairQueue(size, size)
    _fill(queue, principals)
    left = queue.take(10**9)
    for principal in set(principals):
        numbers = [item.number for item in left if item.principal == principal]
        assert numbers == sorted(numbers)


def test_a_flood_loses_its_newest_rows() -> None:
    queue: FairQueue[Item] = FairQueue(50, 50)
    _fill(queue, ["flood"] * 1_000)
    assert [item.number for item in queue.take(10**9)] == list(range(50))


def test_a_flood_costs_the_others_nothing_and_leaves_the_flooding_principal_his_share() -> None:
    queue: FairQueue[Item] = FairQueue(100, 100)
    quiet = [f"quiet-{number}" for number in range(10)]
    dropped = _fill(queue, ["flood"] * 10_000 + quiet * 5)
    assert {item.principal for item in dropped} == {"flood"}
    kept = Counter(item.principal for item in queue.take(10**9))
    assert kept["flood"] == 50
    assert all(kept[principal] == 5 for principal in quiet)


def test_a_flood_of_few_large_rows_is_weighed_in_bytes() -> None:
    queue: FairQueue[Item] = FairQueue(max_queries=1_000, max_bytes=10_000)
    small = [queue.put(Item("small", number)) for number in range(20)]
    large = [queue.put(Item("large", number, nbytes=3_000)) for number in range(10)]
    assert not any(small)
    assert sum(map(len, large)) == 7


def test_an_item_larger_than_the_queue_goes_itself() -> None:
    queue: FairQueue[Item] = FairQueue(10, 100)
    assert queue.put(Item("small", 0)) == []
    huge = Item("huge", 0, nbytes=101)
    assert queue.put(huge) == [huge]
    assert len(queue) == 1


def test_taking_goes_round_the_principals() -> None:
    queue: FairQueue[Item] = FairQueue(100, 100)
    _fill(queue, ["flood"] * 50 + ["quiet"] * 2)
    taken = queue.take(4)
    assert Counter(item.principal for item in taken) == {"flood": 2, "quiet": 2}
    assert len(queue) == 48


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
