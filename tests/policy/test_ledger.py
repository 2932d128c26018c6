"""Suspects and commands in the ledger, one behaviour at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.contracts.codecs import encode
from detector.contracts.errors import NewerStateLog, StateLogError
from detector.contracts.findings import Action, Audit, Command, Decision
from detector.policy.activity import Effects
from detector.policy.allowlist import Allowlist, Exemption
from detector.policy.config import Policy
from detector.policy.ladder import Rung, plain_ladder
from detector.policy.ledger import Ledger
from detector.policy.principal import MOST_CAUSES
from tests.memory import traced

from .oracle import Row, Uncharted
from .streams import MODEL, activity, drive

SLOW, REFUSE = Action("slow", 1.0), Action("refuse")
ENFORCE = Policy(mode="enforce", enforce_uncalibrated=True)
THIEF = (MODEL, "thief")


def suspect(times: Sequence[float], learning: bool = False, version: str = "1") -> list[Row]:
    """The thief's queries at ``times``; the first one makes the thief a suspect."""
    return [Row(t, "thief", version, True, ("prada",) if at == 0 else (), learning) for at, t in enumerate(times)]


def later(
    times: Sequence[float], flagged: bool = True, learning: bool = False, score: float = 1.0, version: str = "1"
) -> list[Row]:
    return [Row(time, "thief", version, flagged, (), learning, score=score) for time in times]


def run(ledger: Ledger, items: Sequence[Row | Uncharted]) -> Effects:
    return ledger.observe(activity(items))


def command(kind: Any, **fields: Any) -> Command:
    whole = {"id": "c1", "issued_at": 0.0, "issuer": "eve", "model": MODEL, "principal": "thief", "reason": "why"}
    return Command(**{**whole, "kind": kind, **fields})


def add(action: Action = REFUSE, seconds: float = 600.0, **fields: Any) -> Command:
    return command("add", action=action, duration_seconds=seconds, **fields)


def join(issued_at: float, group: str = "g1", **fields: Any) -> Command:
    return command("join", issued_at=issued_at, issuer=f"group:{group}", group=group, **fields)


def leave(issued_at: float, group: str = "g1") -> Command:
    return replace(join(issued_at, group), kind="leave")


def said(effects: Effects) -> list[tuple[str, str]]:
    return [(decision.action.name, decision.mode) for decision in effects.decisions]


def alerts(effects: Effects) -> list[tuple[str, int]]:
    return [(alert.severity, alert.revision) for alert in effects.alerts]


def only(decisions: Sequence[Decision]) -> Decision:
    assert len(decisions) == 1
    return decisions[0]


def test_a_finding_gives_an_alert_with_its_evidence_and_slows_at_once() -> None:
    effects = run(Ledger(ENFORCE, "settings-hash"), suspect([1000.5]))
    alert, decision = effects.alerts[0], only(effects.decisions)
    assert (alert.signal, alert.severity, alert.evidence[0].value) == ("prada", "medium", 0.81)
    assert (alert.revision, alert.calibrated) == (1, False)
    assert (alert.configuration, alert.occurred_at, alert.query_index) == ("settings-hash", 1000.5, 10)
    assert (decision.action, decision.mode, decision.epoch) == (SLOW, "enforce", (0, 0))
    assert (decision.issued_at, decision.expires_at) == (1000.5, 4600.5)
    assert [(cause.origin, cause.expires_at) for cause in decision.causes] == [("signal:prada", 4600.5)]
    assert decision.policy_version == ENFORCE.version


def test_the_severity_rises_once_per_episode_and_the_evidence_of_the_verdict_stays() -> None:
    ledger = Ledger(ENFORCE)
    (first,) = run(ledger, suspect([1000.5])).alerts
    assert run(ledger, later([1001.0], score=1.49)).alerts == []
    effects = run(ledger, [*later([1002.0], score=1.5), *later([1003.0, 1004.0], score=3.0)])
    (higher,) = effects.alerts
    assert (higher.id, higher.episode, higher.evidence) == (first.id, first.episode, first.evidence)
    assert (higher.revision, higher.severity, higher.score, higher.occurred_at) == (2, "high", 1.5, 1002.0)
    assert run(ledger, [*later([1005.0], score=0.5), *later([1006.0], score=9.0)]).alerts == []
    run(ledger, later([1010.0], flagged=False))
    assert alerts(run(ledger, suspect([1011.0]))) == [("medium", 1)]
    assert alerts(run(ledger, later([1012.0], score=2.0))) == [("high", 2)]


