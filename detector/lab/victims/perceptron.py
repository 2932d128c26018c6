"""A network with one hidden layer and no defence: what the hardened victims are compared with."""

from __future__ import annotations

import numpy as np

from detector.lab.data import Dataset
from detector.lab.victims.learned import Columns, Learned
from detector.lab.victims.training import HIDDEN, Network, cross_entropy, fit, one_hot


def new(dataset: Dataset, seed: int, hidden: int = HIDDEN) -> Learned:
    """``hidden`` units, trained on the labels."""
    columns, rng = Columns(dataset.categories), np.random.default_rng([seed, 10])
    shown = columns(dataset.training.features)
    network = Network(shown.shape[1], dataset.classes, rng, hidden)
    fit(network, shown, cross_entropy(one_hot(dataset.training.labels, dataset.classes)), rng)
    return Learned(columns, network.probabilities)
