"""Turns models of scikit-learn, ONNX and treelite into owner models: trees, ensembles of trees, linear classifiers.

Trees in files are first read as nodes by number, in any order, and then numbered from the root.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.core.owner_model import Ensemble, Features, Linear, OwnerModel, Tree
from detector.core.owner_model.models import LEAF, Link
from detector.runtime.text import read_text


class TreeSplit(NamedTuple):
    """A row whose ``feature`` is at most ``threshold`` goes to the node ``left``, any other to ``right``."""

    feature: int
    threshold: float
    left: int
    right: int


Leaf = list[float]
Nodes = Mapping[int, TreeSplit | Leaf]

_ONNX_OPERATORS = ("TreeEnsembleClassifier", "LinearClassifier")
_TRANSPARENT = ("Cast", "Identity")
_COMPARISONS = {b"BRANCH_LEQ": "<=", b"BRANCH_LT": "<", b"BRANCH_GT": ">", b"BRANCH_GTE": ">="}
_ONNX_LINKS: dict[bytes, Link] = {b"NONE": "identity", b"LOGISTIC": "logistic", b"SOFTMAX": "softmax"}
_TREELITE_LINKS: dict[str, Link] = {
    "identity": "identity",
    "identity_multiclass": "identity",
    "sigmoid": "logistic",
    "multiclass_ova": "logistic",
    "softmax": "softmax",
}


def from_scikit_learn(fitted: Any) -> OwnerModel:
    """Returns the arrays of a ``fitted`` model. Raises ConfigurationError for one that is not fitted, or of another
    kind."""
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    if hasattr(fitted, "tree_"):
        return _scikit_learn_tree(fitted, _features(fitted), 1.0)
    if isinstance(fitted, RandomForestClassifier | ExtraTreesClassifier) and hasattr(fitted, "estimators_"):
        share = 1.0 / len(fitted.estimators_)
        trees = tuple(_scikit_learn_tree(estimator, _features(fitted), share) for estimator in fitted.estimators_)
        return Ensemble(trees, np.zeros(trees[0].values.shape[1]), "identity")
    if all(hasattr(fitted, name) for name in ("coef_", "intercept_", "classes_")):
        weights = np.atleast_2d(np.ascontiguousarray(fitted.coef_, np.float64))
        link: Link = "identity"
        if hasattr(fitted, "predict_proba"):
            link = "logistic" if len(weights) == 1 else "softmax"
        intercepts = np.broadcast_to(np.asarray(fitted.intercept_, np.float64), len(weights))
        return Linear(_features(fitted), weights, intercepts.copy(), link)
    raise ConfigurationError(
        f"a {type(fitted).__name__} is not fitted, or of a kind that cannot be read here: give a fitted decision tree, "
        "random forest or linear classifier itself, not a pipeline around it; others by way of ONNX or treelite"
    )


def from_onnx(path: Path) -> OwnerModel:
    """Returns the classifier in a file that holds a tree ensemble or a linear classifier (operators of ai.onnx.ml), and
    nothing before it. Raises ConfigurationError."""
    onnx = _library("onnx", path)
    try:
        graph = onnx.load_model(path).graph
    except Exception as error:
        raise ConfigurationError(f"{path} is not an ONNX file: {error}") from error
    found = [node for node in graph.node if node.op_type in _ONNX_OPERATORS]
    if len(found) != 1:
        operators = ", ".join(node.op_type for node in graph.node)
        raise ConfigurationError(
            f"{path} holds {operators}; exactly one of {' and '.join(_ONNX_OPERATORS)} can be read"
        )
    (node,) = found
    _require_raw_input(graph, node, path)
    fields = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    for name in [name for name in fields if name.endswith("_as_tensor")]:
        fields[name.removesuffix("_as_tensor")] = onnx.numpy_helper.to_array(fields[name]).tolist()
    link = _ONNX_LINKS.get(fields.get("post_transform", b"NONE"))
    if link is None:
        given = fields["post_transform"].decode()
        raise ConfigurationError(f"post_transform of {path} is {given}; NONE, LOGISTIC and SOFTMAX can be read")
    return (_onnx_linear if node.op_type == "LinearClassifier" else _onnx_trees)(graph, fields, link)


def from_treelite(path: Path) -> OwnerModel:
    """Returns the tree ensemble in a checkpoint of treelite, or in a .json file written by its ``dump_as_json``. Raises
    ConfigurationError."""
    if path.suffix.lower() == ".json":
        text = read_text(path, "treelite's JSON")
    else:
        treelite = _library("treelite", path)
        try:
            text = treelite.Model.deserialize(path).dump_as_json(pretty_print=False)
        except Exception as error:
            raise ConfigurationError(f"{path} is neither .onnx, .json nor a treelite checkpoint: {error}") from error
    try:
        return _treelite_model(json.loads(text))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigurationError(f"{path} is not treelite's JSON ({type(error).__name__}: {error})") from error


def _library(name: str, path: Path) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{path} takes {name} to read: pip install 'weirguard[models]'") from error


def _scikit_learn_tree(fitted: Any, features: Features, share: float) -> Tree:
    """Returns a tree with class shares, or a regressor's one number, times ``share`` in its leaves."""
    tree = fitted.tree_
    if tree.value.shape[1] != 1:
        raise ConfigurationError(f"the tree gives {tree.value.shape[1]} outputs at once; give one for a single output")
    inner = tree.children_left >= 0
    values = tree.value[~inner, 0].astype(np.float64)
    if hasattr(fitted, "classes_"):
        values = values / values.sum(axis=1, keepdims=True)
    return Tree(
        features,
        np.where(inner, tree.feature, LEAF).astype(np.int32),
        np.where(inner, tree.threshold, 0.0),
        np.where(inner[:, None], np.stack((tree.children_left, tree.children_right), axis=1), 0).astype(np.int32),
        values * share,
    )


