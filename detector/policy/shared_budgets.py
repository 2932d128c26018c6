"""Budgets that accounts share: those of an organisation, of a group, or of all that one budget covers.

Such accounts are in many partitions. The owner of each counts what its own accounts spend, and tells the others with
each hundredth of the limit. So each knows the total, but for less than a hundredth of every other partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import BudgetHolder, Command, Evidence, Spending
from detector.contracts.principals import is_name
from detector.policy.activity import Activity, Key

if TYPE_CHECKING:
    from detector.policy.budgets import ExposureBudget

HOLDERS: tuple[BudgetHolder, ...] = get_args(BudgetHolder)
POLICY_ISSUER = "policy"
_HUNDREDTHS = 100
_MOST_TOLD = 1.5
"""The used share of a budget up to which others are told."""

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
GroupOf = Callable[[Key], str | None]
"""Returns the group that a principal is a member of."""


class Held(NamedTuple):
    """``rows`` int64 (m,) of an activity, ascending, whose accounts share ``budget`` as the holder ``name``."""

    budget: ExposureBudget
    model: str
    name: str
    rows: Rows

    @property
    def key(self) -> Key:
        """The holder's key among those of principals, none of which has such a name."""
        return holder_key(self.model, self.budget.per, self.name)


def holder_key(model: str, holder: str, name: str) -> Key:
    return model, f"{holder}\n{name}"


def runs(numbers: NDArray[np.integer]) -> list[Rows]:
    """Returns the positions of each value of ``numbers`` (n,), ascending."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []


def by_principal(activity: Activity, rows: Rows) -> Iterator[tuple[Key, Rows]]:
    """Yields those of ``rows`` of each principal."""
    numbers: dict[Key, int] = {}
    number = np.array([numbers.setdefault((key.model, key.principal), len(numbers)) for key in activity.keys])
    number_of, keys = number[activity.key_index[rows]], list(numbers)
    for part in runs(number_of):
        yield keys[number_of[part[0]]], rows[part]


def by_organisation(activity: Activity, rows: Rows) -> list[Rows]:
    """Returns ``rows`` in parts, each of one organisation."""
    if activity.organisations is None:
        return [rows]
    names = [activity.organisations[row] for row in rows.tolist()]
    return np.split(rows, [at for at in range(1, len(names)) if names[at] != names[at - 1]])


def held_rows(activity: Activity, rows: Rows, budgets: Sequence[ExposureBudget], group_of: GroupOf) -> Iterator[Held]:
    """Yields those of ``rows`` that share one of ``budgets``, by holder: of each kind, of the first budget that covers
    the account."""
    known, organisation_of = {"": 0}, np.zeros(len(rows), np.int64)
    if activity.organisations is not None:
        logged = [activity.organisations[row] for row in rows.tolist()]
        organisation_of[:] = [known.setdefault(name, len(known)) for name in logged]
    names = list(known)
    pairs, pair_of = np.unique(
        activity.key_index[rows].astype(np.int64) * len(names) + organisation_of, return_inverse=True
    )
    for kind in HOLDERS:
        of_kind = [budget for budget in budgets if budget.per == kind]
        holders: dict[tuple[str, str], tuple[int, ExposureBudget]] = {}
        of_pair = np.full(len(pairs), -1)
        for at, pair in enumerate(pairs.tolist() if of_kind else ()):
            key, organisation = activity.keys[pair // len(names)], names[pair % len(names)]
            principal = key.model, key.principal
            budget = next((budget for budget in of_kind if budget.covers(principal, organisation)), None)
            name = None if budget is None else _name_of(budget, principal, organisation, group_of)
            if budget is not None and name is not None:
                of_pair[at] = holders.setdefault((key.model, name), (len(holders), budget))[0]
        for part in runs(of_pair[pair_of]) if holders else ():
            number = of_pair[pair_of[part[0]]]
            if number >= 0:
                (model, name), (_, budget) = list(holders.items())[number]
                yield Held(budget, model, name, rows[part])


def _name_of(budget: ExposureBudget, principal: Key, organisation: str, group_of: GroupOf) -> str | None:
    if budget.per == "group":
        return group_of(principal)
    if budget.per == "organisation":
        return organisation if is_name(organisation) else None
    return budget.name


@dataclass(slots=True)
class Shares:
    """Of each of n rows, the shared budget that is nearest to its end: ``used`` float64 (n,), its share; ``in_window``
    and ``life`` float64 (n,), what all accounts have spent of it; ``number`` int64 (n,), its position in ``budgets``,
    -1 for none."""

    used: Floats
    in_window: Floats
    life: Floats
    number: Rows
    budgets: list[ExposureBudget] = field(default_factory=list)

    @classmethod
    def none(cls, count: int) -> Shares:
        return cls(np.zeros(count), np.zeros(count), np.zeros(count), np.full(count, -1))

    def add(self, held: Held, in_window: Floats, life: Floats) -> None:
        """Adds a holder's figures, float64 (m,) each, at its rows."""
        used, rows = held.budget.used(in_window, life), held.rows
        nearer = (used > self.used[rows]) | (self.number[rows] < 0)
        at = rows[nearer]
        self.used[at], self.in_window[at], self.life[at] = used[nearer], in_window[nearer], life[nearer]
        self.number[at] = len(self.budgets)
        self.budgets.append(held.budget)

    def evidence(self, row: int) -> tuple[Evidence, ...]:
        """Returns what was learned as of ``row``, beside the limits."""
        budget: ExposureBudget = self.budgets[self.number[row]]
        return budget.evidence(float(self.in_window[row]), float(self.life[row]))


class Part(msgspec.Struct, array_like=True, frozen=True):
    """What the accounts of another partition have spent."""

    window: float
    in_window: float
    life: float


def spent_elsewhere(parts: Sequence[Part], window: Floats) -> tuple[Floats, float]:
    """Returns what other partitions have spent in each ``window`` (n,), and in all."""
    begun, of_row = np.unique(window, return_inverse=True)
    sums = [sum(part.in_window for part in parts if part.window == start) for start in begun.tolist()]
    return np.array(sums, np.float64)[of_row], sum(part.life for part in parts)


def marks(budget: ExposureBudget, in_window: Floats, life: Floats) -> Rows:
    """Returns int64 (n,): a number that changes where the others must be told."""
    mark = np.zeros(len(life), np.int64)
    for spent, limit in ((in_window, budget.per_window), (life, budget.for_life)):
        if limit:
            mark += (np.minimum(spent / limit, _MOST_TOLD) * _HUNDREDTHS).astype(np.int64)
    return mark


def spend_command(held: Held, now: float, window: float, in_window: float, life: float) -> Command:
    """Returns what the owners of other partitions are told; who sends it fills in its own partition."""
    return Command(
        id=f"spend-{now:.6f}",
        kind="spend",
        issued_at=now,
        issuer=POLICY_ISSUER,
        model=held.model,
        principal=held.name,
        reason=f"budget {held.budget.name}",
        spent=Spending(held.budget.per, 0, window, in_window, life),  # type: ignore[arg-type]  # shared budgets alone
    )
