"""Exposure budgets: how much of a model an account, or accounts that share one, may learn, per window and for life.
Whoever comes near one is told, and whoever is above one is a suspect by the signal ``budget``.

A query is priced by what it teaches (the meter ``effective_queries``), so that repeats cost nothing. The result depends
on the stream alone, not on how it is cut into micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import HIGH_SCORE, BudgetHolder, Command, Evidence, Finding, severity_of
from detector.contracts.principals import is_name
from detector.policy.activity import Accusation, Activity, Key, Section, decode_section
from detector.policy.shared_budgets import (
    GroupOf,
    Held,
    Part,
    Shares,
    by_organisation,
    by_principal,
    held_rows,
    holder_key,
    marks,
    spend_command,
    spent_elsewhere,
)

BUDGET = "budget"
"""The signal of a principal that has learned more than its budget."""
FORMAT = 1
STEPS = 20
"""A budget is announced, and counted as used, in twentieths."""
MOST_ACCOUNTS = 50_000
DAY = 86_400.0
_EVICTED_SHARE = 16
_LAST_STEP = int(HIGH_SCORE * STEPS)
_FIRST_FIELDS = 6


@dataclass(frozen=True, slots=True)
class ExposureBudget:
    """What each account that matches all fields may learn, in effective queries: ``per_window`` of ``window_seconds``,
    and ``for_life``; None is no limit. Windows begin at multiples of their length. An empty field matches any.

    ``exposure_percent``: by the larger of the two meters. ``per``: who has the budget: each account, or all accounts
    of an organisation, of a group, or that it covers (``tier``) together.
    """

    name: str
    per_window: float | None = None
    window_seconds: float = DAY
    for_life: float | None = None
    models: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    organisations: tuple[str, ...] = ()
    exposure_percent: float | None = None
    per: Literal["account"] | BudgetHolder = "account"

    def covers(self, key: Key, organisation: str = "") -> bool:
        lists = (self.models, self.principals, self.organisations)
        return all(not wanted or name in wanted for wanted, name in zip(lists, (*key, organisation), strict=True))

    def used(
        self, in_window: NDArray[np.float64], life: NDArray[np.float64], exposure: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Returns float64 (n,): the used share of the budget that is nearest to its end."""
        pairs = ((in_window, self.per_window), (life, self.for_life), (exposure, self.exposure_percent))
        shares = [learned / limit for learned, limit in pairs if limit and learned is not None]
        return np.maximum.reduce(shares) if shares else np.zeros(len(life))

    def evidence(self, in_window: float, life: float, exposure: float = 0.0) -> tuple[Evidence, ...]:
        """Returns what was learned, beside the limits."""
        whose = "" if self.per == "account" else f" by the {self.per}"
        evidence = [Evidence(f"learned in all{whose}", float(life), "effective queries", self.for_life)]
        if self.per_window is not None:
            unit = f"effective queries in {self.window_seconds:g} seconds"
            evidence.insert(0, Evidence(f"learned in the window{whose}", float(in_window), unit, self.per_window))
        if self.exposure_percent is not None:
            evidence.append(Evidence("learned of the model", float(exposure), "percent", self.exposure_percent))
        return tuple(evidence)

    def encoded(self) -> tuple[object, ...]:
        """Returns the budget as the part of an id: fields that came later only where they are set."""
        fields, plain = astuple(self), astuple(ExposureBudget(self.name))
        return fields if fields[_FIRST_FIELDS:] != plain[_FIRST_FIELDS:] else fields[:_FIRST_FIELDS]


_NO_LIMIT = ExposureBudget("none")


