"""Which state judges a query: no version, width or label of the caller's choice is a way out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits, PradaConfig, PrincipalKey
from detector.core.profile import Profile
from detector.core.state.principals import MOST_POOLS
from tests.core.profiles import profile, reference, standards
from tests.core.streams import Features, batch, linear_outputs, observe, random, unclipped

ROWS = random(np.random.default_rng(3), 60, 6)
STRICT = profile(ROWS, threshold=2.0)


def asked(rows: Features, version: str = "1", who: str = "eve", classes: int = 3) -> QueryBatch:
    return batch(rows, [who] * len(rows), outputs=linear_outputs(rows, classes), kind="probabilities", version=version)


def of_version(version: str, rows: Features = ROWS, classes: int = 3) -> Profile:
    return Profile("credit", version, reference(rows, classes), standards(2.0))


def far(count: int = 40, dimension: int = 6) -> Features:
    return random(np.random.default_rng(4), count, dimension) * 50


# -- model versions


def test_an_unknown_version_is_judged_by_the_profile_of_the_model() -> None:
    known = observe(Engine(EngineConfig(profiles=(STRICT,))), [asked(far())])
    unknown = observe(Engine(EngineConfig(profiles=(STRICT,))), [asked(far(), "no-such")])
    assert known.findings
    np.testing.assert_array_equal(unknown.score, known.score)
    np.testing.assert_array_equal(unknown.flagged, known.flagged)


def test_another_version_every_query_is_one_state_and_the_alert_names_the_version() -> None:
    plain = observe(Engine(EngineConfig(profiles=(STRICT,))), [asked(far())])
    engine = Engine(EngineConfig(profiles=(STRICT,)))
    rows = far()
    rotating = observe(engine, [asked(rows[at : at + 1], f"v{at}") for at in range(len(rows))])
    np.testing.assert_array_equal(rotating.score, plain.score)
    assert engine.keys() == [PrincipalKey("credit", "1", "eve")]
    versions = [finding[2] for finding in rotating.findings]
    assert versions == [f"v{finding_row}" for finding_row, *_ in rotating.findings]


def test_of_several_profiles_the_newest_that_fits_judges() -> None:
    wide = random(np.random.default_rng(5), 60, 9)
    config = EngineConfig(profiles=(of_version("1"), of_version("2"), of_version("3", wide)))
    engine = Engine(config)
    engine.observe([asked(far(2), "odd"), asked(far(2, 9), "odd", "ann")])
    assert engine.keys() == [PrincipalKey("credit", "2", "eve"), PrincipalKey("credit", "3", "ann")]


@pytest.mark.parametrize(
    "odd",
    [asked(far(3, 5), "odd"), asked(far(3), "odd", classes=2), replace(asked(far(3), "odd"), output_kind="score")],
)
def test_what_no_profile_of_the_model_fits_is_unjudged_and_says_whose_it_is(odd: QueryBatch) -> None:
    engine = Engine(EngineConfig(profiles=(STRICT,)))
    observation = engine.observe([odd, asked(ROWS[:2])])
    assert [(bad.row, bad.reason, bad.model, bad.principal) for bad in observation.refused] == [
        (row, "no-profile", "credit", "eve") for row in range(3)
    ]
    assert observation.index.tolist() == [-1, -1, -1, 0, 1]


def test_without_a_profile_all_versions_are_one_state() -> None:
    generator = np.random.default_rng(6)
    rows = unclipped(generator, 400, 16)
    plain = observe(Engine(EngineConfig()), [batch(rows, ["eve"] * 400)])
    engine = Engine(EngineConfig())
    pieces = [batch(rows[at : at + 50], ["eve"] * 50, version=f"v{at}") for at in range(0, 400, 50)]
    rotating = observe(engine, pieces, [25, 60, 300])
    assert plain.findings
    np.testing.assert_array_equal(rotating.score, plain.score)
    np.testing.assert_array_equal(rotating.index, plain.index)
    assert len(engine) == 1


def test_a_profile_of_another_model_changes_nothing() -> None:
    engine = Engine(EngineConfig(profiles=(STRICT,)))
    other = replace(asked(far()), model="loan")
    seen = observe(engine, [other, replace(other, model_version="9")])
    assert not seen.refused
    assert seen.index.max() == 79


# -- dimensions


def test_with_a_profile_its_dimension_is_expected_whatever_came_first() -> None:
    seen = observe(Engine(EngineConfig(profiles=(STRICT,))), [asked(far(1, 5)), asked(far())])
    assert seen.refused == [(0, "dimension")]
    assert (seen.index[1:] >= 0).all()
    assert seen.findings


def test_a_width_that_an_earlier_build_pinned_gives_way_to_the_profile() -> None:
    before, engine = Engine(EngineConfig()), Engine(EngineConfig(profiles=(STRICT,)))
    pinned = observe(before, [batch(unclipped(np.random.default_rng(6), 400, 16), ["eve"] * 400)])
    assert pinned.flagged[-1]
    for sections in pinned.sections:
        engine.absorb(sections)
    later = observe(engine, [asked(far(3, 5)), asked(far(40))], [2, 20])
    assert later.refused == [(row, "dimension") for row in range(3)]
    assert (later.index[3:] >= 0).all()
    assert later.flagged[3:].all()
    assert later.findings


def test_one_query_of_another_width_does_not_hide_what_follows() -> None:
    seen = observe(Engine(EngineConfig()), [batch(np.ones((1, 999)), ["eve"]), batch(far(300), ["eve"] * 300)])
    assert seen.refused == [(1, "dimension")]
    assert seen.index[2:].tolist() == list(range(1, 300))


def test_most_of_the_own_queries_decide_and_others_change_nothing() -> None:
    pieces = []
    for number in range(30):
        pieces += [batch(far(1, 5), ["eve"]), batch(far(2), ["eve"] * 2), batch(far(3, 7), [f"other{number}"] * 3)]
    seen = observe(Engine(EngineConfig()), pieces)
    own = np.tile([True, True, True, False, False, False], 30)
    assert (seen.index[~own] >= 0).all()
    widths = np.tile([5, 6, 6, 7, 7, 7], 30)
    late = np.arange(len(widths)) > 20
    assert (seen.index[own & late & (widths == 6)] >= 0).all()
    assert (seen.index[own & late & (widths == 5)] < 0).all()


def test_a_change_of_dimension_begins_the_distances_anew_and_keeps_the_verdict() -> None:
    engine = Engine(EngineConfig())
    rows = unclipped(np.random.default_rng(6), 400, 16)
    assert observe(engine, [batch(rows, ["eve"] * 400)]).findings
    later = observe(engine, [batch(far(100, 5), ["eve"] * 100)])
    assert np.count_nonzero(later.index < 0) == 64
    assert later.flagged[64:].all()
    assert np.isnan(later.signals["prada"][64:]).all()
    assert later.index[-1] == 400 + 36 - 1


def test_nobody_can_change_to_and_fro_for_long() -> None:
    pieces = [batch(far(1, 5 + at % 2), ["eve"]) for at in range(1_000)]
    engine = Engine(EngineConfig())
    taken = [engine.observe([piece]).index[0] >= 0 for piece in pieces]
    widths = 5 + np.arange(1_000) % 2
    judged = widths[taken]
    assert np.count_nonzero(np.diff(judged[10:])) <= 1
    assert 480 <= len(judged) <= 520


# -- labels


def test_labels_beyond_the_bound_are_judged_in_one_pool() -> None:
    count = MOST_POOLS + 2_000
    rows = random(np.random.default_rng(1), count, 4)
    engine = Engine(EngineConfig())
    labels = np.arange(count, dtype=np.float32)[:, None]
    observe(engine, [batch(rows, ["eve"] * count, outputs=labels)], range(500, count, 500))
    before = engine.nbytes()
    seen = observe(engine, [batch(rows[:500], ["eve"] * 500, outputs=labels[:500] + count)])
    assert engine.nbytes() <= before * 1.1
    assert (seen.index >= 0).all()
    assert np.isfinite(seen.signals["prada"][-1])


def test_a_thief_whose_labels_share_a_pool_is_found_as_one_with_a_single_label() -> None:
    rows = np.concatenate((far(MOST_POOLS, 16), unclipped(np.random.default_rng(6), 400, 16)))
    labels = np.arange(len(rows), dtype=np.float32)[:, None]
    assert observe(Engine(EngineConfig()), [batch(rows, ["eve"] * len(rows), outputs=labels)]).findings


# -- cuts and the log

CONFIGURATIONS = {
    "no profile": EngineConfig(),
    "a profile": EngineConfig(profiles=(STRICT, Profile("credit", "2", reference(ROWS), standards()))),
    "a setting": EngineConfig(dimensions={"credit": 6}),
    "eviction": EngineConfig(limits=Limits(principals=3, history_queries=64)),
    "compatible": EngineConfig(mode="compatible", prada=PradaConfig(delta=0.95)),
}


def _odd(seed: int) -> list[QueryBatch]:
    """Small pieces of few principals, of any version and width."""
    generator = np.random.default_rng(seed)
    pieces = []
    for _ in range(40):
        count = int(generator.integers(1, 12))
        rows = random(generator, count, int(generator.choice([5, 6, 6, 6]))) * float(generator.choice([1, 30]))
        who = [f"p{number}" for number in generator.integers(0, 5, count)]
        classes = int(generator.choice([3, 3, 3, 2]))
        version = str(generator.choice(["1", "2", "odd", f"v{generator.integers(100)}"]))
        pieces.append(batch(rows, who, outputs=linear_outputs(rows, classes), kind="probabilities", version=version))
    return pieces


@pytest.mark.parametrize("name", CONFIGURATIONS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 200), max_size=12, unique=True))
def test_any_cut_gives_the_same(name: str, seed: int, cuts: list[int]) -> None:
    pieces = _odd(seed)
    whole = observe(Engine(CONFIGURATIONS[name]), pieces)
    cut = [at for at in sorted(cuts) if at < len(whole.index)]
    whole.assert_equals(observe(Engine(CONFIGURATIONS[name]), pieces, cut))


@pytest.mark.parametrize("name", CONFIGURATIONS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 200), max_size=8, unique=True), part=st.floats(0, 1))
def test_an_engine_that_recovers_from_the_log_goes_on_the_same(
    name: str, seed: int, cuts: list[int], part: float
) -> None:
    pieces = _odd(seed)
    engine, successor = Engine(CONFIGURATIONS[name]), Engine(CONFIGURATIONS[name])
    first = pieces[: int(part * len(pieces))]
    if first:
        for sections in observe(engine, first, [at for at in sorted(cuts) if at < sum(map(len, first))]).sections:
            successor.absorb(sections)
    again = Engine(CONFIGURATIONS[name])
    again.load(engine.dump(engine.keys()))
    assert Counter(map(str, successor.keys())) == Counter(map(str, engine.keys()))
    for key in engine.keys():
        assert successor.dump([key]) == engine.dump([key])
    if len(first) < len(pieces):
        rest = observe(engine, pieces[len(first) :])
        rest.assert_equals(observe(successor, pieces[len(first) :]))
        if "eviction" not in name:
            rest.assert_equals(observe(again, pieces[len(first) :]))
