"""An ensemble of trees whose values add up: a forest, or boosted trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from detector.core.owner_model.features import Features, Floats, require, require_all
from detector.core.owner_model.links import Link, linked, require_link
from detector.core.owner_model.tree import Tree


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Scores are ``base`` float64 (k,) plus the values of the leaf in each of ``trees``, which are already divided if
    they are averaged; a single score stands for class 1 of two, which wins above 0."""

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

    def to_record(self) -> dict[str, Any]:
        trees = [tree.to_record() for tree in self.trees]
        return {"kind": "ensemble", "trees": trees, "base": self.base, "link": self.link}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Ensemble:
        trees = tuple(Tree.from_record(tree) for tree in record["trees"])
        return cls(trees, record["base"], cast("Link", record["link"]))
