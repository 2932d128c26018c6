"""Gradients of what an API says, from its answers to two inputs a feature."""

from __future__ import annotations

import numpy as np

from detector.lab.attackers.adam import Array

DIFFERENCE = 0.01


def neighbours(shares: Array) -> Array:
    """The 2 d inputs (2d, d) that are ``DIFFERENCE`` above, then below ``shares`` (d,), in [0, 1], in one feature."""
    steps = DIFFERENCE * np.eye(len(shares))
    return np.asarray(np.clip(np.concatenate([shares + steps, shares - steps]), 0, 1))


def gradient(around: Array, values: Array) -> Array:
    """Of a function that is ``values`` (2d,) at the inputs ``around`` (2d, d): its two-sided differences (d,)."""
    above, below = np.split(values, 2)
    points_above, points_below = np.split(around, 2)
    return (above - below) / np.diagonal(points_above - points_below)
