"""However a stream is cut into micro-batches, verdicts, scores, refusals and evictions are the same, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits, PradaConfig
from tests.core.profiles import profile
from tests.core.streams import KINDS, batch, linear_outputs, observe, random

ROWS = 400
PROFILE = profile(random(np.random.default_rng(99), 60, 8), classes=2, threshold=6.0)
CONFIGURATIONS = {
    "default": EngineConfig(),
    "short history": EngineConfig(limits=Limits(history_queries=40)),
    "few bytes": EngineConfig(limits=Limits(history_bytes=1500)),
    "eviction": EngineConfig(limits=Limits(principals=4, history_queries=64)),
    "eviction in blocks": EngineConfig(limits=Limits(principals=33)),
    "compatible": EngineConfig(mode="compatible", prada=PradaConfig(delta=0.95)),
    "profile": EngineConfig(profiles=(PROFILE,)),
    "profile, short history": EngineConfig(limits=Limits(history_queries=40), profiles=(PROFILE,)),
}


def _mixed(seed: int) -> list[QueryBatch]:
    """Pieces of several models, versions, dimensions and output kinds, with principals in common."""
    generator = np.random.default_rng(seed)
    pieces = []
    for _ in range(4):
        dimension = int(generator.choice([6, 11]))
        count = ROWS // 4
        features = KINDS[str(generator.choice(list(KINDS)))](generator, count, dimension)
        kind = str(generator.choice(["probabilities", "label", "score"]))
        probabilities = linear_outputs(features, 3)
        outputs = probabilities if kind == "probabilities" else probabilities.argmax(1)[:, None]
        who = [f"p{number}" for number in generator.zipf(1.6, count) % 40]
        model, version = str(generator.choice(["credit", "fraud"])), str(generator.choice(["1", "2"]))
        pieces.append(batch(features, who, outputs=outputs, kind=kind, model=model, version=version))
    return pieces


def _heavy(seed: int) -> list[QueryBatch]:
    """Three principals, long enough for alarms, repeats and history borders."""
    generator = np.random.default_rng(seed)
    parts = [KINDS[kind](generator, ROWS // 3, 8) for kind in ("unclipped", "duplicates", "clustered")]
    who = np.repeat(["thief", "retry", "honest"], ROWS // 3)
    order = generator.permutation(len(who))
    position = np.argsort(np.argsort(np.searchsorted(["honest", "retry", "thief"], who[order]), kind="stable"))
    by_name = dict(zip(("thief", "retry", "honest"), parts, strict=True))
    features = np.concatenate([by_name[name] for name in ("honest", "retry", "thief")])[position]
    return [batch(features, who[order].tolist(), outputs=linear_outputs(features, 2), kind="probabilities")]


@pytest.mark.parametrize("name", CONFIGURATIONS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, ROWS - 1), max_size=12, unique=True))
def test_any_cut_gives_the_same(name: str, seed: int, cuts: list[int]) -> None:
    config = CONFIGURATIONS[name]
    for pieces in (_mixed(seed), _heavy(seed)):
        whole = observe(Engine(config), pieces)
        whole.assert_equals(observe(Engine(config), pieces, [cut for cut in sorted(cuts) if cut < len(whole.index)]))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_one_row_at_a_time_gives_the_same(name: str) -> None:
    for pieces in (_mixed(1), _heavy(1)):
        whole = observe(Engine(CONFIGURATIONS[name]), pieces)
        whole.assert_equals(observe(Engine(CONFIGURATIONS[name]), pieces, range(1, len(whole.index))))


def test_the_streams_reach_what_they_are_for() -> None:
    """Refusals, evictions and alarms do occur in them, with a profile too."""
    assert observe(Engine(CONFIGURATIONS["eviction"]), _mixed(1)).evicted > 20
    assert any(observe(Engine(EngineConfig()), _mixed(seed)).refused for seed in range(5))
    heavy = observe(Engine(EngineConfig()), _heavy(1))
    assert heavy.findings
    assert heavy.signals["prada.repeats"].max() > 20
    judged = observe(Engine(CONFIGURATIONS["profile"]), _heavy(1))
    assert 0 < judged.flagged.sum() < len(judged.index)
    assert all("suspicion" in finding for finding in judged.findings)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), shuffle=st.integers(0, 10_000))
def test_any_interleaving_of_principals_gives_each_the_same(seed: int, shuffle: int) -> None:
    """Without eviction, what a principal gets depends on its own queries alone."""
    (piece,) = _heavy(seed)
    names = np.array(piece.principals)[piece.principal_index]
    keys = np.random.default_rng(shuffle).permutation(names)
    order = np.empty(len(names), np.int64)
    for name in np.unique(names):
        order[keys == name] = np.flatnonzero(names == name)
    other = batch(piece.features[order], keys.tolist(), outputs=piece.outputs[order], kind="probabilities")
    first, second = observe(Engine(EngineConfig()), [piece]), observe(Engine(EngineConfig()), [other], [97, 400])
    for name in np.unique(names):
        np.testing.assert_array_equal(first.score[names == name], second.score[keys == name])
        np.testing.assert_array_equal(first.flagged[names == name], second.flagged[keys == name])
        np.testing.assert_array_equal(first.index[names == name], second.index[keys == name])
