"""Thieves who combine their own natural rows into queries that look natural, and two baselines: the rows unchanged, and
uniform inputs after them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from detector.contracts.errors import LabError
from detector.lab.attackers.attacker import Inputs, Knowledge
from detector.lab.attackers.input_space import InputSpace
from detector.lab.attackers.substitute import SEEDS, SeededTraining, natural_seeds

ROUND = 100

_COMPONENTS = 8
_ROWS_A_COMPONENT = 10
_LEAST_VARIANCE = 1e-4

Rng = np.random.Generator

Recipe = Callable[[Inputs, InputSpace, int, Rng], Inputs]
"""(natural rows (n, d) in the space, the space, count, generator) -> made-up inputs (count, d)."""


class SeededRounds(SeededTraining):
    """Queries natural rows first, and then, in rounds of at most ROUND, inputs that do not depend on the answers."""

    def _later_round(self) -> Inputs:
        return self._inputs(min(ROUND, self._left), self._round_rng())

    @abstractmethod
    def _inputs(self, count: int, rng: Rng) -> Inputs:
        """Returns up to ``count`` inputs (count, d)."""


class Assembled(SeededRounds):
    """Makes inputs by ``recipe`` from the natural rows that it sent first, or, ``unsent``, from those that it did not
    send. Raises LabError for fewer than two."""

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, *, recipe: Recipe, unsent: bool = False) -> None:
        super().__init__(knowledge, budget, seed)
        self._recipe = recipe
        self._rows = natural_seeds(knowledge, len(knowledge.natural), seed)[SEEDS:] if unsent else self._seeds
        if len(self._rows) < 2:
            raise LabError("this attack makes inputs up from natural inputs, and the thief has fewer than two left")

    def _inputs(self, count: int, rng: Rng) -> Inputs:
        return self._recipe(self._rows, self._space, count, rng)


class OwnRows(SeededRounds):
    """Queries every natural row that the thief has, once each, and nothing else."""

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        super().__init__(knowledge, budget, seed)
        self._seeds = natural_seeds(knowledge, len(knowledge.natural), seed)

    def _inputs(self, count: int, rng: Rng) -> Inputs:
        return self._seeds[:0]


class UniformAfterRows(SeededRounds):
    """Queries uniform inputs after the natural rows."""

    def _inputs(self, count: int, rng: Rng) -> Inputs:
        return self._space.uniform(count, rng)


def crossover(rows: Inputs, space: InputSpace, count: int, rng: Rng, parents: int = 2) -> Inputs:
    """Takes each feature from one of ``parents`` rows, at random (uniform crossover; Syswerda 1989)."""
    chosen = rng.integers(len(rows), size=(count, parents))
    which = rng.integers(parents, size=(count, space.dimension))
    return rows[np.take_along_axis(chosen, which, axis=1), np.arange(space.dimension)]


def mixup(rows: Inputs, space: InputSpace, count: int, rng: Rng) -> Inputs:
    """Goes a random part of the way from a row to another one; categories are those of the first (Zhang et al. 2018)"""
    first, other = rows[rng.integers(len(rows), size=count)], rows[rng.integers(len(rows), size=count)]
    mixed = first + rng.random((count, 1)) * (other - first)
    return _clipped(np.where(space.categories > 0, first, mixed), space)


def kernel_density(rows: Inputs, space: InputSpace, count: int, rng: Rng) -> Inputs:
    """Draws from a Gaussian about each row, as wide as Scott's rule says (1992); categories are those of the row."""
    drawn = rows[rng.integers(len(rows), size=count)]
    width = rows.std(axis=0) * len(rows) ** (-1 / (space.dimension + 4))
    moved = drawn + width * rng.standard_normal(drawn.shape)
    return _clipped(np.where(space.categories > 0, drawn, moved), space)


def mixture(rows: Inputs, space: InputSpace, count: int, rng: Rng) -> Inputs:
    """Draws from at most eight Gaussians with diagonal covariance that are fitted to the rows; categories are
    rounded."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    components = min(_COMPONENTS, max(1, len(rows) // _ROWS_A_COMPONENT))
    drawing = np.random.RandomState(rng.integers(2**32, size=4))
    model = GaussianMixture(components, covariance_type="diag", reg_covar=_LEAST_VARIANCE, random_state=drawing)
    with threadpool_limits(1):
        model.fit(space.shares(rows))
        shares, _ = model.sample(count)
    return space.features(rng.permutation(shares))


def _clipped(inputs: Inputs, space: InputSpace) -> Inputs:
    """Returns ``inputs`` (n, d) within the ranges, with whole categories."""
    return space.features(space.shares(inputs))
