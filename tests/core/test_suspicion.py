"""``suspicion`` follows its oracle; cuts, restarts and other accounts change nothing; with a profile it alone flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits, Observation, PrincipalKey, Sections, observe_together
from detector.core.measures import MEASURES, WIDTH, Measure
from detector.core.neighbours.history import Views
from detector.core.profile import Profile
from detector.core.reference.standards import Spread, Standards, Tails
from detector.core.signals import SIGNALS, WEIGHED
from detector.core.signals.base import Delta, Proposal, Signal
from detector.core.signals.extremes import EXTREMES
from detector.core.signals.suspicion import CLOCKS, FOLLOWING, MEMORIES, Listener, Suspicion, _ProfileScorer
from detector.core.state.arrays import Array, pack, unpack
from detector.core.state.rows import StepRows
from tests.core.measure_oracle import Judge
from tests.core.profiles import COLUMNS, reference, standards
from tests.core.streams import KINDS, Features, Seen, batch, joined, linear_outputs, observe, random, rows_between

ROWS = 180
DIMENSION = 16
THRESHOLD = 9.0
REFERENCE = reference(random(np.random.default_rng(99), 60, DIMENSION))
NONE = np.empty(0, np.int64)
ANN = PrincipalKey("credit", "1", "ann")


@cache
def _ordinary() -> Array:
    """Returns the average score of each measure for ordinary queries; 0 where it has none."""
    heard: list[Array] = []

    def listen(_rows: StepRows, values: Array, _weights: Array, _others: Array) -> None:
        heard.append(values)

    profile = Profile("credit", "1", REFERENCE, standards())
    engine = Engine(EngineConfig(profiles=(profile,)), _with(MEASURES, listen))
    observe(engine, [_of(random(np.random.default_rng(1), 100, DIMENSION), ["ann"] * 100)])
    values = np.concatenate(heard)
    return np.asarray(np.nan_to_num(values).sum(axis=0) / np.maximum((~np.isnan(values)).sum(axis=0), 1))


def _standards(threshold: float = THRESHOLD) -> Standards:
    """With an exemplar who is ordinary in everything, and two who are odd in every second measure."""
    others = len(WEIGHED) + len(FOLLOWING)
    between = np.array([*(measure.between for measure in MEASURES.values()), *[1.0] * others])
    within = np.array([*(measure.within for measure in MEASURES.values()), *[0.0] * others])
    odd = np.where(np.arange(len(COLUMNS)) % 2 == 0, 2.0, 0.25)
    exemplars = np.stack((0 * odd, odd, 2.25 - odd))
    ordinary, count = _ordinary(), len(MEASURES)
    tails = Tails(tuple(MEASURES), ordinary, ordinary + within[:count], within[:count])
    return Standards(COLUMNS, Spread(np.append(ordinary, [0.0] * others), between, within), exemplars, threshold, tails)


def _with(
    measures: dict[str, Measure], listener: Listener | None = None
) -> dict[str, Callable[[EngineConfig], Signal]]:
    return {**SIGNALS, "suspicion": partial(Suspicion, measures=measures, others=WEIGHED, listener=listener)}


def _of(features: Features, who: list[str], version: str = "1") -> QueryBatch:
    return batch(features, who, outputs=linear_outputs(features, 3), kind="probabilities", version=version)


PROFILE = Profile("credit", "1", REFERENCE, _standards())
CONFIGURATIONS = {
    "profile": EngineConfig(profiles=(PROFILE,)),
    "short history": EngineConfig(limits=Limits(history_queries=40), profiles=(PROFILE,)),
    "eviction": EngineConfig(limits=Limits(principals=3), profiles=(PROFILE,)),
    "another profile too": EngineConfig(profiles=(PROFILE, replace(PROFILE, model_version="2"))),
}


def _engine(name: str = "profile") -> Engine:
    return Engine(CONFIGURATIONS[name])


def _stream(seed: int, rows: int = ROWS) -> list[QueryBatch]:
    """Two model versions, one of which may have no profile, with principals in common."""
    generator = np.random.default_rng(seed)
    parts = []
    for version in ("1", "2", "1"):
        features = KINDS[str(generator.choice(list(KINDS)))](generator, rows // 3, DIMENSION)
        who = [("ann", "bob", "eve", "zoe")[number] for number in generator.zipf(1.7, rows // 3) % 4]
        parts.append(_of(features, who, version))
    return parts


def _thief(count: int = 120, version: str = "1") -> QueryBatch:
    return _of(KINDS["unclipped"](np.random.default_rng(0), count, DIMENSION), ["ann"] * count, version)


@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_the_oracle(kind: str) -> None:
    heard: list[tuple[Array, Array, Array]] = []

    def listen(_rows: StepRows, *said: Array) -> None:
        heard.append((said[0], said[1], said[2]))

    engine = Engine(CONFIGURATIONS["profile"], _with(MEASURES, listen))
    features = KINDS[kind](np.random.default_rng(2), 160, DIMENSION)
    seen = observe(engine, [_of(features, ["ann"] * 160)], [1, 40, 41, 130])
    judge, latched = Judge(list(MEASURES.values()), PROFILE.standards), False
    values, weights, others = (np.concatenate(column).tolist() for column in zip(*heard, strict=True))
    for row in range(160):
        columns = ((MEASURES, values), (CLOCKS, weights), (WEIGHED, others))
        z, left, alarm = judge.query(*(dict(zip(names, said[row], strict=True)) for names, said in columns))
        for name, wanted in z.items():
            assert seen.signals[f"suspicion.{name}"][row] == pytest.approx(wanted, rel=1e-9, abs=1e-9), name
        assert seen.signals["suspicion"][row] == pytest.approx(left, rel=1e-9, abs=1e-9)
        assert seen.score[row] == pytest.approx(left / THRESHOLD, rel=1e-9, abs=1e-9)
        latched |= alarm
        assert seen.flagged[row] == latched


def test_the_streams_reach_what_they_are_for() -> None:
    """Some are flagged, some are not."""
    flagged = [observe(_engine(), _stream(seed)).flagged.any() for seed in range(6)]
    assert any(flagged)
    assert not all(flagged)


@pytest.mark.parametrize("name", CONFIGURATIONS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, ROWS - 1), max_size=12, unique=True).map(sorted))
def test_any_cut_gives_the_same(name: str, seed: int, cuts: list[int]) -> None:
    observe(_engine(name), _stream(seed)).assert_equals(observe(_engine(name), _stream(seed), cuts))


@pytest.mark.parametrize("name", ["profile", "short history"])
def test_one_row_at_a_time_gives_the_same(name: str) -> None:
    observe(_engine(name), _stream(1)).assert_equals(observe(_engine(name), _stream(1), range(1, ROWS)))


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_as_near_the_same_is_taken_whether_stored_or_of_the_same_step(first: int) -> None:
    """The last query lies two off both others: in one feature off the one, in four off the other."""
    rows = np.zeros((3, DIMENSION), np.float32)
    rows[first, 0], rows[1 - first, 1:5] = 2, 1
    whole = observe(_engine(), [_of(rows, ["ann"] * 3)])
    for cuts in ([1], [2], [1, 2]):
        whole.assert_equals(observe(_engine(), [_of(rows, ["ann"] * 3)], cuts))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_log_alone_brings_the_state_back(name: str) -> None:
    live, recovered = _engine(name), _engine(name)
    for sections in observe(live, _stream(3), [7, 99, 150]).sections:
        recovered.absorb(sections)
    observe(live, _stream(4), [50]).assert_equals(observe(recovered, _stream(4)))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_dump_and_load_bring_it_back(name: str) -> None:
    live, recovered = _engine(name), _engine(name)
    observe(live, _stream(3), [7, 99])
    for key in live.keys():
        recovered.load(live.dump([key]))
    later = _stream(4)
    if name != "eviction":  # who is forgotten first depends on the order of arrival
        observe(live, later, [50]).assert_equals(observe(recovered, later))


def test_a_verdict_survives_a_restart_and_is_not_given_twice() -> None:
    live, recovered = _engine(), _engine()
    seen = observe(live, [_thief()])
    assert len(seen.findings) == 1
    recovered.load(live.dump([ANN]))
    assert not observe(recovered, [_thief(60)]).findings


def test_clearing_forgets_it() -> None:
    engine = _engine()
    first = observe(engine, [_thief()])
    engine.clear("credit", "ann")
    observe(engine, [_thief()]).assert_equals(first)


def test_whoever_was_evicted_starts_afresh() -> None:
    engine = Engine(EngineConfig(limits=Limits(principals=3), profiles=(replace(PROFILE, standards=_standards(1e9)),)))
    fresh = observe(engine, [_thief(40)]).signals["suspicion"]
    crowd = random(np.random.default_rng(5), 30, DIMENSION)
    assert observe(engine, [_of(crowd, [f"p{at % 10}" for at in range(30)])]).evicted > 0
    np.testing.assert_allclose(observe(engine, [_thief(40)]).signals["suspicion"], fresh, 1e-9, 1e-9)


def test_state_is_bounded_per_principal() -> None:
    """It does not grow with the queries, and goes with their account."""
    engine, bare = _engine("short history"), Engine(EngineConfig(limits=Limits(history_queries=40)))
    own = (len(MEASURES) + len(CLOCKS)) * len(MEMORIES) * 8 + len(EXTREMES) * 8 + WIDTH * 4 + 8 + 1
    notes = 40 * (4 + 8)  # the answer to each query that is held
    for part in np.split(KINDS["clustered"](np.random.default_rng(6), 1000, DIMENSION), 10):
        for one in (engine, bare):
            observe(one, [_of(part, ["ann"] * 100)])
        assert engine.nbytes_of(ANN) - bare.nbytes_of(ANN) <= own + notes
    signal = Suspicion(CONFIGURATIONS["profile"], MEASURES, WEIGHED)
    signal.apply(np.arange(500), NONE, Delta.from_record(_repeated(_dumped(engine, "ann"), 500)))
    assert 500 * own <= signal.nbytes() <= 800 * own and signal.nbytes(np.arange(3)) == 3 * own
    signal.evict(np.arange(500), NONE)
    assert not signal.dump(np.arange(500), NONE).slots["sums"].any()


def _repeated(state: dict[str, Array], count: int) -> dict[str, Array]:
    return {name: np.repeat(values, count, axis=0) for name, values in state.items()}


@pytest.mark.parametrize("count", [2, 3])
def test_siblings_asked_together_say_what_each_says_alone(count: int) -> None:
    first = _engine()
    engines = [first, *(first.sibling() for _ in range(count - 1))]
    streams = [_stream(20 + at) for at in range(count)]
    seen: list[list[tuple[int, Observation]]] = [[] for _ in engines]
    for low, high in pairwise([0, 30, 31, 140, ROWS]):
        work = [(engine, rows_between(stream, low, high)) for engine, stream in zip(engines, streams, strict=True)]
        for own, observation in zip(seen, observe_together(work), strict=True):
            own.append((low, observation))
    for own, stream in zip(seen, streams, strict=True):
        observe(_engine(), stream).assert_equals(joined(own))


def _dumped(engine: Engine, who: str) -> dict[str, Array]:
    sections = engine.dump([PrincipalKey("credit", "1", who)])
    state: dict[str, Array] = unpack(sections["suspicion"][1])
    return state


def test_state_of_a_log_without_extremes_starts_anew() -> None:
    engine = _engine()
    observe(engine, [_thief()])
    older = {name: column for name, column in _dumped(engine, "ann").items() if name != "slot_extremes"}
    signal = Suspicion(CONFIGURATIONS["profile"], MEASURES, WEIGHED)
    signal.apply(np.arange(1), NONE, Delta.from_record(older))
    assert not signal.dump(np.arange(1), NONE).slots["sums"].any()


def test_another_profile_starts_afresh() -> None:
    other = EngineConfig(profiles=(replace(PROFILE, standards=_standards(50.0)),))
    live, changed = _engine(), Engine(other)
    for sections in observe(live, [_thief()], [60]).sections:
        changed.absorb(sections)
    later = _of(random(np.random.default_rng(10), 30, DIMENSION), ["ann"] * 30)
    kept = observe(live, [later]).signals["suspicion"]
    seen = observe(changed, [later]).signals
    assert (kept[:10] > THRESHOLD).all()
    assert (seen["suspicion"][:3] < THRESHOLD).all()
    fresh = observe(Engine(other), [later]).signals
    for name, measure in MEASURES.items():
        if measure.family == "content" and name != "synthetic":  # what looks at own earlier queries still knows them
            column = f"suspicion.{name}"
            np.testing.assert_allclose(np.sign(seen[column][:1]), np.sign(fresh[column][:1]), err_msg=name)


def test_a_log_of_a_version_with_other_measures_is_a_cold_start() -> None:
    fewer = {name: measure for name, measure in MEASURES.items() if name != "novelty"}
    older = Engine(CONFIGURATIONS["profile"], _with(fewer))
    log = observe(older, [_thief()]).sections
    engine = _engine()
    for sections in log:
        engine.absorb(sections)
    later = _of(random(np.random.default_rng(10), 30, DIMENSION), ["ann"] * 30)
    assert observe(older, [later]).signals["suspicion"][0] > THRESHOLD
    assert observe(engine, [later]).signals["suspicion"][0] < THRESHOLD


def test_sums_of_other_measures_as_many_are_not_taken_for_ones_own() -> None:
    renamed = {name: replace(MEASURES[name], name=name) for name in MEASURES}
    renamed["nearness"] = replace(renamed.pop("novelty"), name="nearness")
    older, engine = Engine(CONFIGURATIONS["profile"], _with(renamed)), _engine()
    for sections in observe(older, [_thief()]).sections:
        engine.absorb(sections)
    later = _of(random(np.random.default_rng(10), 30, DIMENSION), ["ann"] * 30)
    assert observe(engine, [later]).signals["suspicion"][0] < THRESHOLD


def test_without_a_profile_it_is_silent_and_costs_no_state() -> None:
    engine = Engine(EngineConfig())
    seen = observe(engine, [_thief()])
    assert all(np.isnan(values).all() for name, values in seen.signals.items() if name.startswith("suspicion"))
    assert all(len(unpack(sections["suspicion"][1])[0][0]) == 0 for sections in seen.sections)
    assert unpack(engine.dump([ANN])["suspicion"][1]) == {}
    signal = Suspicion(EngineConfig(), MEASURES, WEIGHED)
    assert signal.nbytes() == 0


def test_a_profile_of_another_model_is_none() -> None:
    engine = Engine(EngineConfig(profiles=(replace(PROFILE, model="fraud"),)))
    alone = Engine(EngineConfig())
    long = _of(KINDS["unclipped"](np.random.default_rng(0), 300, DIMENSION), ["ann"] * 300)
    observe(engine, [long]).assert_equals(observe(alone, [long]))


def test_queries_of_a_dimension_that_a_setting_asks_for_are_judged_without_it() -> None:
    features = KINDS["unclipped"](np.random.default_rng(0), 300, DIMENSION + 3)
    engine = Engine(EngineConfig(profiles=(PROFILE,), dimensions={"credit": DIMENSION + 3}))
    alone = Engine(EngineConfig())
    pieces = [_of(features, ["ann"] * 300)]
    seen = observe(engine, pieces, [100])
    assert seen.findings and seen.findings[0] == observe(alone, pieces).findings[0]
    assert np.isnan(seen.signals["suspicion"]).all()


def test_where_there_is_a_profile_only_suspicion_accuses_and_where_there_is_none_prada_does() -> None:
    """The same queries: prada's alarm rises in both cases."""
    features = KINDS["unclipped"](np.random.default_rng(4), 400, DIMENSION)
    lenient = replace(PROFILE, standards=_standards(1e9))
    pieces = [replace(_of(features, ["ann"] * 400), model=model) for model in ("credit", "fraud")]
    seen = observe(Engine(EngineConfig(profiles=(lenient,))), pieces)
    assert (seen.signals["prada"][:400] < 0.9).any()
    assert not seen.flagged[:400].any() and (seen.score[:400] < 1).all()
    assert _signals(seen) == ["prada"] and seen.flagged[400:].any()
    strict = observe(_engine(), [_thief()])
    assert _signals(strict) == ["suspicion"]


