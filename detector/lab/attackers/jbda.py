"""Jacobian-based dataset augmentation (Papernot, McDaniel, Goodfellow, Jha, Celik and Swami, AsiaCCS 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers.adam import Array
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.augmentation import SEEDS, Augmentation
from detector.lab.attackers.network import CloneNetwork
from detector.lab.attackers.substitute import natural_seeds

STEP = 0.1


class JacobianAugmentation(Augmentation):
    """Moves x with the victim's label c to clip(x + STEP * sign(dF_c/dx)), F the clone, in shares of the ranges."""

    def _moved(self, network: CloneNetwork, shares: Array, labels: NDArray[np.int64]) -> Array:
        moved: Array = shares + STEP * np.sign(network.input_gradient(shares, labels))
        return moved


def new(knowledge: Knowledge, budget: int, seed: int) -> JacobianAugmentation:
    """Returns the attack with 100 of the thief's natural inputs and step 0.1 of the range, as in its published code."""
    return JacobianAugmentation(knowledge, natural_seeds(knowledge, SEEDS, seed), budget=budget, seed=seed)
