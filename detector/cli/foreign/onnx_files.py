"""ONNX files that hold a tree ensemble or a linear classifier (operators of ai.onnx.ml), and nothing before it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from detector.cli.foreign.growing import Nodes, Split, model_of, split_by, tree_of
from detector.cli.foreign.libraries import library
from detector.contracts.errors import ConfigurationError
from detector.core.owner_model import Features, Linear, OwnerModel
from detector.core.owner_model.models import Link

_READERS = ("TreeEnsembleClassifier", "LinearClassifier")
_TRANSPARENT = ("Cast", "Identity")
_COMPARISONS = {b"BRANCH_LEQ": "<=", b"BRANCH_LT": "<", b"BRANCH_GT": ">", b"BRANCH_GTE": ">="}
_LINKS: dict[bytes, Link] = {b"NONE": "identity", b"LOGISTIC": "logistic", b"SOFTMAX": "softmax"}


def read(path: Path) -> OwnerModel:
    """The classifier in the file. Raises ConfigurationError."""
    onnx = library("onnx", path)
    try:
        graph = onnx.load_model(path).graph
    except Exception as error:
        raise ConfigurationError(f"{path} is not an ONNX file: {error}") from error
    found = [node for node in graph.node if node.op_type in _READERS]
    if len(found) != 1:
        held = ", ".join(node.op_type for node in graph.node)
        raise ConfigurationError(f"{path} holds {held}; exactly one of {' and '.join(_READERS)} can be read")
    (node,) = found
    _require_raw_input(graph, node, path)
    fields = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    for name in [name for name in fields if name.endswith("_as_tensor")]:
        fields[name.removesuffix("_as_tensor")] = onnx.numpy_helper.to_array(fields[name]).tolist()
    link = fields.get("post_transform", b"NONE")
    if link not in _LINKS:
        raise ConfigurationError(f"post_transform of {path} is {link.decode()}; NONE, LOGISTIC and SOFTMAX can be read")
    if node.op_type == "LinearClassifier":
        return _linear(fields, _LINKS[link])
    return _trees(fields, _LINKS[link], _width(graph, fields))


def _require_raw_input(graph: Any, node: Any, path: Path) -> None:
    """The model must see the features themselves, for that is what the log carries."""
    made_by = {name: each for each in graph.node for name in each.output}
    name = node.input[0]
    while name in made_by:
        if made_by[name].op_type not in _TRANSPARENT:
            raise ConfigurationError(
                f"in {path} a {made_by[name].op_type} changes the features before the {node.op_type}; export the "
                "classifier alone, and log what it is given"
            )
        name = made_by[name].input[0]


def _width(graph: Any, fields: dict[str, Any]) -> int:
    """How many features there are: as declared, or as far as nodes ask."""
    declared = [dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim]
    return max([*map(int, declared[1:2]), *(int(asked) + 1 for asked in fields["nodes_featureids"])])


def _linear(fields: dict[str, Any], link: Link) -> Linear:
    intercepts = np.array(fields["intercepts"], np.float64)
    weights = np.array(fields["coefficients"], np.float64).reshape(len(intercepts), -1)
    if len(weights) == 2 and (weights[0] == -weights[1]).all() and intercepts[0] == -intercepts[1]:
        weights, intercepts = weights[1:], intercepts[1:]
    return Linear(Features.unnamed(weights.shape[1]), weights, intercepts, link)


def _trees(fields: dict[str, Any], link: Link, width: int) -> OwnerModel:
    classes = len(fields.get("classlabels_int64s") or fields.get("classlabels_strings") or ())
    values, base = _values(fields, link, classes)
    nodes: dict[int, dict[int, Split | list[float]]] = defaultdict(dict)
    names = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids")
    for tree, node, mode, feature, threshold, yes, no in zip(*(fields[f"nodes_{name}"] for name in names), strict=True):
        nodes[tree][node] = (
            values.get((tree, node), [0.0] * len(base))
            if mode == b"LEAF"
            else split_by(_COMPARISONS.get(mode, mode.decode()), feature, threshold, yes, no)
        )
    features = Features.unnamed(width)
    return model_of([tree_of(features, own, _root(own)) for own in nodes.values()], base, link)


def _values(fields: dict[str, Any], link: Link, classes: int) -> tuple[dict[tuple[int, int], list[float]], list[float]]:
    """The values of each leaf by tree and node, and what is added to their sum.

    Of two classes one may have all the weights. That is its score; or, without a link and with no weight below 0, its
    probability, and the rest the other's.
    """
    base = [float(value) for value in fields.get("base_values") or ()]
    single = classes == 2 and len(set(fields["class_ids"])) == 1
    shares = single and link == "identity" and min(fields["class_weights"]) >= 0
    width = 1 if single and not shares else classes
    values: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0] * width)
    entries = (fields[f"class_{name}"] for name in ("treeids", "nodeids", "ids", "weights"))
    for tree, node, own, weight in zip(*entries, strict=True):
        leaf = values[tree, node]
        leaf[0 if width == 1 else 1 if single else own] += weight
        if shares:
            leaf[0] -= weight
    if shares:
        return values, [1.0 - sum(base[:1]), sum(base[:1])]
    return values, base or [0.0] * width


def _root(nodes: Nodes) -> int:
    """The node that is nobody's child."""
    splits = [node for node in nodes.values() if isinstance(node, Split)]
    roots = set(nodes) - {child for split in splits for child in (split.left, split.right)}
    if len(roots) != 1:
        raise ConfigurationError(f"a tree has {len(roots)} nodes without a parent; it must have one, its root")
    return roots.pop()
