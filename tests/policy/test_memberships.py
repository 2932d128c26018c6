"""Members of groups in the ledger: who joins is answered at once, who leaves is let go after the cool-down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs import encode
from detector.contracts.findings import Action, Command
from detector.policy.activity import Effects
from detector.policy.allowlist import Allowlist, Exemption
from detector.policy.config import Policy
from detector.policy.entry import MOST_LEARNED, decode_changes
from detector.policy.ledger import Ledger
from detector.policy.principal import MOST_CAUSES, MOST_GROUPS

from .oracle import Row
from .streams import MODEL, activity

ENFORCE = Policy(mode="enforce", enforce_uncalibrated=True)
MEMBER = (MODEL, "member")
DAY = 86_400.0


def join(issued_at: float, group: str = "g", **fields: Any) -> Command:
    whole = {"id": f"join-{group}-{issued_at}", "kind": "join", "issuer": f"group:{group}", "reason": "revision 1"}
    return Command(**{**whole, "issued_at": issued_at, "model": MODEL, "principal": "member", "group": group, **fields})


def leave(issued_at: float, group: str = "g") -> Command:
    return replace(join(issued_at, group), kind="leave", id=f"leave-{group}-{issued_at}")


def order(kind: Any, **fields: Any) -> Command:
    return Command("o1", kind, 0.0, "eve", MODEL, "member", "a reason", **fields)


def queries(times: Sequence[float], flagged: bool = False, found: Sequence[str] = ()) -> list[Row]:
    return [Row(time, "member", "1", flagged, tuple(found)) for time in times]


def run(ledger: Ledger, rows: Sequence[Row]) -> Effects:
    return ledger.observe(activity(rows))


def said(effects: Effects) -> list[tuple[str, str]]:
    return [(decision.action.name, decision.mode) for decision in effects.decisions]


def origins(effects: Effects) -> list[list[str]]:
    return [sorted(cause.origin for cause in decision.causes) for decision in effects.decisions]


def summaries(effects: Effects) -> list[tuple[str, str]]:
    return [(audit.kind, audit.summary) for audit in effects.audits]


def test_a_member_for_content_alone_is_slowed_and_refused_once_the_group_shows_more() -> None:
    ledger = Ledger(ENFORCE)
    assert said(ledger.command(join(5.0, family="content"), 1000.0)) == [("slow", "enforce")]
    run(ledger, queries([1001.0]))
    assert said(run(ledger, queries([1002.0] * 200))) == []
    ledger.command(join(6.0, family="structure"), 1003.0)
    run(ledger, queries([1004.0]))
    assert {own.action.name for own in ledger.active(1004.0)} == {"refuse"}


def test_who_joins_a_group_gets_a_decision_with_its_id_at_once_and_no_alert() -> None:
    effects = Ledger(ENFORCE).command(join(5.0, group_size=12, model_version="3"), 1000.0)
    (decision,) = effects.decisions
    assert (decision.action, decision.mode, decision.expires_at) == (Action("slow", 1.0), "enforce", 4600.0)
    assert [(cause.origin, cause.expires_at) for cause in decision.causes] == [("group:g", 4600.0)]
    assert effects.alerts == []
    assert [audit.kind for audit in effects.audits] == ["command", "decision"]
    assert (effects.audits[0].actor, effects.audits[0].summary) == ("group:g", "joined the group g")
    detail = effects.audits[0].detail
    assert (detail["group"], detail["group_size"], detail["model_version"]) == ("g", 12, "3")


def test_a_member_climbs_the_ladder_and_is_renewed_at_the_next_query_whatever_their_own_verdict() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(join(5.0), 1000.0)
    assert said(run(ledger, queries([1001.0] * 49))) == []
    assert said(run(ledger, queries([1002.0]))) == [("refuse", "enforce")]
    assert said(run(ledger, queries([2900.0]))) == [("refuse", "enforce")]
    assert said(run(ledger, queries([90_000.0]))) == [("refuse", "enforce")]


def test_groups_have_a_mode_of_their_own_and_the_most_cautious_wins() -> None:
    policy = Policy(mode="enforce", enforce_uncalibrated=True, signal_modes={"group": "observe"})
    ledger = Ledger(policy)
    assert said(ledger.command(join(5.0), 1000.0)) == [("slow", "observe")]
    assert said(run(ledger, queries([1001.0], flagged=True, found=["prada"]))) == [("slow", "enforce")]
    assert said(Ledger(Policy()).command(join(5.0), 1000.0)) == [("slow", "observe")]
    assert said(run(Ledger(policy), queries([1000.0], flagged=True))) == [("slow", "enforce")]


def test_who_leaves_keeps_the_decision_until_it_expires_and_it_is_not_renewed() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(join(5.0), 1000.0)
    effects = ledger.command(leave(6.0), 1100.0)
    assert (said(effects), summaries(effects)) == ([], [("command", "left the group g")])
    assert said(run(ledger, queries([2900.0, 4599.0]))) == []
    assert [one.action.name for one in ledger.active(4599.0)] == ["slow"]
    assert ledger.active(4600.0) == []
    assert said(run(ledger, queries([4700.0]))) == []


def test_a_member_of_two_groups_stays_a_suspect_when_one_lets_go() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(join(5.0, "a"), 1000.0)
    assert origins(ledger.command(join(5.0, "b"), 1001.0)) == [["group:a", "group:b"]]
    ledger.command(leave(6.0, "a"), 1002.0)
    assert origins(run(ledger, queries([5000.0]))) == [["group:b"]]


def test_the_engine_may_flag_and_clear_a_member_and_the_group_still_holds() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(join(5.0), 1000.0)
    assert origins(run(ledger, queries([1001.0], flagged=True, found=["prada"]))) == [["group:g", "signal:prada"]]
    assert origins(run(ledger, [*queries([1002.0]), *queries([5000.0])])) == [["group:g"]]


def test_repeated_and_late_commands_change_nothing() -> None:
    ledger = Ledger(ENFORCE)
    assert said(ledger.command(join(5.0), 1000.0)) == [("slow", "enforce")]
    for late in (join(5.0), join(4.0), leave(4.0)):
        effects = ledger.command(late, 1001.0)
        assert (effects.decisions, effects.section) == ([], None)
        assert summaries(effects)[0][1].startswith("unchanged")
    ledger.command(leave(6.0), 1002.0)
    for late in (join(5.0), join(6.0), leave(5.0)):
        assert summaries(ledger.command(late, 1003.0))[0][1].startswith("unchanged")
    assert said(run(ledger, queries([3000.0]))) == []


def test_who_joins_again_is_answered_again() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(join(5.0), 1000.0)
    ledger.command(leave(6.0), 1001.0)
    assert said(ledger.command(join(7.0), 9000.0)) == [("slow", "enforce")]


def test_an_exempt_member_gets_no_decision_and_the_audit_says_why() -> None:
    policy = Policy(
        mode="enforce",
        enforce_uncalibrated=True,
        allowlist=Allowlist((Exemption("member", "sales", "load test", 1100.0),)),
    )
    ledger = Ledger(policy)
    effects = ledger.command(join(5.0), 1000.0)
    assert effects.decisions == []
    assert summaries(effects) == [
        ("command", "joined the group g"),
        ("decision_withheld", "no decision for group:g: allowlist: load test (sales)"),
    ]
    assert said(run(ledger, queries([1099.0]))) == []
    assert said(run(ledger, queries([1100.0]))) == [("slow", "enforce")]


def test_a_new_exemption_ends_a_groups_cause_at_the_next_query() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(join(5.0), 1000.0)
    successor = Ledger(
        Policy(mode="enforce", enforce_uncalibrated=True, allowlist=Allowlist((Exemption("member", "a", "b", 9e9),)))
    )
    successor.absorb(ledger.dump(ledger.keys()))
    assert said(run(successor, queries([1001.0]))) == [("none", "enforce")]


def test_a_membership_that_ended_is_forgotten_after_a_day_however_the_queries_are_cut() -> None:
    rows, states = queries([1001.0, 1000.0 + DAY, 1001.0 + DAY]), []
    for cut in (0, 2):
        ledger = Ledger(ENFORCE)
        ledger.command(order("add", action=Action("refuse"), duration_seconds=9 * DAY), 999.0)
        ledger.command(leave(5.0), 1000.0)
        for part in (rows[:cut], rows[cut:]):
            run(ledger, part)
        states.append(ledger.dump([MEMBER]))
        assert [entry and entry.groups for entry in decode_changes(states[-1]).values()] == [()]
    assert states[0] == states[1]


def test_a_released_member_stays_released_until_they_leave_and_join_again() -> None:
    for cause_id in (None, "its own"):
        ledger = Ledger(ENFORCE)
        (decision,) = ledger.command(join(5.0), 1000.0).decisions
        chosen = cause_id and decision.causes[0].id
        assert said(ledger.command(order("delete", cause_id=chosen), 1001.0)) == [("none", "enforce")]
        assert said(run(ledger, queries([1002.0, 5000.0]))) == []
        assert said(ledger.command(join(6.0), 5001.0)) == []
        assert said(run(ledger, queries([5001.5]))) == []
        ledger.command(leave(7.0), 5002.0)
        assert said(ledger.command(join(8.0), 5003.0)) == [("slow", "enforce")]


def test_a_cleared_member_is_out_of_the_group_until_it_says_so_again() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(join(5.0), 1000.0)
    assert said(ledger.command(order("clear"), 1001.0)) == [("none", "enforce")]
    assert said(ledger.command(join(5.0), 1002.0)) == []
    assert said(run(ledger, queries([1003.0, 5000.0]))) == []
    assert said(ledger.command(join(6.0), 5001.0)) == [("slow", "enforce")]


def test_a_member_without_a_query_is_dropped_after_thirty_days() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(join(5.0), 1000.0)
    tidy = replace(order("delete"), principal="nobody")
    ledger.command(tidy, 1000.0 + 29 * DAY)
    assert ledger.keys() == [MEMBER]
    ledger.command(tidy, 1000.0 + 30 * DAY)
    assert (ledger.keys(), ledger.nbytes) == ([], 0)


def test_groups_and_causes_of_one_principal_are_bounded() -> None:
    ledger = Ledger(ENFORCE)
    for number in range(MOST_GROUPS):
        ledger.command(join(5.0, f"{number}"), 1000.0)
    refused = ledger.command(join(5.0, "one more"), 1000.0)
    assert [audit.kind for audit in refused.audits] == ["command_refused"]
    for number in range(100):
        ledger.command(leave(6.0 + number, f"{number % MOST_GROUPS}"), 1001.0 + number)
        ledger.command(join(6.5 + number, f"other {number}"), 1001.0 + number)
        ledger.command(leave(6.5 + number, f"other {number}"), 1001.0 + number)
    (entry,) = decode_changes(ledger.dump([MEMBER])).values()
    assert entry is not None
    assert len(entry.active_causes) == MOST_CAUSES
    assert len(entry.groups) <= MOST_GROUPS + 1
    assert all(encode(decision) for decision in ledger.active(1101.0))


GROUP_COMMANDS = st.lists(
    st.tuples(st.sampled_from(["join", "leave"]), st.sampled_from("xyz"), st.integers(0, 12)), max_size=12
)


@settings(max_examples=200, deadline=None)
@given(GROUP_COMMANDS, st.randoms(use_true_random=False))
def test_whatever_the_order_of_arrival_the_latest_word_of_each_group_holds(
    words: list[tuple[Any, str, int]], dice: Any
) -> None:
    commands = [replace(join(float(at), group), kind=kind, id=f"{kind} {at}") for kind, group, at in words]
    arrivals = [*commands, *dice.sample(commands, len(commands) // 2)]
    dice.shuffle(arrivals)
    ledger = Ledger(ENFORCE)
    for at, command in enumerate(arrivals):
        ledger.command(command, 1000.0 + at)
        run(ledger, queries([1000.0 + at]))
    latest = {command.group: command for command in sorted(commands, key=lambda one: (one.issued_at, one.kind))}
    members = {f"group:{group}" for group, command in latest.items() if command.kind == "join"}
    renewed = run(ledger, queries([20_000.0]))
    assert set().union(*map(set, origins(renewed))) == members


def test_accounts_that_have_learned_too_much_together_are_answered_as_a_used_up_budget_is() -> None:
    """By the default ladder slowed and reviewed, never refused, however many queries follow."""
    ledger = Ledger(ENFORCE)
    joined = ledger.command(join(1.0, MOST_LEARNED), 1.0)
    assert said(joined) == [("slow", "enforce")]
    assert origins(joined) == [[f"group:{MOST_LEARNED}"]]
    assert joined.decisions[0].causes[0].reason == "needs review"
    later = run(ledger, queries([2.0 + at for at in range(100)]))
    assert "refuse" not in {action for action, _ in said(later)}
    assert said(Ledger(replace(ENFORCE, signal_modes={"budget": "observe"})).command(join(1.0, MOST_LEARNED), 1.0)) == [
        ("slow", "observe")
    ]
