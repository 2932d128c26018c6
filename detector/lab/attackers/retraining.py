"""Retraining from labels (Tramèr, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016, section 6).

The thief knows the kind of model but gets labels only: it queries, trains a model of that kind on the answers, and
queries again. Uniform inputs are the weakest choice, inputs near the clone's own boundary the best.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Dialogue, Inputs, Knowledge, Labels, Questions
from detector.lab.attackers.equation_solving import EquationSolving, fit_softmax
from detector.lab.attackers.input_space import InputSpace, LabelModel, Model
from detector.lab.networks import Array, one_hot

_ROUNDS = 10
_CANDIDATES = 2_000
_HALVINGS = 20

_CLOSE = 1e-3
"""A line search ends when its ends are nearer than this times sqrt(d), features being scaled to [-1, 1]."""
_PAIRS = 10
_DRAWN = 20

_PENALTIES = (10.0, 1e3)
_WIDTHS = (0.1, 0.3, 1.0, 3.0)
"""Kernel width gamma times d: with features in [-1, 1], squared distances grow with d."""
_FOLDS = 3
_ROWS_FOR_CHOICE = 300


class UniformRetraining(EquationSolving):
    """Queries uniform inputs, the whole budget at once. The clone is a softmax regression on the labels."""

    def _fitted(self, features: Array, probabilities: Array) -> Model:
        return fit_softmax(features, one_hot(probabilities.argmax(axis=1), probabilities.shape[1]))


class AdaptiveRetraining(UniformRetraining):
    """Ten equal rounds: the first uniform, each later one near the boundary of the clone trained until then.

    Raises LabError for categorical features.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget, seed)
        self._space = InputSpace.continuous(knowledge)

    def _round(self) -> Inputs:
        rng, rows = self._rng(), -(-self._budget // _ROUNDS)
        if not len(self._features):
            return self._space.uniform(rows, rng)
        near = _near_boundary(self.clone(), self._space.uniform(_CANDIDATES, rng), rows, rng)
        return near if len(near) else self._space.uniform(rows, rng)


class RbfSvmRetraining(AdaptiveRetraining):
    """Adaptive, with an RBF SVM as clone, whose C and gamma predict best on three folds.

    That is tried on 300 rows at most, spread evenly over all: the latest alone lie on the boundary and teach nothing.
    """

    def _fitted(self, features: Array, probabilities: Array) -> Model:
        labels, classes = probabilities.argmax(axis=1), probabilities.shape[1]
        if len(np.unique(labels)) == 1:
            return LabelModel.constant(int(labels[0]), classes)
        rows = np.linspace(0, len(labels) - 1, min(len(labels), _ROWS_FOR_CHOICE)).astype(np.int64)
        choices = product(_PENALTIES, _WIDTHS)
        penalty, width = max(choices, key=lambda choice: _correct(choice[0], choice[1], features[rows], labels[rows]))
        return LabelModel(_svm(penalty, width, features, labels).predict, classes)


def _near_boundary(clone: Classifier, candidates: Inputs, rows: int, rng: np.random.Generator) -> Inputs:
    """Returns inputs (rows, d) on the boundary of ``clone`` between ``candidates``; none if it gives all of those one
    label."""
    labels = clone.probabilities(candidates).argmax(axis=1)
    first, second = opposite_pairs(labels, rows, rng)
    first_row, other = candidates[first], candidates[second]
    for _ in range(_HALVINGS if len(first) else 0):
        middle = _middle(first_row, other)
        same = clone.probabilities(middle).argmax(axis=1) == labels[first]
        first_row, other = _halved(first_row, other, middle, same)
    return _middle(first_row, other)


class LineSearchRetraining(UniformRetraining):
    """Queries 20 uniform inputs, then searches 10 lines between those with different labels, and repeats both.

    The lines of a round advance together, and every answer trains the clone. Raises LabError for categorical features.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget, seed)
        self._space = InputSpace.continuous(knowledge)
        self._drawing = np.random.default_rng([seed, 0])
        self._dialogue = Dialogue(self._questions(), budget)

    def _round(self) -> Inputs:
        return self._dialogue.next_batch()

    def observe(self, features: Inputs, answers: Answers) -> None:
        super().observe(features, answers)
        self._dialogue.observe(features, answers)

    def _questions(self) -> Questions:
        while True:
            drawn = self._space.uniform(_DRAWN, self._drawing)
            labels = (yield drawn).labels
            first, other = opposite_pairs(labels, _PAIRS, self._drawing)
            if len(first):
                yield from self._search(drawn[first], drawn[other], labels[first])

    def _search(self, first: Inputs, other: Inputs, labels: Labels) -> Questions:
        """Halves the segments ``first`` to ``other`` (n, d) until all are short; ``first`` has the ``labels`` (n,)."""
        while self._longest(first, other) > _CLOSE:
            middle = _middle(first, other)
            first, other = _halved(first, other, middle, (yield middle).labels == labels)

    def _longest(self, first: Inputs, other: Inputs) -> float:
        gaps = np.linalg.norm(self._space.scaled(first) - self._space.scaled(other), axis=1)
        return float(gaps.max() / np.sqrt(self._space.dimension))


def opposite_pairs(labels: Labels, pairs: int, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Returns rows (m,) and (m,) whose ``labels`` differ, drawn with repetition; m is ``pairs``, or 0 of one label."""
    present = np.unique(labels)
    if len(present) == 1:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first = rng.integers(len(labels), size=pairs)
    other = np.empty(pairs, np.int64)
    for label in present:
        in_class = labels[first] == label
        other[in_class] = rng.choice(np.flatnonzero(labels != label), in_class.sum())
    return first, other


def _halved(first: Inputs, other: Inputs, middle: Inputs, same: NDArray[np.bool_]) -> tuple[Inputs, Inputs]:
    """Returns the half with the boundary of each segment ``first`` to ``other`` (n, d).

    ``same`` (n,): whether ``middle`` (n, d) has the label of ``first``.
    """
    return np.where(same[:, None], middle, first), np.where(same[:, None], other, middle)


def _middle(first: Inputs, other: Inputs) -> Inputs:
    return np.asarray((first + other) / 2, np.float32)


def _svm(penalty: float, width: float, features: Array, labels: Labels) -> Any:
    from sklearn.svm import SVC

    return SVC(C=penalty, gamma=width / features.shape[1]).fit(features, labels)


def _correct(penalty: float, width: float, features: Array, labels: Labels) -> int:
    """Returns the number of rows that a model trained without their fold predicts correctly."""
    correct = 0
    fold = np.arange(len(labels)) % _FOLDS
    for left_out in range(_FOLDS):
        seen, unseen = fold != left_out, fold == left_out
        if unseen.any() and len(np.unique(labels[seen])) > 1:
            model = _svm(penalty, width, features[seen], labels[seen])
            correct += int((model.predict(features[unseen]) == labels[unseen]).sum())
    return correct
