"""Exposure budgets: what an account may learn, what follows near and above that, and the state behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.actions import describe_action
from detector.contracts.errors import ConfigurationError, NewerStateLog
from detector.contracts.findings import Command
from detector.policy.activity import Activity, Effects
from detector.policy.budgets import DAY, Budgets, ExposureBudget
from detector.policy.ledger import Ledger
from detector.runtime.settings import Settings
from detector.stream.detection_config import policy_config

from .oracle import Row
from .streams import MODEL, activity

EVE = (MODEL, "eve")
SLOW: dict[str, Any] = {"action": "slow", "parameters": {"queries_per_second": 2}}


def ledger(*budgets: dict[str, Any], **policy: Any) -> Ledger:
    named = [{"name": f"b{at}", **budget} for at, budget in enumerate(budgets)]
    return Ledger(policy_config(Settings(policy={"mode": "enforce", "budgets": named, **policy})))


def asked(*items: tuple[float, str, float]) -> Activity:
    """Queries at a time, of a principal, of a price; flagged by nothing."""
    rows = [Row(time, principal, "1", flagged=False) for time, principal, _ in items]
    return replace(activity(rows), price=np.array([price for _, _, price in items], np.float64))


def said(effects: Effects) -> list[str]:
    return [f"{describe_action(one.action)} {one.mode}" for one in effects.decisions]


def test_a_budget_is_announced_and_then_slows_and_asks_for_a_reviewer() -> None:
    own = ledger({"for_life": 10})
    effects = own.observe(asked(*((1000.0 + at, "eve", 1.0) for at in range(12))))
    assert said(effects) == [
        "notice (left_percent 20) enforce",
        "notice (left_percent 10) enforce",
        "slow to 1/s enforce",
    ]
    (alert,) = effects.alerts
    assert (alert.signal, alert.score, alert.severity, alert.calibrated) == ("budget", 1.0, "medium", None)
    assert [(item.name, item.value, item.threshold) for item in alert.evidence] == [("learned in all", 10.0, 10.0)]
    assert [cause.reason for cause in effects.decisions[-1].causes] == ["needs review"]


def test_repeats_cost_nothing_and_a_query_without_a_price_neither() -> None:
    own = ledger({"for_life": 2})
    assert said(own.observe(asked(*((1000.0 + at, "eve", 0.0) for at in range(50))))) == []
    assert said(own.observe(asked((1100.0, "eve", math.nan)))) == []
    learned = own.budgets.of(EVE)
    assert learned is not None and learned.life == 0


def test_a_window_begins_anew_and_a_life_does_not() -> None:
    own = ledger({"per_window": 4, "window_seconds": 100}, decision_seconds=1000)
    assert said(own.observe(asked(*((1000.0 + at, "eve", 1.0) for at in range(4))))) == ["slow to 1/s enforce"]
    assert said(own.observe(asked((1100.0, "eve", 1.0)))) == ["none enforce"]
    life = ledger({"for_life": 4}, decision_seconds=1000)
    life.observe(asked(*((1000.0 + at, "eve", 1.0) for at in range(4))))
    assert said(life.observe(asked((1100.0, "eve", 1.0)))) == []


def test_a_new_window_near_the_end_of_a_life_is_announced_again() -> None:
    own = ledger({"per_window": 4, "window_seconds": 100, "for_life": 6.25})
    assert said(own.observe(asked(*((1000.0 + at, "eve", 1.0) for at in range(4)))))[-1] == "slow to 1/s enforce"
    assert said(own.observe(asked((1100.0, "eve", 1.0)))) == ["notice (left_percent 20) enforce"]


def test_budgets_hold_for_the_accounts_and_models_they_name() -> None:
    own = ledger({"for_life": 100, "principals": ["partner"]}, {"for_life": 1, "models": ["other"]}, {"for_life": 3})
    effects = own.observe(asked(*((1000.0, name, 1.0) for _ in range(3) for name in ("partner", "eve"))))
    assert [one.principal for one in effects.decisions] == ["eve"]


def test_only_a_rule_that_names_the_budget_holds_above_it() -> None:
    refusing: dict[str, Any] = {"name": "all", "rungs": [{"action": "refuse"}]}
    slowing: dict[str, Any] = {"name": "paid", "signals": ["budget"], "rungs": [SLOW]}
    own = ledger({"for_life": 1}, ladder=[refusing | {"name": "high", "severities": ["high"]}, slowing, refusing])
    assert said(own.observe(asked((1000.0, "eve", 1.0), (1001.0, "eve", 9.0)))) == ["slow to 2/s enforce"]
    with pytest.raises(ConfigurationError, match=r"signals: \[budget\]"):
        ledger({"for_life": 1}, ladder=[refusing])


def test_modes_and_exemptions_hold_for_budgets_too() -> None:
    watched = ledger({"for_life": 1}, signal_modes={"budget": "observe"})
    assert said(watched.observe(asked((1000.0, "eve", 1.0)))) == ["slow to 1/s observe"]
    own = ledger({"for_life": 1})
    allow = Command(
        "a", "allow", 0.0, "op", MODEL, "eve", "ticket 1", duration_seconds=DAY, owner="us", scope="principal"
    )
    own.command(allow, 1000.0)
    effects = own.observe(asked((1001.0, "eve", 1.0)))
    assert (said(effects), len(effects.alerts)) == ([], 1)


def test_the_notice_begins_where_the_owner_says() -> None:
    early, never = ledger({"for_life": 20}, notice_percent=20), ledger({"for_life": 20}, notice_percent=100)
    four = asked(*((1000.0 + at, "eve", 1.0) for at in range(4)))
    assert (said(early.observe(four)), said(never.observe(four))) == (["notice (left_percent 80) enforce"], [])


def test_rungs_count_from_the_budget_on_and_not_from_its_notice() -> None:
    rungs = [SLOW, {"action": "refuse", "after_queries": 3}]
    own = ledger({"for_life": 10}, ladder=[{"name": "b", "signals": ["budget"], "rungs": rungs}])
    effects = own.observe(asked(*((1000.0 + at, "eve", 1.0) for at in range(13))))
    assert [(describe_action(one.action), one.issued_at) for one in effects.decisions[-2:]] == [
        ("slow to 2/s", 1009.0),
        ("refuse", 1011.0),
    ]


def test_clearing_a_principal_gives_a_new_budget_and_lifting_a_cause_does_not() -> None:
    own = ledger({"for_life": 2})
    own.observe(asked((1000.0, "eve", 2.0)))
    assert said(own.command(Command("d", "delete", 0.0, "op", MODEL, "eve", "fine"), 1001.0)) == ["none enforce"]
    assert said(own.observe(asked((1002.0, "eve", 0.1)))) == []
    effects = own.command(Command("c", "clear", 0.0, "op", MODEL, "eve", "new contract"), 1003.0)
    assert effects.budgets is not None and own.budgets.of(EVE) is None
    assert said(own.observe(asked((1004.0, "eve", 2.0)))) == ["slow to 1/s enforce"]


def test_who_comes_back_after_the_ledger_forgot_them_is_over_the_budget_still() -> None:
    own = ledger({"for_life": 1})
    own.observe(asked((1000.0, "eve", 1.0)))
    assert said(own.observe(asked((1000.0 + 40 * DAY, "eve", 0.0)))) == ["slow to 1/s enforce"]


def test_without_budgets_nothing_is_kept_and_old_state_goes() -> None:
    own = Ledger(policy_config(Settings()))
    assert own.observe(asked((1000.0, "eve", 1.0))).budgets is None
    before = ledger({"for_life": 1})
    before.observe(asked((1000.0, "eve", 1.0)))
    own = Ledger(policy_config(Settings(policy={"mode": "enforce"})))
    own.absorb(before.dump(before.keys()))
    own.budgets.absorb(before.budgets.dump(before.budgets.keys()))
    assert said(own.observe(asked((1001.0, "eve", 1.0)))) == ["none enforce"]
    assert own.budgets.keys() == []


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (({},), "per_window, for_life"),
        (({"for_life": 1}, {"for_life": 2}), "never apply"),
        (({"for_life": 1, "name": "x", "models": ["m"]}, {"for_life": 2, "name": "x"}), "different names"),
    ],
)
def test_wrong_budgets_are_refused(budgets: tuple[dict[str, Any], ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ledger(*budgets)


def test_a_section_of_a_later_version_is_refused() -> None:
    with pytest.raises(NewerStateLog, match="budgets section"):
        Budgets(()).absorb((2, b""))


# -- against a slow oracle

LIMITS = (
    ExposureBudget("a", per_window=3.0, window_seconds=100.0, principals=("ann",)),
    ExposureBudget("b", per_window=2.0, window_seconds=DAY, for_life=5.0),
)
NAMES = ("ann", "bo", "eve")


@dataclass
class Slow:
    """One principal, query after query."""

    window: float = -math.inf
    spent: float = 0.0
    life: float = 0.0
    step: int = 0
    at: float = -math.inf

    def ask(self, budget: ExposureBudget, time: float, price: float) -> int | None:
        """The step that is told now; None for nothing."""
        window = math.floor(time / budget.window_seconds) * budget.window_seconds
        self.spent = self.spent + price if window == self.window else price
        self.window, self.life = window, self.life + price
        used = max(self.spent / (budget.per_window or math.inf), self.life / (budget.for_life or math.inf))
        step = min(int(used * 20), 30)
        step = step if step >= 16 else 0
        told = step if step != self.step or (step and time - self.at >= DAY) else None
        self.step, self.at = step, time
        return told


Queries = Sequence[tuple[float, str, float]]
GAPS = st.sampled_from([0.0, 1.0, 60.0, DAY / 2, 2 * DAY])
PRICES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
STREAMS = st.lists(st.tuples(GAPS, st.sampled_from(NAMES), PRICES), min_size=1, max_size=40)


def timed(stream: Queries) -> Queries:
    times = 1000.0 + np.cumsum([gap for gap, _, _ in stream])
    return [(float(time), name, price) for time, (_, name, price) in zip(times, stream, strict=True)]


def told(budgets: Budgets, queries: Queries, cuts: Iterable[int]) -> list[tuple[int, str, int]]:
    found = []
    edges = sorted({0, len(queries), *(cut for cut in cuts if cut < len(queries))})
    for start, end in pairwise(edges):
        for at, accusation in sorted(budgets.take(asked(*queries[start:end])).accusations.items()):
            step = 0 if accusation.finding is None else min(int(accusation.finding.score * 20), 30)
            found.append((start + at, accusation.key[1], step))
    return found


@settings(deadline=None)
@given(STREAMS, st.sets(st.integers(1, 39)))
def test_budgets_are_those_of_a_slow_oracle_however_the_stream_is_cut(stream: Queries, cuts: set[int]) -> None:
    queries, slow, expected = timed(stream), {name: Slow() for name in NAMES}, []
    for at, (time, name, price) in enumerate(queries):
        step = slow[name].ask(LIMITS[name != "ann"], time, price)
        if step is not None:
            expected.append((at, name, step))
    own = Budgets(LIMITS, 80.0)
    assert told(own, queries, cuts) == expected
    for name in {name for _, name, _ in queries}:
        learned = own.of((MODEL, name))
        assert learned is not None
        assert (learned.in_window, learned.life, learned.step) == (
            slow[name].spent,
            slow[name].life,
            slow[name].step,
        )


@settings(deadline=None)
@given(STREAMS, st.integers(1, 39), st.sets(st.integers(1, 39)), st.integers(1, 3))
def test_a_successor_goes_on_exactly_and_room_is_made_whatever_the_cut(
    stream: Queries, takeover: int, cuts: set[int], most: int
) -> None:
    queries = timed(stream)
    whole, live, successor = (Budgets(LIMITS, 80.0, most) for _ in range(3))
    expected = told(whole, queries, ())
    for start in range(takeover):
        spent = live.take(asked(*queries[start : start + 1]))
        if spent.section is not None:
            successor.absorb(spent.section)
    first = {at: one for at, *one in expected if at < takeover}
    later = told(successor, queries[takeover:], {cut - takeover for cut in cuts if cut > takeover})
    assert later == [(at - takeover, *one) for at, *one in expected if at not in first]
    keys = sorted(whole.keys())
    assert (successor.dump(sorted(successor.keys())), len(keys) <= most) == (whole.dump(keys), True)
