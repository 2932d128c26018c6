"""Fingerprinting a model zoo, then stealing one model out of it (PSML; Sanyal et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers.attacker import Attacker, Inputs, Knowledge
from detector.lab.attackers.augmentation import JacobianAugmentation
from detector.lab.attackers.substitute import natural_seeds
from detector.lab.networks import Array

Specifications = NDArray[np.float32]
"""(accuracy 0 to 1, milliseconds) of each request, (m, 2)."""

Value = TypeVar("Value")
CellSearch: TypeAlias = Generator[Specifications, Array, Value]
"""Yields specifications (m, 2), is sent the answers (m, k) to the first m probes with them, and returns a value."""

LATENCY = 1_000.0

_HALVINGS = 14
_PROBES = 4
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Cell:
    """Specifications that all trigger the wanted model: from ``low`` to ``high``, each (accuracy, milliseconds)."""

    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def middle(self) -> tuple[float, float]:
        return (self.low[0] + self.high[0]) / 2, (self.low[1] + self.high[1]) / 2


class SpecificationSweep:
    """Wants the most accurate model that answers within ``latency`` milliseconds, a second by default.

    Three searches by halving find its cell: the highest accuracy that is not refused, the least latency at which
    it is not, and the lowest accuracy at which four probes are answered as before. From then on ``thief`` steals,
    always in the middle of the cell; by default with Jacobian augmentation. A row of zeros is a refusal. An API without
    specifications is a zoo of one model. ``cell`` is None until it is found.
    """

    def __init__(
        self, knowledge: Knowledge, budget: int, seed: int, latency: float = LATENCY, thief: Attacker | None = None
    ) -> None:
        self._knowledge = knowledge
        self._left = budget
        self._seed = seed
        self._latency = latency
        self._thief: Attacker = self._jacobian() if thief is None else thief
        self._probes = natural_seeds(knowledge, _PROBES, seed)
        self._features = np.empty((0, knowledge.dimension), np.float32)
        self._answers = np.empty((0, knowledge.classes))
        self._stolen = 0
        self._search = self._cell_search()
        self._wanted = next(self._search)
        self._answered = self._batch_rows = 0
        self.cell: Cell | None = None

    def next_batch(self) -> Inputs:
        probes = self._probes[self._answered : len(self._wanted)]
        batch = probes if self.cell is None else self._thief.next_batch()
        self._batch_rows = min(len(batch), self._left)
        return batch[: self._batch_rows]

    def next_specifications(self) -> Specifications:
        """Returns the specification to request with each row of the last ``next_batch``."""
        if self.cell is None:
            return self._wanted[self._answered :][: self._batch_rows]
        return _request(*self.cell.middle, times=self._batch_rows)

    def observe(self, features: Inputs, answers: Answers) -> None:
        """Raises LabError if no model answers within the latency."""
        self._left -= len(features)
        if self.cell is not None:
            self._stolen += len(features)
            self._thief.observe(features, answers)
            return
        self._answered += len(features)
        self._features = np.concatenate([self._features, features])
        self._answers = np.concatenate([self._answers, answers.probabilities])
        if self._answered == len(self._wanted):
            self._answered = 0
            try:
                self._wanted = self._search.send(self._answers[-len(self._wanted) :])
            except StopIteration as end:
                self.cell = end.value

    def clone(self) -> Classifier:
        """Returns a clone from the answers in the cell, or before that from all answers. Raises LabError if there are
        none."""
        if self._stolen:
            return self._thief.clone()
        served = self._answers.any(axis=1)
        if not served.any():
            raise LabError("nothing has been answered yet, so there is nothing to make a clone of")
        makeshift = self._jacobian()
        makeshift.observe(self._features[served], Answers(self._answers[served]))
        return makeshift.clone()

    def _jacobian(self) -> Attacker:
        return JacobianAugmentation(self._knowledge, self._left, self._seed)

    def _cell_search(self) -> CellSearch[Cell]:
        if not (yield _request(0, self._latency)).any():
            raise LabError(f"no model answers within {self._latency} ms: sweep up to a higher latency")
        accuracy = yield from _edge(0, 1, lambda tried: _request(tried, self._latency), np.any)
        latency = yield from _edge(self._latency, 0, lambda tried: _request(accuracy, tried), np.any)
        fingerprint = yield _request(accuracy, latency, len(self._probes))

        def same(answers: Array) -> bool:
            return np.allclose(answers, fingerprint, rtol=0, atol=_SAME)

        lowest = yield from _edge(accuracy, 0, lambda tried: _request(tried, latency, len(self._probes)), same)
        return Cell((lowest, latency), (accuracy, self._latency))


def _edge(
    good: float, bad: float, request: Callable[[float], Specifications], accepted: Callable[[Array], np.bool_ | bool]
) -> CellSearch[float]:
    """Returns the last value, going from ``good`` to ``bad``, for whose ``request`` the answers are ``accepted``."""
    for _ in range(_HALVINGS):
        tried = (good + bad) / 2
        if accepted((yield request(tried))):
            good = tried
        else:
            bad = tried
    return good


def _request(accuracy: float, latency: float, times: int = 1) -> Specifications:
    return np.tile(np.array([accuracy, latency], np.float32), (times, 1))
