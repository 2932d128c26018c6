"""Evasion by estimated gradients (Chen et al., AISec 2017; Bhagoji, He, Li and Song, ECCV 2018)."""

from __future__ import annotations

import numpy as np

from detector.lab.answers import Answers
from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.dialogue import Questions
from detector.lab.attackers.evasion import Evasion
from detector.lab.attackers.numerical import gradient, neighbours

STEP = 0.02
STEPS = 50
_LEAST = 1e-12


class FiniteDifferences(Evasion):
    """Moves each feature by ``STEP`` of its range against the sign of the gradient of the label's margin.

    The margin is the log of its probability over the likeliest other's, the gradient two-sided differences: 2 d + 1
    queries a step. Leaves an input alone once it is named otherwise, where nothing changes any more (as on an API that
    tells labels only), or after ``STEPS``. It steals nothing: ``clone`` raises LabError.
    """

    def _turn(self, row: int) -> Questions:
        point, label = self.originals[row], None
        for _ in range(STEPS):
            shares = np.concatenate([point[None], neighbours(point)])
            answers = yield self._ranges.features(shares)
            label = int(answers.labels[0]) if label is None else label
            turned = np.flatnonzero(answers.labels != label)
            if len(turned):
                self.found[row] = shares[turned[0]]
                return
            slope = gradient(shares[1:], _margins(answers, label)[1:])
            if not slope.any():
                return
            point = np.clip(point - STEP * np.sign(slope), 0, 1)


def _margins(answers: Answers, label: int) -> Array:
    """Of each answer (n,): the log of the probability of ``label`` over that of the likeliest other class."""
    logs = np.log(np.maximum(answers.probabilities, _LEAST))
    others = np.delete(logs, label, axis=1)
    return np.asarray(logs[:, label] - others.max(axis=1))


def new(knowledge: Knowledge, budget: int, seed: int) -> FiniteDifferences:
    return FiniteDifferences(knowledge, budget, seed)
