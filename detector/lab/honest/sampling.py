"""Users who send natural images as they are, in different rhythms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from detector.lab.data import Examples
from detector.lab.honest.habit import Ask, Rng, shuffled

_BULK_ROWS = 50


def steady(images: Examples, rng: Rng) -> Iterator[Ask]:
    for rows in shuffled(images, rng):
        yield Ask(rng.exponential(0.22), rows)


def bursts(images: Examples, rng: Rng) -> Iterator[Ask]:
    rows = shuffled(images, rng)
    while True:
        yield Ask(rng.uniform(3, 7), next(rows))
        for _ in range(rng.integers(15, 40)):
            yield Ask(0.04, next(rows))


def bulk(images: Examples, rng: Rng) -> Iterator[Ask]:
    """A whole page of rows in one request, now and then."""
    rows = shuffled(images, rng)
    while True:
        yield Ask(rng.uniform(6, 9), np.concatenate([next(rows) for _ in range(_BULK_ROWS)]))


def light(images: Examples, rng: Rng) -> Iterator[Ask]:
    for rows in shuffled(images, rng):
        yield Ask(rng.exponential(2.0), rows)