def test_in_compatible_mode_profiles_change_nothing() -> None:
    features = KINDS["unclipped"](np.random.default_rng(4), 400, DIMENSION)
    pieces = [_of(features, ["ann"] * 400)]
    alone = observe(Engine(EngineConfig(mode="compatible")), pieces)
    assert alone.flagged.any()
    observe(Engine(EngineConfig(mode="compatible", profiles=(PROFILE,))), pieces).assert_equals(alone)


def _signals(seen: Seen) -> list[str]:
    return [finding[4] for finding in seen.findings]


@pytest.mark.parametrize(("threshold", "named"), [(2.0, 1), (35.0, 4)])
def test_the_finding_names_what_adds_most_and_its_threshold_is_that_of_d(threshold: float, named: int) -> None:
    profile = replace(PROFILE, standards=_standards(threshold))
    asked = _of(3 * KINDS["unclipped"](np.random.default_rng(0), 120, DIMENSION), ["ann"] * 120)
    (finding,) = Engine(EngineConfig(profiles=(profile,))).observe([asked]).findings
    seen = observe(Engine(EngineConfig(profiles=(profile,))), [asked]).signals
    scores = np.array([[seen[f"suspicion.{name}"][finding.row] for name in COLUMNS]])
    added, reached = profile.standards.contributions(scores)
    assert finding.signal == "suspicion" and finding.threshold == threshold
    assert finding.statistic == pytest.approx(seen["suspicion"][finding.row]) and finding.statistic > threshold
    assert finding.score == pytest.approx(finding.statistic / threshold)
    first, *others = finding.evidence
    assert (first.name, first.value, first.threshold) == ("unexplained", finding.statistic, threshold)
    order = [at for at in np.argsort(-added[0]).tolist()[:4] if added[0, at] > 0]
    assert len(order) >= named and [own.name for own in others] == [COLUMNS[at] for at in order]
    assert [own.value for own in others] == pytest.approx(scores[0, order].tolist())
    assert [own.threshold for own in others] == reached[0, order].tolist()


