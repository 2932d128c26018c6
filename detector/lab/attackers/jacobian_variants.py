"""PRADA's variants of JBDA (Juuti, Szyller, Marchal and Asokan, EuroS&P 2019).

Away from the label the victim gave (N) or towards a random other one (T-RND), in a single step or iterated (I).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.augmentation import SEEDS, Augmentation
from detector.lab.attackers.network import CloneNetwork
from detector.lab.attackers.perturbations import ITERATIONS, away, towards
from detector.lab.attackers.substitute import natural_seeds, one_hot


class SignedStep(Augmentation):
    """Moves each known input by 64/255 of the ranges along the sign of the clone's loss gradient.

    In ``iterations`` equal steps: up the loss at the victim's label, or, ``targeted``, down the loss at another class
    that is drawn anew in every round.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        seeds: NDArray[np.float32],
        *,
        targeted: bool,
        iterations: int,
        budget: int,
        seed: int,
    ) -> None:
        super().__init__(knowledge, seeds, budget=budget, seed=seed)
        self._targeted = targeted
        self._iterations = iterations

    def _moved(self, network: CloneNetwork, shares: Array, labels: NDArray[np.int64]) -> Array:
        classes = self._knowledge.classes
        if not self._targeted:
            return away(network, shares, one_hot(labels, classes), self._iterations)
        others = (labels + self._draws().integers(1, classes, len(labels))) % classes
        return towards(network, shares, one_hot(others, classes), self._iterations)


def _new(knowledge: Knowledge, budget: int, seed: int, *, targeted: bool, iterations: int) -> SignedStep:
    seeds = natural_seeds(knowledge, SEEDS, seed)
    return SignedStep(knowledge, seeds, targeted=targeted, iterations=iterations, budget=budget, seed=seed)


n_fgsm = partial(_new, targeted=False, iterations=1)
n_i_fgsm = partial(_new, targeted=False, iterations=ITERATIONS)
t_rnd_fgsm = partial(_new, targeted=True, iterations=1)
t_rnd_i_fgsm = partial(_new, targeted=True, iterations=ITERATIONS)
