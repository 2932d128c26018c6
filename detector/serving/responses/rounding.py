"""Coarser answers: rounding that stays on the simplex, the best classes, the best class, a quantised answer.

All of them keep the first of the likeliest classes, and depend on the probabilities alone.
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

_FINEST = 1 << 20
_TINY = 1e-100
"""Scores below this are rounded to 0."""


def rounded(rows: Array, units: int) -> Array:
    """Returns ``rows`` (n, k) in multiples of 1 / ``units``, by largest remainders.

    A likeliest class that is no longer alone in front gets one unit of a class that is level with it.
    """
    order = np.arange(len(rows))
    top = rows.argmax(axis=1)
    scaled = rows * units
    whole = np.floor(scaled + 1e-9)
    missing = np.maximum(np.rint(units - whole.sum(axis=1)), 0)
    rank = np.argsort(np.argsort(whole - scaled, axis=1, kind="stable"), axis=1)
    whole += rank < missing[:, None]
    others = whole.copy()
    others[order, top] = -1
    rival = others.argmax(axis=1)
    level = (others[order, rival] >= whole[order, top]) & (whole.shape[1] > 1)
    whole[order[level], rival[level]] -= 1
    whole[order[level], top[level]] += 1
    return whole / units


def _round(rows: Array, _draws: Draws, parameters: Mapping[str, float]) -> Array:
    return rounded(rows, 10 ** int(parameters["digits"]))


def rounded_scores(scores: Array, digits: int) -> Array:
    """Returns ``scores`` float64 (n, k) to as many significant ``digits``, at least one."""
    size = np.abs(scores)
    place = np.floor(np.log10(np.where(size > _TINY, size, 1.0))) + 1 - max(digits, 1)
    up, down = 10.0 ** np.maximum(-place, 0), 10.0 ** np.maximum(place, 0)
    return np.where(size > _TINY, np.rint(scores * up / down) / up * down, 0.0)


def _round_scores(scores: Array, _draws: Draws, parameters: Mapping[str, float]) -> Array:
    return rounded_scores(scores, int(parameters["digits"]))


def _top_k(rows: Array, _draws: Draws, parameters: Mapping[str, float]) -> Array:
    """Keeps the likeliest classes; the others' share goes to these in proportion."""
    count = min(int(parameters["classes"]), rows.shape[1])
    kept = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    best = np.zeros_like(rows)
    np.put_along_axis(best, kept, np.take_along_axis(rows, kept, axis=1), axis=1)
    return best / best.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _label_only(rows: Array, _draws: Draws, _parameters: Mapping[str, float]) -> Array:
    """Returns 1 at the likeliest class, so that the form of the answer stays."""
    label = np.zeros_like(rows)
    label[np.arange(len(rows)), rows.argmax(axis=1)] = 1.0
    return label


def modelguard_s(rows: Array, epsilon: float) -> Array:
    """Returns for each row the first entry within ``epsilon`` (L1) of an ordered code book: ModelGuard-S (Tang, Chen et
    al., USENIX Security 2024).

    The published code book grows with the queries, so its answers depend on their order and on the process. Here it is
    fixed: the row in multiples of 1, 1/2, 1/4, ..., by largest remainders; the coarsest that is near enough answers.
    """
    answers = rows.copy()
    waiting: NDArray[np.int64] = np.arange(len(rows))
    units = 1
    while len(waiting) and units <= _FINEST:
        scaled = rows[waiting] * units
        hopeful = np.abs(scaled - np.rint(scaled)).sum(axis=1) <= epsilon * units  # no multiples are nearer
        if hopeful.any():
            given = rows[waiting[hopeful]]
            coarse = rounded(given, units)
            near = np.abs(coarse - given).sum(axis=1) <= epsilon
            answers[waiting[hopeful][near]] = coarse[near]
            hopeful[hopeful] = near
            waiting = waiting[~hopeful]
        units *= 2
    return answers


def _modelguard_s(rows: Array, _draws: Draws, parameters: Mapping[str, float]) -> Array:
    return modelguard_s(rows, parameters["epsilon"])


def _rounding_bound(parameters: Mapping[str, float], classes: int) -> float:
    return float(min(2.0, (classes / 2 + 2) / 10 ** parameters["digits"]))


COARSE = (
    Response(
        "round",
        "round",
        _round,
        _rounding_bound,
        "digits",
        {"digits": Parameter(2, 0, 6, whole=True)},
        change_scores=_round_scores,
        scores_bound=lambda parameters: 5 * 10.0 ** -max(parameters["digits"], 1),
    ),
    Response(
        "top_k",
        "round",
        _top_k,
        lambda parameters, classes: max(0.0, 2 * (1 - parameters["classes"] / classes)),
        "all classes but the best ones",
        {"classes": Parameter(3, 1, 1_000, whole=True)},
    ),
    Response(
        "label_only",
        "label_only",
        _label_only,
        lambda _, classes: 2 * (1 - 1 / classes),
        "all probabilities",
        labels="it is a label already",
    ),
    Response(
        "modelguard_s",
        "perturb",
        _modelguard_s,
        lambda parameters, _: parameters["epsilon"],
        "digits, more of them the surer the answer",
        {"epsilon": Parameter(0.5, 0.01, 2)},
    ),
)
