"""What must hold of every measure, through the engine: a new one in the registry is tested by being there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.findings import Family
from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.measures import MEASURES, Clock, rank
from detector.core.profile import Profile
from detector.core.reference.reference import HonestQueries, Reference
from detector.core.signals import SIGNALS, WEIGHED
from detector.core.signals.suspicion import CLOCKS, Suspicion
from detector.core.state.rows import StepRows
from tests.core.measure_oracle import Account, Query
from tests.core.profiles import profile, standards
from tests.core.streams import KINDS, Features, batch, linear_outputs, observe, random

COUNT = 80
CLASSES = 3
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Queries of one principal beside the raw rows of a reference."""

    honest: Features
    asked: QueryBatch
    hardness: NDArray[np.float32] | None = None

    def reference(self) -> Reference:
        honest = HonestQueries(self.honest, _said(self.honest, self.asked.output_kind), self.hardness)
        return Reference.of([honest], self.asked.output_kind)


def _said(rows: Features, kind: OutputKind) -> NDArray[np.float32]:
    """What one model says, in each way that it may."""
    probabilities = linear_outputs(np.tanh(rows), CLASSES)
    if kind == "label":
        return np.asarray(probabilities.argmax(axis=1)[:, None], np.float32)
    return probabilities if kind == "probabilities" else np.asarray(10 * probabilities[:, :1])


def _case(honest: Features, asked: Features, kind: OutputKind = "probabilities") -> Case:
    return Case(honest, batch(asked, ["ann"] * len(asked), outputs=_said(asked, kind), kind=kind))


def _kind(kind: str, dimension: int, told: OutputKind) -> Case:
    generator = np.random.default_rng([len(kind), dimension])
    return _case(random(generator, 45, dimension), KINDS[kind](generator, COUNT, dimension), told)


def _unlike() -> Case:
    """Features of ranges that differ by thousands, and steps along the signs of a gradient in them."""
    generator, widths = np.random.default_rng(5), np.array([1e-3] * 6 + [1] * 5 + [500] * 7, np.float32)
    return _case(random(generator, 70, 18) * widths, KINDS["unclipped"](generator, COUNT, 18) * widths)


