"""Memory is bounded per principal and per engine, and a flood of newcomers does not push a suspect out."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits, PradaConfig, PrincipalKey
from detector.core.state.principals import Principals, Shard
from tests.core.streams import batch, observe, of_one, random, unclipped
from tests.memory import traced


def _newcomers(first: int, count: int, dimension: int = 8) -> list[QueryBatch]:
    features = np.random.default_rng(first).random((count, dimension), dtype=np.float32)
    return [batch(features, [f"new-{first + number}" for number in range(count)])]


def _thief(engine: Engine) -> None:
    seen = observe(engine, of_one(unclipped(np.random.default_rng(0), 260, 16), who="thief"))
    assert seen.flagged[-1]


def test_a_flood_of_newcomers_leaves_memory_bounded_and_the_suspect_in_place() -> None:
    engine = Engine(EngineConfig(limits=Limits(principals=1000)))
    _thief(engine)
    evicted, largest = 0, 0
    for first in range(0, 20_000, 500):
        evicted += engine.observe(_newcomers(first, 500)).evicted
        largest = max(largest, engine.nbytes())
    assert len(engine.keys()) <= 1000
    assert evicted == 20_001 - len(engine.keys())
    assert largest < 4_000_000
    again = engine.observe(of_one(random(np.random.default_rng(1), 1, 16), who="thief"))
    assert again.flagged.all() and again.index[0] == 260


def test_what_is_kept_for_a_dimension_goes_with_its_last_principal() -> None:
    engine = Engine(EngineConfig(limits=Limits(principals=16)))
    for dimension in range(1, 400):
        engine.observe(_newcomers(dimension, 1, dimension))
    assert engine.nbytes() < 500_000
    with traced("core") as held:
        for dimension in range(400, 1_200):
            engine.observe(_newcomers(dimension, 1, dimension))
        assert 0 < held() < 1_000_000


def test_whoever_has_a_score_outlasts_those_without_and_the_suspect_outlasts_both() -> None:
    engine = Engine(EngineConfig(limits=Limits(principals=16)))
    _thief(engine)
    observe(engine, of_one(random(np.random.default_rng(2), 150, 16), who="scored"))
    for first in range(40):
        engine.observe(_newcomers(first, 1))
    assert {key.principal for key in engine.keys()} >= {"thief", "scored"}
    for number in range(15):
        rows = random(np.random.default_rng(number), 150, 16)
        engine.observe(of_one(rows, who=f"scored-{number}"))
    names = {key.principal for key in engine.keys()}
    assert "thief" in names and "scored" not in names


def test_whoever_has_evidence_outlasts_those_without() -> None:
    principals, shard = Principals(), Shard()
    scores = {"new": np.nan, "quiet": 0.1, "thief": 0.6, "late": 0.4, "suspect": 0.2}
    for number, (who, score) in enumerate(scores.items()):
        slot = principals.add(shard, ("m", "1", who), 3)
        principals.slots["score"][slot], principals.slots["active"][slot] = score, number
    principals.accounts["latch"][principals.slots["account"][slot]] = 1
    order = [key.principal for key in principals.keys_of(principals.to_forget(shard, 5))]
    assert order == ["new", "quiet", "late", "thief", "suspect"]


def test_the_least_recently_active_go_first() -> None:
    engine = Engine(EngineConfig(limits=Limits(principals=4)))
    for who in ("a", "b", "c", "d", "a", "e"):
        engine.observe(of_one(np.ones((1, 3)), who=who))
    assert {key.principal for key in engine.keys()} == {"a", "c", "d", "e"}


def test_history_is_bounded_in_queries_and_bytes() -> None:
    for limits in (Limits(history_queries=200), Limits(history_bytes=200 * 4 * 16)):
        engine = Engine(EngineConfig(limits=limits))
        sizes = []
        for part in np.array_split(random(np.random.default_rng(3), 2000, 16), 40):
            engine.observe(of_one(part))
            sizes.append(engine.nbytes_of(PrincipalKey("credit", "1", "ann")))
        assert max(sizes[20:]) <= max(sizes[:20]) * 1.1
        assert max(sizes) < 200 * (4 * 16 + 8) + 12_000


def test_an_idle_principal_costs_little() -> None:
    engine = Engine(EngineConfig())
    before = engine.nbytes()
    engine.observe(_newcomers(0, 5000))
    assert (engine.nbytes() - before) / 5000 < 1500


def test_memory_is_given_back() -> None:
    engine = Engine(EngineConfig(limits=Limits(principals=16)))
    for number in range(100):
        engine.observe(of_one(random(np.random.default_rng(number), 90, 64), who=f"p{number}"))
    assert engine.nbytes() < 16 * 90 * 80 * 4 + 300_000


@pytest.mark.parametrize("configured", [True, False])
def test_another_dimension_is_refused_and_changes_nothing(configured: bool) -> None:
    config = EngineConfig(dimensions={"credit": 5} if configured else {})
    generator = np.random.default_rng(4)
    good, bad = random(generator, 150, 5), random(generator, 20, 6)
    pieces = [
        batch(good[:70], ["ann"] * 70),
        batch(bad, ["ann"] * 20),
        batch(good[70:], ["ann"] * 80),
    ]
    seen = observe(Engine(config), pieces, [75, 80])
    alone = observe(Engine(config), [pieces[0], pieces[2]])
    assert seen.refused == [(row, "dimension") for row in range(70, 90)]
    taken = np.r_[0:70, 90:170]
    np.testing.assert_array_equal(seen.score[taken], alone.score)
    np.testing.assert_array_equal(seen.index[taken], alone.index)
    assert (seen.index[70:90] == -1).all() and np.isnan(seen.score[70:90]).all()


def test_one_principal_of_a_wrong_dimension_does_not_fix_it_for_the_model() -> None:
    engine = Engine(EngineConfig())
    assert not engine.observe(of_one(np.ones((1, 999)), who="vandal")).refused
    assert not engine.observe(of_one(np.ones((1, 5)), who="ann")).refused


def test_a_suspect_of_one_model_is_none_of_another() -> None:
    engine = Engine(EngineConfig())
    _thief(engine)
    assert not engine.observe([batch(np.ones((1, 16)), ["thief"], model="fraud")]).flagged.any()


def test_compatible_mode_keeps_everything() -> None:
    config = EngineConfig(mode="compatible", prada=PradaConfig(delta=0.95), limits=Limits(history_queries=10))
    engine = Engine(config)
    rows = random(np.random.default_rng(5), 300, 4)
    observe(engine, of_one(rows))
    assert engine.nbytes_of(PrincipalKey("credit", "1", "ann")) > 200 * 16


def test_a_large_batch_of_near_duplicates_takes_bounded_memory() -> None:
    """Pairs within a batch are what grows with its square; one attacker chooses how near the queries are."""
    features = (1 + 1e-6 * np.random.default_rng(0).standard_normal((12_000, 16))).astype(np.float32)
    engine = Engine(EngineConfig())
    tracemalloc.start()
    engine.observe([batch(features, [f"eve-{row % 15}" for row in range(12_000)])])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150_000_000
