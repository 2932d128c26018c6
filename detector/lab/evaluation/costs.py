"""What it costs a thief to stay unseen: queries until the clone is as good as an unwatched one, over those it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detector.lab.evaluation.results import AttackResult
from detector.lab.query_log import Run
from detector.lab.wrappers import PLAIN

LEVELS = (0.90, 0.95, 0.99)
"""Shares of the fidelity of the undefended clone: the best that any thief makes of the victim undisguised and without
knowledge, to the end."""

OWN_ROWS = "own rows"
"""The attack that asks natural rows and nothing else."""

KNOWLEDGE = ("none", "code", "profile")

Inputs = Literal["test", "uniform"]
"""Which inputs a clone is judged on: natural or uniform ones."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The queries to one level of fidelity: ``unwatched``, by the quickest attack; ``unseen``, None if a verdict or the
    end comes first; and of ``rows`` alone, None if the thief's natural rows do not reach it."""

    unwatched: float
    unseen: float | None
    rows: float | None

    @property
    def by_rows(self) -> bool:
        """Whether natural rows alone are the thief's best choice."""
        return self.rows is not None and (self.unseen is None or self.rows <= self.unseen)

    @property
    def multiplier(self) -> float | None:
        """Queries unseen over queries unwatched; None if the level is not reached."""
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
    """Returns the costs of ``attacks`` on victims that were attacked undisguised and without knowledge too, by victim
    and thief."""
    costs = []
    for victim in sorted({_victim_of(attack.run) for attack in attacks}):
        thieves = [attack for attack in attacks if _victim_of(attack.run) == victim]
        unwatched = [thief.run for thief in thieves if _is_blind(thief.run) and thief.run.curve]
        rows = next((thief for thief in thieves if thief.run.attack == OWN_ROWS), None)
        if unwatched:
            costs += [ThiefCost(thief, _costs(thief, unwatched, rows)) for thief in sorted(thieves, key=_order)]
    return tuple(costs)


def cheapest(costs: Sequence[ThiefCost], inputs: Inputs, level: float) -> ThiefCost | None:
    """Returns the thief on one victim with the lowest multiplier for ``level``, without those who send natural rows
    alone; None if none reaches it unseen."""
    at = LEVELS.index(level)
    detected = [cost for cost in costs if cost.costs[inputs][at].unseen is not None]
    return min(detected, key=lambda cost: cost.costs[inputs][at].unseen or 0, default=None)


def queries_to(run: Run, inputs: Inputs, goal: float, limit: float) -> float | None:
    """Returns after how many queries the clone of ``run`` first has the fidelity ``goal``, linear between measurements;
    None if that takes ``limit`` or more."""
    queries = [point.queries for point in run.curve]
    agreements = [getattr(point, inputs) for point in run.curve]
    after = next((at for at, share in enumerate(agreements) if share >= goal), None)
    if after is None:
        return None
    between = slice(max(after - 1, 0), after + 1)
    found = float(np.interp(goal, agreements[between], queries[between]))
    return found if found < limit else None


def _costs(thief: AttackResult, unwatched: Sequence[Run], rows: AttackResult | None) -> dict[Inputs, tuple[Cost, ...]]:
    kinds: tuple[Inputs, ...] = ("test", "uniform")
    return {inputs: tuple(_cost(thief, unwatched, rows, inputs, level) for level in LEVELS) for inputs in kinds}


def _cost(
    thief: AttackResult, unwatched: Sequence[Run], rows: AttackResult | None, inputs: Inputs, level: float
) -> Cost:
    goal = level * max(getattr(run.curve[-1], inputs) for run in unwatched)
    times = [queries_to(run, inputs, goal, np.inf) for run in unwatched]
    quickest = min(queries for queries in times if queries is not None)
    return Cost(quickest, _unseen(thief, inputs, goal), None if rows is None else _unseen(rows, inputs, goal))


def _unseen(thief: AttackResult, inputs: Inputs, goal: float) -> float | None:
    return queries_to(thief.run, inputs, goal, np.inf if thief.first_verdict is None else thief.first_verdict)


def _is_blind(run: Run) -> bool:
    return run.wrapper == PLAIN and run.knows == "none"


def _victim_of(run: Run) -> tuple[str, int]:
    return run.victim, run.seed


def _order(thief: AttackResult) -> tuple[bool, str, bool, str, int]:
    run = thief.run
    return run.attack != OWN_ROWS, run.attack, run.wrapper != PLAIN, run.wrapper, KNOWLEDGE.index(run.knows)
