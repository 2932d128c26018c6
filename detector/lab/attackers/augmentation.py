"""Data-set augmentation: natural seeds first, then every round moves known inputs a little further.

JBDA (Papernot, McDaniel, Goodfellow, Jha, Celik and Swami, AsiaCCS 2017), its variants and COLOR (both PRADA: Juuti,
Szyller, Marchal and Asokan, EuroS&P 2019).
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from detector.contracts.errors import LabError
from detector.lab.attackers.attacker import Inputs, Knowledge, Labels
from detector.lab.attackers.substitute import SeededTraining
from detector.lab.networks import Array, Network, one_hot

STEP = 0.1
SIGNED_STEP = 64 / 255
"""The distance, in shares of the range, by which FGSM, PGD and the feature adversary may move one feature."""
ITERATIONS = 10
SHIFT = 25 / 255


class Augmentation(SeededTraining):
    """Queries one new input for each known one in every round: the set doubles.

    The new inputs are ``_moved`` by a network trained on all answers so far.
    """

    def _later_round(self) -> Inputs:
        labels = self._answers.argmax(axis=1)
        return self._space.features(self._moved(self._network(), self._shares(), labels))

    @abstractmethod
    def _moved(self, network: Network, shares: Array, labels: Labels) -> Array:
        """Returns new shares (n, d) for the known ``shares`` (n, d), to which the victim gave ``labels`` (n,)."""


class JacobianAugmentation(Augmentation):
    """JBDA: moves x with the victim's label c to clip(x + STEP * sign(dF_c/dx)), F the clone, in shares of the ranges;
    step 0.1 as in its published code."""

    def _moved(self, network: Network, shares: Array, labels: Labels) -> Array:
        moved: Array = shares + STEP * np.sign(network.probability_gradient(shares, labels))
        return moved


class SignedStep(Augmentation):
    """PRADA's variants of JBDA: moves each known input by 64/255 of the ranges along the sign of the loss gradient.

    Up the loss at the label that the victim gave (N), or, ``targeted``, down the loss at another class that is drawn
    again in every round (T-RND); in a single step or, ``iterated``, in ten (I).
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, *, targeted: bool, iterated: bool) -> None:
        super().__init__(knowledge, budget, seed)
        self._targeted = targeted
        self._iterations = ITERATIONS if iterated else 1

    def _moved(self, network: Network, shares: Array, labels: Labels) -> Array:
        classes = self._knowledge.classes
        if not self._targeted:
            return signed_steps(network, shares, one_hot(labels, classes), self._iterations)
        others = (labels + self._round_rng().integers(1, classes, len(labels))) % classes
        return signed_steps(network, shares, one_hot(others, classes), self._iterations, uphill=False)


def signed_steps(network: Network, start: Array, targets: Array, iterations: int, *, uphill: bool = True) -> Array:
    """FGSM (one iteration) or I-FGSM: up or down the cross-entropy of ``targets`` (n, k), SIGNED_STEP in all."""
    step = (SIGNED_STEP if uphill else -SIGNED_STEP) / iterations
    moved = start
    for _ in range(iterations):
        moved = np.clip(moved + step * np.sign(network.loss_gradient(moved, targets)), 0, 1)
    return moved


class Color(SeededTraining):
    """COLOR: queries each seed repeatedly with every channel shifted by a share of up to SHIFT, without gradients.
    Images without colours have one channel, so their brightness is shifted. Raises LabError unless inputs are images.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget, seed)
        if knowledge.side is None or knowledge.dimension % knowledge.side**2:
            raise LabError("COLOR shifts the channels of images, and these inputs are not side x side pixels")
        self._channels = knowledge.dimension // knowledge.side**2

    def _later_round(self) -> Inputs:
        pixels = self._space.shares(self._seeds).reshape(len(self._seeds), -1, self._channels)
        shifted = pixels + self._round_rng().uniform(-SHIFT, SHIFT, (len(pixels), 1, self._channels))
        return self._space.features(shifted.reshape(self._seeds.shape))
