"""Exposure budgets: how much of a model an account may learn, per window and for life. Whoever comes near one is told,
and whoever is above one is a suspect by the signal ``budget``.

A query is priced by what it teaches (the meter ``effective_queries``), so that repeats cost nothing. The result depends
on the stream alone, not on how it is cut into micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import HIGH_SCORE, Evidence, Finding, severity_of
from detector.contracts.principals import is_name
from detector.policy.activity import Accusation, Activity, Key, Section, decode_section

BUDGET = "budget"
"""The signal of a principal that has learned more than its budget."""
FORMAT = 1
STEPS = 20
"""A budget is announced, and counted as used, in twentieths."""
MOST_ACCOUNTS = 50_000
DAY = 86_400.0
_EVICTED_SHARE = 16
_LAST_STEP = int(HIGH_SCORE * STEPS)


@dataclass(frozen=True, slots=True)
class ExposureBudget:
    """What each account that matches all fields may learn, in effective queries: ``per_window`` of ``window_seconds``,
    and ``for_life``; None is no limit. Windows begin at multiples of their length. An empty field matches any."""

    name: str
    per_window: float | None = None
    window_seconds: float = DAY
    for_life: float | None = None
    models: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()

    def covers(self, key: Key) -> bool:
        return all(not own or name in own for own, name in zip((self.models, self.principals), key, strict=True))

    def used(self, in_window: NDArray[np.float64], life: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns float64 (n,): the used share of the budget that is nearest to its end."""
        shares = [own / limit for own, limit in ((in_window, self.per_window), (life, self.for_life)) if limit]
        return np.maximum.reduce(shares) if shares else np.zeros(len(life))


_NO_LIMIT = ExposureBudget("none")


def check_budgets(budgets: Sequence[ExposureBudget], notice_percent: float) -> None:
    """Raises ConfigurationError for budgets that are wrong, or never apply."""
    names = [budget.name for budget in budgets]
    for at, budget in enumerate(budgets):
        where = f"policy: the exposure budget {budget.name!r}"
        if not is_name(budget.name) or names.count(budget.name) > 1:
            raise ConfigurationError(f"policy: exposure budgets need different names, not {budget.name!r}")
        limits = [limit for limit in (budget.per_window, budget.for_life) if limit is not None]
        if not limits or not all(0 < value < math.inf for value in (*limits, budget.window_seconds)):
            raise ConfigurationError(f"{where}: give per_window, for_life or both, and numbers above 0")
        if at < len(budgets) - 1 and not (budget.models or budget.principals):
            raise ConfigurationError(f"{where}: those after it never apply, as it covers all accounts")
    if not 0 < notice_percent <= 100:
        raise ConfigurationError(f"policy: notice_percent is {notice_percent}; use a number above 0, and at most 100")


class Learned(msgspec.Struct, array_like=True):
    """What one principal has learned of one model, in effective queries: in the window that began at ``window``, and
    for ``life``. ``step``: the used twentieths that were told, 0 for none. ``at``: the policy time of the last query.
    """

    window: float = -math.inf
    in_window: float = 0.0
    life: float = 0.0
    step: int = 0
    at: float = -math.inf


_decoder = msgspec.msgpack.Decoder(list[tuple[str, str, Learned | None]])
_NBYTES = 400


@dataclass(slots=True)
class Spent:
    """The result of a micro-batch: ``accusations`` by position, the principals whose state was ``forgotten`` because
    the limit was reached, the ``section`` with the state of those that ``changed``, and the ``used`` share of each
    principal's budget with its model."""

    accusations: dict[int, Accusation] = field(default_factory=dict)
    forgotten: int = 0
    changed: dict[Key, None] = field(default_factory=dict)
    section: Section | None = None
    used: list[tuple[str, float]] = field(default_factory=list)


