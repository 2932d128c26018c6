"""The owner's model as arrays: a decision tree, a linear model or an ensemble of trees.

It is read from JSON in a documented form (docs/margins.md, schemas/weirguard.model.v1.schema.json), never from a
pickle. Errors name the field of the file that is wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.core.loops.compiled import compiled, plain
from detector.core.state.arrays import Array

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """``names`` of the d features, in the order of the log; ``low`` and ``high`` float64 (d,): the range of each over
    the training data, NaN where unknown."""

    names: tuple[str, ...]
    low: Floats
    high: Floats

    def __post_init__(self) -> None:
        require(len(self.names) >= 1, "features", "is empty; name at least one feature")
        for at, (low, high) in enumerate(zip(self.low.tolist(), self.high.tolist(), strict=True)):
            require(not low >= high, f"features[{at}].low", f"is {low}; it must be below high, which is {high}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def unnamed(cls, count: int) -> Features:
        """Returns features named x0, x1 and so on, of unknown ranges."""
        return cls.named([f"x{number}" for number in range(count)])

    @classmethod
    def named(cls, names: list[str]) -> Features:
        """Returns features with these names, of unknown ranges."""
        return cls(tuple(names), np.full(len(names), np.nan), np.full(len(names), np.nan))


def require(good: bool, name: str, complaint: str) -> None:
    """Raises ConfigurationError, with the ``name`` of the field of the model file that is wrong, unless ``good``."""
    if not good:
        raise ConfigurationError(f"{name} {complaint}")


def require_all(good: NDArray[np.bool_], name: str, complaint: str) -> None:
    """Raises ConfigurationError for the first entry of the field ``name`` that is wrong."""
    wrong = np.flatnonzero(~good)
    if len(wrong):
        raise ConfigurationError(f"{name.format(int(wrong[0]))} {complaint}")


Link = Literal["identity", "logistic", "softmax"]


def require_link(link: str, scores: int) -> None:
    """Raises ConfigurationError for an unknown link, or one that does not fit this number of ``scores``."""
    require(link in get_args(Link), "link", f"is {link!r}; it must be one of {', '.join(get_args(Link))}")
    complaint = "is softmax, which takes one score a class; for a single score say logistic"
    require(link != "softmax" or scores > 1, "link", complaint)


def linked(scores: Floats, link: Link) -> Floats:
    """Returns float64 (n, k) from ``scores`` (n, k), or (n, 1), which belong to class 1 of two.

    ``softmax`` and ``logistic`` give probabilities, ``logistic`` of several scores after division by their sum (one
    against the rest); ``identity`` gives the scores themselves, (-s, s) for a single one.
    """
    if scores.shape[1] == 1:
        scores = np.hstack((-scores, scores)) / (2.0 if link == "logistic" else 1.0)
        link = "softmax" if link == "logistic" else link
    if link == "identity":
        return scores
    if link == "softmax":
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    else:
        shares = np.exp(-np.logaddexp(0.0, -scores))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


LEAF = -1


@dataclass(frozen=True, slots=True)
class Paths:
    """The bounds of each leaf's features: entries ``starts[l]`` to ``starts[l + 1]`` of the other arrays, int64 (leaves
    + 1,), are those of leaf l, one per feature. ``low`` < x <= ``high``, float64, infinite where a side is open."""

    starts: Array
    feature: Array
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Tree:
    """``feature`` int32 (nodes,): the feature that a node tests, -1 in a leaf; ``threshold`` float64 (nodes,): a row
    with at most that value goes to ``children[:, 0]``, any other to ``children[:, 1]``, int32 (nodes, 2), both of which
    come after their parent. ``values`` float64 (leaves, k): class counts, shares or scores of each leaf, or its one
    number. Leaves are numbered in the order of their nodes."""

    kind: Literal["tree"] = field(default="tree", kw_only=True)
    features: Features
    feature: NDArray[np.int32]
    threshold: Floats
    children: NDArray[np.int32]
    values: Floats

    def __post_init__(self) -> None:
        nodes, inner = len(self.feature), self.feature != LEAF
        require(nodes >= 1, "nodes", "is empty; give at least one leaf")
        good = ~inner | ((self.feature >= 0) & (self.feature < len(self.features)))
        require_all(good, "nodes[{}].feature", f"is not one of the {len(self.features)} features")
        require_all(~inner | np.isfinite(self.threshold), "nodes[{}].threshold", "is not a finite number")
        for side, name in enumerate(("left", "right")):
            child = self.children[:, side]
            good = ~inner | ((child > np.arange(nodes)) & (child < nodes))
            require_all(good, f"nodes[{{}}].{name}", f"is not a later one of the {nodes} nodes")
        parents = np.bincount(self.children[inner].ravel(), minlength=nodes)
        good = parents == (np.arange(nodes) > 0)
        require_all(good, "nodes[{}]", "must be the child of exactly one node, and the first of none")
        require(self.values.ndim == 2 and self.values.shape[1] >= 1, "nodes", "have leaves without a value")
        require(len(self.values) == self.leaves, "nodes", "do not have a value for each leaf")
        finite = np.ones(nodes, bool)
        finite[~inner] = np.isfinite(self.values).all(axis=1)
        require_all(finite, "nodes[{}].value", "holds something else than finite numbers")

    @property
    def leaves(self) -> int:
        return int((self.feature == LEAF).sum())

    def leaf(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """Returns int64 (n,): the leaf of each row of ``features`` float32 (n, d), from 0 to ``leaves`` - 1.

        As in scikit-learn, float32 values are compared with float64 thresholds.
        """
        leaf = np.empty(len(features), np.int64)
        _descend(plain(features), *self._nodes, leaf)
        return leaf

    def outputs(self, features: NDArray[np.float32]) -> Floats:
        """Returns float64 (n, k): the values of each row's leaf."""
        return self.values[self.leaf(features)]

    @cached_property
    def paths(self) -> Paths:
        """The bounds of every leaf."""
        boxes: list[dict[int, tuple[float, float]]] = [{} for _ in self.feature]
        for at, (feature, threshold) in enumerate(zip(self.feature.tolist(), self.threshold.tolist(), strict=True)):
            if feature != LEAF:
                low, high = boxes[at].get(feature, (-np.inf, np.inf))
                left, right = self.children[at].tolist()
                boxes[left] = boxes[at] | {feature: (low, min(high, threshold))}
                boxes[right] = boxes[at] | {feature: (max(low, threshold), high)}
                boxes[at] = {}
        of_leaves = [boxes[at] for at in np.flatnonzero(self.feature == LEAF).tolist()]
        starts = np.cumsum([0, *map(len, of_leaves)])
        bounds = np.array([bound for box in of_leaves for bound in box.values()], np.float64).reshape(-1, 2)
        features = np.array([feature for box in of_leaves for feature in box], np.int64)
        return Paths(starts, features, bounds[:, 0], bounds[:, 1])

    @cached_property
    def _nodes(self) -> tuple[NDArray[np.int32], Floats, NDArray[np.int32], Array]:
        """The fields that a search reads, and the number of each leaf int64 (nodes,)."""
        number = np.cumsum(self.feature == LEAF) - 1
        return plain(self.feature), plain(self.threshold), plain(self.children), number


