"""Unjudged queries: counted by reason, a suspicion of their own, and excused if the deployment is at fault."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs import decode, encode
from detector.contracts.codecs.limits import MOST_COUNTED
from detector.contracts.errors import ConfigurationError, NewerStateLog, StateLogError
from detector.contracts.findings import Action, Alert, Command
from detector.policy.accounting import HALF, MOST_REASONS, MOST_WATCHES, Accounting, PrincipalCounts
from detector.policy.activity import Counted, Effects
from detector.policy.allowlist import Allowlist, Exemption
from detector.policy.config import Policy
from detector.policy.entry import decode_changes
from detector.policy.ladder import Rung, plain_ladder
from detector.policy.ledger import Ledger

from .oracle import Item, OracleLedger, Row, Uncharted
from .streams import MODEL, activity, by_kind, drive, published

POLICY = Policy(mode="enforce", enforce_uncalibrated=True)


def judged(principal: str, number: int, at: float = 1000.0) -> list[Item]:
    return [Row(at, principal, "1", False)] * number


def odd(principal: str, number: int, at: float = 1000.0, reason: str = "dimension") -> list[Item]:
    return [Row(at, principal, "1", False, (), False, reason)] * number


def run(ledger: Ledger, items: Iterable[Item]) -> Effects:
    return ledger.observe(activity([item for item in items if isinstance(item, Row | Uncharted)]))


def held(ledger: Ledger, principal: str = "eve") -> PrincipalCounts:
    account = ledger.accounting.of((MODEL, principal))
    assert account is not None
    return account


def said(effects: Effects) -> list[tuple[str, str]]:
    return [(decision.principal, decision.action.name) for decision in effects.decisions]


def test_the_thirtieth_query_that_cannot_be_judged_makes_a_suspect() -> None:
    ledger = Ledger(POLICY, "settings-hash")
    assert not run(ledger, odd("eve", 29)).alerts
    effects = run(ledger, [*judged("eve", 70), *odd("eve", 1, 1002.0, "features")])
    (alert,) = effects.alerts
    assert (alert.principal, alert.signal, alert.score, alert.threshold) == ("eve", "unjudged", 1.0, 30.0)
    assert {part.name: part.value for part in alert.evidence} == {
        "unjudged": 30.0,
        "share": 0.3,
        "unjudged: dimension": 29.0,
        "unjudged: features": 1.0,
    }
    assert decode(Alert, encode(alert)) == alert
    assert said(effects) == [("eve", "slow")]
    assert effects.decisions[0].causes[0].origin == "signal:unjudged"
    assert said(run(ledger, odd("eve", 50))) == [("eve", "refuse")]


def test_more_unjudged_queries_raise_the_severity_once_with_new_evidence() -> None:
    ledger = Ledger(Policy())
    (first,) = run(ledger, odd("eve", 30)).alerts
    (higher,) = run(ledger, odd("eve", 60, at=1001.0)).alerts
    assert (higher.id, higher.revision, first.severity, higher.severity) == (first.id, 2, "medium", "high")
    assert (higher.evidence[0].value, higher.calibrated) == (45.0, None)


def test_unjudged_counts_of_a_logger_raise_the_same_alert_as_unjudged_rows() -> None:
    effects = run(Ledger(POLICY), [Uncharted(1000.0, "eve", "unjudged", 30)])
    assert [(alert.signal, alert.model_version) for alert in effects.alerts] == [("unjudged", "unknown")]


def test_dropped_queries_are_counted_and_raise_no_alert() -> None:
    ledger = Ledger(POLICY)
    assert not run(ledger, [Uncharted(1000.0, "eve", "dropped", 500)]).alerts
    assert (held(ledger).dropped, held(ledger).unjudged) == ({"dropped": 500}, {})


def test_queries_that_a_gate_refused_are_not_counted() -> None:
    ledger = Ledger(POLICY)
    run(ledger, [Uncharted(1000.0, "eve", "refused", 500)])
    assert ledger.accounting.of((MODEL, "eve")) is None


def test_few_judged_queries_change_nothing_and_many_release() -> None:
    ledger = Ledger(POLICY)
    assert len(run(ledger, odd("eve", 30)).alerts) == 1
    assert said(run(ledger, judged("eve", 40))) == []
    released = run(ledger, judged("eve", 300, 1010.0))
    assert ("eve", "none") in said(released)
    assert not run(ledger, odd("eve", 29)).alerts
    assert len(run(ledger, odd("eve", 1)).alerts) == 1


def test_a_verdict_that_ends_leaves_the_latch_of_unjudged_queries() -> None:
    ledger = Ledger(POLICY)
    run(ledger, [Row(1000.0, "eve", "1", True, ("prada",)), *odd("eve", 30)])
    assert not run(ledger, judged("eve", 1, 1001.0)).decisions
    section = ledger.dump([(MODEL, "eve")])
    (entry,) = decode_changes(section).values()
    assert entry is not None
    assert [latch.signal for latch in entry.latches] == ["unjudged"]


def test_a_share_below_the_limit_never_accuses() -> None:
    ledger = Ledger(POLICY)
    for _ in range(100):
        assert not run(ledger, [*odd("eve", 4), *judged("eve", 76)]).alerts
    assert held(ledger).unjudged == {"dimension": 400}


def test_the_allowlist_withholds_the_decision_and_keeps_the_alert() -> None:
    allowlist = Allowlist((Exemption("eve", "sales", "contract", 9e9),))
    effects = run(Ledger(replace(POLICY, allowlist=allowlist)), odd("eve", 40))
    assert [alert.suppressed_by is not None for alert in effects.alerts] == [True]
    assert not effects.decisions


def test_clearing_resets_the_account() -> None:
    ledger = Ledger(POLICY)
    run(ledger, odd("eve", 40))
    clear = Command("c", "clear", 0.0, "ops", MODEL, "eve", "why")
    effects = ledger.command(clear, 1001.0)
    successor = Ledger(POLICY)
    assert effects.accounting is not None
    successor.accounting.absorb(effects.accounting)
    assert ledger.accounting.of((MODEL, "eve")) is None
    assert not run(ledger, odd("eve", 29)).alerts


def test_nobody_is_accused_if_most_active_principals_send_unjudged_queries_and_they_are_counted() -> None:
    ledger = Ledger(POLICY)
    everybody = [row for _ in range(50) for name in ("ana", "bo", "chi", "dee") for row in odd(name, 1)]
    effects = run(ledger, [*everybody, *judged("eli", 3)])
    assert not effects.alerts
    assert effects.excused == {MODEL: 4 * 21}


def test_made_up_accounts_do_not_excuse_a_thief_while_others_are_judged() -> None:
    made_up = [row for _ in range(40) for at in range(6) for row in odd(f"made-up-{at}", 1)]
    honest = [row for name in ("ana", "bo", "chi") for row in judged(name, 10)]
    effects = run(Ledger(POLICY), [*made_up[:6], *honest, *made_up[6:]])
    assert {alert.principal for alert in effects.alerts} == {f"made-up-{at}" for at in range(6)}
    assert not effects.excused


@pytest.mark.parametrize("good", [0, 1])
def test_a_flood_of_made_up_accounts_does_not_have_the_clean_ones_forgotten(good: int) -> None:
    ledger = Ledger(POLICY)
    honest = [row for at in range(80) for row in judged(f"user-{at}", 1)]
    run(ledger, [*odd("eve", 1), *honest * 10])
    for turn in range(10):
        flood = [row for at in range(300) for row in (judged if good else odd)(f"made-up-{turn}-{at}", 1)]
        others = [row for at in range(60) for row in odd(f"odd-{at}", good)]
        effects = run(ledger, [*flood, *others, *odd("eve", 5), *honest])
        assert not effects.excused
    assert held(ledger, "eve").accused


def test_a_fault_of_one_server_in_five_excuses_the_principals_that_meet_it() -> None:
    names = [f"user-{at}" for at in range(8)]
    rows = [
        row for at in range(150) for name in names for row in (odd if (at + len(name)) % 5 == 0 else judged)(name, 1)
    ]
    effects = run(Ledger(POLICY), rows)
    assert not effects.alerts
    assert effects.excused


def test_a_suspect_is_released_once_the_deployment_is_found_at_fault() -> None:
    ledger = Ledger(POLICY)
    assert len(run(ledger, odd("ana", 30)).alerts) == 1
    others = [row for name in ("bo", "chi", "dee") for row in odd(name, 1)]
    assert said(run(ledger, [*others, *odd("ana", 1)])) == [("ana", "none")]


def test_accounts_and_watches_are_bounded_and_suspects_are_not_evicted() -> None:
    accounting = Accounting(30, most=64)
    forgotten = 0
    for at in range(500):
        who = "eve" if at == 0 else f"p{at}"
        events: Any = [Uncharted(1000.0, who, "unjudged", 40 if at == 0 else 1)]
        forgotten += accounting.take(activity(events)).forgotten
        assert len([key for key in accounting.keys() if key[1]]) <= 64
    account = accounting.of((MODEL, "eve"))
    assert account is not None
    assert account.accused
    assert forgotten >= 500 - 64
    counted = activity([Uncharted(1000.0, "eve", "unjudged", 1)]).counts[0].count
    for at in range(2 * MOST_WATCHES):
        accounting.take(replace(activity([]), counts=[Counted(replace(counted, model=f"m{at}"), 1000.0, 0)]))
    assert len([key for key in accounting.keys() if not key[1]]) == MOST_WATCHES


def test_reasons_beyond_the_bound_are_counted_as_one() -> None:
    ledger = Ledger(POLICY)
    run(ledger, [row for at in range(100) for row in odd("eve", 1, reason=f"reason-{at}")])
    assert len(held(ledger).unjudged) == MOST_REASONS + 1
    assert sum(held(ledger).unjudged.values()) == 100


@pytest.mark.parametrize("limit", [0, HALF + 1, -1])
def test_a_limit_that_cannot_be_reached_is_refused(limit: int) -> None:
    with pytest.raises(ConfigurationError, match="unjudged_queries"):
        Policy(unjudged_queries=limit)


def test_the_version_of_a_policy_changes_with_the_limit_alone() -> None:
    assert Policy().version == Policy(unjudged_queries=30).version != Policy(unjudged_queries=31).version


def test_a_later_format_is_refused_and_so_is_nonsense() -> None:
    with pytest.raises(NewerStateLog):
        Accounting(30).absorb((99, b""))
    with pytest.raises(StateLogError):
        Accounting(30).absorb((1, b"nonsense"))


# -- against the oracle, with any cuts and recoveries

POLICIES = [
    Policy(
        mode="enforce",
        enforce_uncalibrated=True,
        decision_seconds=100.0,
        ladder=plain_ladder(*ladder),
        unjudged_queries=limit,
    )
    for ladder in ((Rung(0, Action("slow", 1.0)), Rung(3, Action("refuse"))),)
    for limit in (1, 5, 30)
]


def _bursts(seed: int, length: int) -> list[Item]:
    """Bursts of judged and odd rows of up to seven principals; a shorter stream is the beginning of a longer one."""
    dice = Random(seed)
    people = [f"p{at}" for at in range(dice.randint(1, 7))]
    clock = count(1000)
    items: list[Item] = []
    while len(items) < length:
        who, number, time = dice.choice(people), dice.choice([1, 2, 10, 40, 170, 400]), float(next(clock))
        kind = dice.choice(["judged", "judged", "odd", "mixed", "count"])
        if kind == "count":
            what = dice.choice(["dropped", "refused", "unjudged"])
            items.append(Uncharted(time, who, what, number))
        for _ in range(number if kind != "count" else 0):
            is_odd = kind == "odd" or (kind == "mixed" and dice.random() < 0.2)
            items.append(Row(time, who, "1", False, (), False, dice.choice(["dimension", "x"]) if is_odd else ""))
    return items[:length]


streams = st.builds(_bursts, st.integers(0, 2**32), st.integers(0, 3_000))
CUTS = st.sets(st.integers(1, 3_000), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(POLICIES), streams, CUTS)
def test_any_cut_gives_the_records_of_the_oracle(policy: Policy, items: list[Item], cuts: set[int]) -> None:
    oracle, ledger = OracleLedger(policy, MODEL), Ledger(policy)
    expected = [one for item in items for one in oracle.feed(item)]
    assert by_kind(published(drive(ledger, items, cuts))) == by_kind(expected)
    accounts = {name: held(ledger, name) for _, name in ledger.accounting.keys() if name}
    assert {name: (account.unjudged, account.dropped) for name, account in accounts.items()} == {
        name: (account.unjudged, account.dropped) for name, account in oracle.accounts.people.items()
    }


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(POLICIES), streams, CUTS, st.integers(0, 3_000), st.sampled_from([3, 10_000]))
def test_recovery_anywhere_gives_the_same_state_and_future(
    policy: Policy, items: list[Item], cuts: set[int], died_at: int, most: int
) -> None:
    live, successor, loaded = (_with_room(policy, most) for _ in range(3))
    effects = list(drive(live, items[:died_at], cuts))
    _absorb(successor, effects)
    _absorb(successor, effects[-1:])
    loaded.absorb(live.dump(live.keys()))
    for key in live.accounting.keys():
        loaded.accounting.absorb(live.accounting.dump([key]))
    whole = _with_room(policy, most)
    list(drive(whole, items[:died_at]))
    for other in (successor, loaded, whole):
        assert _state(other) == _state(live)
    future = published(drive(live, items[died_at:]))
    for other in (successor, loaded, whole):
        assert published(drive(other, items[died_at:])) == future
        assert _state(other) == _state(live)


def _with_room(policy: Policy, most: int) -> Ledger:
    ledger = Ledger(policy)
    ledger.accounting = Accounting(policy.unjudged_queries, most)
    return ledger


def _absorb(ledger: Ledger, effects: Sequence[Effects]) -> None:
    for one in effects:
        if one.section is not None:
            ledger.absorb(one.section)
        if one.accounting is not None:
            ledger.accounting.absorb(one.accounting)


def _state(ledger: Ledger) -> object:
    return [ledger.accounting.dump([key]) for key in sorted(ledger.accounting.keys())], ledger.dump(
        sorted(ledger.keys())
    )


def test_no_sum_of_counts_is_too_large_for_a_record() -> None:
    account = PrincipalCounts(unjudged={"syntax": 2**53 - 1}, dropped={"queue": 2**53 - 1})
    account.refuse("syntax", MOST_COUNTED - 1, 30)
    account.drop("queue", MOST_COUNTED - 1)
    assert (account.unjudged, account.dropped) == ({"syntax": 2**53}, {"queue": 2**53})
