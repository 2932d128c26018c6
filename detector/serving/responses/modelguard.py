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
_BELOW, _ABOVE = (0.0, 0.5), (0.0, 0.05, 0.1, 0.15, 0.3, 1.0)
"""Where the search begins: shares of the way from the least t to the model's own, and from there to the highest."""
_BLOCK = 2_000
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
        gains = np.log(rest + FLOOR)
        self._numbers: Array = np.arange(1.0, rest.shape[1] + 1)
        self._top_gain = np.log(top + FLOOR)
        self._gains = np.concatenate([gains[:, :-1] - gains[:, 1:], gains[:, -1:]], axis=1)

    def rows(self, chosen: NDArray[np.bool_]) -> _Program:
        return _Program(self.top[chosen], self.rest[chosen], self.budget)

    def least(self) -> Array:
        """Returns the least t (n, 1): all that may move comes off the likeliest classes, or all are level."""
        k = self.rest.shape[1] + 1
        ordered = np.empty((len(self.top), k))
        ordered[:, :1] = self.top - self.budget
        np.add(self.rest[:, ::-1], self.margin, out=ordered[:, 1:])
        levels = np.add.accumulate(ordered, axis=1) / np.arange(1, k + 1)
        return np.maximum(np.maximum.reduce(levels, axis=1, keepdims=True), (1 + (k - 1) * self.margin) / k)  # type: ignore[no-any-return]

    def simple(self, t: Array) -> NDArray[np.bool_]:
        """Returns for the least ``t`` (n, 1) whether it is surely the best (n,): the least likely class takes all that
        moves, and at most one class is level with the likeliest. More for these comes off less likely ones."""
        most = t - self.margin
        takes = self.budget < most - self.rest[:, :1]
        return (takes & ~(self.rest[:, -2:-1] > most).any(axis=1, keepdims=True))[:, 0]  # type: ignore[no-any-return]

    def sums(self, t: Array) -> Array:
        """Returns the running sums (..., n, k - 1) of the best shares of the other classes for ``t`` (..., n, 1).

        The least likely are filled as far as the budget goes, and the next likeliest give what is then too much: the
        sum of the first i is at most i full ones, at most what they have and all that moves, and at most 1 - t.
        """
        most = t - self.margin
        kept = np.add.accumulate(np.minimum(self.rest, most), axis=-1)
        moved = self.budget - np.maximum(t - self.top, 0)
        return np.minimum(np.minimum(self._numbers * most, kept + moved), 1 - t)  # type: ignore[no-any-return]

    def others(self, t: Array) -> Array:
        """Returns the best shares (n, k - 1) of the other classes for ``t`` (n, 1)."""
        sums = self.sums(t)
        sums[:, 1:] -= sums[:, :-1].copy()
        return sums

    def tangent(self, t: Array) -> Array:
        """Returns (3, ..., n, 1): ``t``, log(y) y' there, and its slope above it."""
        both, found = np.empty((2, *t.shape)), np.empty((3, *t.shape))
        both[0] = found[0] = t
        both[1] = t + _APART
        found[1], above = both * self._top_gain + np.add.reduce(self._gains * self.sums(both), axis=-1, keepdims=True)
        found[2] = (above - found[1]) / _APART
        return found


def modelguard_w(rows: Array, epsilon: float) -> Array:
    """Returns the answers to ``rows`` (n, k) within ``epsilon`` of them (L1), at most 2."""
    if rows.shape[1] == 1:
        return rows
    step = max(1, _BLOCK // rows.shape[1])
    if len(rows) <= step:
        return _solved(rows, epsilon)
    return np.concatenate([_solved(rows[at : at + step], epsilon) for at in range(0, len(rows), step)])


def _solved(rows: Array, epsilon: float) -> Array:
    number = np.arange(len(rows))[:, None]
    raised = rows.copy()
    raised[number, rows.argmax(axis=1)[:, None]] = 2.0  # of equal ones the first counts as likeliest
    order = np.argsort(raised, axis=1, kind="stable")
    ordered = rows[number, order]
    program = _Program(ordered[:, -1:], ordered[:, :-1], epsilon / 2)
    t = _best(program)
    answers = np.empty_like(rows)
    answers[number, order] = np.concatenate([program.others(t), t], axis=1)
    answers /= np.add.reduce(answers, axis=1, keepdims=True)
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
    """Returns the t (n, 1) of least cost from ``least`` on: between two of some points at which the cost falls and
    rises, where the tangents of the ends meet, and again.

    The slope often turns at ``least``, or where t is what the model itself gives the likeliest class.
    """
    high = np.maximum(program.top, least)
    highest = np.maximum(np.minimum(program.top + program.budget, 1) - 2 * _APART, high)
    below, above = (np.array(shares)[:, None, None] for shares in (_BELOW, _ABOVE))
    just_below = np.maximum(high - 2 * _APART, least)[None]
    points = np.concatenate([least + below * (high - least), just_below, high + above * (highest - high)])
    known = program.tangent(points)
    falling = (known[2] < -_FLAT).sum(axis=0)[:, 0]
    row, last = np.arange(len(least)), len(points) - 1
    low, end = known[:, np.maximum(falling - 1, 0), row], known[:, np.minimum(falling, last), row]
    best = end[0]
    open_ = ((falling > 0) & (falling <= last))[:, None] & (best - low[0] > 3 * _APART)
    if len(best) == 1 and open_.all():
        return _met(program, low[:, 0, 0].tolist(), end[:, 0, 0].tolist())
    for _ in range(_TANGENTS if open_.any() else 0):
        apart = end - low
        step = np.divide(end[2] * apart[0] - apart[1], apart[2], out=np.zeros_like(best), where=open_)
        best = np.where(open_, low[0] + np.minimum(np.maximum(step, 0), apart[0]), best)
        new = program.tangent(best)
        open_ &= new[1] - low[1] - low[2] * (best - low[0]) > _FLAT
        if not open_.any():
            break
        right = new[2] < -_FLAT
        low, end = np.where(open_ & right, new, low), np.where(open_ > right, new, end)
    return best  # type: ignore[no-any-return]


def _met(program: _Program, low: list[float], end: list[float]) -> Array:
    """Returns the t (1, 1) of least cost of a single row between the tangents ``low`` and ``end``, as above: a request
    mostly holds one row, and numpy takes ten times as long with single numbers."""
    best = end[0]
    for _ in range(_TANGENTS):
        apart, turn = end[0] - low[0], end[2] - low[2]
        step = (end[2] * apart - (end[1] - low[1])) / turn if turn else 0.0
        best = low[0] + min(max(step, 0.0), apart)
        new: list[float] = program.tangent(np.array([[best]]))[:, 0, 0].tolist()
        if new[1] - low[1] - low[2] * (best - low[0]) <= _FLAT:
            break
        low, end = (new, end) if new[2] < -_FLAT else (low, new)
    return np.array([[best]])


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
