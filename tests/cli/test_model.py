"""``weirguard model export``: from scikit-learn by import, from ONNX and treelite files, and never from a pickle."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from detector.cli.model import app
from detector.contracts.errors import ConfigurationError
from detector.core.owner_model import Ensemble, Linear, OwnerModel, Tree, from_json

MODULE = """
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

rows, labels = load_iris(return_X_y=True)
tree = DecisionTreeClassifier(max_leaf_nodes=5, random_state=0).fit(rows, labels)
raw = DecisionTreeClassifier()
pipeline = make_pipeline(LogisticRegression(max_iter=500)).fit(rows, labels)

class Served:
    model = pipeline[-1]
"""


def rows_of(dimension: int) -> NDArray[np.float32]:
    """Rows with plenty of values that are exactly 1, 2, 3 or 4."""
    rng = np.random.default_rng(0)
    return np.where(
        rng.random((500, dimension)) < 0.5, rng.integers(1, 5, (500, dimension)), rng.random((500, dimension)) * 5
    ).astype(np.float32)


def export(source: object, folder: Path) -> tuple[OwnerModel, str]:
    out = folder / "model.json"
    done = CliRunner().invoke(app, ["export", str(source), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return from_json(out.read_text("utf-8")), done.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "owners_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "owners_models", raising=False)
    return tmp_path


def test_a_fitted_model_is_imported_from_the_current_folder(folder: Path) -> None:
    path = list(sys.path)
    found, said = export("owners_models:tree", folder)
    assert isinstance(found, Tree)
    assert said == f"{folder / 'model.json'}: a tree of 5 leaves over 4 features\n"
    import owners_models  # type: ignore[import-not-found]

    rows = rows_of(4)
    np.testing.assert_allclose(found.outputs(rows), owners_models.tree.predict_proba(rows))
    assert sys.path == path


def test_an_attribute_of_an_attribute_is_found(folder: Path) -> None:
    found, said = export("owners_models:Served.model", folder)
    assert isinstance(found, Linear)
    assert found.link == "softmax"
    assert "a linear model of 3 classes over 4 features" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("owners_models:forest", "owners_models:forest: module 'owners_models' has no attribute 'forest'"),
        ("owners_modules:tree", "No module named 'owners_modules'"),
        ("owners_models:", "give package.module:attribute"),
        (":tree", "give package.module:attribute"),
        ("owners_models:raw", "a DecisionTreeClassifier is not fitted, or of a kind"),
        ("owners_models:pipeline", "a Pipeline is not fitted, or of a kind"),
        ("owners_models", "there is no file owners_models; give one, or package.module:attribute"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_a_reason(folder: Path, source: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        export(source, folder)
    assert not (folder / "model.json").exists()


class _Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["tree.pkl", "tree.joblib", "tree.JOBLIB", "tree.bin", "tree.onnx", "tree.json"])
def test_a_pickle_is_never_loaded_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    path, sprung = tmp_path / name, tmp_path / "sprung"
    path.write_bytes(pickle.dumps(_Trap(sprung)))
    with pytest.raises(ConfigurationError, match=r"looks like a pickle.*give package\.module:attribute"):
        export(path, tmp_path)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())  # noqa: S301  # ours, and the trap works
    assert sprung.exists()


@pytest.mark.parametrize(("name", "library"), [("model.onnx", "onnx"), ("model.bin", "treelite")])
def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=rf"takes {library} to read: pip install 'weirguard\[models\]'"):
        export(tmp_path / name, tmp_path)


def split(node: int, comparison: str, feature: int, threshold: float) -> dict[str, Any]:
    return {
        "node_id": node,
        "node_type": "numerical_test_node",
        "comparison_op": comparison,
        "split_feature_id": feature,
        "threshold": threshold,
        "left_child": 2 * node + 1,
        "right_child": 2 * node + 2,
    }


def leaf(node: int, value: float | list[float]) -> dict[str, Any]:
    return {"node_id": node, "leaf_value": value}


def treelite(trees: list[list[dict[str, Any]]], **changed: Any) -> dict[str, Any]:
    """A binary classifier of two features, as treelite writes it down."""
    plain = {
        "num_feature": 2,
        "task_type": "kBinaryClf",
        "average_tree_output": False,
        "num_target": 1,
        "num_class": [1],
        "leaf_vector_shape": [1, 1],
        "class_id": [0] * len(trees),
        "postprocessor": "sigmoid",
        "sigmoid_alpha": 1.0,
        "base_scores": [0.0],
        "trees": [{"nodes": nodes} for nodes in trees],
    }
    return plain | changed


def read_treelite(body: Any, folder: Path) -> OwnerModel:
    path = folder / "dumped.json"
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    return export(path, folder)[0]


COMPARED = {"<=": np.less_equal, "<": np.less, ">": np.greater, ">=": np.greater_equal}


@pytest.mark.parametrize("comparison", COMPARED)
def test_treelite_compares_as_it_says(tmp_path: Path, comparison: str) -> None:
    trees = [[split(0, comparison, 1, 3.0), leaf(1, 1.5), leaf(2, -0.5)], [leaf(0, 0.25)]]
    found = read_treelite(treelite(trees, base_scores=[0.125]), tmp_path)
    rows = rows_of(2)
    yes = COMPARED[comparison](rows[:, 1], 3.0)
    wanted = 1 / (1 + np.exp(-(np.where(yes, 1.5, -0.5) + 0.375)))
    np.testing.assert_allclose(found.outputs(rows), np.stack((1 - wanted, wanted), axis=1))


def test_treelite_forests_are_means_and_boosted_classes_take_turns(tmp_path: Path) -> None:
    shares = [
        [split(0, "<=", 0, 2.0), leaf(1, [1.0, 0.0, 0.0]), leaf(2, [0.0, 0.5, 0.5])],
        [leaf(0, [0.5, 0.25, 0.25])],
    ]
    three = {"task_type": "kMultiClf", "num_class": [3], "base_scores": [0.0, 0.0, 0.0]}
    mean = three | {"leaf_vector_shape": [1, 3], "average_tree_output": True, "postprocessor": "identity_multiclass"}
    rows = np.array([[2.0, 0.0], [2.5, 0.0]], np.float32)
    forest = read_treelite(treelite(shares, class_id=[-1, -1], **mean), tmp_path)
    np.testing.assert_allclose(forest.outputs(rows), [[0.75, 0.125, 0.125], [0.25, 0.375, 0.375]])
    boosted = [[split(0, "<=", 0, 2.0), leaf(1, 1.0), leaf(2, 0.0)], [leaf(0, 0.5)], [leaf(0, 0.25)]]
    found = read_treelite(treelite(boosted, class_id=[0, 1, 2], postprocessor="softmax", **three), tmp_path)
    scores = np.exp([[1.0, 0.5, 0.25], [0.0, 0.5, 0.25]])
    np.testing.assert_allclose(found.outputs(rows), scores / scores.sum(axis=1, keepdims=True))
    turns = treelite(boosted * 2, class_id=[0, 1, 2] * 2, **three | mean | {"leaf_vector_shape": [1, 1]})
    np.testing.assert_allclose(read_treelite(turns, tmp_path).outputs(rows), [[1.0, 0.5, 0.25], [0.0, 0.5, 0.25]])


def test_one_tree_without_a_link_is_a_tree_with_margins(tmp_path: Path) -> None:
    nodes = [split(0, "<=", 0, 2.0), leaf(2, [0.1, 0.9]), leaf(1, [0.8, 0.2])]
    body = treelite(
        [nodes], num_class=[2], leaf_vector_shape=[1, 2], postprocessor="identity_multiclass", base_scores=[0, 0]
    )
    found = read_treelite(body, tmp_path)
    assert isinstance(found, Tree)
    np.testing.assert_allclose(found.outputs(np.array([[2, 0], [3, 0]], np.float32)), [[0.8, 0.2], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "is not treelite's JSON"),
        ("[]", "is not treelite's JSON"),
        ({}, "is not treelite's JSON .*postprocessor"),
        (treelite([[leaf(0, 1.0)]], postprocessor="exponential"), "postprocessor is 'exponential'"),
        (treelite([[leaf(0, 1.0)]], sigmoid_alpha=2.0), "sigmoid_alpha is 2.0"),
        (treelite([[leaf(0, 1.0)]], num_target=2), "num_target is 2"),
        (treelite([[leaf(0, 1.0)]] * 2, task_type="kRegressor", postprocessor="identity"), "task_type is kRegressor"),
        (treelite([[split(0, "==", 0, 1.0), leaf(1, 1.0), leaf(2, 1.0)]]), "compares by =="),
        (treelite([[split(0, "<", 0, 1.0) | {"node_type": "categorical_test_node"}]]), "node 0 is a categorical"),
        (treelite([[split(0, "<", 0, 1.0), leaf(1, 1.0)]]), "node 2 is missing"),
        (
            treelite([[split(0, "<", 0, 1.0) | {"left_child": 0}, leaf(2, 1.0)]]),
            "node 0 is missing, or has two parents",
        ),
    ],
)
def test_what_treelites_json_cannot_say_here_is_refused(tmp_path: Path, body: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_treelite(body, tmp_path)


def test_a_treelite_checkpoint_is_read_by_treelite(tmp_path: Path) -> None:
    library = pytest.importorskip("treelite")
    from sklearn.datasets import load_iris
    from sklearn.ensemble import GradientBoostingClassifier

    rows, labels = load_iris(return_X_y=True)
    fitted = GradientBoostingClassifier(n_estimators=3, random_state=0).fit(rows, labels)
    library.sklearn.import_model(fitted).serialize(tmp_path / "boosted.tl")
    found, _ = export(tmp_path / "boosted.tl", tmp_path)
    np.testing.assert_allclose(found.outputs(rows_of(4)), fitted.predict_proba(rows_of(4)), atol=1e-6)
    (tmp_path / "other.tl").write_bytes(b"something else")
    with pytest.raises(ConfigurationError, match=r"other\.tl is neither \.onnx, \.json nor a treelite checkpoint"):
        export(tmp_path / "other.tl", tmp_path)


def onnx_file(folder: Path, operator: str, before: str | None = None, **fields: Any) -> Path:
    """A model of one operator, and possibly one before it."""
    onnx = pytest.importorskip("onnx")
    helper, float_type, int_type = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    nodes = [helper.make_node(operator, ["y"], ["label", "scores"], domain="ai.onnx.ml", **fields)]
    nodes.insert(0, helper.make_node(before or "Identity", ["x"], ["y"]))
    outputs = [helper.make_tensor_value_info("label", int_type, [None])]
    outputs.append(helper.make_tensor_value_info("scores", float_type, [None, None]))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", float_type, [None, 3])], outputs)
    onnx.save_model(helper.make_model(graph), folder / "model.onnx")
    return folder / "model.onnx"


def onnx_tree(mode: str = "BRANCH_LEQ", **fields: Any) -> dict[str, Any]:
    """Feature 2 against 3: the probabilities of class 1 of two are .25 and .75."""
    plain = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_modes": [mode, "LEAF", "LEAF"],
        "nodes_featureids": [2, 0, 0],
        "nodes_values": [3.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "class_treeids": [0, 0],
        "class_nodeids": [1, 2],
        "class_ids": [0, 0],
        "class_weights": [0.25, 0.75],
        "classlabels_int64s": [0, 1],
        "post_transform": "NONE",
    }
    return plain | fields


@pytest.mark.parametrize("comparison", COMPARED)
def test_an_onnx_tree_compares_as_it_says(tmp_path: Path, comparison: str) -> None:
    mode = {"<=": "BRANCH_LEQ", "<": "BRANCH_LT", ">": "BRANCH_GT", ">=": "BRANCH_GTE"}[comparison]
    found, _ = export(onnx_file(tmp_path, "TreeEnsembleClassifier", **onnx_tree(mode)), tmp_path)
    assert isinstance(found, Tree)
    rows = rows_of(3)
    wanted = np.where(COMPARED[comparison](rows[:, 2], 3.0), 0.25, 0.75)
    np.testing.assert_allclose(found.outputs(rows), np.stack((1 - wanted, wanted), axis=1))


def test_onnx_scores_of_one_class_and_of_each(tmp_path: Path) -> None:
    rows = np.array([[0, 0, 3], [0, 0, 4]], np.float32)
    one = onnx_tree(class_weights=[-1.0, 1.0], post_transform="LOGISTIC", base_values=[0.5])
    found, _ = export(onnx_file(tmp_path, "TreeEnsembleClassifier", **one), tmp_path)
    assert isinstance(found, Ensemble)
    np.testing.assert_allclose(found.outputs(rows)[:, 1], 1 / (1 + np.exp([0.5, -1.5])), rtol=1e-6)
    three: dict[str, Any] = {"class_treeids": [0] * 4, "class_nodeids": [1, 1, 2, 2], "class_ids": [0, 1, 1, 2]}
    each = onnx_tree(**three, class_weights=[0.75, 0.25, 0.5, 0.5], classlabels_int64s=[0, 1, 2])
    found, _ = export(onnx_file(tmp_path, "TreeEnsembleClassifier", **each), tmp_path)
    np.testing.assert_allclose(found.outputs(rows), [[0.75, 0.25, 0], [0, 0.5, 0.5]])


def test_an_onnx_linear_classifier_of_two_classes_is_one_row_of_weights(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "coefficients": [-1.0, 2.0, 0.5, 1.0, -2.0, -0.5],
        "intercepts": [0.25, -0.25],
        "classlabels_ints": [0, 1],
    }
    found, _ = export(onnx_file(tmp_path, "LinearClassifier", **fields, post_transform="LOGISTIC"), tmp_path)
    assert isinstance(found, Linear)
    np.testing.assert_array_equal(found.weights, [[1.0, -2.0, -0.5]])
    np.testing.assert_array_equal(found.intercepts, [-0.25])
    assert (found.link, found.sides) == ("logistic", 2)


@pytest.mark.parametrize(
    ("operator", "before", "changed", "said"),
    [
        ("TreeEnsembleClassifier", "Sqrt", {}, "a Sqrt changes the features before the TreeEnsembleClassifier"),
        ("TreeEnsembleClassifier", None, {"nodes_modes": ["BRANCH_EQ", "LEAF", "LEAF"]}, "compares by BRANCH_EQ"),
        ("TreeEnsembleClassifier", None, {"post_transform": "PROBIT"}, "post_transform of .* is PROBIT"),
        ("TreeEnsembleClassifier", None, {"nodes_falsenodeids": [0, 0, 0]}, "nodes 0, 1 are of no tree"),
        ("SVMClassifier", None, {}, "holds Identity, SVMClassifier; exactly one of"),
    ],
)
def test_what_onnx_cannot_say_here_is_refused(
    tmp_path: Path, operator: str, before: str | None, changed: dict[str, Any], said: str
) -> None:
    fields = onnx_tree(**changed) if operator == "TreeEnsembleClassifier" else {}
    with pytest.raises(ConfigurationError, match=said):
        export(onnx_file(tmp_path, operator, before, **fields), tmp_path)


def test_a_broken_onnx_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "model.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ConfigurationError, match="is not an ONNX file"):
        export(tmp_path / "model.onnx", tmp_path)
