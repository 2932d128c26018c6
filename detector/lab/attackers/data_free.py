"""Data-free extraction (DFME: Truong, Maini, Walls and Papernot, CVPR 2021), at small scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.generator import Generator
from detector.lab.attackers.network import CloneNetwork, centred
from detector.lab.attackers.substitute import SubstituteTraining

BATCH = 32
STUDENT_BATCHES = 2
DIFFERENCE = 1e-3

_EPOCHS = 4
_TINY = 1e-7


class DataFree(SubstituteTraining):
    """Starts from no inputs: a generator learns to make those on which the victim and a student disagree most.

    In turns: BATCH generated inputs and the same a DIFFERENCE away in a random direction, from which the generator
    learns the slope of the disagreement (forward differences, one direction); then STUDENT_BATCHES new ones, from which
    the student learns. Disagreement is the L1 distance of the victim's log probabilities, less their mean, and
    the student's logits, less theirs.
    """

    def __init__(self, knowledge: Knowledge, *, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget=budget, seed=seed)
        rng = np.random.default_rng([seed, 3])
        self._generator = Generator(knowledge.dimension, rng)
        self._student = CloneNetwork(knowledge.dimension, knowledge.classes, rng)
        self._probe: Array | None = None
        self._taught = 0

    def _round(self) -> NDArray[np.float32]:
        since, self._taught = self._taught, len(self._features)
        rng = self._draws()
        if self._probe is None:
            self._improve_student(since)
            self._probe = self._generator.noise(BATCH, rng)
            return self._ranges.features(_pairs(self._generator.shares(self._probe), rng))
        self._improve_generator(self._probe, since)
        self._probe = None
        noise = self._generator.noise(STUDENT_BATCHES * BATCH, rng)
        return self._ranges.features(self._generator.shares(noise))

    def _improve_student(self, since: int) -> None:
        if len(self._features) > since:
            self._student.fit_logits(self._features[since:], self._logits(since), _EPOCHS)

    def _improve_generator(self, noise: Array, since: int) -> None:
        """Along the slopes of disagreement; not at all when not every pair was answered."""
        if len(self._features) - since < 2 * BATCH:
            return
        student = centred(self._student.logits(self._features[since:]))
        disagreement = np.abs(self._logits(since) - student).sum(axis=1)
        here, there = np.split(self._features[since:], 2)
        rise = disagreement[BATCH:] - disagreement[:BATCH]
        slopes = here.shape[1] * rise[:, None] * (there - here) / DIFFERENCE**2
        self._generator.improve(noise, slopes)

    def _logits(self, since: int) -> Array:
        """The victim's (n, k), less each row's mean, as its answers from the ``since``th on tell them."""
        return centred(np.log(np.maximum(self._answers[since:], _TINY)))


def _pairs(shares: Array, rng: np.random.Generator) -> Array:
    """``shares`` (n, d), then each of them DIFFERENCE away in a random direction."""
    directions = rng.normal(size=shares.shape)
    lengths = np.sqrt((directions**2).sum(axis=1, keepdims=True))
    return np.concatenate([shares, shares + DIFFERENCE * directions / lengths])


def new(knowledge: Knowledge, budget: int, seed: int) -> DataFree:
    return DataFree(knowledge, budget=budget, seed=seed)