def test_a_verdict_that_begins_high_has_one_record() -> None:
    row = replace(suspect([1000.5])[0], score=1.6)
    assert alerts(run(Ledger(ENFORCE), [row, *later([1001.0] * 5, score=4.0)])) == [("high", 1)]


def test_the_score_of_another_model_version_raises_nothing() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.5]))
    assert run(ledger, later([1001.0], score=2.0, version="2")).alerts == []


def test_a_severity_rises_even_if_the_decision_is_withheld_or_was_deleted() -> None:
    exempt = Policy(
        mode="enforce", enforce_uncalibrated=True, allowlist=Allowlist((Exemption("thief", "sales", "contract", 9e9),))
    )
    for policy in (exempt, ENFORCE):
        ledger = Ledger(policy)
        run(ledger, suspect([1000.5]))
        ledger.command(command("delete"), 1000.7)
        (higher,) = run(ledger, later([1001.0], score=2.0)).alerts
        assert (higher.severity, higher.suppressed_by is None) == ("high", policy is ENFORCE)


def test_a_cause_says_that_its_verdict_is_uncalibrated() -> None:
    bare, whole = suspect([1000.5]), activity(suspect([1000.5]))
    calibrated = replace(whole, findings=[replace(one, profile="a1b2") for one in whole.findings])
    for effects, reason in ((run(Ledger(ENFORCE), bare), "uncalibrated"), (Ledger(ENFORCE).observe(calibrated), "")):
        assert [cause.reason for cause in only(effects.decisions).causes] == [reason]
        assert effects.alerts[0].calibrated is (reason == "")


def test_principals_that_were_never_flagged_have_no_entry() -> None:
    ledger = Ledger(ENFORCE)
    effects = run(ledger, later([1.0, 2.0], flagged=False))
    assert (effects, ledger.keys()) == (Effects(), [])


def test_fifty_further_queries_are_allowed_before_refusal() -> None:
    ledger = Ledger(ENFORCE)
    assert said(run(ledger, suspect([1000.0] * 50))) == [("slow", "enforce")]
    escalated = only(run(ledger, later([1001.0, 1002.0])).decisions)
    assert (escalated.action, escalated.issued_at) == (REFUSE, 1001.0)


def test_counted_queries_also_advance_the_ladder() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    assert said(run(ledger, [Uncharted(1001.0, "thief", "refused", 49)])) == []
    assert said(run(ledger, [Uncharted(1002.0, "thief", "dropped", 1)])) == [("refuse", "enforce")]


def test_an_unjudged_row_does_not_clear_a_suspect_and_counts_as_activity() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    refused = activity(later([2900.0] * 50, flagged=False))
    effects = ledger.observe(replace(refused, judged=np.zeros(50, dtype=np.bool_)))
    assert said(effects) == [("slow", "enforce"), ("refuse", "enforce")]
    assert run(ledger, later([2901.0])) == Effects()


def test_a_query_renews_the_decision_at_half_life_and_not_before() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    assert said(run(ledger, later([2799.0]))) == []
    assert only(run(ledger, later([2800.0, 2801.0])).decisions).expires_at == 6400.0


def test_refused_queries_renew_the_decision() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0] * 60))
    renewed = only(run(ledger, [Uncharted(2900.0, "thief", "refused", 7)]).decisions)
    assert (renewed.action, renewed.expires_at) == (REFUSE, 6500.0)


def test_a_suspect_returns_to_the_same_step_after_expiry() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0] * 60))
    effects = run(ledger, later([90_000.0]))
    assert (said(effects), effects.alerts) == ([("refuse", "enforce")], [])


def test_a_decision_is_not_renewed_once_the_principal_is_no_suspect() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    assert said(run(ledger, later([2900.0, 4700.0], flagged=False))) == []
    assert ledger.keys() == []


def test_a_new_latch_is_a_new_episode_and_a_new_alert() -> None:
    ledger = Ledger(ENFORCE)
    first = run(ledger, suspect([1000.0, 1000.0])).alerts
    run(ledger, later([1000.1], flagged=False))
    second = run(ledger, suspect([1000.2])).alerts
    assert [len(first), len(second)] == [1, 1]
    assert first[0].id != second[0].id
    assert first[0].episode < second[0].episode


def test_a_suspect_unknown_to_the_ledger_gets_a_decision_without_an_alert() -> None:
    effects = run(Ledger(ENFORCE), later([1000.0]))
    assert effects.alerts == []
    assert only(effects.decisions).causes[0].origin == "signal:latched"


