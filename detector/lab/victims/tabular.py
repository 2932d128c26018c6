"""scikit-learn's models behind an API.

A decision tree, a random forest, gradient boosting, logistic regression and a support vector machine, for tables and
images alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.data import Dataset
from detector.lab.networks import Array

LEAVES = 30

_TREES = 50
_PENALTY = 10.0
_FOLDS = 3

Features = NDArray[np.float32]


class ColumnEncoder:
    """Continuous features as they are, then one column for each value of each categorical feature.

    ``categories`` int64 (d,) as in ``Dataset``. A categorical feature between two values counts as the nearest.
    """

    def __init__(self, categories: NDArray[np.int64]) -> None:
        self._categories = categories
        self._continuous = categories == 0

    def __call__(self, features: Features) -> Array:
        """Returns ``features`` (n, d) as columns float64 (n, e). Raises LabError for NaN, or for another d."""
        if features.ndim != 2 or features.shape[1] != len(self._categories):
            raise LabError(f"a row has {len(self._categories)} features; the rows given are {features.shape}")
        if np.isnan(features).any():
            raise LabError("this victim needs every feature; only trees answer when some are left out")
        hot = [
            np.clip(np.rint(features[:, at]), 0, count - 1)[:, None] == np.arange(count)
            for at, count in enumerate(self._categories)
            if count
        ]
        return np.concatenate([features[:, self._continuous], *hot], axis=1, dtype=np.float64)


class FittedVictim:
    """A model behind an API. ``encode``: features float32 (n, d) to columns (n, e); ``predict``: those to class
    probabilities float64 (n, k)."""

    output_kind: OutputKind = "probabilities"

    def __init__(self, encode: Callable[[Features], Any], predict: Callable[[Any], Array]) -> None:
        self._encode = encode
        self._predict = predict

    def answer(self, features: Features) -> Answers:
        return Answers(self.probabilities(features))

    def probabilities(self, features: Features) -> Array:
        """Returns class probabilities (n, k) of ``features`` (n, d). Raises LabError if any is NaN."""
        return self._predict(self._encode(features))


class TreeVictim:
    """scikit-learn's tree of at most ``leaves`` leaves, trained on the dataset's training set.

    ``seed`` decides between equally good splits, on which all splits below them may depend. ``model`` is the fitted
    tree, as its owner has it.

    An input goes down to its leaf, or to the first node that tests a feature which is NaN, as in BigML's API (Tramèr et
    al. 2016). It is answered with that node's class shares, its number in ``Answers.leaf``, and the missing feature, or
    -1, in ``Answers.missing_feature``.
    """

    output_kind: OutputKind = "probabilities"

    def __init__(self, dataset: Dataset, leaves: int = LEAVES, seed: int = 0) -> None:
        from sklearn.tree import DecisionTreeClassifier

        self.model = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=seed)
        self.model.fit(dataset.training.features, dataset.training.labels)
        tree = self.model.tree_
        self.leaves = int(tree.n_leaves)
        self._feature: NDArray[np.int64] = np.where(tree.children_left < 0, -1, tree.feature).astype(np.int64)
        self._threshold: Array = tree.threshold
        self._children: NDArray[np.int64] = np.stack([tree.children_left, tree.children_right], axis=1)
        self._shares = np.zeros((tree.node_count, dataset.classes))
        self._shares[:, self.model.classes_] = tree.value[:, 0] / tree.value[:, 0].sum(axis=1, keepdims=True)

    def answer(self, features: Features) -> Answers:
        node = self._node(features)
        return Answers(self._shares[node], node, self._feature[node])

    def probabilities(self, features: Features) -> Array:
        """Returns class shares (n, k) of the node at which each row of ``features`` (n, d) ends."""
        return self.answer(features).probabilities

    def _node(self, features: Features) -> NDArray[np.int64]:
        node = np.zeros(len(features), dtype=np.int64)
        moving = np.arange(len(features))
        while len(moving):
            value = features[moving, self._feature[node[moving]]]
            goes_on = (self._feature[node[moving]] >= 0) & ~np.isnan(value)
            moving, value = moving[goes_on], value[goes_on]
            at = node[moving]
            node[moving] = self._children[at, (value > self._threshold[at]).astype(np.int64)]
        return node


def decision_tree(dataset: Dataset, seed: int) -> TreeVictim:
    return TreeVictim(dataset, seed=seed)


def forest(dataset: Dataset, seed: int) -> FittedVictim:
    """Fits 50 trees, grown out, whose shares of each class are averaged."""
    from sklearn.ensemble import RandomForestClassifier

    return _fitted(RandomForestClassifier(_TREES, random_state=seed), dataset)


def boosting(dataset: Dataset, seed: int) -> FittedVictim:
    """Fits 100 small trees one after another, each to the errors of those before, on histograms of the features."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return _fitted(HistGradientBoostingClassifier(early_stopping=False, random_state=seed), dataset)


def logistic(dataset: Dataset, seed: int) -> FittedVictim:
    """Fits a regression that is multinomial over all classes, with scikit-learn's penalty: the victim of equation
    solving. The problem is convex: ``seed`` changes nothing."""
    from sklearn.linear_model import LogisticRegression

    return _fitted(LogisticRegression(max_iter=5_000, random_state=seed), dataset)


def support_vectors(dataset: Dataset, seed: int) -> FittedVictim:
    """Fits a machine with a Gaussian kernel, the victim of adaptive retraining.

    Its distances to the planes become probabilities by a sigmoid (Platt 1999), fitted over folds cut by ``seed``.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import SVC

    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    return _fitted(CalibratedClassifierCV(SVC(C=_PENALTY), ensemble=False, cv=folds), dataset)


def _fitted(model: Any, dataset: Dataset) -> FittedVictim:
    encode = ColumnEncoder(dataset.categories)
    model.fit(encode(dataset.training.features), dataset.training.labels)
    return FittedVictim(encode, model.predict_proba)