def _some_of_many() -> Case:
    """Steps of one magnitude in every third feature alone, and in all others but those."""
    generator = np.random.default_rng(11)
    honest, asked = random(generator, 45, 260), random(generator, COUNT, 260)
    for row in range(COUNT // 2, COUNT):
        third = (np.arange(260) % 3 == 0) == (row % 2 == 0)
        step = np.where(third, np.float32(0.05), generator.uniform(0.01, 0.04, 260).astype(np.float32))
        asked[row] = asked[row - COUNT // 2] + step
    return _case(honest, asked)


def _rounded() -> Case:
    """Every second query is the one before in other last digits."""
    generator = np.random.default_rng(12)
    asked = np.repeat(random(generator, COUNT // 2, 6), 2, axis=0)
    asked[1::2] = np.nextafter(asked[1::2], np.float32(1))
    return _case(random(generator, 45, 6), asked)


def _left_out() -> Case:
    case = _kind("clustered", 9, "probabilities")
    missing = np.random.default_rng(6).random((COUNT, 9)) < 0.2
    features = np.where(missing, np.float32(0), case.asked.features)
    return Case(case.honest, replace(case.asked, features=features, missing=missing))


def _logged() -> Case:
    """With hardness, and requested specifications of which some repeat and some are left out."""
    generator, case = np.random.default_rng(10), _kind("random", 6, "probabilities")
    hardness, asked = ((generator.integers(0, 20, count) / 20).astype(np.float32) for count in (45, COUNT))
    specification = np.repeat(generator.integers(0, 2, (COUNT // 4, 2)), 4, axis=0).astype(np.float32)
    return Case(case.honest, replace(case.asked, hardness=asked, specification=specification), hardness)


def _one_hot() -> Case:
    """Two categories and an integer; made-up ones among them."""
    generator = np.random.default_rng(7)

    def rows(count: int, most: int) -> Features:
        first, second = generator.integers(0, 5, count), generator.integers(0, 3, count)
        return np.column_stack((np.eye(5)[first], np.eye(3)[second], generator.integers(0, most, count))).astype("f4")

    return _case(rows(80, 40), rows(COUNT, 60))


def _two_probabilities() -> Case:
    case = _logged()
    return replace(case, asked=replace(case.asked, outputs=case.asked.outputs[:, :2]))


def _labels() -> Case:
    case = _logged()
    return replace(case, asked=replace(case.asked, output_kind="label", outputs=_said(case.asked.features, "label")))


def _made_up() -> Case:
    """Own rows first, then crossovers of two to five of them, and points between two."""
    generator = np.random.default_rng(13)
    honest, own = random(generator, 70, 12), random(generator, 30, 12)
    return _case(honest, np.concatenate((own, _crossed(generator, own, 25), _mixed(generator, own, 25))))


def _made_up_images() -> Case:
    """The same with 40 features of few values, most of them 0."""
    generator = np.random.default_rng(14)
    shades = generator.integers(0, 9, (100, 40)) * generator.integers(0, 2, (100, 40)) / 8
    own = shades[70:].astype(np.float32)
    asked = np.concatenate((own, _crossed(generator, own, 25), _mixed(generator, own, 25)))
    return _case(shades[:70].astype(np.float32), asked)


def _crossed(generator: np.random.Generator, own: Features, count: int) -> Features:
    parents = generator.integers(0, len(own), (count, 5))
    chosen = generator.integers(0, 2 + np.arange(count)[:, None] % 4, (count, own.shape[1]))
    return own[np.take_along_axis(parents, chosen, axis=1), np.arange(own.shape[1])]


def _mixed(generator: np.random.Generator, own: Features, count: int) -> Features:
    first, second = generator.integers(0, len(own), (2, count))
    share = generator.random((count, 1), dtype=np.float32)
    return np.asarray(share * own[first] + (1 - share) * own[second])


CASES: dict[str, Callable[[], Case]] = {
    **{f"{kind}-6": partial(_kind, kind, 6, "probabilities") for kind in KINDS},
    **{f"{kind}-40": partial(_kind, kind, 40, "probabilities") for kind in ("clustered", "unclipped", "bisection")},
    "clustered-label": partial(_kind, "clustered", 6, "label"),
    "unclipped-score": partial(_kind, "unclipped", 6, "score"),
    "jacobian-260": partial(_kind, "jacobian", 260, "probabilities"),
    "some of many": _some_of_many,
    "unlike ranges": _unlike,
    "other digits": _rounded,
    "missing features": _left_out,
    "one-hot": _one_hot,
    "made up": _made_up,
    "made-up images": _made_up_images,
    "hardness and specifications": _logged,
}


@dataclass(frozen=True)
class Heard:
    """The values that ``suspicion`` gave its listener, and those that the engine returned."""

    values: dict[str, Floats]
    weights: dict[str, Floats]
    shown: dict[str, Floats]


def _listened(case: Case, reference: Reference) -> Heard:
    heard: list[tuple[Floats, Floats]] = []

    def listen(_rows: StepRows, values: Floats, weights: Floats, _others: Floats) -> None:
        heard.append((values, weights))

    suspicion = partial(Suspicion, measures=MEASURES, others=WEIGHED, listener=listen)
    profile = Profile("credit", "1", reference, standards())
    engine = Engine(EngineConfig(profiles=(profile,)), {**SIGNALS, "suspicion": suspicion})
    shown = observe(engine, [case.asked], [1, 17, 50]).signals
    values, weights = (np.concatenate(column) for column in zip(*heard, strict=True))
    return Heard(dict(zip(MEASURES, values.T, strict=True)), dict(zip(CLOCKS, weights.T, strict=True)), shown)


@cache
def _heard(name: str) -> Heard:
    case = CASES[name]()
    return _listened(case, case.reference())


@cache
def _wanted(name: str) -> tuple[dict[str, list[float]], dict[str, list[float]], list[set[str]]]:
    """Values by measure, weights by clock, and the measures of whose values there is doubt."""
    case = CASES[name]()
    account, said, doubtful = Account(case.reference(), case.honest), [], []
    for row in range(len(case.asked)):
        output = case.asked.outputs[row]
        label = {"probabilities": int(output.argmax()), "label": int(output[0]), "score": 0}[case.asked.output_kind]
        said.append(account.query(Query(case.asked.features[row], output, label, **_optional(case.asked, row))))
        doubtful.append(account.doubtful)
    values = {measure: [own[measure] for own, _ in said] for measure in said[0][0]}
    return values, {clock: [own[clock] for _, own in said] for clock in said[0][1]}, doubtful


def _optional(asked: QueryBatch, row: int) -> dict[str, Any]:
    """Returns the optional columns of a query."""
    found = {name: getattr(asked, name) for name in ("missing", "hardness", "specification")}
    logged = {name: column[row] for name, column in found.items() if column is not None}
    return logged | {name: tuple(value.tolist()) for name, value in logged.items() if name == "specification"}


LEAST_SURE = {"recombination": 0.5, "interpolation": 0.5}
"""Of many rows a few are candidates, and where values repeat, several are as good."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("measure", MEASURES)
def test_it_follows_the_oracle(measure: str, name: str) -> None:
    values, _, doubtful = _wanted(name)
    compared = np.array([measure not in own for own in doubtful])
    assert compared.mean() > (0.1 if name == "one-hot" else LEAST_SURE.get(measure, 0.95))
    wanted, said = np.array(values[measure])[compared], _heard(name).values[measure][compared]
    np.testing.assert_allclose(said, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_weights_follow_the_oracle(name: str) -> None:
    _, weights, _ = _wanted(name)
    assert set(weights) == set(CLOCKS)
    for clock, wanted in weights.items():
        np.testing.assert_allclose(_heard(name).weights[clock], wanted, rtol=1e-4, atol=1e-6)


def test_the_cases_reach_what_they_are_for() -> None:
    """Each measure says different things of the queries of some case; some queries weigh nothing, some little."""
    for measure in MEASURES:
        assert any(np.ptp(np.nan_to_num(_wanted(name)[0][measure])) > 0 for name in CASES), measure
    effective = np.array(_wanted("duplicates-6")[1]["effective"])
    assert (effective == 0).any() and ((effective > 0) & (effective < 1)).any() and (effective == 1).any()
    assert sum(_wanted("other digits")[1]["each"]) < 0.8 * COUNT


@pytest.mark.parametrize("measure", MEASURES)
def test_it_says_what_it_looks_at(measure: str) -> None:
    own = MEASURES[measure]
    assert own.name == measure and own.about and own.unit
    assert own.family in get_args(Family) and own.clock in get_args(Clock)
    assert own.between > 0 and own.within > 0


OF_ANSWERS = {name for name, measure in MEASURES.items() if measure.family == "outputs" and name != "hardness"}


@pytest.mark.parametrize("make", [_two_probabilities, _labels])
def test_answers_of_another_kind_or_width_are_no_answers(make: Callable[[], Case]) -> None:
    heard = _listened(make(), _logged().reference())
    for name in MEASURES:
        assert np.isnan(heard.values[name]).all() == (name in OF_ANSWERS), name
        assert np.isfinite(heard.shown[f"suspicion.{name}"]).all(), name


def _stepped(generator: np.random.Generator, base: Features, size: float) -> Features:
    return base + size * generator.choice([-1, 1], base.shape).astype(np.float32)


def _triggers() -> dict[str, tuple[Case, Case]]:
    """For each measure ordinary queries and others that it is there for."""
    generator = np.random.default_rng(8)
    honest, rows = random(generator, 250, 10), random(generator, 40, 10)
    bases = np.repeat(rows[:4], 10, axis=0)
    plain = _case(honest, rows)
    sure, unsure = np.full((40, 3), [1 - 2e-6, 1e-6, 1e-6], "f4"), np.full((40, 3), [0.34, 0.33, 0.33], "f4")
    one = bases.copy()
    one[np.arange(40), np.arange(40) % 10] += np.float32(0.2)
    line = rows[:1] + np.arange(40, dtype=np.float32)[:, None] * random(generator, 1, 10) / 20
    features = {
        "novelty": rows + 3,
        "unseen_values": 2 * rows + 1,
        "outlyingness": rows + 3,
        "near_duplicate": bases + np.float32(1e-3) * random(generator, 40, 10),
        "tiny_steps": bases + np.float32(1e-4) * random(generator, 40, 10),
        "one_feature": one,
        "sign_steps": np.concatenate((rows[:20], _stepped(generator, rows[:20], 0.05))),
        "parallel_steps": line,
        "recombination": np.concatenate((rows[:10], _crossed(generator, rows[:10], 30))),
        "interpolation": np.concatenate((rows[:10], _mixed(generator, rows[:10], 30))),
        "synthetic": 6 * (rows - 0.5),
    }
    outputs = {"surprise": plain.asked.outputs[:, ::-1], "low_margin": unsure, "high_margin": sure}
    made = {name: _case(honest, asked) for name, asked in features.items()}
    made |= {name: Case(honest, replace(plain.asked, outputs=said)) for name, said in outputs.items()}
    left_out = np.arange(10) < np.full((40, 1), 6)
    made["hardness"] = Case(honest, replace(plain.asked, hardness=np.full(40, 0.9, "f4")), _easy(250))
    swept = np.stack((np.arange(40), np.arange(40) % 7), axis=1).astype(np.float32)
    pairs, classes = np.repeat(rows[:20], 2, axis=0), np.eye(3, dtype=np.float32)[np.arange(40) % 2]
    crossed = replace(_case(honest, pairs + np.float32(1e-3) * random(generator, 40, 10)).asked, outputs=classes)
    made["crossings"] = made["leaps"] = Case(honest, crossed)
    made["specification_changes"] = Case(honest, replace(plain.asked, specification=swept))
    made["missing_features"] = Case(honest, replace(plain.asked, missing=left_out))
    same = np.ones((40, 2), np.float32)
    plain = Case(honest, replace(plain.asked, hardness=_easy(40), specification=same), _easy(250))
    return {name: (plain, case) for name, case in made.items()}


def _easy(count: int) -> NDArray[np.float32]:
    return np.linspace(0, 0.5, count, dtype=np.float32)


@pytest.mark.parametrize("measure", MEASURES)
def test_it_is_higher_for_the_queries_it_is_there_for(measure: str) -> None:
    plain, made = (_listened(case, case.reference()) for case in _triggers()[measure])
    own = MEASURES[measure]
    rise = np.mean(made.values[measure][10:]) - np.mean(plain.values[measure][10:])
    assert rise > own.within
    assert made.shown[f"suspicion.{measure}"][-1] > plain.shown[f"suspicion.{measure}"][-1]


@pytest.mark.parametrize(
    "asked",
    [
        np.zeros((12, 8)),
        np.full((12, 8), 1e30),
        np.full((12, 8), -3e38),
        np.full((12, 8), 1e-40),
        np.concatenate((np.full((6, 8), 3e38), np.full((6, 8), -3e38))),
        np.arange(96).reshape(12, 8) * 1e36,
    ],
)
@pytest.mark.parametrize("unlike", [False, True])
def test_whatever_is_asked_every_measure_is_a_number(asked: Features, unlike: bool) -> None:
    """And what is shown too: no query makes an engine fall over."""
    widths = np.array([1e-3] * 4 + [1e3] * 4 if unlike else [1] * 8, np.float32)
    honest = random(np.random.default_rng(9), 60, 8) * widths
    said = np.full((12, 3), 1 / 3, np.float32)
    case = Case(honest, batch(asked, ["ann"] * 12, outputs=said, kind="probabilities"))
    heard = _listened(case, case.reference())
    for name in MEASURES:
        assert heard.values[name].shape == (12,)
        assert not np.isinf(heard.values[name]).any(), name
        assert np.isfinite(heard.shown[f"suspicion.{name}"]).all(), name
    assert all(((weights >= 0) & (weights <= 1)).all() for weights in heard.weights.values())


def test_a_rank_is_the_share_below_with_ties_half_and_never_all() -> None:
    ascending = np.array([1.0, 2.0, 2.0, 5.0])
    said = rank(np.array([0.0, 1.0, 2.0, 3.0, 9.0, np.nan]), ascending)
    np.testing.assert_allclose(said, [0.1, 0.2, 0.5, 0.7, 0.9, np.nan])
    assert np.isnan(rank(np.array([1.0]), np.empty(0))).all()


def test_features_left_out_of_another_models_queries_change_nothing() -> None:
    """A micro-batch holds queries of several models, with features of several dimensions."""
    rng = np.random.default_rng(1)
    (asked, odd), own = (random(rng, 20, dimension) for dimension in (5, 3)), profile(random(rng, 60, 5))
    missing = rng.random((20, 5)) < 0.3
    ours = batch(asked, ["bob"] * 20, outputs=linear_outputs(asked, 3), kind="probabilities", missing=missing)
    other = batch(odd, ["ann"] * 20, model="other", missing=np.zeros((20, 3), np.bool_))
    alone, beside = (
        Engine(EngineConfig(profiles=(own,))).observe(pieces).signals["suspicion.missing_features"]
        for pieces in ([ours], [other, ours])
    )
    np.testing.assert_array_equal(beside[20:], alone)
