"""A decision tree behind an API that answers inputs with features left out, as BigML's did (Tramèr et al. 2016)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.data import Dataset

LEAVES = 30


class TreeVictim:
    """scikit-learn's tree of at most ``leaves`` leaves, trained on the dataset's training set.

    ``seed`` decides between splits that are equally good, on which all that stands below them may depend.

    An input goes down to its leaf, or to the first node that asks for a feature which is NaN. It is answered with that
    node's class shares, its number in ``Answers.leaf``, and the feature asked for, or -1, in ``Answers.asked``.
    """

    output_kind: OutputKind = "probabilities"

    def __init__(self, dataset: Dataset, leaves: int = LEAVES, seed: int = 0) -> None:
        from sklearn.tree import DecisionTreeClassifier

        model = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=seed)
        model.fit(dataset.training.features, dataset.training.labels)
        tree = model.tree_
        self.leaves = int(tree.n_leaves)
        self._asks: NDArray[np.int64] = np.where(tree.children_left < 0, -1, tree.feature).astype(np.int64)
        self._threshold: NDArray[np.float64] = tree.threshold
        self._children: NDArray[np.int64] = np.stack([tree.children_left, tree.children_right], axis=1)
        self._shares = np.zeros((tree.node_count, dataset.classes))
        self._shares[:, model.classes_] = tree.value[:, 0] / tree.value[:, 0].sum(axis=1, keepdims=True)

    def answer(self, features: NDArray[np.float32]) -> Answers:
        node = self._node(features)
        return Answers(self._shares[node], node, self._asks[node])

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class shares (n, k) of the node at which each row of ``features`` (n, d) ends."""
        return self.answer(features).probabilities

    def _node(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        node = np.zeros(len(features), dtype=np.int64)
        moving = np.arange(len(features))
        while len(moving):
            value = features[moving, self._asks[node[moving]]]
            goes_on = (self._asks[node[moving]] >= 0) & ~np.isnan(value)
            moving, value = moving[goes_on], value[goes_on]
            at = node[moving]
            node[moving] = self._children[at, (value > self._threshold[at]).astype(np.int64)]
        return node
