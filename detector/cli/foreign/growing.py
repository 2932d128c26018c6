"""Trees from nodes that are found by a number, in whatever order they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.core.owner_model import Ensemble, Features, OwnerModel, Tree
from detector.core.owner_model.models import LEAF, Link


@dataclass(frozen=True, slots=True)
class Split:
    """A row whose ``feature`` is at most ``threshold`` goes to the node ``left``, any other to ``right``."""

    feature: int
    threshold: float
    left: int
    right: int


Leaf = Sequence[float]
Nodes = Mapping[int, Split | Leaf]

_MODES = ("<=", "<", ">", ">=")


def split_by(comparison: str, feature: int, threshold: float, yes: int, no: int) -> Split:
    """The split that sends a row whose ``feature`` compares with ``threshold`` to ``yes``. Raises ConfigurationError.

    Rows are float32, so that less than a number is the same as at most the float32 before it.
    """
    if comparison not in _MODES:
        raise ConfigurationError(f"a node compares by {comparison}; only {', '.join(_MODES)} can be read")
    if comparison in ("<", ">="):
        threshold = _before(threshold)
    left, right = (yes, no) if comparison.startswith("<") else (no, yes)
    return Split(feature, threshold, left, right)


def tree_of(features: Features, nodes: Nodes, root: int) -> Tree:
    """The tree below ``root``. Raises ConfigurationError where ``nodes`` make none."""
    found: list[Split | Leaf] = []
    children: list[list[int]] = []
    reached: set[int] = set()
    waiting = [(root, -1, 0)]
    while waiting:
        name, parent, side = waiting.pop()
        if name not in nodes or name in reached:
            raise ConfigurationError(f"node {name} is missing, or has two parents; write the file anew")
        reached.add(name)
        node, number = nodes[name], len(found)
        found.append(node)
        children.append([0, 0])
        if parent >= 0:
            children[parent][side] = number
        if isinstance(node, Split):
            waiting += [(node.right, number, 1), (node.left, number, 0)]
    if lost := set(nodes) - reached:
        raise ConfigurationError(f"nodes {', '.join(map(str, sorted(lost)))} are of no tree; write the file anew")
    splits = [node if isinstance(node, Split) else Split(LEAF, 0.0, 0, 0) for node in found]
    return Tree(
        features,
        np.array([node.feature for node in splits], np.int32),
        np.array([node.threshold for node in splits], np.float64),
        np.array(children, np.int32),
        np.array([node for node in found if not isinstance(node, Split)], np.float64),
    )


def model_of(trees: Sequence[Tree], base: Sequence[float], link: Link) -> OwnerModel:
    """An ensemble, or where it is a single tree without a link, that tree."""
    if len(trees) > 1 or link != "identity":
        return Ensemble(tuple(trees), np.array(base, np.float64), link)
    only = trees[0]
    return Tree(only.features, only.feature, only.threshold, only.children, only.values + np.array(base, np.float64))


def _before(threshold: float) -> float:
    """The largest float32 below ``threshold``."""
    near = np.float32(threshold)
    return float(near if near < threshold else np.nextafter(near, np.float32(-np.inf)))