@compiled
def _descend(
    features: NDArray[np.float32],
    feature: NDArray[np.int32],
    threshold: Floats,
    children: NDArray[np.int32],
    number: Array,
    leaf: Array,
) -> None:
    for row in range(len(features)):
        node = 0
        while feature[node] != LEAF:
            node = children[node, 0 if features[row, feature[node]] <= threshold[node] else 1]
        leaf[row] = number[node]


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """``weights`` float64 (k, d) and ``intercepts`` (k,) give a score for each of k classes, of which the highest wins;
    (1, d) and (1,) give one for class 1 of two, which wins above 0."""

    kind: Literal["linear"] = field(default="linear", kw_only=True)
    features: Features
    weights: Floats
    intercepts: Floats
    link: Link

    def __post_init__(self) -> None:
        require(self.weights.ndim == 2 and len(self.weights) >= 1, "weights", "is not a list of lists of numbers")
        numbers, features = self.weights.shape[1], len(self.features)
        require(numbers == features, "weights", f"have {numbers} numbers a class, and there are {features} features")
        finite = np.asarray(np.isfinite(self.weights).all(axis=1))
        require_all(finite, "weights[{}]", "holds something else than finite numbers")
        require(self.intercepts.shape == self.weights.shape[:1], "intercepts", "must be as many as the rows of weights")
        require_all(np.isfinite(self.intercepts), "intercepts[{}]", "is not a finite number")
        require_link(self.link, len(self.weights))

    @property
    def sides(self) -> int:
        """The number of classes."""
        return max(len(self.weights), 2)

    def scores(self, features: NDArray[np.float32]) -> Floats:
        """Returns float64 (n, k), or (n, 1) for a single row of weights; the same bits however many rows are passed at
        once."""
        rows = features.astype(np.float64, order="C")
        return np.asarray(np.vecdot(rows[:, None], self.weights) + self.intercepts)

    def outputs(self, features: NDArray[np.float32]) -> Floats:
        """Returns float64 (n, classes): probabilities, or with the link ``identity`` the scores."""
        return linked(self.scores(features), self.link)

    def distances(self, features: NDArray[np.float32]) -> tuple[NDArray[np.int64], Floats]:
        """Returns int64 (n,): the class of each row; float64 (n,): its distance, in feature units, to the nearest point
        that scores another class as high."""
        scores = self.scores(features)
        if len(self.weights) == 1:
            return (scores[:, 0] > 0).astype(np.int64), np.abs(scores[:, 0]) / np.linalg.norm(self.weights)
        top = scores.argmax(axis=1)
        lead = scores.max(axis=1, keepdims=True) - scores
        distance = np.linalg.norm(self.weights[:, None] - self.weights, axis=2)[top]
        distance[np.arange(len(top)), top] = 0.0
        far = np.divide(lead, distance, out=np.full_like(lead, np.inf), where=distance > 0)
        return top, far.min(axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Scores are ``base`` float64 (k,) plus the values of the leaf in each of ``trees``, which are already divided if
    they are averaged; a single score belongs to class 1 of two, which wins above 0."""

    kind: Literal["ensemble"] = field(default="ensemble", kw_only=True)
    trees: tuple[Tree, ...]
    base: Floats
    link: Link

    def __post_init__(self) -> None:
        require(len(self.trees) >= 1, "trees", "is empty; give at least one tree")
        require_all(np.isfinite(self.base), "base[{}]", "is not a finite number")
        wide = np.array([tree.values.shape[1] == len(self.base) for tree in self.trees])
        require_all(wide, "trees[{}]", f"must have as many values a leaf as base, which has {len(self.base)}")
        require_link(self.link, len(self.base))

    @property
    def features(self) -> Features:
        return self.trees[0].features

    def outputs(self, features: NDArray[np.float32]) -> Floats:
        """Returns float64 (n, classes): the ensemble's outputs for each row of ``features`` float32 (n, d)."""
        scores = np.tile(self.base, (len(features), 1))
        for tree in self.trees:
            scores += tree.outputs(features)
        return linked(scores, self.link)


OwnerModel = Tree | Linear | Ensemble


def from_record(record: dict[str, Any]) -> OwnerModel:
    """Returns the model that was packed. Raises ConfigurationError for a kind that this version does not know."""
    kind, values = record["kind"], {name: value for name, value in record.items() if name not in ("kind", "features")}
    if kind == "ensemble":
        return Ensemble(tuple(cast("Tree", from_record(tree)) for tree in values.pop("trees")), **values)
    require(kind in ("tree", "linear"), "kind", f"is {kind!r}; it must be one of tree, linear, ensemble")
    features = Features(**record["features"] | {"names": tuple(record["features"]["names"])})
    return (Tree if kind == "tree" else Linear)(features, **values)


SCHEMA = "weirguard.model/1"

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _JsonFeature(msgspec.Struct):
    name: str
    low: float | None = None
    high: float | None = None


class _JsonNode(msgspec.Struct):
    """A leaf has only a value; any other node has everything except a value."""

    feature: _Number | None = None
    threshold: float | None = None
    left: _Number | None = None
    right: _Number | None = None
    value: list[float] | None = None


class _JsonNodes(msgspec.Struct):
    nodes: list[_JsonNode]


class _JsonModel(msgspec.Struct):
    schema: str
    kind: str
    features: list[_JsonFeature]


class _JsonTree(_JsonModel):
    nodes: list[_JsonNode]


class _JsonLinear(_JsonModel):
    weights: list[list[float]]
    intercepts: list[float]
    link: Link


class _JsonEnsemble(_JsonModel):
    trees: list[_JsonNodes]
    base: list[float]
    link: Link


_AnyJsonModel = TypeVar("_AnyJsonModel", bound=_JsonModel)


def from_json(text: str | bytes) -> OwnerModel:
    """Returns the model in a file. Raises ConfigurationError that names the wrong field."""
    head = _decoded(text, _JsonModel)
    require(head.schema == SCHEMA, "schema", f"is {head.schema!r}; this version reads {SCHEMA}")
    features = _features(head.features)
    if head.kind == "tree":
        return _tree(_decoded(text, _JsonTree).nodes, features)
    if head.kind == "linear":
        return _linear(_decoded(text, _JsonLinear), features)
    require(head.kind == "ensemble", "kind", f"is {head.kind!r}; it must be tree, linear or ensemble")
    return _ensemble(_decoded(text, _JsonEnsemble), features)


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


def _decoded(text: str | bytes, form: type[_AnyJsonModel]) -> _AnyJsonModel:
    try:
        return msgspec.json.decode(text, type=form)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"not a model file: {error}; write one with `weirguard model export`") from error


