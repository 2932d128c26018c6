"""Exposure budgets that accounts share: of an organisation, a group or a tier, in one partition and over several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Command
from detector.contracts.topics import Topics
from detector.policy.activity import Activity, Effects
from detector.policy.budgets import Budgets, ExposureBudget
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.stream.commit_unit import Outbox

from .streams import MODEL
from .test_budgets import asked, ledger

ACME = {"for_life": 4, "per": "organisation"}
Query = tuple[float, str, float, str]
"""Time, principal, price and organisation."""


def of(*queries: Query) -> Activity:
    own = asked(*(query[:3] for query in queries))
    return replace(own, organisations=[query[3] for query in queries])


def told(effects: Effects) -> list[tuple[str, float]]:
    """Who is above a budget, and since when."""
    return [(one.principal, one.occurred_at) for one in effects.alerts if one.revision == 1]


def joins(principal: str, group: str = "g1", kind: Any = "join", at: float = 1.0) -> Command:
    size = 2 if kind == "join" else None
    return Command("j", kind, at, f"group:{group}", MODEL, principal, "", group=group, group_size=size)


def test_the_accounts_of_an_organisation_share_its_budget_and_no_others() -> None:
    own = ledger(ACME)
    queries = [(1000.0 + at, name, 1.0, "acme") for at, name in enumerate(("ann", "bo", "ann", "bo", "ann"))]
    assert told(own.observe(of(*queries, (1005.0, "eve", 3.0, "other"), (1006.0, "dan", 9.0, "")))) == [
        ("bo", 1003.0),
        ("ann", 1004.0),
    ]
    assert told(own.observe(of((1007.0, "new", 0.0, "acme")))) == [("new", 1007.0)]


def test_the_alert_says_whose_budget_it_is() -> None:
    own = ledger({"for_life": 100}, {"per_window": 2, "window_seconds": 100, "per": "organisation"})
    (alert,) = own.observe(of((1000.0, "ann", 1.0, "acme"), (1001.0, "bo", 1.5, "acme"))).alerts
    assert [(item.name, item.value, item.threshold) for item in alert.evidence] == [
        ("learned in the window by the organisation", 2.5, 2.0),
        ("learned in all by the organisation", 2.5, None),
    ]


def test_an_own_budget_and_a_shared_one_hold_together() -> None:
    own = ledger({"for_life": 2}, {"for_life": 5, "per": "organisation"})
    names = ("ann", "ann", "bo", "cy", "dan")
    effects = own.observe(of(*((1000.0 + at, name, 1.0, "acme") for at, name in enumerate(names))))
    assert told(effects) == [("ann", 1001.0), ("dan", 1004.0)]
    assert effects.budgets_used == [(MODEL, share) for share in (1.0, 0.6, 0.8, 1.0)]


def test_the_first_budget_of_a_kind_that_covers_an_account_holds() -> None:
    large = {"for_life": 50, "per": "organisation", "organisations": ["acme"]}
    own = ledger(large, {"for_life": 2, "per": "organisation"})
    queries = [(1000.0 + at, name, 1.0, where) for at in range(3) for name, where in (("ann", "acme"), ("bo", "other"))]
    assert told(own.observe(of(*queries))) == [("bo", 1001.0)]


def test_a_budget_per_account_may_be_for_the_accounts_of_an_organisation() -> None:
    own = ledger({"for_life": 1, "organisations": ["acme"]}, {"for_life": 3})
    queries = [(1000.0 + at, name, 1.0, where) for at in range(3) for name, where in (("ann", "acme"), ("bo", "other"))]
    assert told(own.observe(of(*queries))) == [("ann", 1000.0), ("bo", 1002.0)]
    assert own.budgets.needs_organisations and not ledger({"for_life": 1}).budgets.needs_organisations


def test_all_accounts_of_a_tier_share_its_budget() -> None:
    own = ledger({"for_life": 3, "per": "tier", "principals": ["ann", "bo"]})
    queries = [(1000.0 + at, name, 1.0) for at, name in enumerate(("ann", "eve", "bo", "eve", "ann", "eve"))]
    assert told(own.observe(asked(*queries))) == [("ann", 1004.0)]


def test_members_of_a_group_share_what_they_learned_before_they_joined_too() -> None:
    own = ledger({"for_life": 5, "per": "group"}, signal_modes={"group": "observe"})
    assert told(own.observe(asked((1000.0, "ann", 3.0), (1000.0, "bo", 1.5), (1000.0, "eve", 9.0)))) == []
    for name in ("ann", "bo"):
        own.command(joins(name), 1001.0)
    assert told(own.observe(asked((1002.0, "ann", 0.25), (1003.0, "ann", 0.0)))) == []
    assert told(own.observe(asked((1004.0, "bo", 0.25), (1005.0, "bo", 0.0)))) == [("bo", 1004.0)]
    own.command(joins("bo", kind="leave", at=2.0), 1006.0)
    released = own.observe(asked((1007.0, "bo", 0.0)))
    assert [alert.released_by for alert in released.alerts] == ["policy"]


def test_a_share_of_the_model_is_a_budget_too_and_does_not_come_back() -> None:
    own = ledger({"exposure_percent": 60})
    queries = asked(*((1000.0 + at, "eve", 0.0) for at in range(4)))
    effects = own.observe(replace(queries, exposure=np.array([math.nan, 30.0, 61.0, 50.0])))
    assert told(effects) == [("eve", 1002.0)]
    (alert,) = effects.alerts
    assert [(item.name, item.value, item.threshold) for item in alert.evidence][-1] == (
        "learned of the model",
        61.0,
        60.0,
    )


def hear(own: Ledger, effects: Effects, partition: int) -> list[Command]:
    """What another partition says is heard."""
    heard = [replace(one, spent=replace(one.spent, partition=partition)) for one in effects.spends if one.spent]
    for command in heard:
        own.command(command, command.issued_at)
    return heard


def test_partitions_tell_one_another_what_their_accounts_have_spent() -> None:
    one, other = ledger(ACME), ledger(ACME)
    first = one.observe(of(*((1000.0 + at, "ann", 1.0, "acme") for at in range(3))))
    heard = hear(other, first, partition=7)
    assert [spent.life for command in heard if (spent := command.spent)] == [1.0, 2.0, 3.0]
    assert told(other.observe(of((1003.0, "bo", 0.5, "acme"), (1004.0, "bo", 0.5, "acme")))) == [("bo", 1004.0)]
    before = other.budgets.dump(other.budgets.keys())
    for late in heard:
        assert other.command(late, 1005.0).budgets is None
    assert other.budgets.dump(other.budgets.keys()) == before


def test_what_others_spent_in_an_earlier_window_no_longer_counts() -> None:
    windowed = {"per_window": 4, "window_seconds": 100, "per": "organisation"}
    one, other = ledger(windowed), ledger(windowed)
    hear(other, one.observe(of((1000.0, "ann", 3.9, "acme"))), partition=7)
    assert told(other.observe(of((1099.0, "bo", 0.1, "acme")))) == [("bo", 1099.0)]
    assert told(other.observe(of((1100.0, "bo", 0.1, "acme")))) == []


def test_others_are_told_at_each_hundredth_up_to_one_and_a_half_budgets() -> None:
    own = ledger({"for_life": 100, "per": "organisation"})
    effects = own.observe(of(*((1000.0 + at, "ann", 0.25, "acme") for at in range(1000))))
    lives = [one.spent.life for one in effects.spends if one.spent]
    assert (len(lives), lives[0], lives[-1]) == (150, 1.0, 150.0)


def test_the_outbox_tells_all_other_partitions_which_one_has_spent() -> None:
    effects = ledger(ACME).observe(of((1000.0, "ann", 1.0, "acme")))
    messages = list(Outbox(Topics("x"), 1).spends(effects, 3))
    assert [(message.topic, message.partition) for message in messages] == [("x.commands", 0), ("x.commands", 2)]
    assert all(b'"partition":1' in (message.value or b"") for message in messages)


def test_a_policy_with_older_budgets_alone_keeps_its_version() -> None:
    old = Policy(budgets=(ExposureBudget("all", for_life=9.0),))
    assert old.version == "e7ec4e290f4c"
    for changed in ({"per": "tier"}, {"organisations": ("acme",)}, {"exposure_percent": 5.0}):
        assert Policy(budgets=(replace(old.budgets[0], **changed),)).version != old.version


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (({"for_life": 1, "per": "tier"}, {"for_life": 2, "per": "tier"}), "never apply"),
        (({"exposure_percent": 50, "per": "group"},), "only for budgets per account"),
    ],
)
def test_wrong_budgets_are_refused(budgets: tuple[dict[str, Any], ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ledger(*budgets)


# -- against a slow oracle

LIMITS = (
    ExposureBudget("own", for_life=9.0),
    ExposureBudget("firm", per_window=4.0, window_seconds=100.0, for_life=7.0, per="organisation"),
    ExposureBudget("tier", for_life=5.0, principals=("ann", "eve"), per="tier"),
    ExposureBudget("ring", for_life=3.0, per="group"),
)
GROUPS = {"ann": "g", "eve": "g", "bo": "h"}
STREAMS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 60.0, 200.0]),
        st.sampled_from(["ann", "bo", "eve"]),
        st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        st.sampled_from(["acme", "other", ""]),
    ),
    min_size=1,
    max_size=40,
)


def timed(stream: Sequence[Query]) -> list[Query]:
    times = 1000.0 + np.cumsum([query[0] for query in stream])
    return [(float(time), *query[1:]) for time, query in zip(times, stream, strict=True)]


def steps_of(queries: Sequence[Query]) -> list[tuple[int, str, int]]:
    """The position, principal and twentieths of each change, sum by sum."""
    spent: dict[object, float] = {}
    before: dict[str, int] = {}
    found = []
    for at, (time, name, price, where) in enumerate(queries):
        used = 0.0
        for budget in LIMITS:
            holder = {"account": name, "organisation": where, "tier": budget.name, "group": GROUPS[name]}[budget.per]
            if not holder or not budget.covers((MODEL, name), where):
                continue
            window = math.floor(time / budget.window_seconds)
            for key, limit in (
                ((budget.name, holder), budget.for_life),
                ((budget.name, holder, window), budget.per_window),
            ):
                spent[key] = spent.get(key, 0.0) + price
                used = max(used, spent[key] / limit if limit else 0.0)
        step = min(int(used * 20), 30)
        step = step if step >= 16 else 0
        if step != before.get(name, 0):
            found.append((at, name, step))
        before[name] = step
    return found


def accused(budgets: Budgets, queries: Sequence[Query], cuts: set[int]) -> list[tuple[int, str, int]]:
    found = []
    edges = sorted({0, len(queries), *(cut for cut in cuts if cut < len(queries))})
    for start, end in pairwise(edges):
        spent = budgets.take(of(*queries[start:end]), lambda key: GROUPS[key[1]])
        for at, one in sorted(spent.accusations.items()):
            found.append((start + at, one.key[1], min(int(one.finding.score * 20), 30) if one.finding else 0))
    return found


@settings(deadline=None)
@given(STREAMS, st.sets(st.integers(1, 39)))
def test_shared_budgets_are_those_of_a_slow_oracle_however_the_stream_is_cut(
    stream: Sequence[Query], cuts: set[int]
) -> None:
    queries = timed(stream)
    assert accused(Budgets(LIMITS, 80.0), queries, cuts) == steps_of(queries)


@settings(deadline=None)
@given(STREAMS, st.integers(1, 39), st.integers(2, 9))
def test_a_successor_goes_on_exactly(stream: Sequence[Query], takeover: int, most: int) -> None:
    queries = timed(stream)
    whole, live, successor = (Budgets(LIMITS, 80.0, most) for _ in range(3))
    expected = accused(whole, queries, set())
    for query in queries[:takeover]:
        spent = live.take(of(query), lambda key: GROUPS[key[1]])
        if spent.section is not None:
            successor.absorb(spent.section)
    later = accused(successor, queries[takeover:], set())
    assert later == [(at - takeover, *one) for at, *one in expected if at >= takeover]
    keys = sorted(whole.keys())
    assert (successor.dump(sorted(successor.keys())), len(keys) <= most) == (whole.dump(keys), True)
