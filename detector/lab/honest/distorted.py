"""Users whose images are changed on the way: scanners, cameras, augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from scipy import ndimage

from detector.lab.data import Examples
from detector.lab.honest.habit import Ask, Behaviour, Picture, Rng, as_picture, as_pixels, shuffled


def _through(distortion: Callable[[Picture, Rng], Picture]) -> Behaviour:
    def behaviour(images: Examples, rng: Rng) -> Iterator[Ask]:
        for rows in shuffled(images, rng):
            picture = distortion(as_picture(rows), rng)
            yield Ask(rng.exponential(0.24), as_pixels(picture.reshape(1, -1)))

    return behaviour


shift = _through(lambda picture, rng: ndimage.shift(picture, rng.uniform(-1, 1, 2), order=1))
rotation = _through(lambda picture, rng: ndimage.rotate(picture, rng.uniform(-20, 20), order=1, reshape=False))
blur = _through(lambda picture, rng: ndimage.gaussian_filter(picture, rng.uniform(0.2, 0.8)))
contrast = _through(lambda picture, rng: picture * rng.uniform(0.5, 1.0))


def scanner(images: Examples, rng: Rng) -> Iterator[Ask]:
    """Sheets that never lie quite straight, read with a little noise."""
    for rows in shuffled(images, rng):
        picture = _turned_and_moved(as_picture(rows), rng)
        read = picture + rng.normal(0, 0.05, picture.shape)
        yield Ask(rng.exponential(0.24), as_pixels(read.reshape(1, -1)))


def new_device(images: Examples, rng: Rng) -> Iterator[Ask]:
    """A hundred and fifty images as they are; from then on through a camera that blurs and fades them all alike."""
    width, fade = rng.uniform(0.3, 0.8), rng.uniform(0.5, 0.9)
    sheets = shuffled(images, rng)
    for rows in islice(sheets, 150):
        yield Ask(rng.exponential(0.24), rows)
    for rows in sheets:
        picture = fade * ndimage.gaussian_filter(as_picture(rows), width)
        yield Ask(rng.exponential(0.24), as_pixels(picture.reshape(1, -1)))


def several_views(images: Examples, rng: Rng) -> Iterator[Ask]:
    """Test-time augmentation: each image with three turned and moved copies, averaged by the caller."""
    for rows in shuffled(images, rng):
        picture = as_picture(rows)
        views = [picture] + [_turned_and_moved(picture, rng) for _ in range(3)]
        yield Ask(rng.exponential(0.9), as_pixels(np.stack(views).reshape(4, -1)))


def _turned_and_moved(picture: Picture, rng: Rng) -> Picture:
    turned = ndimage.rotate(picture, rng.uniform(-15, 15), order=1, reshape=False)
    return np.asarray(ndimage.shift(turned, rng.uniform(-0.5, 0.5, 2), order=1))


def one_class(images: Examples, rng: Rng) -> Iterator[Ask]:
    """One digit only, never written twice in the same way: each turned and moved a little."""
    for rows in shuffled(_of_one_digit(images, rng), rng):
        picture = _turned_and_moved(as_picture(rows), rng)
        yield Ask(rng.exponential(0.26), as_pixels(picture.reshape(1, -1)))


def rescans(images: Examples, rng: Rng) -> Iterator[Ask]:
    """The same sixty sheets through a scanner again and again, each time with a little noise."""
    for rows in shuffled(_of_one_digit(images, rng), rng):
        yield Ask(rng.exponential(0.26), as_pixels(rows + rng.normal(0, 0.03, rows.shape)))


def _of_one_digit(images: Examples, rng: Rng) -> Examples:
    kept = images.labels == rng.integers(10)
    return Examples(images.features[kept], images.labels[kept])