def _features(fitted: Any) -> Features:
    if hasattr(fitted, "feature_names_in_"):
        return Features.named([str(name) for name in fitted.feature_names_in_])
    return Features.unnamed(int(fitted.n_features_in_))


def _require_raw_input(graph: Any, node: Any, path: Path) -> None:
    """Raises ConfigurationError unless the model sees the features themselves, as the log has them."""
    made_by = {name: producer for producer in graph.node for name in producer.output}
    name = node.input[0]
    while name in made_by:
        if made_by[name].op_type not in _TRANSPARENT:
            raise ConfigurationError(
                f"in {path} a {made_by[name].op_type} changes the features before the {node.op_type}; export the "
                "classifier alone, and log what it is given"
            )
        name = made_by[name].input[0]


def _onnx_linear(_: Any, fields: dict[str, Any], link: Link) -> OwnerModel:
    intercepts = np.array(fields["intercepts"], np.float64)
    weights = np.array(fields["coefficients"], np.float64).reshape(len(intercepts), -1)
    if len(weights) == 2 and (weights[0] == -weights[1]).all() and intercepts[0] == -intercepts[1]:
        weights, intercepts = weights[1:], intercepts[1:]
    return Linear(Features.unnamed(weights.shape[1]), weights, intercepts, link)


def _onnx_trees(graph: Any, fields: dict[str, Any], link: Link) -> OwnerModel:
    declared = [dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim]
    features = Features.unnamed(max([*map(int, declared[1:2]), *(int(at) + 1 for at in fields["nodes_featureids"])]))
    classes = len(fields.get("classlabels_int64s") or fields.get("classlabels_strings") or ())
    values, base = _onnx_values(fields, link, classes)
    nodes: dict[int, dict[int, TreeSplit | Leaf]] = defaultdict(dict)
    names = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids")
    for tree, node, mode, feature, threshold, yes, no in zip(*(fields[f"nodes_{name}"] for name in names), strict=True):
        nodes[tree][node] = (
            values.get((tree, node), [0.0] * len(base))
            if mode == b"LEAF"
            else _split_by(_COMPARISONS.get(mode, mode.decode()), feature, threshold, yes, no)
        )
    return _tree_model(
        [_tree_of(features, nodes_of_tree, _root(nodes_of_tree)) for nodes_of_tree in nodes.values()], base, link
    )


def _onnx_values(fields: dict[str, Any], link: Link, classes: int) -> tuple[dict[tuple[int, int], Leaf], Leaf]:
    """Returns the values of each leaf by tree and node, and what is added to their sum.

    Of two classes one may have all the weights. That is its score; or, without a link and with no weight below 0, its
    probability, and the rest the other's.
    """
    base = [float(value) for value in fields.get("base_values") or ()]
    single = classes == 2 and len(set(fields["class_ids"])) == 1
    shares = single and link == "identity" and min(fields["class_weights"]) >= 0
    width = 1 if single and not shares else classes
    values: dict[tuple[int, int], Leaf] = defaultdict(lambda: [0.0] * width)
    entries = (fields[f"class_{name}"] for name in ("treeids", "nodeids", "ids", "weights"))
    for tree, node, class_id, weight in zip(*entries, strict=True):
        leaf = values[tree, node]
        leaf[0 if width == 1 else 1 if single else class_id] += weight
        if shares:
            leaf[0] -= weight
    if shares:
        return values, [1.0 - sum(base[:1]), sum(base[:1])]
    return values, base or [0.0] * width


