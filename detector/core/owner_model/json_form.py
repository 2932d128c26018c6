"""The file form of a model. Errors name the place in the file."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.core.owner_model.ensemble import Ensemble
from detector.core.owner_model.features import Features, require
from detector.core.owner_model.linear import Linear
from detector.core.owner_model.links import Link
from detector.core.owner_model.tree import LEAF, Tree

SCHEMA = "weirguard.model/1"

OwnerModel = Tree | Linear | Ensemble

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Feature(msgspec.Struct):
    name: str
    low: float | None = None
    high: float | None = None


class _Node(msgspec.Struct):
    """A leaf has only a value; any other node has everything except a value."""

    feature: _Number | None = None
    threshold: float | None = None
    left: _Number | None = None
    right: _Number | None = None
    value: list[float] | None = None


class _Nodes(msgspec.Struct):
    nodes: list[_Node]


class _Form(msgspec.Struct):
    schema: str
    kind: str
    features: list[_Feature]


class _TreeForm(_Form):
    nodes: list[_Node]


class _LinearForm(_Form):
    weights: list[list[float]]
    intercepts: list[float]
    link: Link


class _EnsembleForm(_Form):
    trees: list[_Nodes]
    base: list[float]
    link: Link


_AnyForm = TypeVar("_AnyForm", bound=_Form)


def from_json(text: str | bytes) -> OwnerModel:
    """Returns the model in a file. Raises ConfigurationError that names the wrong field."""
    head = _decoded(text, _Form)
    require(head.schema == SCHEMA, "schema", f"is {head.schema!r}; this version reads {SCHEMA}")
    features = _features(head.features)
    if head.kind == "tree":
        return _tree(_decoded(text, _TreeForm).nodes, features)
    if head.kind == "linear":
        return _linear(_decoded(text, _LinearForm), features)
    require(head.kind == "ensemble", "kind", f"is {head.kind!r}; it must be tree, linear or ensemble")
    return _ensemble(_decoded(text, _EnsembleForm), features)


def to_json(model: OwnerModel) -> str:
    """Returns the model as a file, one node or row of weights per line."""
    body: dict[str, Any]
    if isinstance(model, Tree):
        body = {"kind": "tree", "nodes": _nodes(model)}
    elif isinstance(model, Linear):
        numbers = {"weights": model.weights.tolist(), "intercepts": model.intercepts.tolist()}
        body = {"kind": "linear", **numbers, "link": model.link}
    else:
        trees = [{"nodes": _nodes(tree)} for tree in model.trees]
        body = {"kind": "ensemble", "trees": trees, "base": model.base.tolist(), "link": model.link}
    return _lines({"schema": SCHEMA, "kind": body["kind"], "features": _listed(model.features), **body})


def _decoded(text: str | bytes, form: type[_AnyForm]) -> _AnyForm:
    try:
        return msgspec.json.decode(text, type=form)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"not a model file: {error}; write one with `weirguard model export`") from error


def _features(listed: list[_Feature]) -> Features:
    for at, feature in enumerate(listed):
        require(feature.name != "", f"features[{at}].name", "is empty")
    low = np.array([np.nan if feature.low is None else feature.low for feature in listed], np.float64)
    high = np.array([np.nan if feature.high is None else feature.high for feature in listed], np.float64)
    return Features(tuple(feature.name for feature in listed), low, high)


def _tree(nodes: list[_Node], features: Features) -> Tree:
    for at, node in enumerate(nodes):
        split = (node.feature, node.threshold, node.left, node.right)
        whole = None not in split if node.value is None else split == (None, None, None, None)
        require(whole, f"nodes[{at}]", "must have either a value or all of feature, threshold, left and right")
    leaves = [(at, node.value) for at, node in enumerate(nodes) if node.value is not None]
    for at, value in leaves:
        good = len(value) == len(leaves[0][1]) >= 1
        require(good, f"nodes[{at}].value", "must have as many numbers as every other leaf, at least one")
    return Tree(
        features,
        np.array([LEAF if node.feature is None else node.feature for node in nodes], np.int32),
        np.array([node.threshold or 0.0 for node in nodes], np.float64),
        np.array([(node.left or 0, node.right or 0) for node in nodes], np.int32).reshape(-1, 2),
        np.array([value for _, value in leaves], np.float64),
    )


def _linear(form: _LinearForm, features: Features) -> Linear:
    require(bool(form.weights), "weights", "is empty; give a row of numbers for each class, or one for class 1 of two")
    for at, row in enumerate(form.weights):
        require(len(row) == len(features), f"weights[{at}]", f"has {len(row)} numbers for {len(features)} features")
    return Linear(features, np.array(form.weights), np.array(form.intercepts), form.link)


def _ensemble(form: _EnsembleForm, features: Features) -> Ensemble:
    trees = []
    for at, tree in enumerate(form.trees):
        try:
            trees.append(_tree(tree.nodes, features))
        except ConfigurationError as error:
            raise ConfigurationError(f"trees[{at}].{error}") from error
    return Ensemble(tuple(trees), np.array(form.base), form.link)


def _nodes(tree: Tree) -> list[dict[str, Any]]:
    splits = zip(tree.feature.tolist(), tree.threshold.tolist(), tree.children.tolist(), strict=True)
    values = iter(tree.values.tolist())
    return [
        {"value": next(values)}
        if feature == LEAF
        else {"feature": feature, "threshold": threshold, "left": left, "right": right}
        for feature, threshold, (left, right) in splits
    ]


def _listed(features: Features) -> list[dict[str, Any]]:
    ranges = zip(features.names, features.low.tolist(), features.high.tolist(), strict=True)
    return [{"name": name} | _known(low=low, high=high) for name, low, high in ranges]


def _known(**bounds: float) -> dict[str, float]:
    return {side: bound for side, bound in bounds.items() if not np.isnan(bound)}


def _lines(body: dict[str, Any]) -> str:
    """Returns JSON with the entries of long lists on lines of their own."""
    parts = []
    for name, value in body.items():
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            entries = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in value)
            parts.append(f' "{name}": [\n  {entries}\n ]')
        else:
            parts.append(f' "{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
