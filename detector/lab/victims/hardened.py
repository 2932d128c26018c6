"""Victims trained with a defence of the literature; each is the network of ``perceptron`` but for that.

Columns are what the network is shown, float64 (n, e); see ``Columns``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detector.lab.attackers.adam import Array
from detector.lab.attackers.network import softmax
from detector.lab.data import Dataset
from detector.lab.victims.learned import Columns, Learned
from detector.lab.victims.training import Network, Rows, cross_entropy, fit, one_hot

ADVERSARIAL_SHARE = 0.05
"""Of a column's range: how far adversarial training moves it."""

_ADVERSARIAL_STEPS = 3
TEMPERATURE = 20.0
SMOOTHING = 0.1
SQUEEZING, _SQUEEZING_NOISE = 0.05, 0.1


class _Task:
    """A data set as columns and one-hot labels, and an untrained network for it."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 12])
        self.encode = Columns(dataset.categories)
        self.columns = self.encode(dataset.training.features)
        self.labels = one_hot(dataset.training.labels, dataset.classes)
        self.spread = np.ptp(self.columns, axis=0)

    def network(self) -> Network:
        return Network(self.columns.shape[1], self.labels.shape[1], self.rng)


def adversarially_trained(dataset: Dataset, seed: int) -> Learned:
    """Shown, instead of each row, the worst within 0.05 of each column's range (Madry et al., ICLR 2018)."""
    task = _Task(dataset, seed)
    network = task.network()
    reach = ADVERSARIAL_SHARE * task.spread

    def worst(columns: Array, rows: Rows) -> Array:
        moved = columns + task.rng.uniform(-reach, reach, columns.shape)
        for _ in range(_ADVERSARIAL_STEPS):
            uphill = network.input_gradient(moved, network.probabilities(moved) - task.labels[rows])
            moved = columns + np.clip(moved + reach / 2 * np.sign(uphill) - columns, -reach, reach)
        return moved

    fit(network, task.columns, cross_entropy(task.labels), task.rng, worst)
    return Learned(task.encode, network.probabilities)


def distilled(dataset: Dataset, seed: int) -> Learned:
    """Defensive distillation (Papernot et al., S&P 2016): taught by a network's answers at temperature 20.

    Both networks are trained at that temperature; the second answers at 1.
    """
    task = _Task(dataset, seed)
    teacher, student = task.network(), task.network()
    fit(teacher, task.columns, _at_temperature(task.labels), task.rng)
    lessons = softmax(teacher.logits(task.columns) / TEMPERATURE)
    fit(student, task.columns, _at_temperature(lessons), task.rng)
    return Learned(task.encode, student.probabilities)


def label_smoothed(dataset: Dataset, seed: int) -> Learned:
    """A tenth of each label is spread over all classes (Szegedy et al., CVPR 2016)."""
    task = _Task(dataset, seed)
    network = task.network()
    targets = (1 - SMOOTHING) * task.labels + SMOOTHING / dataset.classes
    fit(network, task.columns, cross_entropy(targets), task.rng)
    return Learned(task.encode, network.probabilities)


def logit_squeezed(dataset: Dataset, seed: int) -> Learned:
    """Rows with noise, and 0.05 times the squared length of the logits in the loss (Kannan et al. 2018)."""
    task = _Task(dataset, seed)
    network = task.network()
    by_logit = cross_entropy(task.labels)

    def squeezed(logits: Array, rows: Rows) -> Array:
        return by_logit(logits, rows) + 2 * SQUEEZING * logits

    def noisy(columns: Array, _rows: Rows) -> Array:
        noise: Array = _SQUEEZING_NOISE * task.spread * task.rng.normal(size=columns.shape)
        return columns + noise

    fit(network, task.columns, squeezed, task.rng, noisy)
    return Learned(task.encode, network.probabilities)


def _at_temperature(targets: Array) -> Callable[[Array, Rows], Array]:
    by_logit = cross_entropy(targets)
    return lambda logits, rows: by_logit(logits / TEMPERATURE, rows)
