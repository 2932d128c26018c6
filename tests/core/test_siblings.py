"""Engines that share arrays and observe together return and log the same as each engine alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits, Observation, PradaConfig, observe_together
from detector.core.signals import SIGNALS
from tests.core.profiles import profile
from tests.core.streams import KINDS, Seen, batch, joined, linear_outputs, observe, random, rows_between
from tests.core.toy import Toy

ROWS = 300
PROFILE = profile(random(np.random.default_rng(99), 60, 6), threshold=6.0)
REGISTRY = {**SIGNALS, "toy": Toy}
CONFIGURATIONS = {
    "default": EngineConfig(limits=Limits(history_queries=60)),
    "eviction": EngineConfig(limits=Limits(principals=5)),
    "compatible": EngineConfig(mode="compatible", prada=PradaConfig(delta=0.95)),
    "profile": EngineConfig(profiles=(PROFILE,)),
}


def _pieces(seed: int) -> list[QueryBatch]:
    """Every stream has the same names for its principals; they have nothing to do with each other."""
    generator = np.random.default_rng(seed)
    pieces = []
    for dimension, kind in ((6, "unclipped"), (9, "clustered"), (6, "duplicates")):
        features = KINDS[kind](generator, ROWS // 3, dimension)
        who = [f"p{number}" for number in generator.zipf(1.6, ROWS // 3) % 12]
        pieces.append(batch(features, who, outputs=linear_outputs(features, 3), kind="probabilities"))
    return pieces


def _together(engines: list[Engine], streams: list[list[QueryBatch]], rounds: list[int]) -> list[Seen]:
    """Stream i is cut at its own multiples of the cuts, so that some have nothing to say in some rounds."""
    seen: list[list[tuple[int, Observation]]] = [[] for _ in engines]
    for number, (low, high) in enumerate(pairwise([0, *rounds, ROWS])):
        waits = [number % (at + 1) != 0 and high < ROWS for at in range(len(engines))]
        starts = [sum(len(piece.index) for _, piece in own) for own in seen]
        work = [
            (engine, [] if wait else rows_between(stream, start, high))
            for engine, stream, wait, start in zip(engines, streams, waits, starts, strict=True)
        ]
        assert low < high
        for own, start, observation in zip(seen, starts, observe_together(work), strict=True):
            own.append((start, observation))
    return [joined(own) for own in seen]


def _siblings(config: EngineConfig, count: int) -> list[Engine]:
    first = Engine(config, REGISTRY)
    return [first, *(first.sibling() for _ in range(count - 1))]


@pytest.mark.parametrize("name", CONFIGURATIONS)
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    count=st.integers(2, 5),
    cuts=st.lists(st.integers(1, ROWS - 1), max_size=9, unique=True).map(sorted),
)
def test_asked_together_they_say_what_each_says_alone(name: str, seed: int, count: int, cuts: list[int]) -> None:
    config = CONFIGURATIONS[name]
    streams = [_pieces(seed + at) for at in range(count)]
    for seen, stream in zip(_together(_siblings(config, count), streams, cuts), streams, strict=True):
        observe(Engine(config, REGISTRY), stream).assert_equals(seen)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_each_logs_is_enough_for_an_engine_of_its_own(name: str) -> None:
    config = CONFIGURATIONS[name]
    streams = [_pieces(at) for at in range(3)]
    together = _siblings(config, 3)
    for engine, seen in zip(together, _together(together, streams, [40, 41, 150, 151, 260]), strict=True):
        successor = Engine(config, REGISTRY)
        for sections in seen.sections:
            successor.absorb(sections)
        assert {*successor.keys()} == {*engine.keys()}
        observe(engine, _pieces(9)).assert_equals(observe(successor, _pieces(9)))


def test_a_closed_sibling_leaves_the_others_as_they_are_and_its_place_to_the_next() -> None:
    config = CONFIGURATIONS["default"]
    one, two = _siblings(config, 2)
    alone = Engine(config, REGISTRY)
    for engine in (one, two, alone):
        observe(engine, _pieces(1))
    held = one.nbytes()
    two.close()
    assert len(two) == 0
    observe(one, _pieces(2)).assert_equals(observe(alone, _pieces(2)))
    three = one.sibling()
    observe(three, _pieces(1)).assert_equals(observe(Engine(config, REGISTRY), _pieces(1)))
    assert one.nbytes() < 2 * held


def test_nobody_to_ask_is_no_work() -> None:
    assert observe_together([]) == []
    assert len(observe_together([(Engine(EngineConfig()), [])])[0].index) == 0