def test_the_finding_falls_on_the_first_query_beyond_the_threshold() -> None:
    seen = observe(_engine(), [_thief()])
    beyond = seen.signals["suspicion"] > THRESHOLD
    assert seen.findings[0][0] == beyond.argmax() == seen.flagged.argmax()
    np.testing.assert_array_equal(seen.flagged, np.maximum.accumulate(beyond))


def test_there_is_evidence_where_an_alarm_rises_and_only_there() -> None:
    proposals: list[Proposal] = []

    class Told(Suspicion):
        def observe(self, rows: StepRows, views: Views) -> Proposal:
            proposals.append(super().observe(rows, views))
            return proposals[-1]

    forgetful = replace(PROFILE, standards=replace(PROFILE.standards, tails=None))
    config = EngineConfig(profiles=(forgetful,))
    engine = Engine(config, {**SIGNALS, "suspicion": partial(Told, measures=MEASURES, others=WEIGHED)})
    ordinary = random(np.random.default_rng(12), 400, DIMENSION)
    features = np.concatenate((_thief(60).features, ordinary, _thief(120).features[60:]))
    observe(engine, [_of(features, ["ann"] * len(features))], [30, 50, 490])
    alarm = np.concatenate([proposal.alarm for proposal in proposals])
    starts = np.cumsum([0, *(len(proposal.alarm) for proposal in proposals)])
    told = [
        start + row for start, proposal in zip(starts.tolist(), proposals, strict=False) for row in proposal.evidence
    ]
    assert told == np.flatnonzero(alarm & ~np.concatenate(([False], alarm[:-1]))).tolist() and len(told) > 1


