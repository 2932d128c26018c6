"""Adversarial classifier reverse engineering of a linear model from its labels (Lowd and Meek, KDD 2005).

As in Tramèr et al. 2016: a sign witness, a bisection to the boundary, then one line search per dimension. The original
moves up to 1/delta away to find the weight of a feature. Here every query stays within the ranges, and the starting
point moves up to delta close to the boundary instead, which compares the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Dialogue, Inputs, Knowledge, Questions, Search
from detector.lab.attackers.input_space import InputSpace, LabelModel
from detector.lab.networks import Array

_DELTA_EXPONENT = 4
"""A weight below delta = 1e-4 of the first one, by room to move, counts as 0."""
_PRECISION = 1e-6
"""Where bisections stop, features being scaled to [-1, 1]."""


class LowdMeek(Dialogue):
    """One query after the other. The thief's natural inputs are tried first to find both labels.

    Until the first boundary point is known the clone names the label that was seen; a feature whose weight is not
    found yet has weight 0. Raises LabError for more classes than two, and for categorical features.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        if knowledge.classes != 2:
            raise LabError(
                f"lowd-meek steals models of two classes, not of {knowledge.classes}: use adaptive retraining"
            )
        self._space = InputSpace.continuous(knowledge)
        self._natural = self._space.scaled(knowledge.natural)
        self._rng = np.random.default_rng([seed, 0])
        self._weights = np.zeros(knowledge.dimension)
        self._boundary: Array | None = None
        self._label: int | None = None
        super().__init__(self._search(), budget)

    def observe(self, features: Inputs, answers: Answers) -> None:
        if len(features):
            self._label = int(answers.labels[-1])
        super().observe(features, answers)

    def clone(self) -> Classifier:
        """Raises LabError before the first answer."""
        if self._label is None:
            raise LabError("nothing has been answered yet, so there is nothing to make a clone of")
        if (boundary := self._boundary) is None:
            return LabelModel.constant(self._label, 2)
        space, weights = self._space, self._weights
        return LabelModel(lambda features: (space.scaled(features) - boundary) @ weights > 0, 2)

    def _search(self) -> Questions:
        negative, positive = yield from self._both_labels()
        first = yield from self._sign_witness(negative, positive)
        for feature in range(self._space.dimension):
            if feature != first:
                self._weights[feature] = yield from self._weight(feature, first)

    def _both_labels(self) -> Search[tuple[Array, Array]]:
        seen: dict[bool, Array] = {}
        for point in self._candidates():
            seen[(yield from self._is_positive(point))] = point
            if len(seen) == 2:
                break
        return seen[False], seen[True]

    def _candidates(self) -> Iterator[Array]:
        yield from self._rng.permutation(self._natural)
        while True:
            yield self._rng.uniform(-1, 1, self._space.dimension)

    def _sign_witness(self, negative: Array, positive: Array) -> Search[int]:
        """Walks from ``negative`` to ``positive``, a feature at a time, and returns the feature that turns the label;
        its weight is +-1."""
        point, feature = negative, -1
        while not (yield from self._is_positive(point)):
            feature = int(np.flatnonzero(point != positive)[0])
            point = _moved(point, feature, positive[feature])
        crossing = yield from self._crossing(point, feature, negative[feature], positive[feature])
        self._weights[feature] = np.sign(positive[feature] - negative[feature])
        self._boundary = _moved(point, feature, crossing)
        return feature

    def _weight(self, feature: int, first: int) -> Search[float]:
        """Returns the weight of ``feature`` when ``first`` has +-1, found where a move of one makes up for a move of
        the other."""
        assert self._boundary is not None
        side = -1.0 if self._boundary[first] > 0 else 1.0
        room = side - self._boundary[first]
        for step in room * 0.1 ** np.arange(_DELTA_EXPONENT + 1):
            point = _moved(self._boundary, first, self._boundary[first] + step)
            positive = bool(step * self._weights[first] > 0)
            for end in (-1.0, 1.0):
                if (yield from self._is_positive(_moved(point, feature, end))) != positive:
                    ends = (end, point[feature]) if positive else (point[feature], end)
                    crossing = yield from self._crossing(point, feature, *ends)
                    return float(-self._weights[first] * step / (crossing - point[feature]))
        return 0.0

    def _crossing(self, point: Array, feature: int, negative: float, positive: float) -> Search[float]:
        """Returns where ``feature`` of ``point`` turns the label, between a ``negative`` and a ``positive`` value."""
        while abs(positive - negative) > _PRECISION:
            middle = (negative + positive) / 2
            if (yield from self._is_positive(_moved(point, feature, middle))):
                positive = middle
            else:
                negative = middle
        return (negative + positive) / 2

    def _is_positive(self, point: Array) -> Search[bool]:
        answers = yield self._space.from_scaled(point[None])
        return bool(answers.labels[0])


def _moved(point: Array, feature: int, value: float) -> Array:
    moved = point.copy()
    moved[feature] = value
    return moved
