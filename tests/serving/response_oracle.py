"""The optimisation responses in their obvious form: a solver, all vertices, all code words; for short vectors."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Vector = NDArray[np.float64]


def modelguard_w_cost(y: Vector, epsilon: float, margin: float) -> float:
    """Returns the least log(y + 1e-6) y' over y' on the simplex within ``epsilon`` of ``y`` (L1), where the likeliest
    class of ``y`` is ahead of each other by ``margin``. The variables are y' and bounds of |y' - y|."""
    k = len(y)
    one, top = np.eye(k), int(y.argmax())
    ahead = np.delete(one - one[top], top, axis=0)
    limits = np.block([[one, -one], [-one, -one], [ahead, np.zeros_like(ahead)]])
    limits = np.vstack([limits, np.repeat([0.0, 1.0], k)])
    values = np.concatenate([y, -y, np.full(k - 1, -margin), [epsilon]])
    costs = np.concatenate([np.log(y + 1e-6), np.zeros(k)])
    simplex = np.repeat([1.0, 0.0], k)[None]
    found = linprog(costs, limits, values, simplex, [1.0], bounds=(0, 1), method="highs")
    assert found.success, found.message
    return float(found.fun)


def gradient_deviation(q: Vector, y: Vector, answer: Vector, features: Vector) -> float:
    """Returns || G'a/||G'a|| - G'y/||G'y|| ||^2, G_k = (q - e_k) h' written out: what MAD maximises."""
    gradients = np.stack([np.outer(q - one, features).ravel() for one in np.eye(len(y))])
    first, second = gradients.T @ answer, gradients.T @ y
    return float(np.linalg.norm(first / np.linalg.norm(first) - second / np.linalg.norm(second)) ** 2)


def mad_target(q: Vector, y: Vector, features: Vector) -> int:
    """Returns the class whose one-hot vertex deviates most."""
    return int(np.argmax([gradient_deviation(q, y, vertex, features) for vertex in np.eye(len(y))]))


def mad_argmax_deviation(y: Vector, features: Vector) -> float:
    """Returns the greatest deviation of a vertex that keeps the likeliest class of ``y``, of all 2^(k-1) - 1."""
    k, top = len(y), int(y.argmax())
    others = [other for other in range(k) if other != top]
    deviations = []
    for size in range(k - 1):
        for chosen in combinations(others, size):
            vertex = np.zeros(k)
            vertex[[top, *chosen]] = 1.0
            vertex[top] += 1e-5
            deviations.append(gradient_deviation(np.full(k, 1 / k), y, vertex / vertex.sum(), features))
    return max(deviations)


def largest_remainder(y: Vector, units: int) -> Vector:
    """Returns ``y`` in multiples of 1 / ``units``, with the likeliest class ahead."""
    whole = [int(share * units + 1e-9) for share in y]
    left = units - sum(whole)
    by_remainder = sorted(range(len(y)), key=lambda j: (whole[j] - y[j] * units, j))
    for j in by_remainder[:left]:
        whole[j] += 1
    top = int(y.argmax())
    rival = max((j for j in range(len(y)) if j != top), key=lambda j: (whole[j], -j))
    if whole[rival] >= whole[top]:
        whole[rival] -= 1
        whole[top] += 1
    return np.array(whole) / units


def first_code_word(y: Vector, epsilon: float) -> Vector:
    """Returns the first of 1, 2, 4, ... units that is within ``epsilon``."""
    words = (largest_remainder(y, 1 << power) for power in range(20))
    return next(word for word in words if np.abs(word - y).sum() <= epsilon)
