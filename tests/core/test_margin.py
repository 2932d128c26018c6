"""``margin`` against a slow oracle of lists, whatever the owner's model; cut, restarted, merged and bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from detector.cli.foreign import from_scikit_learn
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits, PrincipalKey
from detector.core.owner_model import Features as FeatureNames
from detector.core.owner_model import OwnerModel, Tree
from detector.core.owner_model.margins import Margins
from detector.core.pipeline.store import Registry
from detector.core.profile import Profile
from detector.core.signals import prada
from detector.core.signals.base import Delta
from detector.core.signals.margin import MOST_LEAVES, Margin
from detector.core.state.arrays import unpack
from tests.core.profiles import profile
from tests.core.streams import Features, Seen, batch, joined, observe

REGISTRY: Registry = {"prada": prada, "margin": Margin}
FIGURES = ("margin", "margin.all_leaves", "margin.pooled", "margin.cusum")


UNITS = np.array([1.0, 64.0, 1.0], np.float32)
"""Ranges of the features, so different that the engine compares rows in other units than the model is asked in."""


def rows_of(seed: int, count: int = 300) -> Features:
    return np.random.default_rng(seed).random((count, 3), dtype=np.float32) * UNITS


def labels_of(rows: Features) -> NDArray[np.int64]:
    return np.digitize(score_of(rows), (0.4, 0.8)).astype(np.int64)


def score_of(rows: Features) -> Features:
    return np.asarray(rows[:, 0] + rows[:, 1] / 64 * rows[:, -1])


def fitted(kind: Any) -> OwnerModel:
    rows = rows_of(0)
    return from_scikit_learn(kind.fit(rows, labels_of(rows)))


MODELS: dict[str, OwnerModel | None] = {
    "tree": fitted(DecisionTreeClassifier(max_leaf_nodes=6, random_state=0)),
    "linear": fitted(LogisticRegression(C=10, max_iter=5_000)),
    "ensemble": fitted(RandomForestClassifier(5, max_depth=3, random_state=0)),
    "none": None,
}
EVERY = pytest.mark.parametrize("name", MODELS)


def said(rows: Features) -> Features:
    """What the model says in the log: probabilities that are close to each other near where the labels change."""
    shares = np.exp(-8 * np.abs(score_of(rows)[:, None] - (0.2, 0.6, 1.0)))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


def known(model: OwnerModel | None) -> Profile:
    rows = rows_of(0)
    return replace(profile(rows), owner_model=model, margins=Margins.of(model, rows, said(rows)))


PROFILES = {name: known(model) for name, model in MODELS.items()}


def engine(name: str = "tree", limits: Limits | None = None) -> Engine:
    return Engine(EngineConfig(profiles=(PROFILES[name],), limits=limits or Limits()), REGISTRY)


def queries(rows: Features, who: Sequence[str] | None = None, **options: Any) -> QueryBatch:
    names = ["ann"] * len(rows) if who is None else list(who)
    given: dict[str, Any] = {"kind": "probabilities"} | options
    return batch(rows, names, **given | {"outputs": given.get("outputs", said(rows))})


def close_to(name: str, rows: Features) -> Features:
    """Those of ``rows`` that are in a margin."""
    margins = PROFILES[name].margins
    assert margins is not None
    return rows[margins.close(MODELS[name], rows, said(rows)).inside]


def stream(seed: int, name: str = "tree", count: int = 260) -> QueryBatch:
    """Four principals: honest rows, rows near the boundary, repeats, and rows beyond all ranges."""
    rng = np.random.default_rng(seed)
    rows = rows_of(seed, count)
    who = rng.integers(0, 4, count)
    rows[who == 1] = close_to(name, rows_of(seed + 1, 50 * count))[: (who == 1).sum()]
    for at in np.flatnonzero(who == 2)[5::3].tolist():
        rows[at] = rows[np.flatnonzero(who == 2)[0]]
    rows[who == 3] *= 3
    return queries(rows, [f"p{number}" for number in who])


@dataclass
class Oracle:
    """One principal, from lists. Shares are exact to the 2^-30 that the engine counts in."""

    name: str
    asked: set[bytes] = field(default_factory=set)
    leaves: dict[int, list[bool]] = field(default_factory=dict)
    inside: list[bool] = field(default_factory=list)
    cusum: float = 0.0

    def query(self, row: Features, outputs: Features) -> tuple[float, float, float, float]:
        if row.tobytes() not in self.asked:
            self.asked.add(row.tobytes())
            leaf, inside = self.place(row, outputs)
            self.leaves.setdefault(leaf, []).append(inside)
            self.inside.append(inside)
            rate = self.margins.rate
            step = log(3) if inside else log((1 - 3 * rate) / (1 - rate))
            self.cusum = max(self.cusum + step, 0.0)
        shares = [sum(leaf) / len(leaf) for leaf in self.leaves.values() if len(leaf) > 5]
        model = MODELS[self.name]
        ratio = sum(shares) / model.leaves if isinstance(model, Tree) else np.nan
        pooled = sum(self.inside) / len(self.inside)
        scores = [ratio / 0.3, self.cusum / log(0.99 / 1e-4), pooled / 0.3 if len(self.inside) >= 30 else 0.0]
        return float(np.nanmax(scores)), ratio, pooled, self.cusum

    @property
    def margins(self) -> Margins:
        margins = PROFILES[self.name].margins
        assert margins is not None
        return margins

    def place(self, row: Features, outputs: Features) -> tuple[int, bool]:
        model, margins = MODELS[self.name], self.margins
        if isinstance(model, Tree):
            node = 0
            while model.feature[node] >= 0:
                node = int(model.children[node][0 if row[model.feature[node]] <= model.threshold[node] else 1])
            leaf = sum(int(model.feature[before] < 0) for before in range(node))
            own = range(int(margins.starts[leaf]), int(margins.starts[leaf + 1]))
            safe = [margins.low[at] <= row[margins.feature[at]] <= margins.high[at] for at in own]
            return leaf, not all(safe)
        if self.name == "linear":
            side, distance = model.distances(row[None])  # type: ignore[union-attr]
            return 0, bool(distance[0] < margins.distances[side[0]])
        first, second = sorted(outputs.tolist() if model is None else model.outputs(row[None])[0].tolist())[:-3:-1]
        return 0, first - second < margins.low_margin


def by_oracle(name: str, piece: QueryBatch) -> NDArray[np.float64]:
    """float64 (n, 4): the score and the figures."""
    oracles = [Oracle(name) for _ in piece.principals]
    whose = piece.principal_index.tolist()
    return np.array([oracles[who].query(piece.features[row], piece.outputs[row]) for row, who in enumerate(whose)])


def figures(seen: Seen) -> NDArray[np.float64]:
    return np.stack([seen.signals[name] for name in FIGURES], axis=1)


@EVERY
def test_it_counts_what_lists_count(name: str) -> None:
    for seed in (1, 2):
        piece = stream(seed, name)
        seen, wanted = figures(observe(engine(name), [piece], [3, 50, 51, 200])), by_oracle(name, piece)
        np.testing.assert_allclose(seen, wanted, atol=1e-4)
        assert wanted[:, 0].max() > 1
        assert 0 < (wanted[:, 2] > 0).mean() < 1


@EVERY
def test_scores_and_figures_come_together_and_no_alarm_is_raised(name: str) -> None:
    seen = observe(engine(name), [stream(3, name)])
    assert not seen.findings and not seen.flagged.any()
    scores = figures(seen)
    assert (np.nanmax(scores[:, 0]) > 1) and not np.isnan(scores[:, 0]).any()
    assert np.isnan(scores[:, 1]).all() == (name != "tree")


@EVERY
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1_000), cuts=st.lists(st.integers(1, 259), max_size=10, unique=True))
def test_any_cut_gives_the_same(name: str, seed: int, cuts: list[int]) -> None:
    whole, parts = (
        observe(engine(name), [stream(seed, name)]),
        observe(engine(name), [stream(seed, name)], sorted(cuts)),
    )
    np.testing.assert_array_equal(figures(whole), figures(parts))


@pytest.mark.parametrize("limits", [Limits(), Limits(principals=3)])
def test_the_log_alone_brings_it_back(limits: Limits) -> None:
    live, recovered = engine(limits=limits), engine(limits=limits)
    for sections in observe(live, [stream(4)], [7, 99, 150]).sections:
        recovered.absorb(sections)
    later = stream(5)
    np.testing.assert_array_equal(figures(observe(live, [later], [40])), figures(observe(recovered, [later])))


def test_dump_and_load_bring_it_back() -> None:
    live, recovered = engine(), engine()
    observe(live, [stream(4)])
    for key in live.keys():
        recovered.load(live.dump([key]))
    later = stream(5)
    np.testing.assert_array_equal(figures(observe(live, [later])), figures(observe(recovered, [later])))


def test_what_was_evicted_is_forgotten() -> None:
    live = engine()
    observe(live, [stream(4)])
    live.clear("credit", "p1")
    later = stream(5)
    own = np.array([later.principals[at] == "p1" for at in later.principal_index])
    again = figures(observe(live, [later]))
    np.testing.assert_array_equal(again[own], figures(observe(engine(), [later]))[own])
    assert (again[~own] != figures(observe(engine(), [later]))[~own]).any()
    signal, slot, pools = Margin(live.config), np.array([0]), np.empty(0, np.int64)
    signal.apply(slot, pools, Delta.from_record(_state(live, "p1")))
    held = signal.nbytes(slot, pools)
    signal.evict(slot, pools)
    assert signal.nbytes(slot, pools) <= held - 2 * 4 * 32


def test_counts_of_another_profile_are_not_taken_over() -> None:
    old, new = engine(), engine("linear")
    tree = known(fitted(DecisionTreeClassifier(max_leaf_nodes=4, random_state=1)))
    other = Engine(EngineConfig(profiles=(tree,)), REGISTRY)
    observe(old, [stream(4)])
    log = old.dump(old.keys())
    for follower, fresh in ((new, engine("linear")), (other, Engine(EngineConfig(profiles=(tree,)), REGISTRY))):
        follower.load(log)
        for piece in (stream(6, count=8), stream(7)):
            np.testing.assert_array_equal(figures(observe(follower, [piece])), figures(observe(fresh, [piece])))


def _state(live: Engine, who: str) -> dict[str, Any]:
    return dict(unpack(live.dump([PrincipalKey("credit", "1", who)])["margin"][1]))


def test_a_long_honest_past_hides_nothing() -> None:
    """After 5,000 honest queries the thief's first hundred show as they would have without."""
    rows = rows_of(10, 5_000)
    tree = MODELS["tree"]
    assert isinstance(tree, Tree)
    honest = rows[~np.isin(rows[:, 0], close_to("tree", rows)[:, 0])]
    thief = np.repeat(rows[:1], 20, axis=0)
    thief[:, tree.feature[0]] = np.float32(tree.threshold[0]) + np.linspace(1e-4, 1e-3, 20, dtype=np.float32)
    alone = figures(observe(engine(), [queries(thief)]))
    late = figures(observe(engine(), [queries(np.concatenate((honest, thief)))]))[len(honest) :]
    np.testing.assert_array_equal(late[:, 3], alone[:, 3])
    assert late[8, 0] >= 1
    assert (late[:, 2] < 0.01).all()