def test_others_in_the_same_batch_change_nothing() -> None:
    """Nor do their queries, however large: the sums of all are formed together."""
    thief = _thief()
    alone = observe(_engine(), [thief]).signals["suspicion"]
    wild = random(np.random.default_rng(11), 120, DIMENSION)
    wild[::3] *= np.float32(1e37)
    wild[1::3] *= np.float32(-3e38)
    features = np.stack((wild, thief.features, wild), axis=1).reshape(360, DIMENSION)
    said = np.stack((thief.outputs,) * 3, axis=1).reshape(360, -1)
    mixed = batch(features, ["eve", "ann", "zoe"] * 120, outputs=said, kind="probabilities")
    seen = observe(_engine(), [mixed], [100]).signals["suspicion"]
    np.testing.assert_allclose(seen[1::3], alone, 1e-9, 1e-9)
    assert np.isfinite(seen).all()


def test_sections_hold_a_state_of_known_shape() -> None:
    """One row of sums for each slot: a clock's weights, and each measure's, at each memory."""
    sections: Sections = observe(_engine(), _stream(12)).sections[0]
    for step in (step for segment in unpack(sections["suspicion"][1]) for step in segment if step):
        assert step["slot_sums"].shape[1] == (len(MEASURES) + len(CLOCKS)) * len(MEMORIES)
        assert pack(step)


