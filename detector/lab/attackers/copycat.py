"""Copycat CNN (Correia-Silva, Berriel, Badue, de Souza and Oliveira-Santos, IJCNN 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.pool import PoolThief
from detector.lab.attackers.substitute import one_hot


class Copycat(PoolThief):
    """Asks random rows of a pool of another kind, and learns from the labels alone."""

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        super().observe(features, Answers(one_hot(answers.labels, self._knowledge.classes)))


def new(knowledge: Knowledge, budget: int, seed: int) -> Copycat:
    return Copycat(knowledge, budget=budget, seed=seed)
