"""Users whose next input is the last one, changed a little."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from detector.lab.data import Examples
from detector.lab.honest.habit import Ask, Rng, as_picture, as_pixels, shuffled

_STROKE_FRACTIONS = (0.25, 0.5, 0.75, 1.0)
_MELT_FRAMES = 20
_WHAT_IF_VALUES = 7


def drawing(images: Examples, rng: Rng) -> Iterator[Ask]:
    """A drawing pad that asks after each quarter of the strokes."""
    for rows in shuffled(images, rng):
        side = len(as_picture(rows))
        order = np.argsort(np.repeat(np.arange(side), side) + rng.uniform(0, 0.5, side * side))
        for fraction in _STROKE_FRACTIONS:
            drawn = np.zeros_like(rows)
            pixels = order[: int(fraction * len(order))]
            drawn[0, pixels] = rows[0, pixels]
            yield Ask(rng.exponential(0.24), drawn)


def camera(images: Examples, rng: Rng) -> Iterator[Ask]:
    """A fixed camera: one sheet lies before it for some forty frames, each frame with the sensor's own noise."""
    for rows in shuffled(images, rng):
        for _ in range(int(rng.integers(30, 50))):
            yield Ask(0.25, as_pixels(rows + rng.normal(0, 0.05, rows.shape)))


def video(images: Examples, rng: Rng) -> Iterator[Ask]:
    """Noise-free video in which one image melts into the next in twenty equal steps."""
    rows = shuffled(images, rng)
    before = next(rows)
    for after in rows:
        for share in np.linspace(0, 1, _MELT_FRAMES, endpoint=False):
            yield Ask(0.25, as_pixels((1 - share) * before + share * after))
        before = after


def what_if(images: Examples, rng: Rng) -> Iterator[Ask]:
    """An analyst all day long: each image, then one pixel of it at seven other values."""
    for rows in shuffled(images, rng):
        yield Ask(rng.exponential(0.3), rows)
        pixel = int(rng.integers(rows.shape[1]))
        for value in rng.choice(17, _WHAT_IF_VALUES, replace=False) / 16:
            changed = rows.copy()
            changed[0, pixel] = value
            yield Ask(rng.exponential(0.3), changed)


def short_what_if(images: Examples, rng: Rng) -> Iterator[Ask]:
    """The same question about five images, then home."""
    return islice(what_if(images, rng), 5 * (1 + _WHAT_IF_VALUES))
