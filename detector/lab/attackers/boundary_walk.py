"""Evasion by labels alone: the boundary attack (Brendel, Rauber and Bethge, ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.dialogue import Questions
from detector.lab.attackers.evasion import Evasion

PROPOSALS = 5
ROUNDS = 100
_DRAWN = 10
_BLENDS = 20
_FIRST = 0.05
_FACTOR = 1.5
_CLOSE = 1e-4


@dataclass(slots=True)
class _Steps:
    """How far to go ``sideways`` and ``nearer``, as shares of the distance to the original; tuned as they succeed."""

    sideways: float = _FIRST
    nearer: float = _FIRST

    def tune(self, sideways: float, nearer: float) -> None:
        """By the shares of each kind that were still named otherwise: a half and a quarter are wanted."""
        factor = _factor(sideways, few=0.2, many=0.5)
        self.sideways *= factor
        self.nearer = min(0.5, self.nearer * factor * _factor(nearer, few=0.1, many=0.25))


class BoundaryWalk(Evasion):
    """From a random input of another label it walks along the boundary towards the original.

    A round proposes ``PROPOSALS`` steps sideways at the same distance, and each of them followed by a step nearer; the
    nearest that is still named otherwise is the next stand. Walks ``ROUNDS`` rounds for each original, so about 1,000
    queries, or until the steps are tiny. It steals nothing: ``clone`` raises LabError.
    """

    def _turn(self, row: int) -> Questions:
        original, steps = self.originals[row], _Steps()
        label = int((yield self._ranges.features(original[None])).labels[0])
        yield from self._start(row, label)
        for _ in range(ROUNDS if row in self.found else 0):
            sideways = self._sideways(original, self.found[row], steps.sideways)
            nearer = np.clip(original + (1 - steps.nearer) * (sideways - original), 0, 1)
            answers = yield self._ranges.features(np.concatenate([sideways, nearer]))
            turned = answers.labels != label
            self._keep_nearest(row, nearer[turned[PROPOSALS:]])
            steps.tune(turned[:PROPOSALS].mean(), turned[PROPOSALS:].mean())
            if steps.nearer < _CLOSE:
                return

    def _start(self, row: int, label: int) -> Questions:
        """Random inputs, then those between the original and the nearest that is named otherwise."""
        original = self.originals[row]
        drawn = self._rng.uniform(size=(_DRAWN, len(original)))
        answers = yield self._ranges.features(drawn)
        self._keep_nearest(row, drawn[answers.labels != label])
        if row in self.found:
            shares = np.linspace(0, 1, _BLENDS, endpoint=False)[1:, None]
            between = original + shares * (self.found[row] - original)
            answers = yield self._ranges.features(between)
            self._keep_nearest(row, between[answers.labels != label])

    def _keep_nearest(self, row: int, turned: Array) -> None:
        """Of ``turned`` (m, d), all named otherwise, m may be 0."""
        if len(turned):
            distances = np.linalg.norm(turned - self.originals[row], axis=1)
            self.found[row] = turned[distances.argmin()]

    def _sideways(self, original: Array, stand: Array, share: float) -> Array:
        """Steps from ``stand`` (d,) of ``share`` of its distance, on the sphere around ``original``, (PROPOSALS, d)."""
        offset = stand - original
        distance = np.linalg.norm(offset)
        drawn = self._rng.normal(size=(PROPOSALS, len(offset)))
        across = drawn - np.outer(drawn @ offset, offset) / distance**2
        across *= share * distance / np.linalg.norm(across, axis=1, keepdims=True)
        moved = offset + across
        moved *= distance / np.linalg.norm(moved, axis=1, keepdims=True)
        return np.asarray(np.clip(original + moved, 0, 1))


def _factor(success: float, few: float, many: float) -> float:
    """By which to change a step that succeeds in this share of trials."""
    if success > many:
        return _FACTOR
    return 1 / _FACTOR if success < few else 1.0


def new(knowledge: Knowledge, budget: int, seed: int) -> BoundaryWalk:
    return BoundaryWalk(knowledge, budget, seed)
