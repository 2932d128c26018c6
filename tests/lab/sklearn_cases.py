"""The settings of Tramèr et al. 2016: scikit-learn's models, each fitted on half a table scaled to [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.equation_solving import HIDDEN
from detector.lab.fidelity import UNIFORM_ROWS, agreement

_HELD_BY_THE_THIEF = 40
_MOONS, _MOONS_NOISE = 600, 0.15


@dataclass(frozen=True)
class SklearnVictim:
    """A fitted classifier of labels 0, 1, ..; one without ``predict_proba`` gives 1 at its label."""

    model: Any
    output_kind: OutputKind = "probabilities"

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        inputs = features.astype(np.float64)
        if hasattr(self.model, "predict_proba"):
            return np.asarray(self.model.predict_proba(inputs), np.float64)
        certain: NDArray[np.float64] = np.eye(len(self.model.classes_))[self.model.predict(inputs)]
        return certain

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self.probabilities(features))


@dataclass(frozen=True)
class SklearnCase:
    """``victim`` was fitted on one half of a table; ``test`` (n, d) is the other half without what the thief holds."""

    victim: SklearnVictim
    knowledge: Knowledge
    test: NDArray[np.float32]

    @property
    def uniform(self) -> NDArray[np.float32]:
        """4,000 inputs uniform over the input space, always the same."""
        rng = np.random.default_rng(77)
        return rng.uniform(-1, 1, (UNIFORM_ROWS, self.knowledge.dimension)).astype(np.float32)

    def agreements(self, clone: Classifier) -> tuple[float, float]:
        """1 - R_test and 1 - R_unif."""
        return agreement(self.victim, clone, self.test), agreement(self.victim, clone, self.uniform)

    def variations(self, clone: Classifier) -> tuple[float, float]:
        """R_test and R_unif by total variation, 0 to 1."""
        both = [(self.victim.probabilities(rows), clone.probabilities(rows)) for rows in (self.test, self.uniform)]
        test, uniform = (float(np.abs(theirs - ours).sum(axis=1).mean() / 2) for theirs, ours in both)
        return test, uniform


def logistic() -> SklearnCase:
    """Logistic regression on breast cancer, d = 30."""
    return softmax("breast cancer")


@cache
def softmax(table: str) -> SklearnCase:
    """Softmax regression on ``table``: breast cancer, digits, iris or wine."""
    from sklearn.linear_model import LogisticRegression

    return _case(_table(table), LogisticRegression(max_iter=1_000))


@cache
def perceptron() -> SklearnCase:
    """A perceptron with one hidden layer of 20 tanh units on wine."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((HIDDEN,), activation="tanh", alpha=0.01, max_iter=3_000, random_state=0)
    return _case(_table("wine"), model)


@cache
def moons() -> SklearnCase:
    """An RBF support vector machine, which tells labels only, on two moons that overlap a little, d = 2."""
    from sklearn.datasets import make_moons
    from sklearn.svm import SVC

    return _case(make_moons(_MOONS, noise=_MOONS_NOISE, random_state=0), SVC(C=10, gamma=2.0))


def thief_of(own: NDArray[np.float32], classes: int) -> Knowledge:
    """Of a thief who knows that features are continuous in [-1, 1], and holds the inputs ``own`` (n, d)."""
    ones = np.ones(own.shape[1], np.float32)
    return Knowledge(classes, -ones, ones, np.zeros(own.shape[1], np.int64), own, own[:0])


_Rows = tuple[NDArray[np.float64], NDArray[np.int64]]


def _table(name: str) -> _Rows:
    from sklearn import datasets

    features, labels = getattr(datasets, f"load_{name.replace(' ', '_')}")(return_X_y=True)
    return features, labels


def _case(rows: _Rows, model: Any) -> SklearnCase:
    features, labels = rows
    scaled = _scaled(features)
    training, rest = np.array_split(np.random.default_rng(1).permutation(len(labels)), 2)
    victim = SklearnVictim(model.fit(scaled[training].astype(np.float64), labels[training]))
    own, test = np.split(scaled[rest], [_HELD_BY_THE_THIEF])
    return SklearnCase(victim, thief_of(own, len(np.unique(labels))), test)


def _scaled(features: NDArray[np.float64]) -> NDArray[np.float32]:
    """Each column of ``features`` (n, d) brought to [-1, 1]."""
    low, high = features.min(axis=0), features.max(axis=0)
    return np.asarray(2 * (features - low) / np.where(high > low, high - low, 1) - 1, np.float32)
