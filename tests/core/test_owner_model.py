"""A model says what scikit-learn's does and comes back from its file; a wrong file is refused by its field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from detector.cli.foreign import from_scikit_learn
from detector.contracts.errors import ConfigurationError
from detector.core.owner_model import Ensemble, Linear, OwnerModel, Tree, from_json, from_record, to_json
from detector.core.owner_model.margins import Margins, safe_intervals
from detector.core.owner_model.models import Features
from detector.core.state.arrays import pack, unpack

Rows = NDArray[np.float32]


def data(seed: int, count: int = 400, classes: int = 3) -> tuple[Rows, NDArray[np.int64]]:
    """Features of 4 columns, the last of them 0, 1 or 2, and labels that they explain in part."""
    rng = np.random.default_rng(seed)
    rows = rng.random((count, 4)).astype(np.float32)
    rows[:, 3] = rng.integers(0, 3, count)
    score = rows[:, 0] + rows[:, 1] * rows[:, 3] + 0.1 * rng.standard_normal(count)
    return rows, np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))


def tree(seed: int = 0, **options: Any) -> Tree:
    fitted = DecisionTreeClassifier(random_state=0, **options).fit(*data(seed))
    found = from_scikit_learn(fitted)
    assert isinstance(found, Tree)
    return found


FITTED: dict[str, Callable[[], Any]] = {
    "tree": lambda: DecisionTreeClassifier(random_state=0).fit(*data(1)),
    "stump": lambda: DecisionTreeClassifier(max_depth=1).fit(*data(1, classes=2)),
    "leaf": lambda: DecisionTreeClassifier().fit(np.ones((3, 4)), [0, 0, 0]),
    "best first": lambda: DecisionTreeClassifier(max_leaf_nodes=9, class_weight="balanced").fit(*data(2)),
    "forest": lambda: RandomForestClassifier(7, max_depth=4, random_state=0).fit(*data(3)),
    "binary": lambda: LogisticRegression().fit(*data(4, classes=2)),
    "multinomial": lambda: LogisticRegression().fit(*data(4)),
}
EVERY = pytest.mark.parametrize("name", FITTED)


@EVERY
def test_it_says_what_scikit_learn_says(name: str) -> None:
    fitted = FITTED[name]()
    rows = data(9, 500)[0] * np.float32(1.5) - np.float32(0.2)
    np.testing.assert_allclose(from_scikit_learn(fitted).outputs(rows), fitted.predict_proba(rows), atol=1e-5)


def test_a_regressor_and_a_support_vector_machine_are_read_too() -> None:
    rows, labels = data(5)
    regressor = DecisionTreeRegressor(max_depth=4).fit(rows, rows[:, 0])
    np.testing.assert_allclose(from_scikit_learn(regressor).outputs(rows)[:, 0], regressor.predict(rows))
    for classes in (2, 3):
        machine = LinearSVC().fit(rows, labels % classes)
        np.testing.assert_array_equal(from_scikit_learn(machine).outputs(rows).argmax(axis=1), machine.predict(rows))


def test_leaves_are_scikit_learns_in_the_order_of_their_nodes() -> None:
    fitted = DecisionTreeClassifier(random_state=0).fit(*data(6))
    found = from_scikit_learn(fitted)
    assert isinstance(found, Tree)
    rows = data(7, 1_000)[0]
    nodes, own = np.unique(fitted.apply(rows), return_inverse=True)
    number = np.cumsum(fitted.tree_.children_left < 0) - 1
    np.testing.assert_array_equal(found.leaf(rows), number[nodes][own])
    assert found.leaves == fitted.get_n_leaves()


def test_values_on_a_threshold_go_where_scikit_learn_sends_them() -> None:
    """float32 rows against float64 thresholds: the float32 nearest to a threshold may lie on either side of it."""
    fitted = DecisionTreeClassifier(random_state=0).fit(*data(8))
    found = from_scikit_learn(fitted)
    assert isinstance(found, Tree)
    inner = np.flatnonzero(fitted.tree_.feature >= 0)
    rows = np.repeat(data(8)[0][: len(inner)], 3, axis=0)
    near = fitted.tree_.threshold[inner].astype(np.float32)
    beside = np.stack((near, np.nextafter(near, np.float32(-9)), np.nextafter(near, np.float32(9))), axis=1)
    rows[np.arange(len(rows)), np.repeat(fitted.tree_.feature[inner], 3)] = beside.ravel()
    np.testing.assert_allclose(found.outputs(rows), fitted.predict_proba(rows))


def test_paths_hold_exactly_the_rows_of_their_leaf() -> None:
    found, rows = tree(), data(10, 300)[0]
    leaf, paths = found.leaf(rows), found.paths
    for at in range(found.leaves):
        own = slice(int(paths.starts[at]), int(paths.starts[at + 1]))
        values = rows[:, paths.feature[own]]
        inside = ((values > paths.low[own]) & (values <= paths.high[own])).all(axis=1)
        np.testing.assert_array_equal(inside, leaf == at)
        assert len(set(paths.feature[own].tolist())) == own.stop - own.start


def _one_feature(*thresholds: float) -> Tree:
    """Each threshold is asked of what went left before."""
    nodes: list[dict[str, Any]] = []
    for threshold in thresholds:
        at = len(nodes)
        nodes += [{"feature": 0, "threshold": threshold, "left": at + 2, "right": at + 1}, {"value": [at]}]
    body = TREE | {"nodes": [*nodes, {"value": [-1]}]}
    model = from_json(json.dumps(body))
    assert isinstance(model, Tree)
    return model


def test_a_threshold_that_parts_nothing_widens_no_path() -> None:
    paths = _one_feature(1.0, 5.0).paths
    np.testing.assert_array_equal(paths.high, [np.inf, 1.0, 1.0])


def test_a_leaf_beyond_all_rows_has_an_interval_that_is_none() -> None:
    """Its open side would be closed on the far side of its bound."""
    rows = np.linspace(2, 3, 50, dtype=np.float32)[:, None]
    low, high = safe_intervals(_one_feature(1.0), rows)
    np.testing.assert_allclose((low[1], high[1]), (1.0, 1.0))
    assert low[0] == pytest.approx(1.15)
    assert low[0] < high[0] <= 3


@EVERY
def test_it_comes_back_from_its_file_and_its_record(name: str) -> None:
    model = from_scikit_learn(FITTED[name]())
    rows = data(11, 200)[0]
    for back in (from_json(to_json(model)), from_record(unpack(pack(model)))):
        assert type(back) is type(model)
        np.testing.assert_array_equal(back.outputs(rows), model.outputs(rows))
        assert to_json(back) == to_json(model)


def test_names_and_ranges_are_kept() -> None:
    features = Features(("age", "größe"), np.array([0.0, np.nan]), np.array([100.0, np.nan]))
    model = Linear(features, np.ones((1, 2)), np.zeros(1), "logistic")
    back = from_json(to_json(model)).features
    assert back.names == ("age", "größe")
    np.testing.assert_array_equal(back.low, features.low)
    np.testing.assert_array_equal(back.high, features.high)


LEAVES = [{"value": [1, 0]}, {"value": [0, 2]}]
SPLIT = {"feature": 0, "threshold": 0.5, "left": 1, "right": 2}
TREE = {"schema": "weirguard.model/1", "kind": "tree", "features": [{"name": "a"}], "nodes": [SPLIT, *LEAVES]}
LINEAR = {**TREE, "kind": "linear", "weights": [[1.0]], "intercepts": [0.0], "link": "logistic"}
ENSEMBLE = {**TREE, "kind": "ensemble", "trees": [{"nodes": TREE["nodes"]}], "base": [0, 0], "link": "softmax"}


def _nodes(*nodes: Any) -> dict[str, Any]:
    return TREE | {"nodes": list(nodes)}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], r"not a model file"),
        (TREE | {"schema": "weirguard.model/2"}, r"^schema is 'weirguard.model/2'"),
        (TREE | {"kind": "svm"}, r"^kind is 'svm'"),
        (TREE | {"features": []}, r"^features is empty"),
        (TREE | {"features": [{"name": ""}]}, r"^features\[0\]\.name"),
        (TREE | {"features": [{"name": 3}]}, r"\$\.features\[0\]\.name"),
        (TREE | {"features": [{"name": "a", "low": 1, "high": 1}]}, r"^features\[0\]\.low is 1"),
        ({name: value for name, value in TREE.items() if name != "nodes"}, r"`nodes`"),
        (_nodes(), r"^nodes is empty"),
        (_nodes(SPLIT | {"feature": 1}, *LEAVES), r"^nodes\[0\]\.feature is not one of the 1 features"),
        (_nodes(SPLIT | {"feature": -1}, *LEAVES), r"\.feature"),
        (_nodes(SPLIT | {"feature": 2**40}, *LEAVES), r"\.feature"),
        (_nodes(SPLIT | {"threshold": "low"}, *LEAVES), r"\.threshold"),
        (_nodes(SPLIT | {"left": 0}, *LEAVES), r"^nodes\[0\]\.left"),
        (_nodes(SPLIT | {"right": 3}, *LEAVES), r"^nodes\[0\]\.right"),
        (_nodes(SPLIT | {"right": 1}, *LEAVES), r"^nodes\[1\] must be the child of exactly one node"),
        (_nodes(LEAVES[0], *LEAVES), r"^nodes\[1\] must be the child of exactly one node"),
        (_nodes(SPLIT | {"value": [1, 2]}, *LEAVES), r"^nodes\[0\] must have either"),
        (_nodes({"feature": 0, "threshold": 1.0}, *LEAVES), r"^nodes\[0\] must have either"),
        (_nodes(SPLIT, LEAVES[0], {"value": [1]}), r"^nodes\[2\]\.value"),
        (_nodes(SPLIT, {"value": []}, {"value": []}), r"^nodes\[1\]\.value"),
        (LINEAR | {"weights": []}, r"^weights is empty"),
        (LINEAR | {"weights": [[1.0, 2.0]]}, r"^weights\[0\] has 2 numbers for 1 features"),
        (LINEAR | {"intercepts": [1.0, 2.0]}, r"^intercepts"),
        (LINEAR | {"link": "probit"}, r"\.link"),
        (LINEAR | {"link": "softmax"}, r"^link is softmax"),
        (ENSEMBLE | {"trees": []}, r"^trees is empty"),
        (ENSEMBLE | {"base": [0.0]}, r"^trees\[0\] must have as many values a leaf as base"),
        (ENSEMBLE | {"trees": [{"nodes": [SPLIT]}]}, r"^trees\[0\]\.nodes\[0\]\.left"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(body: Any, said: str) -> None:
    for good in (TREE, LINEAR, ENSEMBLE):
        from_json(json.dumps(good))
    with pytest.raises(ConfigurationError, match=said):
        from_json(json.dumps(body))


def test_a_record_with_a_loop_is_refused() -> None:
    record = unpack(pack(tree()))
    children = record["children"].copy()
    children[0] = 0
    with pytest.raises(ConfigurationError, match=r"nodes\[0\]\.left"):
        from_record(record | {"children": children})
    with pytest.raises(ConfigurationError, match="kind is 'svm'"):
        from_record(record | {"kind": "svm"})


# The safe intervals, by the published recipe one after the other.


def _published(values: NDArray[np.float64], low: float, high: float) -> tuple[float, float]:
    """The ends of one safe interval, for features that range over 0..1; without regard to what is ours."""
    cap = 0.075 * abs(high - low)
    if len(values) == 0:
        return low + cap, high - cap
    if len(values) <= 5:
        return low + min(abs(low - min(values)), cap), high - min(abs(high - max(values)), cap)
    search = GridSearchCV(KernelDensity(kernel="gaussian"), {"bandwidth": np.linspace(0.01, 1.0, 30)}, cv=5)
    best = search.fit(values[:, None]).best_estimator_
    grid = np.linspace(low, high, 1000)
    density = np.exp(best.score_samples(grid[:, None]))
    mass, first, last = 0.0, low, high
    found_first, found_last = False, False
    for at in range(1, 1000):
        mass += (density[at] + density[at - 1]) / 2 * (grid[at] - grid[at - 1])
        if mass >= 0.005 and not found_first:
            first, found_first = grid[at], True
        if mass >= 0.995 and not found_last:
            last, found_last = grid[at], True
    first, last = min(first, values.min()), max(last, values.max())
    return low + min(abs(low - first), cap), high - min(abs(high - last), cap)


def test_safe_intervals_are_the_published_ones() -> None:
    rows, labels = data(12, 120)
    rows[:, 3] /= 2
    rows[0], rows[1] = 0.0, 1.0
    fitted = from_scikit_learn(DecisionTreeClassifier(max_leaf_nodes=9, random_state=0).fit(rows, labels))
    assert isinstance(fitted, Tree)
    paths, leaf = fitted.paths, fitted.leaf(rows)
    keep = (leaf != 3) & ((leaf != 5) | (np.cumsum(leaf == 5) <= 4))  # one leaf without rows and one with few
    keep[:2] = True
    rows, leaf = rows[keep], leaf[keep]
    low, high = safe_intervals(fitted, rows)
    sizes = set()
    for at in range(fitted.leaves):
        for entry in range(int(paths.starts[at]), int(paths.starts[at + 1])):
            values = rows[leaf == at][:, paths.feature[entry]].astype(np.float64)
            wanted = _published(values, max(float(paths.low[entry]), 0.0), min(float(paths.high[entry]), 1.0))
            np.testing.assert_allclose((low[entry], high[entry]), wanted, atol=1e-9)
            sizes.add(min(len(values), 6))
    assert {4, 6} < sizes


def test_units_do_not_matter() -> None:
    rows, labels = data(13)
    marks = []
    for units in ([1, 1, 1, 1], [1024, 1 / 4, 1, 8]):
        scale = np.array(units, np.float32)
        fitted = from_scikit_learn(DecisionTreeClassifier(max_leaf_nodes=12, random_state=0).fit(rows * scale, labels))
        assert isinstance(fitted, Tree)
        low, high = safe_intervals(fitted, rows * scale)
        width = scale[fitted.paths.feature]
        marks.append((low / width, high / width))
    np.testing.assert_allclose(marks[0], marks[1], rtol=1e-6)


def test_who_has_the_lowest_category_is_not_in_its_margin() -> None:
    rows, labels = data(14, 1_000)
    fitted = from_scikit_learn(DecisionTreeClassifier(max_leaf_nodes=12, random_state=0).fit(rows, labels))
    margins = Margins.of(fitted, rows)
    assert margins is not None and isinstance(fitted, Tree)
    assert (fitted.feature == 3).any()
    assert margins.close(fitted, rows, None).inside.mean() < 0.05
    margin = margins.low[fitted.paths.feature[: len(margins.low)] == 3]
    assert (margin[margin < 0.4] <= 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_few_honest_queries_lie_in_margins_and_most_near_a_threshold_do(seed: int) -> None:
    rows, labels = data(seed, 600)
    fitted = from_scikit_learn(DecisionTreeClassifier(max_leaf_nodes=8, random_state=0).fit(rows, labels))
    margins = Margins.of(fitted, rows)
    assert margins is not None and isinstance(fitted, Tree)
    assert 0.005 <= margins.rate < 0.25
    fresh = data(seed + 1, 600)[0]
    assert margins.close(fitted, fresh, None).inside.mean() < 2 * margins.rate + 0.05
    outside = fresh[:50].copy()
    outside[:, fitted.feature[0]] = 7.0
    assert margins.close(fitted, outside, None).inside.all()


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_distances_to_a_linear_boundary_are_those_to_points_beyond_it(classes: int) -> None:
    """Going that far towards the nearest other class changes the answer, and a little less does not."""
    rows, labels = data(15, classes=classes)
    fitted = from_scikit_learn(LogisticRegression(C=10).fit(rows, labels))
    assert isinstance(fitted, Linear)
    side, distance = fitted.distances(rows)
    np.testing.assert_array_equal(side, fitted.outputs(rows).argmax(axis=1))
    weights = fitted.weights if classes > 2 else np.stack((-fitted.weights[0], fitted.weights[0])) / 2
    for at in range(0, 400, 20):
        towards = np.delete(weights - weights[side[at]], side[at], axis=0)
        moves = distance[at] * towards / np.linalg.norm(towards, axis=1, keepdims=True)
        for far, changed in ((0.999, False), (1.001, True)):
            there = (rows[at] + far * moves).astype(np.float32)
            assert (fitted.distances(there)[0] != side[at]).any() == changed


def test_linear_margins_hold_a_twentieth_of_each_side() -> None:
    rows, labels = data(16, 2_000, classes=3)
    fitted = from_scikit_learn(LogisticRegression().fit(rows, labels))
    assert isinstance(fitted, Linear)
    margins = Margins.of(fitted, rows)
    assert margins is not None
    inside = margins.close(fitted, rows, None).inside
    side = fitted.distances(rows)[0]
    for own in range(3):
        assert inside[side == own].mean() == pytest.approx(0.05, abs=0.005)
    assert margins.rate == pytest.approx(0.05, abs=0.02)


def test_a_linear_model_says_the_same_of_a_row_alone() -> None:
    rng = np.random.default_rng(17)
    rows = rng.random((300, 97), dtype=np.float32)
    model = Linear(Features.unnamed(97), rng.standard_normal((5, 97)), np.zeros(5), "softmax")
    alone = np.concatenate([model.scores(rows[at : at + 1]) for at in range(300)])
    np.testing.assert_array_equal(alone, model.scores(rows))


def test_probability_margins_need_probabilities_or_an_ensemble() -> None:
    rows, labels = data(18)
    forest = RandomForestClassifier(20, max_depth=5, random_state=0).fit(rows, labels)
    told = forest.predict_proba(rows).astype(np.float32)
    model = from_scikit_learn(forest)
    assert isinstance(model, Ensemble)
    of_model, of_log = Margins.of(model, rows), Margins.of(None, rows, told)
    assert of_model is not None and of_log is not None
    assert of_log.low_margin == pytest.approx(of_model.low_margin, abs=1e-6)
    top = np.sort(told, axis=1)
    lead = top[:, -1] - top[:, -2]
    assert (lead < of_log.low_margin).mean() == pytest.approx(0.05, abs=0.01)
    halves = lead[::2], lead[1::2]
    crossed = sum((one < np.quantile(other, 0.05)).sum() for one, other in (halves, halves[::-1]))
    assert of_log.rate == pytest.approx((crossed + 0.5) / 401)
    np.testing.assert_array_equal(of_log.close(None, rows, told).inside, lead < of_log.low_margin)
    assert Margins.of(None, rows) is None
    assert Margins.of(None, rows, told[:, :1]) is None
    told[7] = np.nan
    assert not of_log.close(None, rows, told).known[7]


@EVERY
def test_margins_come_back_from_their_record(name: str) -> None:
    model: OwnerModel = from_scikit_learn(FITTED[name]())
    rows = data(19, 200)[0]
    margins = Margins.of(model, rows)
    assert margins is not None
    back = Margins(**unpack(pack(margins)))
    np.testing.assert_array_equal(back.close(model, rows, None).inside, margins.close(model, rows, None).inside)
    assert back.rate == margins.rate


def test_rows_of_another_dimension_say_nothing_and_make_no_margins() -> None:
    model, rows = tree(), data(20)[0]
    margins = Margins.of(model, rows)
    assert margins is not None
    assert not margins.close(model, rows[:, :3], None).known.any()
    with pytest.raises(ConfigurationError, match="the model has 4 of them and the rows 3"):
        Margins.of(model, rows[:, :3])
    with pytest.raises(ConfigurationError, match="there are 1 of them"):
        Margins.of(model, rows[:1])
