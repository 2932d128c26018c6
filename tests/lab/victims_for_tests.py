"""Victims for the tests of attackers: any scikit-learn classifier, and what its answers are cut down to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Victim
from detector.lab.attackers.attacker import Knowledge


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
class LabelOnly:
    """``victim`` behind an API that names the class and no more."""

    victim: Victim
    output_kind: OutputKind = "label"

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        answers = self.victim.probabilities(features)
        certain: NDArray[np.float64] = np.eye(answers.shape[1])[answers.argmax(axis=1)]
        return certain

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self.probabilities(features))


@dataclass(frozen=True)
class Rounded:
    """``victim`` behind an API that gives each probability to ``digits`` decimals."""

    victim: Victim
    digits: int
    output_kind: OutputKind = "probabilities"

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.victim.probabilities(features).round(self.digits)

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self.probabilities(features))


def to_unit_range(features: NDArray[np.float64]) -> NDArray[np.float32]:
    """Each column of ``features`` (n, d) brought to [-1, 1], as in Tramèr et al. 2016."""
    low, high = features.min(axis=0), features.max(axis=0)
    return np.asarray(2 * (features - low) / np.where(high > low, high - low, 1) - 1, np.float32)


def knowledge_of(own: NDArray[np.float32], classes: int) -> Knowledge:
    """Of a thief who knows that features are continuous in [-1, 1], and holds the inputs ``own`` (n, d)."""
    ones = np.ones(own.shape[1], np.float32)
    return Knowledge(classes, -ones, ones, np.zeros(own.shape[1], np.int64), own, own[:0])
