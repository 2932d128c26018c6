"""Deceptive answers: each moves probability so that a clone trained on it learns something else.

Reverse sigmoid (Lee, Edwards, Molloy and Su, IEEE SPW 2019), prediction poisoning (MAD; Orekondy, Schiele and Fritz,
ICLR 2020), gradient redirection (GRAD2; Mazeika, Li and Forsyth, ICML 2022). The last two move the gradient of the
thief's training. Restricted to the last layer of the thief's network, whose gradients are (q - e_k) h' with its answer
q and its features h, h cancels: they need y and q alone. q is that of a network before training, which is close to
uniform and was the best choice in the paper of MAD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from detector.serving.responses.response import Parameter, Response

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detector.serving.responses.keyed import Draws
    from detector.serving.responses.response import Array
else:
    from detector.contracts.lazy import np

_TINY = 1e-9
_HALVINGS = 30
_SPREAD = 0.5
"""The standard deviation of the logits of an untrained network."""
_AHEAD = 1e-5
"""What the likeliest class has more than each other one in a vertex of MAD-argmax, as in its published code."""


def reverse_sigmoid(rows: Array, beta: float, gamma: float) -> Array:
    """Returns y - beta (sigmoid(gamma logit y) - 1/2), clipped and divided by the sum.

    Where that lifts another class above the likeliest, which happens if the likeliest has less than 1/2, beta is halved
    until it does not.
    """
    clipped = np.clip(rows, _TINY, 1 - _TINY)
    pull = 1 / (1 + ((1 - clipped) / clipped) ** gamma) - 0.5
    top = rows.argmax(axis=1)
    weight = np.full((len(rows), 1), beta)
    answers = _unit(np.clip(rows - weight * pull, 0, 1), rows)
    for _ in range(_HALVINGS):
        lost = answers.argmax(axis=1) != top
        if not lost.any():
            return answers
        weight[lost] /= 2
        answers[lost] = _unit(np.clip(rows[lost] - weight[lost] * pull[lost], 0, 1), rows[lost])
    lost = answers.argmax(axis=1) != top
    answers[lost] = rows[lost]
    return answers


def mad(rows: Array, surrogate: Array, epsilon: float) -> Array:
    """Moves each row towards the one-hot vertex whose gradient deviates most in direction, by ``epsilon`` (L1) at most.

    That is the class j of least (q - e_j)(q - y) / ||q - e_j||, with q of ``surrogate`` (n, k).
    """
    apart = surrogate - rows
    length = np.sqrt(np.maximum((surrogate**2).sum(axis=1, keepdims=True) - 2 * surrogate + 1, _TINY))
    cosines = ((surrogate * apart).sum(axis=1, keepdims=True) - apart) / length
    target = np.zeros_like(rows)
    target[np.arange(len(rows)), cosines.argmin(axis=1)] = 1.0
    return moved(rows, target, epsilon)


def mad_argmax(rows: Array, epsilon: float) -> Array:
    """Moves each row towards the vertex whose gradient deviates most among those with the same likeliest class.

    The vertices are uniform on r classes, the likeliest among them. For a uniform q, the best of r classes are the
    likeliest and the r - 1 least likely, so that the exact vertex is one of k - 1; the published code searches 2^(k-1).
    """
    n, k = rows.shape
    if k <= 2:
        return rows
    top = rows.argmax(axis=1)
    first = rows.copy()
    first[np.arange(n), top] = -1.0
    order = np.argsort(first, axis=1, kind="stable")
    count = np.arange(1, k)
    means = np.take_along_axis(rows, order, axis=1).cumsum(axis=1)[:, :-1] / count
    best = ((means - 1 / k) / np.sqrt(1 / count - 1 / k)).argmin(axis=1)
    vertex = np.empty_like(rows)
    np.put_along_axis(vertex, order, (np.arange(k) <= best[:, None]).astype(np.float64), axis=1)
    vertex[np.arange(n), top] += _AHEAD
    answers = moved(rows, vertex / vertex.sum(axis=1, keepdims=True), epsilon)
    lost = answers.argmax(axis=1) != top
    answers[lost] = rows[lost]
    return answers


def grad2(rows: Array, surrogate: Array, epsilon: float) -> Array:
    """Gives the class of least y - q up to ``epsilon`` / 2, taken from those of the greatest (MIN-IP)."""
    excess = rows - surrogate
    order = np.argsort(-excess, axis=1, kind="stable")
    shares = np.take_along_axis(rows, order, axis=1)
    before = shares.cumsum(axis=1) - shares
    budget = np.minimum(1 - shares[:, -1:], epsilon / 2)
    taken = np.clip(budget - before, 0, shares)
    taken[:, -1] = -taken[:, :-1].sum(axis=1)
    answers = np.empty_like(rows)
    np.put_along_axis(answers, order, np.maximum(shares - taken, 0), axis=1)
    return answers


def misinformation(rows: Array, other: NDArray[np.int64], suspicion: float, steepness: float) -> Array:
    """Returns (1 - a) y + a f with a = 1 / (1 + exp(-steepness (suspicion - 1))): adaptive misinformation (Kariyappa
    and Qureshi, CVPR 2020), driven by the account's score instead of the input's.

    f is as sure as y of another class: the likeliest one and that in place ``other`` (n,) after it, from 0 to k - 2,
    change places.
    """
    n, k = rows.shape
    if k == 1:
        return rows
    share = 1 / (1 + np.exp(-np.clip(steepness * (suspicion - 1), -500, 500)))
    count, top = np.arange(n), rows.argmax(axis=1)
    place = (top + 1 + other) % k
    answers = rows.copy()
    gap = share * (rows[count, top] - rows[count, place])
    answers[count, top] -= gap
    answers[count, place] += gap
    return answers


def moved(rows: Array, targets: Array, epsilon: float) -> Array:
    """Returns ``rows`` moved straight towards ``targets``, by ``epsilon`` (L1) at most."""
    distance = np.abs(targets - rows).sum(axis=1, keepdims=True)
    share = np.minimum(1, epsilon / np.maximum(distance, _TINY))
    return rows + share * (targets - rows)  # type: ignore[no-any-return]


def untrained(draws: Draws, classes: int) -> Array:
    """Returns the answers (n, classes) of an untrained network: the softmax of small logits."""
    weights = np.exp(_SPREAD * draws.normal(classes))
    return weights / weights.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _unit(shares: Array, rows: Array) -> Array:
    """Returns ``shares`` divided by their sums; ``rows`` where that is 0."""
    total = shares.sum(axis=1, keepdims=True)
    return np.where(total > 0, shares / np.where(total > 0, total, 1), rows)


def _reverse_sigmoid(rows: Array, _draws: Draws, parameters: Mapping[str, float]) -> Array:
    return reverse_sigmoid(rows, parameters["beta"], parameters["gamma"])


def _mad(rows: Array, draws: Draws, parameters: Mapping[str, float]) -> Array:
    return mad(rows, untrained(draws, rows.shape[1]), parameters["epsilon"])


def _mad_argmax(rows: Array, _draws: Draws, parameters: Mapping[str, float]) -> Array:
    return mad_argmax(rows, parameters["epsilon"])


def _grad2(rows: Array, draws: Draws, parameters: Mapping[str, float]) -> Array:
    return grad2(rows, untrained(draws, rows.shape[1]), parameters["epsilon"])


def _misinformation(rows: Array, draws: Draws, parameters: Mapping[str, float]) -> Array:
    others = max(1, rows.shape[1] - 1)
    other = np.minimum((draws.uniform(1)[:, 0] * others).astype(np.int64), others - 1)
    return misinformation(rows, other, parameters["suspicion"], parameters["steepness"])


def _epsilon(parameters: Mapping[str, float], _classes: int) -> float:
    return parameters["epsilon"]


DECEPTIVE = (
    Response(
        "reverse_sigmoid",
        "perturb",
        _reverse_sigmoid,
        lambda parameters, classes: min(2.0, classes * parameters["beta"]),
        "the true probabilities: sure answers look unsure",
        {"beta": Parameter(0.7, 0, 1), "gamma": Parameter(0.2, 0, 1)},
    ),
    Response(
        "mad",
        "perturb",
        _mad,
        _epsilon,
        "the true probabilities, up to epsilon, and some labels",
        {"epsilon": Parameter(0.9, 0.01, 2)},
        keeps_argmax=False,
        keyed=True,
        labels="it needs the probabilities",
    ),
    Response(
        "mad_argmax",
        "perturb",
        _mad_argmax,
        _epsilon,
        "the true probabilities, up to epsilon",
        {"epsilon": Parameter(0.9, 0.01, 2)},
    ),
    Response(
        "grad2",
        "perturb",
        _grad2,
        _epsilon,
        "the true probabilities, up to epsilon, and some labels",
        {"epsilon": Parameter(0.9, 0.01, 2)},
        keeps_argmax=False,
        keyed=True,
        labels="it needs the probabilities",
    ),
    Response(
        "misinformation",
        "perturb",
        _misinformation,
        lambda _parameters, _classes: 2.0,
        "the labels, as soon as the score is above 1",
        {"suspicion": Parameter(1.5, 0, 1e6), "steepness": Parameter(10, 0, 1_000)},
        keeps_argmax=False,
        keyed=True,
        labels="it needs the probabilities",
    ),
)