def check_budgets(budgets: Sequence[ExposureBudget], notice_percent: float) -> None:
    """Raises ConfigurationError for budgets that are wrong, or never apply."""
    names = [budget.name for budget in budgets]
    for at, budget in enumerate(budgets):
        where = f"policy: the exposure budget {budget.name!r}"
        if not is_name(budget.name) or names.count(budget.name) > 1:
            raise ConfigurationError(f"policy: exposure budgets need different names, not {budget.name!r}")
        limits = [limit for limit in (budget.per_window, budget.for_life, budget.exposure_percent) if limit is not None]
        if not limits or not all(0 < value < math.inf for value in (*limits, budget.window_seconds)):
            raise ConfigurationError(
                f"{where}: give per_window, for_life or exposure_percent, or several, and numbers above 0"
            )
        if budget.exposure_percent is not None and (budget.per != "account" or budget.exposure_percent > 100):
            raise ConfigurationError(f"{where}: exposure_percent is at most 100, and only for budgets per account")
        later = any(other.per == budget.per for other in budgets[at + 1 :])
        if later and not (budget.models or budget.principals or budget.organisations):
            raise ConfigurationError(f"{where}: those per {budget.per} after it never apply, as it covers all accounts")
    if not 0 < notice_percent <= 100:
        raise ConfigurationError(f"policy: notice_percent is {notice_percent}; use a number above 0, and at most 100")


