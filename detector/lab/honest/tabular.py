"""Honest users of any data set, tables above all. Images have further habits.

Small tables are soon exhausted, so a *fresh* row lies between two natural rows of one class (SMOTE; Chawla et al.
2002), with the categories of the first, so that a user seldom repeats a row unless that is their habit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from detector.lab.data import Dataset, Examples
from detector.lab.honest.habit import Habit, HonestRequest, Rng, Rows, health_check, paced, retried, varied

_RENEWED_SHARE = 0.1
_WHAT_IF_VALUES = 7
_DRIFT = 0.2
_CHANGE_STEPS = 15
_SENSOR_NOISE = 0.005
_LONGEST_STAY = 12

TabularBehaviour = Callable[[Dataset, Examples, Rng], Iterator[HonestRequest]]
"""As ``Behaviour``, but knows the ranges and categories of the data set too."""


def habits(dataset: Dataset) -> dict[str, Habit]:
    """Returns, by name, the habits that users of ``dataset`` can have, without ``false_alarm``, which depends on the
    data."""
    return {name: Habit(name, partial(behaviour, dataset), about) for name, (behaviour, about) in _HABITS.items()}


def fresh(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[Rows]:
    """Yields endless new rows (1, d) like ``examples``."""
    order = np.argsort(examples.labels, kind="stable")
    starts = np.searchsorted(examples.labels[order], examples.labels, side="left")
    counts = np.bincount(examples.labels)[examples.labels]
    while True:
        for row in rng.permutation(len(examples)):
            other = examples.features[order[starts[row] + rng.integers(counts[row])]]
            yield _between(dataset, examples.features[row], other, rng.random())[None]


def steady(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    return paced(fresh(dataset, examples, rng), rng, 0.22)


def bulk_scoring(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends all rows of the user in one request, in random order; each time a tenth of them, at least one, is new."""
    table, rows = rng.permutation(examples.features), fresh(dataset, examples, rng)
    while True:
        yield HonestRequest(rng.uniform(6, 9), table.copy())
        for number in rng.choice(len(table), max(1, int(_RENEWED_SHARE * len(table))), replace=False):
            table[number] = next(rows)[0]


def what_if(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends each row, then the same row with one feature at other values that occur."""

    def values_of(feature: int) -> Rows:
        values = np.unique(examples.features[:, feature])
        return rng.choice(values, min(_WHAT_IF_VALUES, len(values)), replace=False)

    return varied(fresh(dataset, examples, rng), rng, values_of)


def drifted(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends rows whose continuous features are all off by up to a fifth of their range, always by the same."""
    offset = rng.uniform(-_DRIFT, _DRIFT, dataset.dimension) * (dataset.high - dataset.low)
    return paced((_moved(dataset, row, offset) for row in fresh(dataset, examples, rng)), rng, 0.24)


def one_class(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    chosen = examples.labels == rng.choice(np.unique(examples.labels))
    return steady(dataset, Examples(examples.features[chosen], examples.labels[chosen]), rng)


def retries(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    return retried(fresh(dataset, examples, rng), rng)


def slow_change(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Goes from one row to the next in fifteen steps, with a sensor's noise; categories change half way."""
    rows = fresh(dataset, examples, rng)
    before = next(rows)
    for after in rows:
        for share in np.linspace(0, 1, _CHANGE_STEPS, endpoint=False):
            reading = _between(dataset, *((before, after) if share < 1 / 2 else (after, before)), min(share, 1 - share))
            noise = rng.normal(0, _SENSOR_NOISE, reading.shape) * (dataset.high - dataset.low)
            yield HonestRequest(0.25, _moved(dataset, reading, noise))
        before = after


def short_lived(dataset: Dataset, examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends one to twelve queries, then none."""
    rows = fresh(dataset, examples, rng)
    for _ in range(int(rng.integers(1, _LONGEST_STAY + 1))):
        yield HonestRequest(rng.exponential(0.5), next(rows))


_HABITS: dict[str, tuple[TabularBehaviour, str]] = {
    "steady": (steady, "new rows at an even pace"),
    "bulk scoring": (bulk_scoring, "the whole table in one request"),
    "what-if": (what_if, "varies one feature of every row, all day"),
    "drifted": (drifted, "rows off the training distribution"),
    "one class": (one_class, "rows of one class only"),
    "retries": (retries, "sends every third query again"),
    "health check": (lambda _, examples, rng: health_check(examples, rng), "one vector without end"),
    "slow change": (slow_change, "a sensor that follows a slowly changing input"),
    "short-lived": (short_lived, "a dozen queries at most, then gone"),
}


def _between(dataset: Dataset, start: Rows, end: Rows, share: float) -> Rows:
    """Returns ``share`` of the way from ``start`` to ``end`` (..., d); categories are those of ``start``."""
    mixed = np.where(dataset.categories > 0, start, start + share * (end - start))
    return mixed.astype(np.float32)


def _moved(dataset: Dataset, rows: Rows, offset: np.ndarray) -> Rows:
    """Returns ``rows`` (n, d) with continuous features moved by ``offset`` (d,) or (n, d), within the ranges."""
    moved = np.clip(rows + offset, dataset.low, dataset.high)
    return np.where(dataset.categories > 0, rows, moved).astype(np.float32)