def _treelite_model(body: dict[str, Any]) -> OwnerModel:
    link = _TREELITE_LINKS.get(body["postprocessor"])
    if link is None:
        raise ConfigurationError(
            f"postprocessor is {body['postprocessor']!r}; {', '.join(_TREELITE_LINKS)} can be read"
        )
    if body["sigmoid_alpha"] != 1.0:
        raise ConfigurationError(f"sigmoid_alpha is {body['sigmoid_alpha']}; only models where it is 1 can be read")
    if body["num_target"] != 1:
        raise ConfigurationError(f"num_target is {body['num_target']}; models of one output can be read")
    if len(body["trees"]) > 1 and not body["task_type"].endswith("Clf"):
        raise ConfigurationError(f"task_type is {body['task_type']}; of ensembles only classifiers have margins")
    classes, count = int(body["num_class"][0]), len(body["trees"])
    features = Features.unnamed(int(body["num_feature"]))
    per_class = count if body["leaf_vector_shape"] == [1, classes] else count / classes
    share = 1 / per_class if body["average_tree_output"] else 1.0

    def leaf_of(value_of_node: float | list[float], class_id: int) -> Leaf:
        """Returns the leaf values of a leaf that holds a number for each class, or one for ``class_id``."""
        if isinstance(value_of_node, list):
            return [value * share for value in value_of_node]
        return [value_of_node * share if at == class_id else 0.0 for at in range(classes)]

    trees = []
    for tree, class_id in zip(body["trees"], body["class_id"], strict=True):
        nodes = {
            node["node_id"]: leaf_of(node["leaf_value"], int(class_id))
            if "leaf_value" in node
            else _treelite_split(node)
            for node in tree["nodes"]
        }
        trees.append(_tree_of(features, nodes, tree["nodes"][0]["node_id"]))
    return _tree_model(trees, body["base_scores"], link)


def _treelite_split(node: dict[str, Any]) -> TreeSplit:
    if node["node_type"] != "numerical_test_node":
        raise ConfigurationError(f"node {node['node_id']} is a {node['node_type']}; only numbers can be compared")
    yes, no = node["left_child"], node["right_child"]
    return _split_by(node["comparison_op"], node["split_feature_id"], node["threshold"], yes, no)


def _split_by(comparison: str, feature: int, threshold: float, yes: int, no: int) -> TreeSplit:
    """Returns the split that sends a row whose ``feature`` compares with ``threshold`` to ``yes``. Raises
    ConfigurationError.

    Rows are float32, so that less than a number is the same as at most the float32 before it.
    """
    if comparison not in _COMPARISONS.values():
        known = ", ".join(_COMPARISONS.values())
        raise ConfigurationError(f"a node compares by {comparison}; only {known} can be read")
    if comparison in ("<", ">="):
        near = np.float32(threshold)
        threshold = float(near if near < threshold else np.nextafter(near, np.float32(-np.inf)))
    left, right = (yes, no) if comparison.startswith("<") else (no, yes)
    return TreeSplit(feature, threshold, left, right)


def _root(nodes: Nodes) -> int:
    """Returns the node that is not the child of another."""
    splits = [node for node in nodes.values() if isinstance(node, TreeSplit)]
    roots = set(nodes) - {child for split in splits for child in (split.left, split.right)}
    if len(roots) != 1:
        raise ConfigurationError(f"a tree has {len(roots)} nodes without a parent; it must have one, its root")
    return roots.pop()


def _tree_of(features: Features, nodes: Nodes, root: int) -> Tree:
    """Returns the tree below ``root``. Raises ConfigurationError if ``nodes`` make none."""
    ordered: list[TreeSplit | Leaf] = []
    children: list[list[int]] = []
    visited: set[int] = set()
    waiting = [(root, -1, 0)]
    while waiting:
        name, parent, side = waiting.pop()
        if name not in nodes or name in visited:
            raise ConfigurationError(f"node {name} is missing, or has two parents; write the file again")
        visited.add(name)
        node, number = nodes[name], len(ordered)
        ordered.append(node)
        children.append([0, 0])
        if parent >= 0:
            children[parent][side] = number
        if isinstance(node, TreeSplit):
            waiting += [(node.right, number, 1), (node.left, number, 0)]
    if unreachable := set(nodes) - visited:
        raise ConfigurationError(
            f"nodes {', '.join(map(str, sorted(unreachable)))} belong to no tree; write the file again"
        )
    splits = [node if isinstance(node, TreeSplit) else TreeSplit(LEAF, 0.0, 0, 0) for node in ordered]
    return Tree(
        features,
        np.array([node.feature for node in splits], np.int32),
        np.array([node.threshold for node in splits], np.float64),
        np.array(children, np.int32),
        np.array([node for node in ordered if not isinstance(node, TreeSplit)], np.float64),
    )


def _tree_model(trees: Sequence[Tree], base: Sequence[float], link: Link) -> OwnerModel:
    """Returns an ensemble, or the tree if it is a single one without a link."""
    if len(trees) > 1 or link != "identity":
        return Ensemble(tuple(trees), np.array(base, np.float64), link)
    only = trees[0]
    return Tree(only.features, only.feature, only.threshold, only.children, only.values + np.array(base, np.float64))
