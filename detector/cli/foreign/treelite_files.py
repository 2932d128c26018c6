"""Tree ensembles in treelite's form: its checkpoints, and the JSON that its ``dump_as_json`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detector.cli.foreign.growing import Split, model_of, split_by, tree_of
from detector.cli.foreign.libraries import library
from detector.contracts.errors import ConfigurationError
from detector.core.owner_model import Features, OwnerModel, Tree
from detector.core.owner_model.models import Link
from detector.runtime.text import read_text

_LINKS: dict[str, Link] = {
    "identity": "identity",
    "identity_multiclass": "identity",
    "sigmoid": "logistic",
    "multiclass_ova": "logistic",
    "softmax": "softmax",
}


def read_checkpoint(path: Path) -> OwnerModel:
    """The model in a file that treelite's ``serialize`` wrote. Raises ConfigurationError."""
    treelite = library("treelite", path)
    try:
        text = treelite.Model.deserialize(path).dump_as_json(pretty_print=False)
    except Exception as error:
        raise ConfigurationError(f"{path} is neither .onnx, .json nor a treelite checkpoint: {error}") from error
    return _read(text, path)


def read_json(path: Path) -> OwnerModel:
    """The model in a file that holds what ``dump_as_json`` gave. Raises ConfigurationError."""
    return _read(read_text(path, "treelite's JSON"), path)


def _read(text: str, path: Path) -> OwnerModel:
    try:
        return _model(json.loads(text))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigurationError(f"{path} is not treelite's JSON ({type(error).__name__}: {error})") from error


def _model(body: dict[str, Any]) -> OwnerModel:
    link = _LINKS.get(body["postprocessor"])
    if link is None:
        raise ConfigurationError(f"postprocessor is {body['postprocessor']!r}; {', '.join(_LINKS)} can be read")
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
    trees = [
        _tree(tree, features, _Leaves(classes, int(own), share))
        for tree, own in zip(body["trees"], body["class_id"], strict=True)
    ]
    return model_of(trees, body["base_scores"], link)


class _Leaves:
    """Makes leaf values of what a leaf of a tree for class ``own`` holds: a number for each class, or its own."""

    def __init__(self, classes: int, own: int, share: float) -> None:
        self._classes, self._own, self._share = classes, own, share

    def values(self, held: float | list[float]) -> list[float]:
        if isinstance(held, list):
            return [value * self._share for value in held]
        return [held * self._share if at == self._own else 0.0 for at in range(self._classes)]


def _tree(tree: dict[str, Any], features: Features, leaves: _Leaves) -> Tree:
    nodes: dict[int, Split | list[float]] = {}
    for node in tree["nodes"]:
        if "leaf_value" in node:
            nodes[node["node_id"]] = leaves.values(node["leaf_value"])
            continue
        if node["node_type"] != "numerical_test_node":
            raise ConfigurationError(f"node {node['node_id']} is a {node['node_type']}; only numbers can be compared")
        feature, threshold = node["split_feature_id"], node["threshold"]
        yes, no = node["left_child"], node["right_child"]
        nodes[node["node_id"]] = split_by(node["comparison_op"], feature, threshold, yes, no)
    return tree_of(features, nodes, tree["nodes"][0]["node_id"])
