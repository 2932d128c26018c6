"""What it costs a thief to stay unseen: the queries until a clone is as good as unwatched, over those it took then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detector.lab.evaluation.results import AttackResult
from detector.lab.query_log import Run
from detector.lab.wrappers import PLAIN

LEVELS = (0.90, 0.95, 0.99)
"""Shares of the fidelity of the clone that the same attack makes undisguised and unwatched, to the end."""

OWN_ROWS = "own rows"
"""The attack that asks natural rows and nothing else."""

Inputs = Literal["test", "uniform"]
"""Which inputs a clone is judged on: natural or uniform ones."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The queries to one level of fidelity: ``unwatched``; ``unseen``, None if a verdict or the end comes first; and of
    ``rows`` alone, None if the thief's natural rows do not reach it."""

    unwatched: float
    unseen: float | None
    rows: float | None

    @property
    def by_rows(self) -> bool:
        """Whether the thief does best to ask natural rows alone."""
        return self.rows is not None and (self.unseen is None or self.rows <= self.unseen)

    @property
    def multiplier(self) -> float | None:
        """Queries unseen over queries unwatched; None if no way reaches the level."""
        ways = [queries for queries in (self.unseen, self.rows) if queries is not None]
        return min(ways) / self.unwatched if ways else None


@dataclass(frozen=True, slots=True)
class ThiefCost:
    """``costs`` of a thief on natural and on uniform inputs, each at every level of LEVELS in order."""

    result: AttackResult
    costs: Mapping[Inputs, tuple[Cost, ...]]

    @property
    def found_after(self) -> int | None:
        """How many queries after the thief's natural rows the verdict came; None if none came."""
        first = self.result.first_verdict
        return None if first is None else first - self.result.run.natural


def thief_costs(attacks: Sequence[AttackResult]) -> tuple[ThiefCost, ...]:
    """Returns the costs of those ``attacks`` that are there undisguised and unwatched too, by victim and thief."""
    unwatched = {_attack_of(own.run): own.run for own in attacks if _is_blind(own.run) and own.run.curve}
    rows = {_victim_of(own.run): own for own in attacks if own.run.attack == OWN_ROWS}
    costs = [
        ThiefCost(own, _costs(own, unwatched[_attack_of(own.run)], rows.get(_victim_of(own.run))))
        for own in attacks
        if _attack_of(own.run) in unwatched
    ]
    return tuple(sorted(costs, key=lambda own: (*_attack_of(own.result.run), own.result.run.wrapper != PLAIN)))


def queries_to(run: Run, inputs: Inputs, goal: float, limit: float) -> float | None:
    """Returns after how many queries the clone of ``run`` first has the fidelity ``goal``, linear between measurements;
    None if that takes ``limit`` or more."""
    queries = [point.queries for point in run.curve]
    reached = [getattr(point, inputs) for point in run.curve]
    after = next((at for at, share in enumerate(reached) if share >= goal), None)
    if after is None:
        return None
    between = slice(max(after - 1, 0), after + 1)
    found = float(np.interp(goal, reached[between], queries[between]))
    return found if found < limit else None


def _costs(own: AttackResult, unwatched: Run, rows: AttackResult | None) -> dict[Inputs, tuple[Cost, ...]]:
    kinds: tuple[Inputs, ...] = ("test", "uniform")
    return {inputs: tuple(_cost(own, unwatched, rows, inputs, level) for level in LEVELS) for inputs in kinds}


def _cost(own: AttackResult, unwatched: Run, rows: AttackResult | None, inputs: Inputs, level: float) -> Cost:
    goal = level * getattr(unwatched.curve[-1], inputs)
    at_all = queries_to(unwatched, inputs, goal, np.inf)
    assert at_all is not None  # the last point of the curve is above the goal
    return Cost(at_all, _unseen(own, inputs, goal), None if rows is None else _unseen(rows, inputs, goal))


def _unseen(own: AttackResult, inputs: Inputs, goal: float) -> float | None:
    return queries_to(own.run, inputs, goal, np.inf if own.first_verdict is None else own.first_verdict)


def _is_blind(run: Run) -> bool:
    return run.wrapper == PLAIN and run.knows == "none"


def _victim_of(run: Run) -> tuple[str, int]:
    return run.victim, run.seed


def _attack_of(run: Run) -> tuple[str, int, str]:
    return *_victim_of(run), run.attack