def _features(listed: list[_JsonFeature]) -> Features:
    for at, feature in enumerate(listed):
        require(feature.name != "", f"features[{at}].name", "is empty")
    low = np.array([np.nan if feature.low is None else feature.low for feature in listed], np.float64)
    high = np.array([np.nan if feature.high is None else feature.high for feature in listed], np.float64)
    return Features(tuple(feature.name for feature in listed), low, high)


def _tree(nodes: list[_JsonNode], features: Features) -> Tree:
    for at, node in enumerate(nodes):
        split = (node.feature, node.threshold, node.left, node.right)
        complete = None not in split if node.value is None else split == (None, None, None, None)
        require(complete, f"nodes[{at}]", "must have either a value or all of feature, threshold, left and right")
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


def _linear(form: _JsonLinear, features: Features) -> Linear:
    require(bool(form.weights), "weights", "is empty; give a row of numbers for each class, or one for class 1 of two")
    for at, row in enumerate(form.weights):
        require(len(row) == len(features), f"weights[{at}]", f"has {len(row)} numbers for {len(features)} features")
    return Linear(features, np.array(form.weights), np.array(form.intercepts), form.link)


def _ensemble(form: _JsonEnsemble, features: Features) -> Ensemble:
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
    return [
        {"name": name} | {side: bound for side, bound in (("low", low), ("high", high)) if not np.isnan(bound)}
        for name, low, high in ranges
    ]


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