_PARTS: list[tuple[dict[str, float], str]] = [
    ({"novelty": 9.0}, "content"),
    ({"novelty": 9.0, "sign_steps": 1.9}, "content"),
    ({"novelty": 9.0, "sign_steps": 2.1}, "structure"),
    ({"novelty": 9.0, "sign_steps": 3.0, "surprise": 4.0}, "outputs"),
    ({"sign_steps": 1.0, "novelty": 0.5}, "structure"),
]


@pytest.mark.parametrize(("parts", "family"), _PARTS)
def test_the_family_is_content_only_if_no_other_counts(parts: dict[str, float], family: str) -> None:
    own = Profile("credit", "1", REFERENCE, _standards())
    scorer = _ProfileScorer(own, COLUMNS, [*MEASURES.values()])
    scorer.standards = replace(own.standards, exemplars=np.zeros((1, len(COLUMNS))))
    assert scorer.family(np.array([parts.get(name, 0.0) for name in COLUMNS])) == family


def test_a_finding_has_the_family_of_its_evidence() -> None:
    own = replace(PROFILE, standards=replace(_standards(), exemplars=np.zeros((1, len(COLUMNS)))))
    (finding,) = Engine(EngineConfig(profiles=(own,))).observe([_thief()]).findings
    scorer = _ProfileScorer(own, COLUMNS, [*MEASURES.values()])
    seen = observe(Engine(EngineConfig(profiles=(own,))), [_thief()]).signals
    assert finding.family == scorer.family(np.array([seen[f"suspicion.{name}"][finding.row] for name in COLUMNS]))
