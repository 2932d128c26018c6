"""An honest user: a seeded, endless sequence of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from detector.lab.data import Examples

Rng = np.random.Generator
Rows = NDArray[np.float32]
Picture = NDArray[np.floating]
"""One image (side, side)."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: ``rows`` float32 (n, d), sent ``pause`` seconds after the answer to the one before."""

    pause: float
    rows: Rows


Behaviour = Callable[[Examples, Rng], Iterator[Ask]]
"""(the images a user holds, the user's generator) -> their requests: endless, or until they stop."""


@dataclass(frozen=True, slots=True)
class Habit:
    """A kind of honest user.

    ``false_alarm``: None, or why ``prada`` at its documented defaults mistakes such a user for a thief. Those are real
    users too; they stay out of the demo's population and are listed in its text and in the docs.
    """

    name: str
    behaviour: Behaviour
    about: str
    false_alarm: str | None = None


def shuffled(images: Examples, rng: Rng) -> Iterator[Rows]:
    """Rows (1, d) in random order without replacement, the whole set again and again."""
    while True:
        for row in rng.permutation(len(images)):
            yield images.features[row : row + 1]


def as_pixels(rows: NDArray[np.floating]) -> Rows:
    """``rows`` clipped to 0..1, as float32 (n, d)."""
    pixels: Rows = np.clip(rows, 0, 1).astype(np.float32)
    return pixels.reshape(-1, rows.shape[-1])


def as_picture(rows: NDArray[np.floating]) -> Picture:
    """The square image whose pixels are the one row of ``rows`` (1, side * side)."""
    side = isqrt(rows.size)
    return rows.reshape(side, side)