def test_a_query_to_another_model_version_does_not_clear_a_suspect() -> None:
    ledger = Ledger(ENFORCE)
    clean = Row(1001.0, "thief", "2", False)
    assert len(run(ledger, [*suspect([1000.0]), clean, *later([1002.0])]).alerts) == 1
    assert said(run(ledger, [Row(2900.0, "thief", "2", False)])) == [("slow", "enforce")]


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(mode="enforce", enforce_uncalibrated=True, model_modes={MODEL: "observe"}),
        Policy(mode="enforce", enforce_uncalibrated=True, signal_modes={"prada": "observe"}),
        Policy(mode="observe", model_modes={MODEL: "enforce"}, signal_modes={"prada": "enforce"}),
    ],
)
def test_the_most_cautious_mode_wins(policy: Policy) -> None:
    assert said(run(Ledger(policy), suspect([1000.0]))) == [("slow", "observe")]


def test_learning_is_observed_and_enforced_from_the_first_query_after() -> None:
    ledger = Ledger(ENFORCE)
    assert said(run(ledger, suspect([1000.0, 1001.0], learning=True))) == [("slow", "observe")]
    assert said(run(ledger, later([1002.0, 1003.0]))) == [("slow", "enforce")]
    assert said(run(ledger, later([1004.0], learning=True))) == []


def test_a_signal_that_only_observes_does_not_soften_one_that_enforces() -> None:
    policy = Policy(mode="enforce", enforce_uncalibrated=True, signal_modes={"margin": "observe"})
    both = [Row(1000.0, "thief", "1", True, ("margin",)), Row(1001.0, "thief", "1", True, ("prada",))]
    assert said(run(Ledger(policy), both)) == [("slow", "observe"), ("slow", "enforce")]


def test_a_changed_policy_takes_effect_at_the_next_query() -> None:
    ledger, stricter = (
        Ledger(Policy()),
        Ledger(Policy(mode="enforce", enforce_uncalibrated=True, ladder=plain_ladder(Rung(0, REFUSE)))),
    )
    run(ledger, suspect([1000.0]))
    stricter.absorb(ledger.dump(ledger.keys()))
    assert said(run(stricter, later([1001.0]))) == [("refuse", "enforce")]


def test_an_exempt_principal_gets_an_alert_and_no_decision() -> None:
    exemption = Exemption("thief", "sales", "load test", 1100.0)
    ledger = Ledger(Policy(mode="enforce", enforce_uncalibrated=True, allowlist=Allowlist((exemption,))))
    effects = run(ledger, suspect([1000.0, 1001.0]))
    assert [alert.suppressed_by for alert in effects.alerts] == ["allowlist: load test (sales)"]
    assert effects.decisions == []
    assert [audit.kind for audit in effects.audits] == ["decision_withheld"]
    assert said(run(ledger, later([1099.0, 1100.0, 1101.0]))) == [("slow", "enforce")]


def test_two_episodes_within_a_second_have_different_alert_ids() -> None:
    ledger = Ledger(Policy(allowlist=Allowlist((Exemption("thief", "sales", "load test", 9e9),))))
    alerts = run(ledger, suspect([1000.1])).alerts
    run(ledger, later([1000.2], flagged=False))
    alerts += run(ledger, suspect([1000.3])).alerts
    assert len({alert.id for alert in alerts}) == 2


def test_a_new_exemption_releases_at_the_next_query_and_does_not_override_an_operator() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    successor = Ledger(
        Policy(mode="enforce", enforce_uncalibrated=True, allowlist=Allowlist((Exemption("thief", "a", "b", 9e9),)))
    )
    successor.absorb(ledger.dump(ledger.keys()))
    assert said(run(successor, later([1001.0]))) == [("none", "enforce")]
    assert said(successor.command(add(), 1002.0)) == [("refuse", "enforce")]
    assert said(run(successor, later([1003.0]))) == []


def test_an_operators_cause_is_added_to_the_signals_and_the_strongest_acts() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    decision = only(ledger.command(add(seconds=600.0), 1010.0).decisions)
    assert (decision.action, decision.expires_at) == (REFUSE, 1610.0)
    assert [cause.origin for cause in decision.causes] == ["signal:prada", "operator:eve"]
    assert decision.causes[1].reason == "why"
    weaker = only(run(ledger, later([1610.0])).decisions)
    assert (weaker.action, weaker.expires_at) == (SLOW, 4600.0)


def test_a_second_command_of_an_operator_replaces_the_first() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(add(), 1000.0)
    decision = only(ledger.command(add(SLOW, id="c2"), 1001.0).decisions)
    assert [(cause.id, decision.action) for cause in decision.causes] == [("c2", SLOW)]


