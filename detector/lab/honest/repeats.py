"""Users who send the very same vector more than once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

from detector.lab.data import Examples
from detector.lab.honest.habit import Ask, Rng, shuffled


def retries(images: Examples, rng: Rng) -> Iterator[Ask]:
    """A client behind a bad network: every third query is sent again, up to three times."""
    for rows in shuffled(images, rng):
        yield Ask(rng.exponential(0.28), rows)
        if rng.random() < 1 / 3:
            yield from repeat(Ask(0.08, rows), int(rng.integers(1, 4)))


def health_check(images: Examples, rng: Rng) -> Iterator[Ask]:
    row = int(rng.integers(len(images)))
    return repeat(Ask(0.4, images.features[row : row + 1]))
