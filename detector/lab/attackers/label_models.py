"""Clones learned from labels alone: softmax regression, and support vectors with an RBF kernel."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Classifier
from detector.lab.attackers.softmax import fit_softmax

Array = NDArray[np.float64]

_PENALTIES = (10.0, 1e3)
_WIDTHS = (0.1, 0.3, 1.0, 3.0)
"""Kernel width gamma times d: with features in [-1, 1], squared distances grow with d."""
_FOLDS = 3
_ROWS_FOR_CHOICE = 300


@dataclass(frozen=True, slots=True)
class OneLabel:
    """Names class ``label`` of ``classes`` whatever it is shown: all that answers of one label teach."""

    label: int
    classes: int

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        certain: Array = np.eye(self.classes)[np.full(len(features), self.label)]
        return certain


@dataclass(frozen=True, slots=True)
class SupportVectors:
    """A fitted scikit-learn ``model`` that names one of ``classes``: 1 at that label."""

    model: Any
    classes: int

    def probabilities(self, features: NDArray[np.float32]) -> Array:
        certain: Array = np.eye(self.classes)[self.model.predict(features)]
        return certain


def softmax_of_labels(features: Array, probabilities: Array) -> Classifier:
    """Softmax regression on the likeliest classes of ``probabilities`` (n, k)."""
    return fit_softmax(features, np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)])


def rbf_svm_of_labels(features: Array, probabilities: Array) -> Classifier:
    """An RBF SVM on the likeliest classes; of all C and gamma, those that predict best on three folds.

    That is tried on 300 rows at most, spread evenly over all: the latest alone lie on the boundary and teach nothing.
    """
    labels, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    if len(np.unique(labels)) == 1:
        return OneLabel(int(labels[0]), classes)
    rows = np.linspace(0, len(labels) - 1, min(len(labels), _ROWS_FOR_CHOICE)).astype(np.int64)
    penalty, width = _chosen(features[rows], labels[rows])
    return SupportVectors(_svm(penalty, width, features, labels), classes)


def _svm(penalty: float, width: float, features: Array, labels: NDArray[np.int64]) -> Any:
    from sklearn.svm import SVC

    return SVC(C=penalty, gamma=width / features.shape[1]).fit(features, labels)


def _chosen(features: Array, labels: NDArray[np.int64]) -> tuple[float, float]:
    return max(product(_PENALTIES, _WIDTHS), key=lambda pair: _right(pair[0], pair[1], features, labels))


def _right(penalty: float, width: float, features: Array, labels: NDArray[np.int64]) -> int:
    """How many of the rows are named rightly by a model that did not see them."""
    right = 0
    fold = np.arange(len(labels)) % _FOLDS
    for left_out in range(_FOLDS):
        seen, unseen = fold != left_out, fold == left_out
        if unseen.any() and len(np.unique(labels[seen])) > 1:
            model = _svm(penalty, width, features[seen], labels[seen])
            right += int((model.predict(features[unseen]) == labels[unseen]).sum())
    return right
