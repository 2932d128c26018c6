"""Networks with one hidden layer: one without a defence, and those trained with a defence of the literature. Columns
are a network's inputs, float64 (n, e); see ``ColumnEncoder``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detector.lab.data import Dataset
from detector.lab.networks import (
    BATCH,
    HIDDEN,
    Array,
    Loss,
    Network,
    Rows,
    batches,
    cross_entropy,
    one_hot,
    softmax,
)
from detector.lab.victims.tabular import ColumnEncoder, FittedVictim

ADVERSARIAL_SHARE = 0.05
"""The distance, in shares of a column's range, by which adversarial training moves it."""

TEMPERATURE = 20.0
SMOOTHING = 0.1
SQUEEZING = 0.05
DIVERSITY = 0.2
"""Weight of the diversity loss relative to the cross-entropy, as published."""

MEMBERS = 4

_UPDATES, _ENSEMBLE_UPDATES = 2_000, 1_000
"""Steps of training, about, whatever the data set's size."""

_ADVERSARIAL_STEPS = 3
_SQUEEZING_NOISE = 0.1
_PLANES = 2


class _Task:
    """A data set as columns and one-hot labels, and networks for it, drawn by ``seed`` and ``stream``."""

    def __init__(self, dataset: Dataset, seed: int, stream: int) -> None:
        self.rng = np.random.default_rng([seed, stream])
        self.encode = ColumnEncoder(dataset.categories)
        self.columns = self.encode(dataset.training.features)
        self.labels = one_hot(dataset.training.labels, dataset.classes)
        self.spread = np.ptp(self.columns, axis=0)
        self.epochs = epochs_of(len(self.columns), _UPDATES)

    def network(self, hidden: int = HIDDEN) -> Network:
        return Network(self.columns.shape[1], self.labels.shape[1], self.rng, hidden)

    def victim(
        self, network: Network, loss: Loss, disturbed: Callable[[Array, Rows], Array] | None = None
    ) -> FittedVictim:
        """Trains ``network`` and returns it behind an API."""
        network.fit(self.columns, loss, self.epochs, disturbed)
        return FittedVictim(self.encode, network.probabilities)


