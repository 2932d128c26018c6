"""Noise on an answer, on a label near the boundary, and on the specification requested of a model zoo."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, sqrt
from typing import TYPE_CHECKING

from detector.serving.responses.response import Parameter, Response

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from detector.serving.responses.keyed import Draws
    from detector.serving.responses.response import Array
else:
    from detector.contracts.lazy import np

_LEAST_LATENCY = 1e-6
_MOST_SIGMAS = 3.0


def gaussian(rows: Array, draws: Draws, sigma: float) -> Array:
    """Returns y + N(0, sigma^2), without its negative part, divided by the sum; y where nothing is left."""
    noisy = np.maximum(rows + sigma * draws.normal(rows.shape[1]), 0)
    total = noisy.sum(axis=1, keepdims=True)
    return np.where(total > 0, noisy / np.where(total > 0, total, 1), rows)


def gaussian_scores(scores: Array, draws: Draws, sigma: float) -> Array:
    """Returns s (1 + N(0, sigma^2)) of ``scores`` float64 (n, k), with noise of at most three sigma."""
    return scores * (1 + sigma * np.clip(draws.normal(scores.shape[1]), -_MOST_SIGMAS, _MOST_SIGMAS))


def truthful(privacy: float) -> float:
    """Returns the probability of the true answer near the boundary: 1/2 + sqrt(e^(2 eps) - 1) / (2 + 2 e^eps) for
    ``privacy`` eps."""
    return 0.5 + sqrt(exp(2 * privacy) - 1) / (2 + 2 * exp(privacy))


def boundary_response(rows: Array, coin: NDArray[np.float64], zone: float, privacy: float) -> Array:
    """Exchanges the two likeliest classes of rows in which they differ by less than ``zone``, where ``coin`` (n,) says
    so: boundary differential privacy (BDPL; Zheng, Ye, Hu, Fang and Shi, ESORICS 2019)."""
    if rows.shape[1] == 1:
        return rows
    answers, count = rows.copy(), np.arange(len(rows))
    first = rows.argmax(axis=1)
    others = rows.copy()
    others[count, first] = -1.0
    second = others.argmax(axis=1)
    near = rows[count, first] - rows[count, second] < zone
    turned = count[near & (coin > truthful(privacy))]
    answers[turned, first[turned]] = rows[turned, second[turned]]
    answers[turned, second[turned]] = rows[turned, first[turned]]
    # Equal shares show no exchange: the label is what a coin must be able to turn.
    level = turned[rows[turned, first[turned]] == rows[turned, second[turned]]]
    shift = np.minimum(1e-6, rows[level, first[level]])
    answers[level, first[level]] -= shift
    answers[level, second[level]] += shift
    return answers


def specification_noise(
    requested: ArrayLike, draws: Draws, scale: float, offered: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Returns ``requested`` (n, 2), accuracies 0 to 1 and latencies in milliseconds, with Laplace noise.

    It has ``scale`` on an accuracy, and ``scale`` times the latency on a latency (PSML; Sanyal et al. 2023).

    ``offered`` (m, 2): accuracies and latencies of the zoo's models. Then each is the nearest of those: a request for
    something that no model offers is refused, which tells as much as an answer.
    """
    wanted = np.asarray(requested, dtype=np.float64).reshape(-1, 2)
    turn = draws.uniform(2) - 0.5
    noise = -np.sign(turn) * np.log(np.maximum(1 - 2 * np.abs(turn), 1e-15)) * scale
    noisy = wanted + noise * np.stack([np.ones(len(wanted)), np.abs(wanted[:, 1])], axis=1)
    noisy = np.stack([np.clip(noisy[:, 0], 0, 1), np.maximum(noisy[:, 1], _LEAST_LATENCY)], axis=1)
    if offered is None:
        return noisy
    models = np.asarray(offered, dtype=np.float64).reshape(-1, 2)
    spread = np.maximum(np.ptp(models, axis=0), 1e-9)
    nearest = (((noisy[:, None] - models) / spread) ** 2).sum(axis=2).argmin(axis=1)
    return models[nearest]  # type: ignore[no-any-return]


def _gaussian(rows: Array, draws: Draws, parameters: Mapping[str, float]) -> Array:
    return gaussian(rows, draws, parameters["sigma"])


def _gaussian_scores(scores: Array, draws: Draws, parameters: Mapping[str, float]) -> Array:
    return gaussian_scores(scores, draws, parameters["sigma"])


def _boundary(rows: Array, draws: Draws, parameters: Mapping[str, float]) -> Array:
    return boundary_response(rows, draws.uniform(1)[:, 0], parameters["zone"], parameters["privacy"])


RANDOM = (
    Response(
        "gaussian",
        "perturb",
        _gaussian,
        lambda _parameters, _classes: 2.0,
        "the true probabilities, and some labels",
        {"sigma": Parameter(0.1, 0, 1)},
        keeps_argmax=False,
        keyed=True,
        labels="it needs the probabilities",
        change_scores=_gaussian_scores,
        scores_bound=lambda parameters: _MOST_SIGMAS * parameters["sigma"],
    ),
    Response(
        "boundary",
        "perturb",
        _boundary,
        lambda parameters, _classes: 2 * parameters["zone"] + 1e-5,
        "labels near the boundary",
        {"zone": Parameter(0.2, 0, 1), "privacy": Parameter(0.1, 0, 10)},
        keeps_argmax=False,
        keyed=True,
        labels="it needs the probabilities",
    ),
)
