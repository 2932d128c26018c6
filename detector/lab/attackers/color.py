"""COLOR (Juuti, Szyller, Marchal and Asokan, EuroS&P 2019): natural images with their colours shifted, no gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.augmentation import SEEDS
from detector.lab.attackers.substitute import SubstituteTraining, natural_seeds

SHIFT = 25 / 255


class Color(SubstituteTraining):
    """Asks ``seeds`` (n, d), then again and again each with every channel shifted by a share of up to SHIFT.

    Images without colours have one channel, so that their brightness is shifted. LabError where inputs are no images.
    """

    def __init__(self, knowledge: Knowledge, seeds: NDArray[np.float32], *, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget=budget, seed=seed)
        if knowledge.side is None or knowledge.dimension % knowledge.side**2:
            raise LabError("COLOR shifts the channels of images, and these inputs are not side x side pixels")
        self._seeds = seeds
        self._channels = knowledge.dimension // knowledge.side**2

    def _round(self) -> NDArray[np.float32]:
        if not len(self._features):
            return self._seeds
        pixels = self._ranges.shares(self._seeds).reshape(len(self._seeds), -1, self._channels)
        shifted = pixels + self._draws().uniform(-SHIFT, SHIFT, (len(pixels), 1, self._channels))
        return self._ranges.features(shifted.reshape(self._seeds.shape))


def new(knowledge: Knowledge, budget: int, seed: int) -> Color:
    """Returns the attack with 100 natural images of the thief."""
    return Color(knowledge, natural_seeds(knowledge, SEEDS, seed), budget=budget, seed=seed)
