"""A decision tree as arrays, searched for many rows at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled, plain
from detector.core.owner_model.features import Features, Floats, require, require_all
from detector.core.state.arrays import Array

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
        _descend(plain(features), self._nodes, leaf)
        return leaf

    def outputs(self, features: NDArray[np.float32]) -> Floats:
        """Returns float64 (n, k): the values of each row's leaf."""
        return self.values[self.leaf(features)]

    @cached_property
    def paths(self) -> Paths:
        """The bounds of every leaf."""
        boxes: list[dict[int, tuple[float, float]]] = [{} for _ in self.feature]
        for at, (asked, threshold) in enumerate(zip(self.feature.tolist(), self.threshold.tolist(), strict=True)):
            if asked != LEAF:
                low, high = boxes[at].get(asked, (-np.inf, np.inf))
                left, right = self.children[at].tolist()
                boxes[left] = boxes[at] | {asked: (low, min(high, threshold))}
                boxes[right] = boxes[at] | {asked: (max(low, threshold), high)}
                boxes[at] = {}
        own = [boxes[at] for at in np.flatnonzero(self.feature == LEAF).tolist()]
        starts = np.cumsum([0, *map(len, own)])
        bounds = np.array([bound for box in own for bound in box.values()], np.float64).reshape(-1, 2)
        asked_for = np.array([feature for box in own for feature in box], np.int64)
        return Paths(starts, asked_for, bounds[:, 0], bounds[:, 1])

    def to_record(self) -> dict[str, Any]:
        names = ("feature", "threshold", "children", "values")
        arrays = {name: getattr(self, name) for name in names}
        return {"kind": "tree", "features": self.features.to_record(), **arrays}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Tree:
        arrays = (record[name] for name in ("feature", "threshold", "children", "values"))
        return cls(Features.from_record(record["features"]), *arrays)

    @cached_property
    def _nodes(self) -> _Nodes:
        number = np.cumsum(self.feature == LEAF) - 1
        return _Nodes(plain(self.feature), plain(self.threshold), plain(self.children), number)


class _Nodes(NamedTuple):
    """As in ``Tree``; ``number`` int64 (nodes,): that of each leaf."""

    feature: NDArray[np.int32]
    threshold: Floats
    children: NDArray[np.int32]
    number: NDArray[np.int64]


@compiled
def _descend(features: NDArray[np.float32], nodes: _Nodes, leaf: NDArray[np.int64]) -> None:
    for row in range(len(features)):
        node = 0
        while nodes.feature[node] != LEAF:
            left = features[row, nodes.feature[node]] <= nodes.threshold[node]
            node = nodes.children[node, 0 if left else 1]
        leaf[row] = nodes.number[node]
