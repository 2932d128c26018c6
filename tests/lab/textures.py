"""A pool of images that thieves may hold: drawn, not photographed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def textures(count: int, side: int, seed: int) -> NDArray[np.float32]:
    """Returns smooth random shapes (count, side * side), 0 to 1: noise with a random width of blur, with contrast."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, side, side))
    widths = rng.uniform(0.4, 1.2, count)
    smooth = np.stack([gaussian_filter(image, width) for image, width in zip(noise, widths, strict=True)])
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    shades = 1 / (1 + np.exp(-3 * (smooth - rng.uniform(0, 0.8, (count, 1, 1)))))
    return shades.reshape(count, side * side).astype(np.float32)
