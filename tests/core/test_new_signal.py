"""A new signal joins by a registry line alone: its state is logged, recovered, dumped, evicted like any other's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits, Sections
from detector.core.signals import SIGNALS
from tests.core.oracle import OraclePrincipal
from tests.core.profiles import profile
from tests.core.streams import Features, Seen, batch, linear_outputs, observe, random
from tests.core.toy import ALARM_AT, FAR, Toy

REGISTRY = {**SIGNALS, "toy": Toy}
REFERENCE = np.random.default_rng(99).random((30, 5), dtype=np.float32)
PROFILE = profile(REFERENCE)
ROWS = 400


def _engine(limits: Limits | None = None) -> Engine:
    return Engine(EngineConfig(limits=limits or Limits(history_queries=50), profiles=(PROFILE,)), REGISTRY)


def _stream(seed: int, rows: int = ROWS) -> QueryBatch:
    generator = np.random.default_rng(seed)
    features = random(generator, rows, 5)
    who = [f"p{number}" for number in generator.integers(0, 6, rows)]
    hardness = generator.random(rows).astype(np.float32)
    outputs = linear_outputs(features, 3)
    return batch(features, who, outputs=outputs, kind="probabilities", hardness=hardness)


def _distance(one: Features, others: NDArray[Any]) -> float:
    return float(np.sqrt(((others.astype(np.float64) - one.astype(np.float64)) ** 2).sum(1)).min())


def _obvious(piece: QueryBatch) -> list[float]:
    """What the toy adds up, from lists of everything each principal asked."""
    totals: dict[str, float] = {}
    agents: dict[str, OraclePrincipal] = {}
    out = []
    for row, who in enumerate(piece.principal_index.tolist()):
        name, vector = piece.principals[who], piece.features[row]
        agent = agents.setdefault(name, OraclePrincipal(0.9))
        asked = [vector for own in agent.growing.values() for vector in own]
        own = _distance(vector, np.array(asked)) if asked else FAR
        agent.query(vector, int(piece.outputs[row].argmax()))
        grown = agent.last if agent.last is not None else FAR
        near = 1 / (1 + own) + 1 / (1 + grown) + 1 / (1 + _distance(vector, REFERENCE))
        assert piece.hardness is not None
        near += 0.01 * float(piece.hardness[row]) + 0.001 * float(piece.outputs[row, 0])
        totals[name] = totals.get(name, 0.0) + near
        out.append(totals[name])
    return out


def _without_toy(sections: Sections) -> Sections:
    return {name: section for name, section in sections.items() if name != "toy"}


def test_every_view_says_what_lists_say() -> None:
    piece = _stream(1)
    seen = observe(_engine(Limits()), [piece], [3, 50, 51, 333])
    np.testing.assert_allclose(seen.signals["toy"], _obvious(piece), rtol=1e-6)


def test_prada_does_not_notice() -> None:
    piece = _stream(2)
    alone = observe(Engine(EngineConfig(limits=Limits(history_queries=50))), [piece])
    both = observe(_engine(), [piece])
    np.testing.assert_array_equal(alone.signals["prada"], both.signals["prada"])
    np.testing.assert_array_equal(alone.signals["prada.repeats"], both.signals["prada.repeats"])


@pytest.mark.parametrize("limits", [Limits(), Limits(history_queries=20), Limits(principals=4)])
def test_any_cut_gives_the_same(limits: Limits) -> None:
    piece = _stream(3)
    observe(_engine(limits), [piece]).assert_equals(observe(_engine(limits), [piece], [1, 2, 77, 200, 201]))


def test_it_flags_without_a_profile_and_its_finding_says_so() -> None:
    engine = Engine(EngineConfig(limits=Limits(history_queries=50)), REGISTRY)
    seen = observe(engine, [_stream(4)])
    (first, *_) = seen.findings
    row = first[0]
    assert seen.flagged[row] and seen.signals["toy"][row] >= ALARM_AT
    assert "toy" in first
    who = _stream(4).principal_index
    assert not seen.flagged[:row][who[:row] == who[row]].any()


def _continues_alike(recovered: Engine, live: Engine) -> None:
    later = _stream(6, 200)
    expected: Seen = observe(live, [later], [100])
    expected.assert_equals(observe(recovered, [later]))


@pytest.mark.parametrize("limits", [Limits(history_queries=50), Limits(principals=4)])
def test_absorbing_the_log_brings_it_back(limits: Limits) -> None:
    live, recovered = _engine(limits), _engine(limits)
    for sections in observe(live, [_stream(5)], [7, 99, 250]).sections:
        recovered.absorb(sections)
    _continues_alike(recovered, live)


def test_dump_and_load_bring_it_back() -> None:
    live, recovered = _engine(), _engine()
    observe(live, [_stream(5)], [7, 99, 250])
    for key in live.keys():
        recovered.load(live.dump([key]))
    _continues_alike(recovered, live)


def test_a_log_without_its_section_is_a_cold_start() -> None:
    live, recovered = _engine(), _engine()
    for sections in observe(live, [_stream(5)], [200]).sections:
        recovered.absorb(_without_toy(sections))
    later = _stream(6, 60)
    warm, cold = observe(live, [later]), observe(recovered, [later])
    np.testing.assert_array_equal(warm.signals["prada"], cold.signals["prada"])
    assert (cold.signals["toy"] < warm.signals["toy"]).all()


def test_an_engine_that_does_not_know_it_skips_and_counts_its_sections() -> None:
    live = _engine(Limits())
    recovered = Engine(EngineConfig(profiles=(PROFILE,)))
    log = observe(live, [_stream(5)], [200]).sections
    for sections in log:
        recovered.absorb(sections)
    assert recovered.skipped_sections == len(log)
    later = _stream(6, 60)
    np.testing.assert_array_equal(observe(live, [later]).signals["prada"], observe(recovered, [later]).signals["prada"])


def test_clearing_forgets_it() -> None:
    engine = _engine()
    observe(engine, [_stream(5)])
    engine.clear("credit", "p1")
    later = _stream(6, 60)
    own = np.array([later.principals[at] == "p1" for at in later.principal_index])
    seen = observe(engine, [later])
    fresh = observe(_engine(), [later])
    np.testing.assert_array_equal(seen.signals["toy"][own], fresh.signals["toy"][own])


def test_the_history_forgets_all_but_two_blocks() -> None:
    """A vector all but asked again is known while its block or the next one lasts, then no more."""
    limits = Limits(history_queries=20)
    features = random(np.random.default_rng(7), 40, 5)
    for age, known in ((5, True), (10, True), (25, False)):
        asked = features.copy()
        asked[29 - age] *= 3  # far from all others, so that it joins a growing set
        asked[29] = asked[29 - age] + np.float32(1e-3)
        seen = observe(_engine(limits), [batch(asked, ["ann"] * 40)], [13])
        risen = np.diff(seen.signals["suspicion.near_duplicate"])[28]
        assert (risen > 0.3) == known


def test_repeats_and_near_repeats_drive_nothing_out() -> None:
    """A vector is known after any number of repeats of others, exact or all but exact ones."""
    limits = Limits(history_queries=20)
    features = random(np.random.default_rng(7), 12, 5)
    cycle = np.concatenate([features[4:9] + np.float32(step) for step in (0, 1e-5) * 40])
    asked = np.concatenate((features, cycle, features[2:3]))
    seen = observe(_engine(limits), [batch(asked, ["ann"] * len(asked))], [13, 200])
    assert np.diff(seen.signals["prada.repeats"])[-1] == 1
