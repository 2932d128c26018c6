"""Honest users of images: natural ones in different rhythms, changed on the way, or changed a little at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from math import isqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from detector.lab.data import Examples
from detector.lab.honest.habit import Behaviour, HonestRequest, Rng, Rows, paced, retried, varied

Picture = NDArray[np.floating]
"""One image (side, side)."""

_BULK_ROWS = 50
_STROKE_FRACTIONS = (0.25, 0.5, 0.75, 1.0)
_MELT_FRAMES = 20
_WHAT_IF_VALUES = 7


def shuffled(images: Examples, rng: Rng) -> Iterator[Rows]:
    """Yields rows (1, d) in random order without replacement, the whole set again and again."""
    while True:
        for row in rng.permutation(len(images)):
            yield images.features[row : row + 1]


def steady(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    return paced(shuffled(images, rng), rng, 0.22)


def light(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    return paced(shuffled(images, rng), rng, 2.0)


def retries(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    return retried(shuffled(images, rng), rng)


def bursts(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    rows = shuffled(images, rng)
    while True:
        yield HonestRequest(rng.uniform(3, 7), next(rows))
        for _ in range(rng.integers(15, 40)):
            yield HonestRequest(0.04, next(rows))


def bulk(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends a page of rows in one request, now and then."""
    rows = shuffled(images, rng)
    while True:
        yield HonestRequest(rng.uniform(6, 9), np.concatenate([next(rows) for _ in range(_BULK_ROWS)]))


def _distorting(change: Callable[[Picture, Rng], Picture]) -> Behaviour:
    return lambda images, rng: paced(_changed(images, rng, change), rng, 0.24)


def _changed(images: Examples, rng: Rng, change: Callable[[Picture, Rng], Picture]) -> Iterator[Rows]:
    for rows in shuffled(images, rng):
        yield _as_pixels(change(_as_picture(rows), rng).reshape(1, -1))


def _rotated_and_shifted(picture: Picture, rng: Rng) -> Picture:
    turned = ndimage.rotate(picture, rng.uniform(-15, 15), order=1, reshape=False)
    return np.asarray(ndimage.shift(turned, rng.uniform(-0.5, 0.5, 2), order=1))


shift = _distorting(lambda picture, rng: ndimage.shift(picture, rng.uniform(-1, 1, 2), order=1))
rotation = _distorting(lambda picture, rng: ndimage.rotate(picture, rng.uniform(-20, 20), order=1, reshape=False))
blur = _distorting(lambda picture, rng: ndimage.gaussian_filter(picture, rng.uniform(0.2, 0.8)))
contrast = _distorting(lambda picture, rng: picture * rng.uniform(0.5, 1.0))
scanner = _distorting(lambda picture, rng: _rotated_and_shifted(picture, rng) + rng.normal(0, 0.05, picture.shape))
"""Sheets that never lie quite straight, read with a little noise."""


def new_device(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends a hundred and fifty images as they are, later ones through a camera that blurs and fades all equally."""
    width, fade = rng.uniform(0.3, 0.8), rng.uniform(0.5, 0.9)
    sheets = shuffled(images, rng)
    yield from paced(islice(sheets, 150), rng, 0.24)
    for rows in sheets:
        picture = fade * ndimage.gaussian_filter(_as_picture(rows), width)
        yield HonestRequest(rng.exponential(0.24), _as_pixels(picture.reshape(1, -1)))


def several_views(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends each image with three turned and moved copies: test-time augmentation."""
    for rows in shuffled(images, rng):
        picture = _as_picture(rows)
        views = [picture] + [_rotated_and_shifted(picture, rng) for _ in range(3)]
        yield HonestRequest(rng.exponential(0.9), _as_pixels(np.stack(views).reshape(4, -1)))


def one_class(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends one digit only, never written twice in the same way: each turned and moved a little."""
    return paced(_changed(_of_one_digit(images, rng), rng, _rotated_and_shifted), rng, 0.26)


def rescans(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends the same sixty sheets through a scanner again and again, each time with a little noise."""
    for rows in shuffled(_of_one_digit(images, rng), rng):
        yield HonestRequest(rng.exponential(0.26), _as_pixels(rows + rng.normal(0, 0.03, rows.shape)))


def drawing(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends a drawing after each quarter of its strokes."""
    for rows in shuffled(images, rng):
        side = len(_as_picture(rows))
        order = np.argsort(np.repeat(np.arange(side), side) + rng.uniform(0, 0.5, side * side))
        for fraction in _STROKE_FRACTIONS:
            drawn = np.zeros_like(rows)
            pixels = order[: int(fraction * len(order))]
            drawn[0, pixels] = rows[0, pixels]
            yield HonestRequest(rng.exponential(0.24), drawn)


def camera(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends some forty frames of one sheet after another, from a fixed camera with noise."""
    for rows in shuffled(images, rng):
        for _ in range(int(rng.integers(30, 50))):
            yield HonestRequest(0.25, _as_pixels(rows + rng.normal(0, 0.05, rows.shape)))


def video(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends noise-free video in which one image melts into the next in twenty equal steps."""
    rows = shuffled(images, rng)
    before = next(rows)
    for after in rows:
        for share in np.linspace(0, 1, _MELT_FRAMES, endpoint=False):
            yield HonestRequest(0.25, _as_pixels((1 - share) * before + share * after))
        before = after


def what_if(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Sends each image, then the same image with one pixel at seven other values, all day long."""
    return varied(shuffled(images, rng), rng, lambda _: rng.choice(17, _WHAT_IF_VALUES, replace=False) / 16)


def short_what_if(images: Examples, rng: Rng) -> Iterator[HonestRequest]:
    """Does what ``what_if`` does for five images, then stops."""
    return islice(what_if(images, rng), 5 * (1 + _WHAT_IF_VALUES))


def _of_one_digit(images: Examples, rng: Rng) -> Examples:
    chosen = images.labels == rng.integers(10)
    return Examples(images.features[chosen], images.labels[chosen])


def _as_pixels(rows: NDArray[np.floating]) -> Rows:
    """Returns ``rows`` (n, d) clipped to 0..1, as float32."""
    pixels: Rows = np.clip(rows, 0, 1).astype(np.float32)
    return pixels.reshape(-1, rows.shape[-1])


def _as_picture(rows: NDArray[np.floating]) -> Picture:
    """Returns the square image whose pixels are the one row of ``rows`` (1, side * side)."""
    side = isqrt(rows.size)
    return rows.reshape(side, side)
