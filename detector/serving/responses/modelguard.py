"""ModelGuard-W: the answer that tells least about the model's own, within a distance and with the same first class.

Tang, Chen, Wang, Zhang and Chen, USENIX Security 2024: of all y' on the simplex with ||y' - y||_1 <= epsilon whose
likeliest class is that of y, the one with the least log(y) y'. The paper gives this linear program to a solver. Here it
is solved by sorting: for a given share t of the likeliest class no other may have more than t less a margin, and then
the best is to move the rest from the next likeliest to the least likely classes. What that costs is convex in t, and
piecewise linear, so that tangents find the best t.
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

FLOOR = 1e-6
"""Added before the logarithm, as published."""
MARGIN = 1e-4
"""What the likeliest class keeps over each other, as published; less where the model's own answer has less."""
_LEAST_MARGIN = 1e-7

_APART = 1e-8
_TANGENTS = 40
_BLOCK = 3_000
"""Probabilities solved at once: what these need stays in the cache."""
_FLAT = 1e-6
"""Slopes nearer to 0, which a step of ``_APART`` cannot tell from it, count as 0, and costs as near as equal."""


class _Program:
    """The program of n rows, their classes in ascending order of probability without the likeliest.

    ``top`` (n, 1) the likeliest class's share, ``rest`` (n, k - 1) the others'. Shares t are (n, 1), or (m, n, 1) for m
    of them a row at once.
    """

    def __init__(self, top: Array, rest: Array, budget: float) -> None:
        self.top, self.rest, self.budget = top, rest, budget
        self.margin = np.minimum(np.maximum(top - rest[:, -1:], _LEAST_MARGIN), MARGIN)
        self._top_gain, self._gains = np.log(top + FLOOR), np.log(rest + FLOOR)

    def rows(self, chosen: NDArray[np.bool_]) -> _Program:
        return _Program(self.top[chosen], self.rest[chosen], self.budget)

    def least(self) -> Array:
        """Returns the least t (n, 1): all that may move comes off the likeliest classes, or all are level."""
        k = self.rest.shape[1] + 1
        ordered = np.concatenate([self.top, self.rest[:, ::-1] + self.margin], axis=1)
        levels = (np.add.accumulate(ordered, axis=1) - self.budget) / np.arange(1, k + 1)
        return np.maximum(np.maximum.reduce(levels, axis=1, keepdims=True), (1 + (k - 1) * self.margin) / k)  # type: ignore[no-any-return]

    def simple(self, t: Array) -> NDArray[np.bool_]:
        """Returns for the least ``t`` (n, 1) whether it is surely the best (n,): the least likely class takes all that
        moves, and at most one class is level with the likeliest. More for these comes off less likely ones."""
        most = t - self.margin
        takes = self.budget < most - self.rest[:, :1]
        return (takes & ~(self.rest[:, -2:-1] > most).any(axis=1, keepdims=True))[:, 0]  # type: ignore[no-any-return]

    def others(self, t: Array) -> Array:
        """Returns the best shares (..., n, k - 1) of the other classes for ``t`` (..., n, 1).

        The least likely are filled as far as the budget goes, and the next likeliest give what is then too much.
        """
        most = t - self.margin
        kept = np.minimum(self.rest, most)
        room = most - kept
        moved = self.budget - np.maximum(t - self.top, 0)
        shares = kept + np.minimum(np.maximum(moved - np.add.accumulate(room, axis=-1) + room, 0), room)
        excess = t + _total(shares) - 1
        down = shares[..., ::-1]
        taken = np.minimum(np.maximum(excess - np.add.accumulate(down, axis=-1) + down, 0), down)
        return shares - taken[..., ::-1]  # type: ignore[no-any-return]

    def tangent(self, t: Array) -> tuple[Array, Array]:
        """Returns log(y) y' (..., n, 1) at ``t``, and its slope above it."""
        both = np.stack([t, t + _APART])
        cost, above = both * self._top_gain + _total(self._gains * self.others(both))
        return cost, (above - cost) / _APART