def test_a_command_without_a_mode_takes_the_policys() -> None:
    ledger = Ledger(Policy())
    assert said(ledger.command(add(), 1000.0)) == [("refuse", "observe")]
    assert said(ledger.command(add(mode="enforce"), 1000.0)) == [("refuse", "enforce")]


def test_deleting_one_cause_leaves_the_others() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    ledger.command(add(), 1001.0)
    decision = only(ledger.command(command("delete", id="c2", cause_id="c1"), 1002.0).decisions)
    assert (decision.action, [cause.origin for cause in decision.causes]) == (SLOW, ["signal:prada"])


def test_a_deleted_cause_does_not_return_at_the_next_query_but_a_new_finding_adds_one() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0] * 60))
    release = only(ledger.command(command("delete"), 1001.0).decisions)
    assert (release.action.name, release.causes, release.expires_at) == ("none", (), 4600.0)
    assert said(run(ledger, later([1002.0, 5000.0]))) == []
    margin = Row(5001.0, "thief", "1", True, ("margin",))
    assert said(run(ledger, [margin])) == [("slow", "enforce")]


@pytest.mark.parametrize("order", [command("delete"), command("delete", cause_id="signal:prada"), command("clear")])
def test_a_released_decision_ends_its_alert_until_the_severity_rises(order: Command) -> None:
    ledger = Ledger(ENFORCE)
    (first,) = run(ledger, suspect([1000.0])).alerts
    (over,) = ledger.command(order, 1001.0).alerts
    assert (over.id, over.revision, over.released_by, over.occurred_at) == (first.id, 2, "eve", 1001.0)
    assert (over.severity, over.evidence) == (first.severity, first.evidence)
    assert ledger.command(order, 1002.0).alerts == []
    if order.kind == "delete":
        (risen,) = run(ledger, later([1003.0], score=2.0)).alerts
        assert (risen.id, risen.revision, risen.released_by) == (first.id, 3, None)


def test_deleting_an_operators_cause_ends_no_alert() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    ledger.command(add(), 1001.0)
    assert ledger.command(command("delete", id="c2", cause_id="c1"), 1002.0).alerts == []


def test_a_release_is_active_until_the_decision_it_ends_would_have_expired() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    release = only(ledger.command(command("clear"), 1001.0).decisions)
    assert ledger.active(4599.0) == [release]
    assert ledger.active(4600.0) == []
    ledger.command(command("delete", principal="nobody"), 4600.0)
    assert ledger.keys() == []


def test_active_decisions_are_exactly_those_published() -> None:
    ledger = Ledger(ENFORCE)
    published = run(ledger, suspect([1000.0] * 60)).decisions
    assert ledger.active(1500.0) == published[-1:]


def test_clear_drops_the_entry_and_asks_the_engine_to_clear() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0] * 60))
    ledger.command(add(), 1001.0)
    effects = ledger.command(command("clear"), 1002.0)
    assert (said(effects), effects.clear) == ([("none", "enforce")], [THIEF])
    assert said(run(ledger, suspect([1003.0]))) == [("slow", "enforce")]


def test_every_command_and_decision_is_audited_with_who_and_why() -> None:
    ledger = Ledger(ENFORCE)
    effects = ledger.command(add(), 1000.0)
    ordered, decided = effects.audits
    assert (ordered.kind, ordered.actor, ordered.detail["command"]) == ("command", "eve", "c1")
    assert ordered.detail["reason"] == "why"
    assert (decided.kind, decided.detail["decision"]) == ("decision", effects.decisions[0].id)
    released = ledger.command(command("delete", id="c2"), 1001.0).audits
    assert [audit.kind for audit in released] == ["command", "release"]
    assert len({audit.id for audit in (*effects.audits, *released)}) == 4