class Budgets:
    """What the principals of one partition have learned, ``most`` of them. Without ``budgets`` it keeps nothing.

    ``notice_percent``: the used share of a budget from which on the account is told.
    """

    def __init__(
        self, budgets: Sequence[ExposureBudget], notice_percent: float = 100.0, most: int = MOST_ACCOUNTS
    ) -> None:
        self._budgets = budgets
        self._first_step = math.ceil(notice_percent * STEPS / 100)
        self._most = most
        self._learned: dict[Key, Learned] = {}

    # -- live

    def take(self, activity: Activity) -> Spent:
        """Applies a micro-batch; the result holds the change."""
        done = Spent()
        if activity.price is None or not (self._budgets or self._learned):
            return done
        positions = activity.row_positions()
        for key, rows in self._runs(activity, np.flatnonzero(~np.isnan(activity.price))):
            self._spend(key, rows, activity, positions, done)
        done.section = self.dump(done.changed) if done.changed else None
        return done

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

    def _runs(self, activity: Activity, rows: NDArray[np.int64]) -> Iterator[tuple[Key, NDArray[np.int64]]]:
        """Yields the priced ``rows`` of each principal; row after row where principals must be evicted on the way."""
        numbers: dict[Key, int] = {}
        number = np.array([numbers.setdefault((key.model, key.principal), len(numbers)) for key in activity.keys])
        if not len(rows):
            return
        own, keys = number[activity.key_index[rows]], list(numbers)
        fresh = sum(keys[at] not in self._learned for at in np.unique(own).tolist())
        if len(self._learned) + fresh > self._most:
            for row, at in zip(rows.tolist(), own.tolist(), strict=True):
                yield keys[at], np.array([row])
            return
        order = np.argsort(own, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(own[order])) + 1):
            yield keys[own[part[0]]], rows[part]

    def _spend(
        self, key: Key, rows: NDArray[np.int64], activity: Activity, positions: NDArray[np.int64], done: Spent
    ) -> None:
        """Adds the prices of a principal's ``rows``, and accuses them where a step is reached or left."""
        assert activity.price is not None
        budget = next((own for own in self._budgets if own.covers(key)), _NO_LIMIT)
        if key not in self._learned:
            self._make_room(done)
        learned = self._learned.setdefault(key, Learned())
        times, prices = activity.time[rows], activity.price[rows]
        window = np.floor(times / budget.window_seconds) * budget.window_seconds
        starts = np.flatnonzero(np.diff(window, prepend=learned.window) != 0)
        in_window = _running(prices, starts, learned.in_window)
        life = _running(prices, starts[:0], learned.life)
        used = budget.used(in_window, life)
        step = np.minimum(used * STEPS, _LAST_STEP).astype(np.int64)
        step = np.where(step >= self._first_step, step, 0)
        long_ago = np.diff(times, prepend=learned.at) >= DAY  # the ledger may have dropped a suspect since
        tells = (np.diff(step, prepend=learned.step) != 0) | (long_ago & (step > 0))
        for at in np.flatnonzero(tells).tolist():
            row = int(rows[at])
            figures = float(in_window[at]), float(life[at]), float(used[at])
            finding = _finding(key, row, activity, budget, figures) if step[at] else None
            done.accusations[int(positions[row])] = Accusation(key, BUDGET, finding)
        self._learned[key] = Learned(
            float(window[-1]), float(in_window[-1]), float(life[-1]), int(step[-1]), float(times[-1])
        )
        done.changed[key] = None
        if budget is not _NO_LIMIT:
            done.used.append((key[0], float(used[-1])))
        if not self._budgets:
            del self._learned[key]

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


def _finding(
    key: Key, row: int, activity: Activity, budget: ExposureBudget, figures: tuple[float, float, float]
) -> Finding:
    in_window, life, used = figures
    evidence = [Evidence("learned in all", life, "effective queries", budget.for_life)]
    if budget.per_window is not None:
        unit = f"effective queries in {budget.window_seconds:g} seconds"
        evidence.insert(0, Evidence("learned in the window", in_window, unit, budget.per_window))
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
        evidence=tuple(evidence),
        family="protocol",
    )