def _total(shares: Array) -> Array:
    return np.add.reduce(shares, axis=-1, keepdims=True)


def modelguard_w(rows: Array, epsilon: float) -> Array:
    """Returns the answers to ``rows`` (n, k) within ``epsilon`` of them (L1), at most 2."""
    if rows.shape[1] == 1:
        return rows
    step = max(1, _BLOCK // rows.shape[1])
    if len(rows) <= step:
        return _solved(rows, epsilon)
    return np.concatenate([_solved(rows[at : at + step], epsilon) for at in range(0, len(rows), step)])


def _solved(rows: Array, epsilon: float) -> Array:
    likeliest = rows.argmax(axis=1)
    raised = rows.copy()
    raised[np.arange(len(rows)), likeliest] = 2.0  # of equal ones the first counts as likeliest
    order = np.argsort(raised, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    program = _Program(ordered[:, -1:], ordered[:, :-1], epsilon / 2)
    t = _best(program)
    answers = np.empty_like(rows)
    np.put_along_axis(answers, order, np.concatenate([program.others(t), t], axis=1), axis=1)
    answers /= answers.sum(axis=1, keepdims=True)
    return answers


def _best(program: _Program) -> Array:
    """Returns the t (n, 1) of least cost."""
    t = program.least()
    rest = ~program.simple(t)
    if rest.all():
        return _searched(program, t)
    if rest.any():
        t[rest] = _searched(program.rows(rest), t[rest])
    return t


def _searched(program: _Program, least: Array) -> Array:
    """Returns the t (n, 1) of least cost from ``least`` on, where the tangents of a low and a high t meet, and again.

    The slope often turns at ``least``, or where t is what the model itself gives the likeliest class.
    """
    high = np.maximum(program.top, least)
    (low_cost, high_cost), (falling, rising) = program.tangent(np.stack([least, high]))
    low, best, open_ = least, least, falling < -_FLAT
    beyond = open_ & (rising < -_FLAT)
    if beyond.any():
        highest = np.maximum(np.minimum(program.top + program.budget, 1) - 2 * _APART, high)
        low, low_cost, falling = _replaced(beyond, (low, low_cost, falling), (high, high_cost, rising))
        high, high_cost, rising = _replaced(beyond, (high, high_cost, rising), (highest, *program.tangent(highest)))
        falls = open_ & (rising < -_FLAT)
        best, open_ = np.where(falls, high, best), open_ & ~falls
    for _ in range(_TANGENTS):
        if not open_.any():
            break
        steps = (high_cost - low_cost - rising * (high - low)) / np.where(open_, falling - rising, 1.0)
        best = np.where(open_, np.minimum(np.maximum(low + steps, low), high), best)
        cost, slope = program.tangent(best)
        open_ &= cost - low_cost - falling * (best - low) > _FLAT
        goes_right = slope < -_FLAT
        low, low_cost, falling = _replaced(open_ & goes_right, (low, low_cost, falling), (best, cost, slope))
        high, high_cost, rising = _replaced(open_ & ~goes_right, (high, high_cost, rising), (best, cost, slope))
    return best


def _replaced(where: NDArray[np.bool_], old: tuple[Array, ...], new: tuple[Array, ...]) -> list[Array]:
    return [np.where(where, *pair) for pair in zip(new, old, strict=True)]


def _modelguard_w(rows: Array, _draws: Draws, parameters: Mapping[str, float]) -> Array:
    return modelguard_w(rows, parameters["epsilon"])


MODELGUARD = (
    Response(
        "modelguard_w",
        "perturb",
        _modelguard_w,
        lambda parameters, _: parameters["epsilon"],
        "the true probabilities, up to epsilon",
        {"epsilon": Parameter(0.5, 0.01, 2)},
    ),
)
