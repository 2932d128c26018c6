"""The lists of each slot, and their content, equal those of dictionaries of lists."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core.arrays import Array
from detector.core.configuration import EngineConfig
from detector.core.history import HistoryRows
from detector.core.principals import Shard
from detector.core.state import State
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
        self.state.history.turn(np.array([slot]), np.array([block]))
        row = HistoryRows(pool, np.array([block]), vector[None], np.array([note], np.float32))
        self.state.history.append(row)
        kept = [held for held in self.rows[slot] if held[0] >= block - 1]
        self.rows[slot] = [*kept, (block, note, vector.tobytes())]

    def forget(self, slot: int) -> None:
        self.state.evict(self.shard, [slot])
        for held in (self.asked, self.pools, self.rows):
            held.pop(slot, None)
        assert self._join(f"again-{slot}") == slot

    def held(self, lists: Array) -> list[tuple[bytes, float]]:
        store = self.state.history.store(DIMENSION)
        locations, _ = store.locations(lists[lists >= 0])
        pairs = zip(store.gather(locations), store.notes(locations).tolist(), strict=True)
        return sorted((vector.tobytes(), note) for vector, note in pairs)

    def check(self) -> None:
        self.state.history.flush()
        wanted = np.array([*self.slots, *self.slots[::-1]])
        chains, lists = self.state.pools.chains(wanted), self.state.history.all_lists(wanted)
        for at, slot in enumerate(wanted.tolist()):
            assert sorted(chains[at][chains[at] >= 0].tolist()) == sorted(self.pools[slot].values())
            assert self.held(lists[at]) == sorted((vector, note) for _, note, vector in self.rows[slot])
        assert lists.shape[1] == 1 or (lists >= 0).any(axis=0).all()
        assert (np.diff((lists >= 0).astype(int), axis=1) <= 0).all()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), principals=st.integers(1, 6), labels=st.integers(1, 9))
def test_lists_and_chains_are_those_of_dictionaries(seed: int, principals: int, labels: int) -> None:
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


def test_newcomers_have_no_lists() -> None:
    plain = Plain(3)
    plain.ask(int(plain.slots[2]), 0, np.ones(DIMENSION, np.float32))
    plain.check()
    assert plain.state.pools.chains(plain.slots[:2]).tolist() == [[-1], [-1]]
    assert plain.state.history.all_lists(plain.slots[:2]).tolist() == [[-1], [-1]]
