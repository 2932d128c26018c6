"""A model zoo behind one API: callers request an accuracy and a latency, and a model that gives both answers.

The setting of the fingerprinting attack on inference serving (PSML; Sanyal et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Victim
from detector.lab.attackers.attacker import Attacker
from detector.lab.attackers.specification_sweep import SpecificationSweep
from detector.lab.data import Dataset
from detector.lab.victims.neural import perceptron
from detector.lab.victims.tabular import forest

_HIDDEN = (3, 6, 12, 48)


@dataclass(frozen=True, slots=True)
class ZooModel:
    """``accuracy`` 0 to 1 and ``latency`` in milliseconds, as the service promises them; nothing is measured."""

    victim: Victim
    accuracy: float
    latency: float


class Zoo:
    """The fastest model with at least the requested accuracy and at most the requested latency answers.

    ``models`` are sorted by latency. Raises LabError if there are none.
    """

    def __init__(self, models: Sequence[ZooModel]) -> None:
        if not models:
            raise LabError("a zoo needs at least one model")
        self.models = tuple(sorted(models, key=lambda model: model.latency))

    def chosen(self, specifications: NDArray[np.float32]) -> NDArray[np.int64]:
        """Returns the index into ``models`` (n,) for each of ``specifications`` float32 (n, 2); -1 if none meets it."""
        accuracy, latency = np.array([(model.accuracy, model.latency) for model in self.models], np.float32).T
        feasible = (accuracy >= specifications[:, :1]) & (latency <= specifications[:, 1:])
        return np.where(feasible.any(axis=1), feasible.argmax(axis=1), -1)

    def best_within(self, latency: float) -> int:
        """Returns the index of the most accurate model within ``latency`` milliseconds, the fastest of several."""
        feasible = [index for index, model in enumerate(self.models) if model.latency <= latency]
        return max(feasible, key=lambda index: (self.models[index].accuracy, -index))

    def answer(self, features: NDArray[np.float32], specifications: NDArray[np.float32]) -> Answers:
        """Returns the answers to ``features`` (n, d) of the models chosen; a row of zeros if no model meets the
        specification."""
        chosen = self.chosen(specifications)
        first = self.models[0].victim.answer(features).probabilities
        outputs = np.where((chosen == 0)[:, None], first, 0.0)
        for index in np.unique(chosen[chosen > 0]):
            rows = chosen == index
            outputs[rows] = self.models[index].victim.answer(features[rows]).probabilities
        return Answers(outputs)


def new(dataset: Dataset, seed: int) -> Zoo:
    """Returns networks of 3, 6, 12 and 48 hidden units, a millisecond for each 2, and a random forest slower than all.

    Promised accuracies are those on the test set.
    """
    networks = [(perceptron(dataset, seed, hidden), hidden / 2) for hidden in _HIDDEN]
    victims = [*networks, (forest(dataset, seed), 2.0 * _HIDDEN[-1])]
    return Zoo([ZooModel(victim, _accuracy(victim, dataset), latency) for victim, latency in victims])


def _accuracy(victim: Victim, dataset: Dataset) -> float:
    return float((victim.answer(dataset.test.features).labels == dataset.test.labels).mean())


def sweep_offline(attacker: SpecificationSweep, zoo: Zoo) -> int:
    """Lets ``attacker`` spend its whole budget on ``zoo``. Returns the number of queries."""
    queries = 0
    while len(batch := attacker.next_batch()):
        attacker.observe(batch, zoo.answer(batch, attacker.next_specifications()))
        queries += len(batch)
    return queries


def blind_offline(thief: Attacker, zoo: Zoo, *, latency: float, budget: int, rng: np.random.Generator) -> None:
    """Lets ``thief`` query ``zoo`` for any accuracy, and any latency up to ``latency`` milliseconds; refusals count
    too.

    The baseline of the sweep: the thief steals a mixture of all models that meet one of those specifications.
    """
    while budget and len(batch := thief.next_batch()[:budget]):
        wanted = rng.uniform((0, 0), (1, latency), (len(batch), 2)).astype(np.float32)
        served = zoo.chosen(wanted) >= 0
        thief.observe(batch[served], zoo.answer(batch[served], wanted[served]))
        budget -= len(batch)
