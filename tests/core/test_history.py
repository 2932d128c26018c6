"""The lists of each slot, and their content, equal those of dictionaries of lists."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core.configuration import EngineConfig
from detector.core.neighbours.history import HistoryRows
from detector.core.pipeline.store import State
from detector.core.state.arrays import Array
from detector.core.state.principals import MOST_POOLS, OVERFLOW, Shard
from tests.core.profiles import profile

DIMENSION = 3
BLOCK = 7
CONFIGURATION = EngineConfig(profiles=(profile(np.random.default_rng(1).random((9, DIMENSION), np.float32)),))


class Plain:
    """A state's pools and history, beside obvious ones."""

    def __init__(self, principals: int) -> None:
        self.state, self.shard = State(CONFIGURATION, {}), Shard()
        self.slots = np.array([self._join(f"p{number}") for number in range(principals)])
        self.asked: dict[int, int] = defaultdict(int)
        self.pools: dict[int, dict[int, int]] = defaultdict(dict)
        self.rows: dict[int, list[tuple[int, float, bytes]]] = defaultdict(list)

    def _join(self, name: str) -> int:
        return self.state.principals.add(self.shard, ("credit", "1", name), DIMENSION)

    def ask(self, slot: int, label: int, vector: Array, note: float = 0.5) -> None:
        block = self.asked[slot] // BLOCK
        self.asked[slot] += 1
        pool = self.state.pools.find_or_add(np.array([slot]), np.array([label]))
        self.pools[slot][label] = int(pool[0])
        self.state.history.advance(np.array([slot]), np.array([block]))
        row = HistoryRows(pool, np.array([block]), vector[None], np.array([note], np.float32))
        self.state.history.append(row)
        kept = [held for held in self.rows[slot] if held[0] >= block - 1]
        self.rows[slot] = [*kept, (block, note, vector.tobytes())]

    def forget(self, slot: int) -> None:
        self.state.evict(self.shard, [slot])
        for held in (self.asked, self.pools, self.rows):
            held.pop(slot, None)
        assert self._join(f"again-{slot}") == slot

    def check(self) -> None:
        state = self.state
        for slot in self.slots.tolist():
            pools = state.pools.of_slots(np.array([slot]))
            assert sorted(pools.tolist()) == sorted(self.pools[slot].values())
            rows = state.history.rows_of(DIMENSION, pools)
            held = zip(rows.block.tolist(), rows.notes.tolist(), rows.vectors, strict=True)
            assert sorted((block, note, vector.tobytes()) for block, note, vector in held) == sorted(self.rows[slot])
            assert state.history.rows_held(pools) == len(self.rows[slot])


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), principals=st.integers(1, 6), labels=st.integers(1, 9))
def test_pools_and_rows_are_those_of_dictionaries(seed: int, principals: int, labels: int) -> None:
    generator = np.random.default_rng(seed)
    plain = Plain(principals)
    for number in range(120):
        slot = int(plain.slots[generator.integers(principals)])
        vector = generator.random(DIMENSION, dtype=np.float32)
        plain.ask(slot, int(generator.integers(labels)), vector, float(np.float32(generator.random())))
        if generator.random() < 0.02:
            plain.forget(slot)
        if number % 17 == 0:
            plain.check()
    plain.check()


def test_newcomers_have_no_pools() -> None:
    plain = Plain(3)
    plain.ask(int(plain.slots[2]), 0, np.ones(DIMENSION, np.float32))
    plain.check()
    assert not len(plain.state.pools.of_slots(plain.slots[:2]))


def test_a_slot_has_so_many_pools_and_one_for_all_further_labels() -> None:
    plain = Plain(1)
    slots = np.repeat(plain.slots, MOST_POOLS + 3)
    pools = plain.state.pools.find_or_add(slots, np.arange(len(slots)))
    assert len(np.unique(pools)) == MOST_POOLS + 1
    assert plain.state.pools.columns["label"][pools[-2:]].tolist() == [OVERFLOW, OVERFLOW]
    assert plain.state.pools.find_or_add(slots, np.arange(len(slots))[::-1]).tolist() == pools[::-1].tolist()