def test_one_vector_sent_for_ever_counts_once() -> None:
    rows = np.tile(5 * UNITS, (300, 1))
    seen = figures(observe(engine(), [queries(rows)], [100]))
    assert (seen[:, 3] == pytest.approx(log(3))) and (seen[:, 0] < 0.2).all()


@pytest.mark.parametrize(
    ("name", "piece", "silent"),
    [
        ("tree", queries(rows_of(11), outputs=np.zeros((300, 1)), kind="label"), False),
        ("linear", queries(rows_of(11), outputs=np.zeros((300, 1)), kind="score"), False),
        ("none", queries(rows_of(11), outputs=np.zeros((300, 1)), kind="label"), True),
        ("none", queries(rows_of(11), outputs=np.zeros((300, 1)), kind="score"), True),
        ("tree", replace(queries(rows_of(11)), model="another"), True),
        ("tree", queries(rows_of(11), version="2"), False),
        ("tree", queries(rows_of(11)[:, :2]), True),
        ("tree", queries(rows_of(11), missing=np.ones((300, 3), np.bool_)), True),
        ("tree", queries(rows_of(11), missing=np.zeros((300, 3), np.bool_)), False),
        ("none", queries(rows_of(11), missing=np.ones((300, 3), np.bool_)), False),
    ],
)
def test_it_is_silent_where_nothing_can_be_told(name: str, piece: QueryBatch, silent: bool) -> None:
    seen = joined([(0, engine(name).observe([piece]))])
    assert np.isnan(figures(seen)).all() == silent
    assert np.isnan(seen.signals["margin"]).any() == silent