def epochs_of(rows: int, updates: int) -> int:
    """Returns the epochs in which ``rows`` make about ``updates`` batches, at least that many."""
    return -(-updates // max(1, rows // BATCH))


def perceptron(dataset: Dataset, seed: int, hidden: int = HIDDEN) -> FittedVictim:
    """Trains a network of ``hidden`` units on the labels, without a defence."""
    task = _Task(dataset, seed, 10)
    return task.victim(task.network(hidden), cross_entropy(task.labels))


def adversarially_trained(dataset: Dataset, seed: int) -> FittedVictim:
    """Shows, instead of each row, the worst within 0.05 of each column's range (Madry et al., ICLR 2018)."""
    task = _Task(dataset, seed, 12)
    network = task.network()
    reach = ADVERSARIAL_SHARE * task.spread

    def worst(columns: Array, rows: Rows) -> Array:
        moved = columns + task.rng.uniform(-reach, reach, columns.shape)
        for _ in range(_ADVERSARIAL_STEPS):
            uphill = network.loss_gradient(moved, task.labels[rows])
            moved = columns + np.clip(moved + reach / 2 * np.sign(uphill) - columns, -reach, reach)
        return moved

    return task.victim(network, cross_entropy(task.labels), worst)


def distilled(dataset: Dataset, seed: int) -> FittedVictim:
    """Trains on another network's answers at temperature 20: defensive distillation (Papernot et al., S&P 2016).

    Both networks are trained at that temperature; the second answers at 1.
    """
    task = _Task(dataset, seed, 12)
    teacher, student = task.network(), task.network()
    teacher.fit(task.columns, _at_temperature(task.labels), task.epochs)
    lessons = softmax(teacher.logits(task.columns) / TEMPERATURE)
    return task.victim(student, _at_temperature(lessons))


def _at_temperature(targets: Array) -> Loss:
    loss = cross_entropy(targets)
    return lambda logits, rows: loss(logits / TEMPERATURE, rows)


def label_smoothed(dataset: Dataset, seed: int) -> FittedVictim:
    """Spreads a tenth of each label over all classes (Szegedy et al., CVPR 2016)."""
    task = _Task(dataset, seed, 12)
    targets = (1 - SMOOTHING) * task.labels + SMOOTHING / dataset.classes
    return task.victim(task.network(), cross_entropy(targets))


def logit_squeezed(dataset: Dataset, seed: int) -> FittedVictim:
    """Trains on rows with noise, with 0.05 times the squared length of the logits in the loss (Kannan et al. 2018)."""
    task = _Task(dataset, seed, 12)
    loss = cross_entropy(task.labels)

    def squeezed(logits: Array, rows: Rows) -> Array:
        return loss(logits, rows) + 2 * SQUEEZING * logits

    def noisy(columns: Array, _rows: Rows) -> Array:
        noise: Array = _SQUEEZING_NOISE * task.spread * task.rng.normal(size=columns.shape)
        return columns + noise

    return task.victim(task.network(), squeezed, noisy)


class DiverseEnsemble:
    """An ensemble whose members answer unnatural inputs differently (EDM; Kariyappa, Prakash and Qureshi, ICLR 2021).

    One of its 4 ``members`` answers each input, chosen by the signs of 2 secret projections. So each input always gets
    the same answer, and a clone has to copy the borders between the members too.
    """

    def __init__(self, members: list[Network], planes: Array, middle: Array) -> None:
        self.members = members
        self._planes = planes
        self._middle = middle

    def probabilities(self, columns: Array) -> Array:
        """Returns class probabilities (n, k) of ``columns`` (n, e)."""
        chosen = ((columns - self._middle) @ self._planes > 0) @ (1 << np.arange(_PLANES))
        outputs = np.stack([member.probabilities(columns) for member in self.members])
        return np.asarray(outputs[chosen, np.arange(len(columns))])


def train_diverse(dataset: Dataset, seed: int, diversity: float = DIVERSITY) -> DiverseEnsemble:
    """Trains on batches of rows with as many uniform inputs, on which agreement costs ``diversity``."""
    task = _Task(dataset, seed, 13)
    rng = task.rng
    members = [task.network() for _ in range(MEMBERS)]
    for rows in batches(len(task.columns), epochs_of(len(task.columns), _ENSEMBLE_UPDATES), rng):
        share = rng.random((len(rows), dataset.dimension), dtype=np.float32)
        strange = task.encode(dataset.low + share * (dataset.high - dataset.low))
        repulsion = diversity * diversity_gradient(np.stack([member.probabilities(strange) for member in members]))
        inputs = np.concatenate([task.columns[rows], strange])
        for member, by_output in zip(members, repulsion, strict=True):
            latent = member.latent(inputs)
            outputs = softmax(member.logits_of(latent))
            natural, other = outputs[: len(rows)] - task.labels[rows], outputs[len(rows) :]
            by_logit = other * (by_output - (other * by_output).sum(axis=1, keepdims=True))
            member.step(inputs, latent, np.concatenate([natural, by_logit]) / len(rows))
    return DiverseEnsemble(members, rng.normal(size=(task.columns.shape[1], _PLANES)), task.columns.mean(axis=0))


def diversity_gradient(outputs: Array) -> Array:
    """Returns the gradient (m, n, k), by each member's ``outputs`` (m, n, k), of log sum exp of the cosines of all
    pairs of members."""
    length = np.linalg.norm(outputs, axis=2, keepdims=True)
    unit = outputs / length
    cosines = cosine_similarities(outputs)
    weights = np.exp(cosines) * (1 - np.eye(len(outputs)))[:, :, None]
    weights /= weights.sum(axis=(0, 1)) / 2
    pulled = np.einsum("ijn,jnk->ink", weights, unit)
    gradient: Array = (pulled - (weights * cosines).sum(axis=1)[:, :, None] * unit) / length
    return gradient


def cosine_similarities(outputs: Array) -> Array:
    """Returns float64 (m, m, n): the cosine similarities of the ``outputs`` (m, n, k) of each two members."""
    unit = outputs / np.linalg.norm(outputs, axis=2, keepdims=True)
    return np.asarray(np.einsum("ink,jnk->ijn", unit, unit))


def diverse(dataset: Dataset, seed: int) -> FittedVictim:
    return FittedVictim(ColumnEncoder(dataset.categories), train_diverse(dataset, seed).probabilities)