@pytest.mark.parametrize(
    "bad",
    [
        add(seconds=-1.0),
        add(seconds=1e300),
        add(Action("none")),
        add(Action("slow")),
        add(Action("refuse", 1.0)),
        add(issuer="e" * 250),
        command("add"),
        command("delete"),
        command("delete", cause_id="unknown"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_audited_and_changes_nothing(bad: Command) -> None:
    ledger = Ledger(ENFORCE)
    effects = ledger.command(bad, 1000.0)
    assert [audit.kind for audit in effects.audits] == ["command_refused"]
    assert (effects.decisions, effects.section, ledger.keys()) == ([], None, [])
    assert encode(effects.audits[0])


def test_the_causes_of_one_decision_are_bounded_and_fit_their_record() -> None:
    ledger = Ledger(ENFORCE)
    last: list[Audit] = []
    for number in range(MOST_CAUSES + 1):
        effects = ledger.command(add(id=f"{number:0250d}", issuer=f"{number:0240d}", reason="r" * 4096), 1000.0)
        assert all(map(encode, effects.decisions))
        assert all(map(encode, effects.audits))
        last = effects.audits
    assert [audit.kind for audit in last] == ["command_refused"]
    gone = ledger.command(command("delete"), 1001.0)
    assert all(encode(audit) for audit in gone.audits)


def test_dropped_queries_of_any_principal_are_audited() -> None:
    effects = run(Ledger(ENFORCE), [Uncharted(1000.0, "ada", "dropped", 12), Uncharted(1000.0, "ada", "refused", 3)])
    assert [(audit.kind, audit.principal, audit.detail["queries"]) for audit in effects.audits] == [
        ("queries_missing", "ada", 12)
    ]


def test_a_suspect_is_dropped_after_thirty_idle_days() -> None:
    ledger = Ledger(ENFORCE)
    run(ledger, suspect([1000.0]))
    ledger.command(command("delete", principal="nobody"), 1000.0 + 29 * 86_400)
    assert ledger.keys() == [THIEF]
    ledger.command(command("delete", principal="nobody"), 1000.0 + 30 * 86_400)
    assert (ledger.keys(), ledger.nbytes) == ([], 0)


def test_further_queries_of_a_refused_suspect_change_no_state() -> None:
    ledger = Ledger(ENFORCE)
    list(drive(ledger, suspect([1000.0] * 60)))
    assert run(ledger, later([1001.0] * 100)).section is None


def test_a_section_of_a_later_version_is_refused() -> None:
    with pytest.raises(NewerStateLog, match="format 5"):
        Ledger(ENFORCE).absorb((5, b""))


def test_bytes_that_are_no_section_are_refused() -> None:
    with pytest.raises(StateLogError, match="3 bytes"):
        Ledger(ENFORCE).absorb((1, b"abc"))


def test_a_section_of_this_version_can_always_be_read() -> None:
    """Golden bytes: if this fails, give the format a new number and keep reading the old one."""
    golden = bytes.fromhex(GOLDEN)
    ledger = Ledger(ENFORCE)
    ledger.absorb((4, golden))
    assert ledger.dump(ledger.keys()) == (4, golden)
    assert ledger.command(join(4.0), 1003.0).decisions == []
    assert ledger.command(join(5.0, group="left"), 1003.0).decisions == []
    renewed = only(run(ledger, later([2900.0])).decisions)
    assert [cause.origin for cause in renewed.causes] == ["group:left", "group:g1", "signal:prada"]


def test_a_section_of_format_3_is_read_and_becomes_one_of_this_version() -> None:
    ledger = Ledger(ENFORCE)
    ledger.absorb((3, bytes.fromhex(GOLDEN_3)))
    assert ledger.dump(ledger.keys()) == (4, bytes.fromhex(GOLDEN))


def test_a_section_of_format_2_is_read_and_knows_no_groups() -> None:
    ledger = Ledger(ENFORCE)
    ledger.absorb((2, bytes.fromhex(GOLDEN_2)))
    assert alerts(run(ledger, later([1002.0], score=1.5))) == [("high", 2)]
    assert len(only(ledger.command(join(4.0), 1003.0).decisions).causes) == 2


def test_a_section_of_format_1_is_read_and_its_latches_raise_no_alert() -> None:
    ledger = Ledger(ENFORCE)
    ledger.absorb((1, bytes.fromhex(GOLDEN_1)))
    assert [(decision.action, decision.expires_at) for decision in ledger.active(1000.0)] == [
        (SLOW, 4600.5),
        (SLOW, 1061.0),
    ]
    effects = run(ledger, later([2900.0], score=2.0))
    assert (said(effects), effects.alerts) == ([("slow", "enforce")], [])


GOLDEN = """
9293a6646967697473a574686965669b9196a131a57072616461cd03e8c2de0014a26964d920303236666563356162643632
3939383663316164643633356434313733353534ab6f636375727265645f6174cb408f400000000000a56d6f64656ca66469
67697473ad6d6f64656c5f76657273696f6ea131a97072696e636970616ca57468696566a67369676e616ca57072616461a7
657069736f6465cd03e8a87365766572697479a66d656469756da573636f7265cb3ff0000000000000a97468726573686f6c
64cb3fee666666666666ab71756572795f696e6465780aa865766964656e63659184a46e616d65a177a576616c7565cb3fe9
eb851eb851eca4756e6974a131a97468726573686f6c64cb3fee666666666666ad636f6e66696775726174696f6eac363564
353437356534386132a770726f66696c65c0a9746563686e69717565ad414d4c2e54303032342e303032ad73757070726573
7365645f6279c0a87265766973696f6e01aa63616c69627261746564c2a666616d696c79a9737472756374757265ab72656c
65617365645f6279c0c0949384a26964a26331a66f726967696eac6f70657261746f723a657665aa657870697265735f6174
cb4099040000000000a6726561736f6ea377687983a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64
cb3ff0000000000000a6677261646564c0a7656e666f7263659384a26964b037643537646335663965313439616462a66f72
6967696ea867726f75703a6731aa657870697265735f6174cb40b1f98000000000a6726561736f6ea083a46e616d65a4736c
6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000000000a6677261646564c0a7656e666f7263659384a269
64b032623138656636336264346438623632a66f726967696eaa67726f75703a6c656674aa657870697265735f6174cb40b1
f98000000000a6726561736f6ea083a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000
000000a6677261646564c0a7656e666f7263659384a26964b038333465356161633463373836396461a66f726967696eac73
69676e616c3a7072616461aa657870697265735f6174cb40b1f98000000000a6726561736f6eac756e63616c696272617465
6483a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000000000a6677261646564c0a765
6e666f7263658aa26964d9206335366661353065353332343464343337306339623237373364643137613038a56d6f64656c
a6646967697473a97072696e636970616ca57468696566a6616374696f6e83a46e616d65a4736c6f77b2717565726965735f
7065725f7365636f6e64cb3ff0000000000000a6677261646564c0a46d6f6465a7656e666f726365a565706f6368920000a9
6973737565645f6174cb408f4c0000000000aa657870697265735f6174cb40b1f98000000000a66361757365739484a26964
a26331a66f726967696eac6f70657261746f723a657665aa657870697265735f6174cb4099040000000000a6726561736f6e
a377687984a26964b037643537646335663965313439616462a66f726967696ea867726f75703a6731aa657870697265735f
6174cb40b1f98000000000a6726561736f6ea084a26964b032623138656636336264346438623632a66f726967696eaa6772
6f75703a6c656674aa657870697265735f6174cb40b1f98000000000a6726561736f6ea084a26964b0383334653561616334
63373836396461a66f726967696eac7369676e616c3a7072616461aa657870697265735f6174cb40b1f98000000000a67265
61736f6eac756e63616c69627261746564ae706f6c6963795f76657273696f6eac36356435343735653438613200cd03eacb
408f4000000000009297a26731cb40100000000000000ccd03e9c2c0c097a46c656674cb401400000000000000ffc2cb408f
500000000000c0cb0000000000000000cb40b1f9800000000092a0a06493a6646967697473a36164619b90919384a26964a2
6331a66f726967696eac6f70657261746f723a657665aa657870697265735f6174cb4099080000000000a6726561736f6ea3
77687983a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000000000a6677261646564c0
a7656e666f7263658aa26964d9206334646131313735323366633562313935663466346364383335303663633130a56d6f64
656ca6646967697473a97072696e636970616ca3616461a6616374696f6e83a46e616d65a4736c6f77b2717565726965735f
7065725f7365636f6e64cb3ff0000000000000a6677261646564c0a46d6f6465a7656e666f726365a565706f6368920000a9
6973737565645f6174cb408f500000000000aa657870697265735f6174cb4099080000000000a66361757365739184a26964
a26331a66f726967696eac6f70657261746f723a657665aa657870697265735f6174cb4099080000000000a6726561736f6e
a3776879ae706f6c6963795f76657273696f6eac36356435343735653438613200ffcbfff000000000000090cb0000000000
000000cbfff000000000000092a0a064
"""

GOLDEN_3 = """
9293a6646967697473a574686965669a9196a131a57072616461cd03e8c2de0013a26964d920303236666563356162643632
3939383663316164643633356434313733353534ab6f636375727265645f6174cb408f400000000000a56d6f64656ca66469
67697473ad6d6f64656c5f76657273696f6ea131a97072696e636970616ca57468696566a67369676e616ca57072616461a7
657069736f6465cd03e8a87365766572697479a66d656469756da573636f7265cb3ff0000000000000a97468726573686f6c
64cb3fee666666666666ab71756572795f696e6465780aa865766964656e63659184a46e616d65a177a576616c7565cb3fe9
eb851eb851eca4756e6974a131a97468726573686f6c64cb3fee666666666666ad636f6e66696775726174696f6eac363564
353437356534386132a770726f66696c65c0a9746563686e69717565ad414d4c2e54303032342e303032ad73757070726573
7365645f6279c0a87265766973696f6e01aa63616c69627261746564c2a666616d696c79a9737472756374757265c0949384
a26964a26331a66f726967696eac6f70657261746f723a657665aa657870697265735f6174cb4099040000000000a6726561
736f6ea377687983a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000000000a6677261
646564c0a7656e666f7263659384a26964b037643537646335663965313439616462a66f726967696ea867726f75703a6731
aa657870697265735f6174cb40b1f98000000000a6726561736f6ea083a46e616d65a4736c6f77b2717565726965735f7065
725f7365636f6e64cb3ff0000000000000a6677261646564c0a7656e666f7263659384a26964b03262313865663633626434
6438623632a66f726967696eaa67726f75703a6c656674aa657870697265735f6174cb40b1f98000000000a6726561736f6e
a083a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000000000a6677261646564c0a765
6e666f7263659384a26964b038333465356161633463373836396461a66f726967696eac7369676e616c3a7072616461aa65
7870697265735f6174cb40b1f98000000000a6726561736f6eac756e63616c6962726174656483a46e616d65a4736c6f77b2
717565726965735f7065725f7365636f6e64cb3ff0000000000000a6677261646564c0a7656e666f7263658aa26964d92063
35366661353065353332343464343337306339623237373364643137613038a56d6f64656ca6646967697473a97072696e63
6970616ca57468696566a6616374696f6e83a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0
000000000000a6677261646564c0a46d6f6465a7656e666f726365a565706f6368920000a96973737565645f6174cb408f4c
0000000000aa657870697265735f6174cb40b1f98000000000a66361757365739484a26964a26331a66f726967696eac6f70
657261746f723a657665aa657870697265735f6174cb4099040000000000a6726561736f6ea377687984a26964b037643537
646335663965313439616462a66f726967696ea867726f75703a6731aa657870697265735f6174cb40b1f98000000000a672
6561736f6ea084a26964b032623138656636336264346438623632a66f726967696eaa67726f75703a6c656674aa65787069
7265735f6174cb40b1f98000000000a6726561736f6ea084a26964b038333465356161633463373836396461a66f72696769
6eac7369676e616c3a7072616461aa657870697265735f6174cb40b1f98000000000a6726561736f6eac756e63616c696272
61746564ae706f6c6963795f76657273696f6eac36356435343735653438613200cd03eacb408f4000000000009296a26731
cb40100000000000000ccd03e9c2c096a46c656674cb401400000000000000ffc2cb408f500000000000cb00000000000000
00cb40b1f9800000000092a0a093a6646967697473a36164619a90919384a26964a26331a66f726967696eac6f7065726174
6f723a657665aa657870697265735f6174cb4099080000000000a6726561736f6ea377687983a46e616d65a4736c6f77b271
7565726965735f7065725f7365636f6e64cb3ff0000000000000a6677261646564c0a7656e666f7263658aa26964d9206334
646131313735323366633562313935663466346364383335303663633130a56d6f64656ca6646967697473a97072696e6369
70616ca3616461a6616374696f6e83a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000
000000a6677261646564c0a46d6f6465a7656e666f726365a565706f6368920000a96973737565645f6174cb408f50000000
0000aa657870697265735f6174cb4099080000000000a66361757365739184a26964a26331a66f726967696eac6f70657261
746f723a657665aa657870697265735f6174cb4099080000000000a6726561736f6ea3776879ae706f6c6963795f76657273
696f6eac36356435343735653438613200ffcbfff000000000000090cb0000000000000000cbfff000000000000092a0a0
"""

GOLDEN_2 = """
9293a6646967697473a57468696566969195a131a57072616461cd03e8c2de0012a26964d920303236666563356162643632
3939383663316164643633356434313733353534ab6f636375727265645f6174cb408f440000000000a56d6f64656ca66469
67697473ad6d6f64656c5f76657273696f6ea131a97072696e636970616ca57468696566a67369676e616ca57072616461a7
657069736f6465cd03e8a87365766572697479a66d656469756da573636f7265cb3ff0000000000000a97468726573686f6c
64cb3fee666666666666ab71756572795f696e6465780aa865766964656e63659184a46e616d65a177a576616c7565cb3fe9
eb851eb851eca4756e6974a131a97468726573686f6c64cb3fee666666666666ad636f6e66696775726174696f6eac646663
636465373061323331a770726f66696c65c0a9746563686e69717565ad414d4c2e54303032342e303032ad73757070726573
7365645f6279c0a87265766973696f6e01aa63616c69627261746564c2919384a26964b03833346535616163346337383639
6461a66f726967696eac7369676e616c3a7072616461aa657870697265735f6174cb40b1f88000000000a6726561736f6eac
756e63616c6962726174656482a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff00000000000
00a7656e666f7263658aa26964d9206336663433633730623964376433326366386535663865356463313636663564a56d6f
64656ca6646967697473a97072696e636970616ca57468696566a6616374696f6e82a46e616d65a4736c6f77b27175657269
65735f7065725f7365636f6e64cb3ff0000000000000a46d6f6465a7656e666f726365a565706f6368920000a96973737565
645f6174cb408f440000000000aa657870697265735f6174cb40b1f88000000000a66361757365739184a26964b038333465
356161633463373836396461a66f726967696eac7369676e616c3a7072616461aa657870697265735f6174cb40b1f8800000
0000a6726561736f6eac756e63616c69627261746564ae706f6c6963795f76657273696f6eac646663636465373061323331
00cd03e8cb408f44000000000093a6646967697473a36164619690919384a26964a26331a66f726967696eac6f7065726174
6f723a657665aa657870697265735f6174cb4090940000000000a6726561736f6ea377687982a46e616d65a4736c6f77b271
7565726965735f7065725f7365636f6e64cb3ff0000000000000a7656e666f7263658aa26964d92030353331323637666663
66343936623737363466633366346238386630643838a56d6f64656ca6646967697473a97072696e636970616ca3616461a6
616374696f6e82a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000000000a46d6f6465
a7656e666f726365a565706f6368920000a96973737565645f6174cb408f480000000000aa657870697265735f6174cb4090
940000000000a66361757365739184a26964a26331a66f726967696eac6f70657261746f723a657665aa657870697265735f
6174cb4090940000000000a6726561736f6ea3776879ae706f6c6963795f76657273696f6eac646663636465373061323331
00ffcbfff0000000000000
"""

GOLDEN_1 = """
9293a6646967697473a57468696566969194a131a57072616461cd03e8c2919384a26964b038333465356161633463373836
396461a66f726967696eac7369676e616c3a7072616461aa657870697265735f6174cb40b1f88000000000a6726561736f6e
a082a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000000000a7656e666f7263658aa2
6964d9206336663433633730623964376433326366386535663865356463313636663564a56d6f64656ca6646967697473a9
7072696e636970616ca57468696566a6616374696f6e82a46e616d65a4736c6f77b2717565726965735f7065725f7365636f
6e64cb3ff0000000000000a46d6f6465a7656e666f726365a565706f6368920000a96973737565645f6174cb408f44000000
0000aa657870697265735f6174cb40b1f88000000000a66361757365739184a26964b0383334653561616334633738363964
61a66f726967696eac7369676e616c3a7072616461aa657870697265735f6174cb40b1f88000000000a6726561736f6ea0ae
706f6c6963795f76657273696f6eac64666363646537306132333100cd03e8cb408f44000000000093a6646967697473a361
64619690919384a26964a26337a66f726967696eac6f70657261746f723a657665aa657870697265735f6174cb4090940000
000000a6726561736f6ea377687982a46e616d65a4736c6f77b2717565726965735f7065725f7365636f6e64cb3ff0000000
000000a7656e666f7263658aa26964d9206330343739646532363535616534666365313464616164326139656139323034a5
6d6f64656ca6646967697473a97072696e636970616ca3616461a6616374696f6e82a46e616d65a4736c6f77b27175657269
65735f7065725f7365636f6e64cb3ff0000000000000a46d6f6465a7656e666f726365a565706f6368920000a96973737565
645f6174cb408f480000000000aa657870697265735f6174cb4090940000000000a66361757365739184a26964a26337a66f
726967696eac6f70657261746f723a657665aa657870697265735f6174cb4090940000000000a6726561736f6ea3776879ae
706f6c6963795f76657273696f6eac64666363646537306132333100ffcbfff0000000000000
"""


def test_orders_that_are_given_and_taken_back_leave_nothing() -> None:
    ledger = Ledger(ENFORCE)
    with traced("policy") as held:
        for number in range(6_000):
            ledger.command(add(seconds=1e6 + number, id=f"c{number}"), 0.0)
            ledger.command(command("delete", cause_id=f"c{number}"), 0.0)
        assert 0 < held() < 400_000
    assert len(ledger.keys()) == 1


def test_who_is_let_go_on_time_is_let_go_after_many_orders_too() -> None:
    ledger = Ledger(ENFORCE)
    for number in range(3_000):
        ledger.command(add(seconds=600.0 + number, id=f"c{number}", principal=f"p{number % 2}"), 0.0)
        ledger.command(command("delete", cause_id=f"c{number}", principal=f"p{number % 2}"), 0.0)
    assert len(ledger.keys()) == 2
    run(ledger, [Row(5_000.0, "other", "1", False, ())])
    assert ledger.keys() == []