def test_it_is_silent_without_a_profile_and_then_keeps_nothing() -> None:
    live = Engine(EngineConfig(), REGISTRY)
    signal = live._state.signals[1]
    before = signal.nbytes()
    seen = observe(live, [stream(4)])
    assert np.isnan(figures(seen)).all()
    assert signal.nbytes() == before
    assert unpack(seen.sections[0]["margin"][1])[0][0] == {}


def grown(leaves: int) -> Profile:
    """A tree that halves the first feature's range as often as it has to."""
    nodes, inner = 2 * leaves - 1, leaves - 1
    spans = [(0.0, 1.0)]
    for low, high in (spans[at] for at in range(inner)):
        spans += [(low, (low + high) / 2), ((low + high) / 2, high)]
    feature = np.where(np.arange(nodes) < inner, 0, -1).astype(np.int32)
    children = 2 * np.arange(nodes, dtype=np.int32)[:, None] + np.array([1, 2], np.int32)
    names = FeatureNames.unnamed(3)
    tree = Tree(names, feature, np.array(spans).mean(axis=1), children, np.ones((leaves, 1)))
    ends = np.full(leaves, -np.inf), np.full(leaves, np.inf)
    margins = Margins(np.arange(leaves + 1), np.zeros(leaves, np.int64), *ends, np.empty(0), np.nan, 0.05)
    return replace(profile(rows_of(0)), owner_model=tree, margins=margins)


@pytest.mark.parametrize("leaves", [MOST_LEAVES, MOST_LEAVES + 1])
def test_state_is_bounded_however_large_the_tree(leaves: int) -> None:
    live = Engine(EngineConfig(profiles=(grown(leaves),)), REGISTRY)
    sizes = []
    for seed in range(12):
        seen = live.observe([queries(rows_of(seed, 3_000))])
        signal = live._state.signals[1]
        sizes.append(signal.nbytes(np.array([0]), np.empty(0, np.int64)))
    assert np.isnan(seen.signals["margin.all_leaves"]).all() == (leaves > MOST_LEAVES)
    assert not np.isnan(seen.signals["margin.pooled"]).any()
    most = 40 + (8 * MOST_LEAVES + 2 * 4 * MOST_LEAVES // 32 if leaves <= MOST_LEAVES else 2 * (4 + 4 * 32))
    assert sizes[-1] <= most
    if leaves <= MOST_LEAVES:
        assert sizes[-1] > most / 2
