"""An honest user: a seeded sequence of requests, endless or until the user stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from detector.lab.data import Examples

Rng = np.random.Generator
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HonestRequest:
    """One request: ``rows`` float32 (n, d), sent ``pause`` seconds after the answer to the one before."""

    pause: float
    rows: Rows


Behaviour = Callable[[Examples, Rng], Iterator[HonestRequest]]
"""(the inputs a user holds, the user's generator) -> their requests."""


@dataclass(frozen=True, slots=True)
class Habit:
    """A kind of honest user.

    ``false_alarm``: None, or why ``prada`` at its documented defaults mistakes such a user for a thief. Such users are
    real; they are left out of the demo's population and listed in its text and in the docs.
    """

    name: str
    behaviour: Behaviour
    about: str
    false_alarm: str | None = None


def paced(rows: Iterator[Rows], rng: Rng, pause: float) -> Iterator[HonestRequest]:
    """Yields a request for each of ``rows``, after ``pause`` seconds on average."""
    for row in rows:
        yield HonestRequest(rng.exponential(pause), row)


def retried(rows: Iterator[Rows], rng: Rng) -> Iterator[HonestRequest]:
    """Yields the requests of a client behind a bad network: every third query is sent again, up to three times."""
    for row in rows:
        yield HonestRequest(rng.exponential(0.28), row)
        if rng.random() < 1 / 3:
            yield from repeat(HonestRequest(0.08, row), int(rng.integers(1, 4)))


def varied(rows: Iterator[Rows], rng: Rng, values_of: Callable[[int], NDArray[np.floating]]) -> Iterator[HonestRequest]:
    """Yields a request for each of ``rows``, then for the same row with one feature at each of ``values_of`` it."""
    for row in rows:
        yield HonestRequest(rng.exponential(0.3), row)
        feature = int(rng.integers(row.shape[1]))
        for value in values_of(feature):
            changed = row.copy()
            changed[0, feature] = value
            yield HonestRequest(rng.exponential(0.3), changed)


def health_check(examples: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends the same vector without end."""
    row = int(rng.integers(len(examples)))
    return repeat(HonestRequest(0.4, examples.features[row : row + 1]))