class Learned(msgspec.Struct, array_like=True):
    """What one principal has learned of one model, in effective queries: in the window that began at ``window``, and
    for ``life``. ``step``: the used twentieths that were told, 0 for none. ``at``: the policy time of the last query.
    ``exposure``: percent of the model, the most that a meter has said. ``group``: the last group to whose budget this
    was added.

    Of the holder of a shared budget: what the accounts of this partition have learned; ``step``: the mark of what the
    other partitions were told; ``parts``: what those have learned, by their number.
    """

    window: float = -math.inf
    in_window: float = 0.0
    life: float = 0.0
    step: int = 0
    at: float = -math.inf
    exposure: float = 0.0
    group: str = ""
    parts: dict[int, Part] = msgspec.field(default_factory=dict)

    def after(
        self, times: NDArray[np.float64], prices: NDArray[np.float64], window_seconds: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Returns the window of each query of these policy ``times`` and ``prices`` (n,), and what was learned in it
        and in all."""
        window = np.floor(times / window_seconds) * window_seconds
        starts = np.flatnonzero(np.diff(window, prepend=self.window) != 0)
        return window, _running(prices, starts, self.in_window), _running(prices, starts[:0], self.life)

    def exposed(self, activity: Activity, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns float64 (n,): the most that a meter has said as of each of ``rows`` (n,)."""
        before = np.full(len(rows), self.exposure)
        return before if activity.exposure is None else np.fmax.accumulate(np.fmax(before, activity.exposure[rows]))


_decoder = msgspec.msgpack.Decoder(list[tuple[str, str, Learned | None]])
_NBYTES = 400


@dataclass(slots=True)
class Spent:
    """The result of a micro-batch: ``accusations`` by position, the principals whose state was ``forgotten`` because
    the limit was reached, the ``section`` with the state of those that ``changed``, the ``used`` share of each
    principal's budget with its model, and the ``spends``: what other partitions must be told."""

    accusations: dict[int, Accusation] = field(default_factory=dict)
    forgotten: int = 0
    changed: dict[Key, None] = field(default_factory=dict)
    section: Section | None = None
    used: list[tuple[str, float]] = field(default_factory=list)
    spends: list[Command] = field(default_factory=list)


class Budgets:
    """What the principals of one partition have learned, ``most`` of them. Without ``budgets`` it keeps nothing.

    ``notice_percent``: the used share of a budget from which on the account is told.
    """

    def __init__(
        self, budgets: Sequence[ExposureBudget], notice_percent: float = 100.0, most: int = MOST_ACCOUNTS
    ) -> None:
        self._budgets = [budget for budget in budgets if budget.per == "account"]
        self._shared = [budget for budget in budgets if budget.per != "account"]
        self.needs_organisations = any(budget.per == "organisation" or budget.organisations for budget in budgets)
        self._first_step = math.ceil(notice_percent * STEPS / 100)
        self._most = most
        self._learned: dict[Key, Learned] = {}

    # -- live

    def take(self, activity: Activity, group_of: GroupOf = lambda _: None) -> Spent:
        """Applies a micro-batch; the result holds the change."""
        done = Spent()
        if activity.price is None or not (self._budgets or self._shared or self._learned):
            return done
        positions = activity.row_positions()
        for rows in self._parts(activity, np.flatnonzero(~np.isnan(activity.price)), group_of):
            shares = self._share(activity, rows, group_of, done)
            for key, of_key in by_principal(activity, rows):
                for part in by_organisation(activity, of_key):
                    self._spend(key, part, activity, positions, shares, done)
                if self._shared:
                    self._learned[key].group = group_of(key) or self._learned[key].group
        done.section = self.dump(done.changed) if done.changed else None
        return done

    def hear(self, command: Command) -> Section | None:
        """Applies what another partition has spent; returns the change, or None for what is known already."""
        spent, done = command.spent, Spent()
        if spent is None or not self._shared:
            return None
        key = holder_key(command.model, spent.holder, command.principal)
        known = self._learned.get(key, Learned())
        before = known.parts.get(spent.partition)
        if before is not None and spent.life <= before.life:
            return None
        if key not in self._learned:
            self._make_room(done)
        parts = known.parts | {spent.partition: Part(spent.window, spent.in_window, spent.life)}
        self._learned[key] = msgspec.structs.replace(known, parts=parts)
        return self.dump([*done.changed, key])

    def of(self, key: Key) -> Learned | None:
        """Returns what a principal has learned; None if it is not known."""
        return self._learned.get(key)

    def forget(self, key: Key) -> Section | None:
        """Drops the state of a principal; returns the change, or None if there is none."""
        return None if self._learned.pop(key, None) is None else self.dump([key])

    # -- state

    def absorb(self, section: Section) -> None:
        """Applies a change or a dump. Raises NewerStateLog, StateLogError."""
        for model, principal, learned in decode_section("budgets", section, FORMAT, _decoder):
            if learned is None:
                self._learned.pop((model, principal), None)
            else:
                self._learned[model, principal] = learned

    def keys(self) -> list[Key]:
        """Returns the keys with state."""
        return list(self._learned)

    def dump(self, keys: Iterable[Key]) -> Section:
        """Returns the state of ``keys``; a key without state is recorded as deleted."""
        return FORMAT, msgspec.msgpack.encode([(*key, self._learned.get(key)) for key in keys])

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        return _NBYTES * len(self._learned)

    # -- inside

    def _parts(self, activity: Activity, rows: NDArray[np.int64], group_of: GroupOf) -> Iterable[NDArray[np.int64]]:
        """Returns the priced ``rows`` in one, or each alone where principals must be evicted on the way."""
        if not len(rows):
            return ()
        keys = {key for key, _ in by_principal(activity, rows)}
        if self._shared:
            keys |= {held.key for held in held_rows(activity, rows, self._shared, group_of)}
        fresh = sum(key not in self._learned for key in keys)
        return [rows] if len(self._learned) + fresh <= self._most else rows[:, None]

    def _share(self, activity: Activity, rows: NDArray[np.int64], group_of: GroupOf, done: Spent) -> Shares:
        """Adds the prices of ``rows`` to the shared budgets; returns what is used of these."""
        shares = Shares.none(len(activity))
        if not self._shared:
            return shares
        assert activity.price is not None
        for held in held_rows(activity, rows, self._shared, group_of):
            if held.key not in self._learned:
                self._make_room(done)
            learned, budget = self._learned.setdefault(held.key, Learned()), held.budget
            times, prices = activity.time[held.rows], activity.price[held.rows]
            if budget.per == "group":
                self._add_known(activity, held, prices)
            window, in_window, life = learned.after(times, prices, budget.window_seconds)
            mark = marks(budget, in_window, life)
            for at in np.flatnonzero(np.diff(mark, prepend=learned.step)).tolist():
                done.spends.append(
                    spend_command(held, float(times[at]), float(window[at]), float(in_window[at]), float(life[at]))
                )
            elsewhere, life_elsewhere = spent_elsewhere(list(learned.parts.values()), window)
            shares.add(held, in_window + elsewhere, life + life_elsewhere)
            self._learned[held.key] = Learned(
                float(window[-1]),
                float(in_window[-1]),
                float(life[-1]),
                int(mark[-1]),
                float(times[-1]),
                parts=learned.parts,
            )
            done.changed[held.key] = None
        return shares

    def _add_known(self, activity: Activity, held: Held, prices: NDArray[np.float64]) -> None:
        """Adds to the ``prices`` of a group's queries, at the first of each member who is new to it, what they knew
        before."""
        for key, of_key in by_principal(activity, held.rows):
            learned = self._learned.get(key)
            if learned is not None and learned.group != held.name:
                prices[np.searchsorted(held.rows, of_key[0])] += learned.life

    def _spend(
        self,
        key: Key,
        rows: NDArray[np.int64],
        activity: Activity,
        positions: NDArray[np.int64],
        shares: Shares,
        done: Spent,
    ) -> None:
        """Adds the prices of a principal's ``rows``, and accuses them where a step is reached or left."""
        assert activity.price is not None
        organisation = "" if activity.organisations is None else activity.organisations[rows[0]]
        budget = next((budget for budget in self._budgets if budget.covers(key, organisation)), _NO_LIMIT)
        if key not in self._learned:
            self._make_room(done)
        learned = self._learned.setdefault(key, Learned())
        times = activity.time[rows]
        window, in_window, life = learned.after(times, activity.price[rows], budget.window_seconds)
        exposure = learned.exposed(activity, rows)
        used = budget.used(in_window, life, exposure)
        step = self._steps(np.maximum(used, shares.used[rows]))
        long_ago = np.diff(times, prepend=learned.at) >= DAY  # the ledger may have dropped a suspect since
        tells = (np.diff(step, prepend=learned.step) != 0) | (long_ago & (step > 0))
        for at in np.flatnonzero(tells).tolist():
            row, finding, share = int(rows[at]), None, max(float(used[at]), float(shares.used[rows[at]]))
            if step[at]:
                of_account = budget.evidence(in_window[at], life[at], exposure[at])
                evidence = of_account if share == used[at] else shares.evidence(row)
                finding = _finding(key, row, activity, evidence, share)
            done.accusations[int(positions[row])] = Accusation(key, BUDGET, finding)
        last, percent = (float(window[-1]), float(in_window[-1]), float(life[-1])), float(exposure[-1])
        self._learned[key] = Learned(*last, int(step[-1]), float(times[-1]), percent, learned.group)
        done.changed[key] = None
        if budget is not _NO_LIMIT or shares.number[rows[-1]] >= 0:
            done.used.append((key[0], max(float(used[-1]), float(shares.used[rows[-1]]))))
        if not (self._budgets or self._shared):
            del self._learned[key]

    def _steps(self, used: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns int64 (n,): the twentieths that are told, 0 for none."""
        step = np.minimum(used * STEPS, _LAST_STEP).astype(np.int64)
        return np.where(step >= self._first_step, step, 0)

    def _make_room(self, done: Spent) -> None:
        """Evicts principals if the limit is reached, those that learned least first."""
        if len(self._learned) < self._most:
            return
        order = sorted(self._learned, key=lambda key: (self._learned[key].life, self._learned[key].at, key))
        evicted = order[: max(self._most // _EVICTED_SHARE, 1)]
        for key in evicted:
            del self._learned[key]
            done.changed[key] = None
        done.forgotten += len(evicted)


def _running(prices: NDArray[np.float64], starts: NDArray[np.int64], before: float) -> NDArray[np.float64]:
    """Returns float64 (n,): the sum of ``prices`` (n,) up to each, added one after another: from ``before`` on, and
    anew from each of ``starts``."""
    totals = prices.copy()
    totals[:1] += before if not len(starts) or starts[0] > 0 else 0.0
    for part in np.split(totals, starts):
        np.add.accumulate(part, out=part)
    return totals


def _finding(key: Key, row: int, activity: Activity, evidence: tuple[Evidence, ...], used: float) -> Finding:
    return Finding(
        row=row,
        model=key[0],
        model_version=activity.keys[activity.key_index[row]].model_version,
        principal=key[1],
        signal=BUDGET,
        severity=severity_of(used),
        score=used,
        statistic=used,
        threshold=1.0,
        query_index=0 if activity.index is None else int(activity.index[row]),
        evidence=evidence,
        family="protocol",
    )
