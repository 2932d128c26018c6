"""Evasions: change own inputs one after another until the victim gives them another class.

By estimated gradients (Chen et al., AISec 2017; Bhagoji, He, Li and Song, ECCV 2018) and from labels only, the
boundary attack (Brendel, Rauber and Bethge, ICLR 2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Dialogue, Knowledge, Questions
from detector.lab.attackers.input_space import InputSpace
from detector.lab.attackers.model_inversion import gradient, neighbours
from detector.lab.networks import Array

STEP = 0.02
STEPS = 50
PROPOSALS = 5
ROUNDS = 100

_LEAST = 1e-12
_DRAWN = 10
_BLENDS = 20
_FIRST = 0.05
_FACTOR = 1.5
_CLOSE = 1e-4


class Evasion(Dialogue, ABC):
    """Queries the thief's own inputs, in an order drawn by ``seed``, until the budget is spent or all were tried.

    ``originals`` float64 (n, d): the inputs, in shares of the ranges, in that order. ``found``: by row, for each input
    with another class found, the nearest such input (d,) so far. Raises LabError for categorical features.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        self._space = InputSpace.continuous(knowledge)
        self._rng = np.random.default_rng([seed, 0])
        self.originals = self._space.shares(knowledge.natural[self._rng.permutation(len(knowledge.natural))])
        self.found: dict[int, Array] = {}
        super().__init__(self._all_turns(), budget)

    @abstractmethod
    def _turn(self, row: int) -> Questions:
        """Queries around the original in ``row``, and puts what it finds in ``found``."""

    def clone(self) -> Classifier:
        """Raises LabError: an evasion steals nothing."""
        raise LabError("an evasion makes no clone; what it made is in `found`")

    def distances(self) -> Array:
        """Returns the distance of each input in ``found`` from its original, Euclidean, in shares of the ranges."""
        moved = [found - self.originals[row] for row, found in self.found.items()]
        return np.asarray(np.linalg.norm(np.reshape(moved, (len(moved), self.originals.shape[1])), axis=1))

    def _all_turns(self) -> Questions:
        for row in range(len(self.originals)):
            yield from self._turn(row)

    def _keep_nearest(self, row: int, turned: Array) -> None:
        """Puts the nearest of ``turned`` (m, d), all of another class, in ``found``; m may be 0."""
        if len(turned):
            distances = np.linalg.norm(turned - self.originals[row], axis=1)
            self.found[row] = turned[distances.argmin()]


class FiniteDifferences(Evasion):
    """Moves each feature by ``STEP`` of its range against the sign of the gradient of the label's margin.

    The margin is the log of its probability over the likeliest other's, the gradient two-sided differences: 2 d + 1
    queries per step. Ends with an input when its class changes, when answers no longer change (as on an API that
    returns labels only), or after ``STEPS``.
    """

    def _turn(self, row: int) -> Questions:
        point, label = self.originals[row], None
        for _ in range(STEPS):
            shares = np.concatenate([point[None], neighbours(point)])
            answers = yield self._space.features(shares)
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
    """Returns for each answer (n,) the log of the probability of ``label`` over that of the likeliest other class."""
    logs = np.log(np.maximum(answers.probabilities, _LEAST))
    others = np.delete(logs, label, axis=1)
    return np.asarray(logs[:, label] - others.max(axis=1))


class BoundaryWalk(Evasion):
    """Walks from a random input of another class along the boundary towards the original.

    A round proposes ``PROPOSALS`` steps sideways at the same distance, and each of them followed by a step nearer; the
    next round starts from the nearest one that still has another class. Walks ``ROUNDS`` rounds for each original, so
    about 1,000 queries, or until the steps are tiny. The lengths of the steps are shares of the distance to the
    original, tuned so that half of the sideways steps and a quarter of the nearer ones succeed.
    """

    def _turn(self, row: int) -> Questions:
        original, sideways_step, nearer_step = self.originals[row], _FIRST, _FIRST
        label = int((yield self._space.features(original[None])).labels[0])
        yield from self._start(row, label)
        for _ in range(ROUNDS if row in self.found else 0):
            sideways = self._sideways(original, self.found[row], sideways_step)
            nearer = np.clip(original + (1 - nearer_step) * (sideways - original), 0, 1)
            answers = yield self._space.features(np.concatenate([sideways, nearer]))
            turned = answers.labels != label
            self._keep_nearest(row, nearer[turned[PROPOSALS:]])
            factor = _factor(turned[:PROPOSALS].mean(), few=0.2, many=0.5)
            sideways_step *= factor
            nearer_step = min(0.5, nearer_step * factor * _factor(turned[PROPOSALS:].mean(), few=0.1, many=0.25))
            if nearer_step < _CLOSE:
                return

    def _start(self, row: int, label: int) -> Questions:
        """Queries random inputs, then those between the original and the nearest of another class."""
        original = self.originals[row]
        drawn = self._rng.uniform(size=(_DRAWN, len(original)))
        answers = yield self._space.features(drawn)
        self._keep_nearest(row, drawn[answers.labels != label])
        if row in self.found:
            shares = np.linspace(0, 1, _BLENDS, endpoint=False)[1:, None]
            between = original + shares * (self.found[row] - original)
            answers = yield self._space.features(between)
            self._keep_nearest(row, between[answers.labels != label])

    def _sideways(self, original: Array, start: Array, share: float) -> Array:
        """Returns steps (PROPOSALS, d) from ``start`` (d,) of ``share`` of its distance, on the sphere around
        ``original``."""
        offset = start - original
        distance = np.linalg.norm(offset)
        drawn = self._rng.normal(size=(PROPOSALS, len(offset)))
        across = drawn - np.outer(drawn @ offset, offset) / distance**2
        across *= share * distance / np.linalg.norm(across, axis=1, keepdims=True)
        moved = offset + across
        moved *= distance / np.linalg.norm(moved, axis=1, keepdims=True)
        return np.asarray(np.clip(original + moved, 0, 1))


def _factor(success: float, few: float, many: float) -> float:
    """Returns the factor for the length of steps that succeed in this share of trials."""
    if success > many:
        return _FACTOR
    return 1 / _FACTOR if success < few else 1.0
