"""The ledger against a slow oracle, and its independence of cuts, interleaving and recovery."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.actions import make_action
from detector.contracts.codecs import decode, encode
from detector.contracts.findings import Action, Alert, Audit, Command, Decision, Mode
from detector.policy.activity import Effects
from detector.policy.allowlist import Allowlist, Exemption
from detector.policy.config import Policy
from detector.policy.entry import decode_changes
from detector.policy.ladder import LadderRule, Rung, plain_ladder
from detector.policy.ledger import Ledger

from .oracle import Item, OracleLedger, Order
from .streams import MODEL, PRINCIPALS, by_kind, drive, published, streams

OBSERVED_MARGIN: dict[str, Mode] = {"margin": "observe"}
OBSERVED_GROUPS: dict[str, Mode] = {"group": "observe"}
SLOW, REFUSE = Action("slow", 1.0), Action("refuse")
RULES = (
    LadderRule("high", (Rung(0, make_action("label_only"), 30.0), Rung(4, REFUSE, 300.0)), severities=("high",)),
    LadderRule("rings", (Rung(0, make_action("round", {"digits": 1.0}), 90.0),), signals=("group",)),
    LadderRule("known", (Rung(0, SLOW),), calibrated=False),
)
"""Rules with lives of their own that match no principal with too many unjudged queries."""
POLICIES = st.sampled_from(
    [
        Policy(
            mode="enforce",
            enforce_uncalibrated=True,
            decision_seconds=100.0,
            ladder=plain_ladder(*ladder),
            allowlist=allowlist,
            signal_modes=modes,
        )
        for ladder in (
            (Rung(0, Action("slow", 1.0)), Rung(3, Action("refuse"))),
            (Rung(0, Action("slow", 1.0)), Rung(2, Action("slow", 0.25)), Rung(6, Action("refuse"))),
        )
        for allowlist in (
            Allowlist(),
            Allowlist((Exemption("partner", "sales", "contract", 1060.0), Exemption("bob", "x", "y", 9e9, "other"))),
        )
        for modes in ({}, OBSERVED_MARGIN, OBSERVED_GROUPS)
    ]
    + [
        Policy("enforce", enforce_uncalibrated=doubtful, ladder=RULES, decision_seconds=100.0, cool_down_seconds=cool)
        for doubtful, cool in ((True, 0.0), (True, 120.0), (False, 20.0))
    ]
)
CUTS = st.sets(st.integers(1, 60))


@settings(max_examples=200, deadline=None)
@given(POLICIES, streams, CUTS)
def test_the_ledger_publishes_what_the_oracle_publishes(policy: Policy, items: list[Item], cuts: set[int]) -> None:
    oracle = OracleLedger(policy, MODEL)
    expected = [one for item in items for one in oracle.feed(item)]
    assert by_kind(published(drive(Ledger(policy), items, cuts))) == by_kind(expected)


@settings(max_examples=100, deadline=None)
@given(POLICIES, streams, CUTS)
def test_any_cut_gives_the_same_records_in_the_same_order_and_the_same_state(
    policy: Policy, items: list[Item], cuts: set[int]
) -> None:
    whole, cut = Ledger(policy), Ledger(policy)
    effects, again = list(drive(whole, items)), list(drive(cut, items, cuts))
    for kind in ("alerts", "decisions", "audits"):
        assert _all(effects, kind) == _all(again, kind)
    assert _state(whole) == _state(cut)


@settings(max_examples=100, deadline=None)
@given(POLICIES, streams, CUTS)
def test_a_principal_does_not_depend_on_the_others(policy: Policy, items: list[Item], cuts: set[int]) -> None:
    together = published(drive(Ledger(policy), items, cuts))
    for principal in PRINCIPALS:
        alone = published(drive(Ledger(policy), [item for item in items if _principal(item) == principal]))
        assert by_kind(alone) == by_kind(one for one in together if one[2] == principal)


@settings(max_examples=100, deadline=None)
@given(POLICIES, streams, CUTS, st.integers(0, 60))
def test_recovery_from_a_checkpoint_and_deltas_gives_the_same_state_and_future(
    policy: Policy, items: list[Item], cuts: set[int], died_at: int
) -> None:
    live, successor = Ledger(policy), Ledger(policy)
    deltas = [effects.section for effects in drive(live, items[:died_at], cuts) if effects.section is not None]
    for section in deltas:
        successor.absorb(section)
        successor.absorb(section)
    assert _state(successor) == _state(live)
    stale = Ledger(policy)
    for section in deltas[: len(deltas) // 2]:
        stale.absorb(section)
    stale.absorb(live.dump({*live.keys(), *stale.keys()}))
    assert _state(stale) == _state(live)
    assert (successor.nbytes, stale.nbytes) == (live.nbytes, live.nbytes)
    for ledger in (successor, stale):
        assert published(drive(ledger, items[died_at:])) == published(drive(_copy(live, policy), items[died_at:]))


@settings(max_examples=50, deadline=None)
@given(POLICIES, streams)
def test_every_record_can_be_encoded_and_decoded(policy: Policy, items: list[Item]) -> None:
    for effects in drive(Ledger(policy), items):
        assert [decode(Alert, encode(alert)) for alert in effects.alerts] == effects.alerts
        assert [decode(Decision, encode(decision)) for decision in effects.decisions] == effects.decisions
        assert [decode(Audit, encode(audit)) for audit in effects.audits] == effects.audits


@settings(max_examples=100, deadline=None)
@given(POLICIES, streams, CUTS)
def test_every_entry_is_dropped_once_all_has_expired_and_the_delta_records_it(
    policy: Policy, items: list[Item], cuts: set[int]
) -> None:
    ledger = Ledger(policy)
    list(drive(ledger, items, cuts))
    kept = set(ledger.keys())
    end = items[-1].time if items else 0.0
    tidy = Command("late", "delete", 0.0, "eve", MODEL, "nobody", "tidy")
    effects = ledger.command(tidy, end + 41 * 86_400)
    assert set(decode_changes(effects.section) if effects.section else ()) == kept
    assert (ledger.keys(), ledger.nbytes, ledger.active(0.0)) == ([], 0, [])


def _copy(ledger: Ledger, policy: Policy) -> Ledger:
    copy = Ledger(policy)
    copy.absorb(ledger.dump(ledger.keys()))
    return copy


def _all(effects: list[Effects], kind: str) -> list[object]:
    return [record for one in effects for record in getattr(one, kind)]


def _state(ledger: Ledger) -> object:
    return decode_changes(ledger.dump(ledger.keys()))


def _principal(item: Item) -> str:
    return item.command.principal if isinstance(item, Order) else item.principal
