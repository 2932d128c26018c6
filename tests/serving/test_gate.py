"""What the gate answers, fed by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from detector.contracts.actions import ACTIONS, RATE, make_action
from detector.contracts.codecs import decode, encode
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action, Decision, GateReport, Graded
from detector.contracts.principals import principal_of
from detector.serving import Gate, Responder, Verdict
from tests.serving.doubles import NOWHERE, Clock, FedGate, decision


def _counted(gate: Gate) -> dict[str, int]:
    return {name: total for name, total in gate.counters.snapshot().items() if total}


def test_it_refuses_whom_the_detector_refuses_and_nobody_else() -> None:
    gate = FedGate([decision("refuse", expires_at=160.0)])
    assert gate.check("digits", "thief") == Verdict("refuse", None, "d" * 32, 60.0, "enforce")
    assert gate.check("digits", "honest").allowed
    assert gate.check("prices", "thief").allowed
    assert _counted(gate) == {"refused": 1, "allowed": 2}


@pytest.mark.parametrize("principal", ["", "*", "x" * 1_000, "a\nb", "\ud800", None, 7])
def test_it_knows_an_odd_principal_under_the_name_that_they_are_logged_with(principal: Any) -> None:
    gate = FedGate([decision("refuse", principal=principal_of(principal)), decision("refuse", principal="odd:x")])
    assert not gate.check("digits", principal).allowed
    assert gate.check("digits", "honest").allowed


def test_a_slow_limit_on_an_odd_principal_is_charged() -> None:
    gate = FedGate([decision("slow", rate=1.0, principal=principal_of("a\nb"))])
    gate.charge("digits", "a\nb", 5)
    assert gate.check("digits", "a\nb").retry_after == pytest.approx(5.0)


def test_a_release_frees_at_once() -> None:
    gate = FedGate([decision("refuse", epoch=(1, 1)), decision("none", epoch=(1, 2))])
    assert gate.check("digits", "thief") == Verdict()


def test_a_decision_ends_on_time_without_any_word_from_the_detector() -> None:
    clock = Clock(100.0)
    gate = FedGate([decision("refuse", expires_at=110.0)], clock)
    clock.now = 109.9
    assert not gate.check("digits", "thief").allowed
    clock.now = 110.0
    assert gate.check("digits", "thief").allowed


def test_slow_lets_through_at_its_rate() -> None:
    clock = Clock(100.0)
    gate = FedGate([decision("slow", rate=0.5)], clock)
    assert gate.check("digits", "thief") == Verdict("none", 0.5, "d" * 32, 0.0, "enforce")
    assert gate.check("digits", "thief") == Verdict("slow", 0.5, "d" * 32, 2.0, "enforce")
    clock.now = 102.0
    assert gate.check("digits", "thief").allowed
    assert _counted(gate) == {"allowed": 2, "slowed": 1}


def test_slow_counts_rows_and_not_requests() -> None:
    clock = Clock(100.0)
    gate = FedGate([decision("slow", rate=1.0)], clock)
    assert gate.check("digits", "thief", queries=5).allowed
    gate.charge("digits", "thief", 4)
    clock.now = 108.0
    assert gate.check("digits", "thief").retry_after == pytest.approx(1.0)


def test_waiting_for_slow_never_outlasts_the_decision() -> None:
    gate = FedGate([decision("slow", rate=0.001, expires_at=130.0)])
    gate.check("digits", "thief")
    assert gate.check("digits", "thief").retry_after == 30.0


@pytest.mark.parametrize(("action", "rate"), [("refuse", None), ("slow", 0.01)])
def test_a_decision_that_observes_never_throttles_but_counts_what_it_would_have_done(action: Any, rate: Any) -> None:
    gate = FedGate([decision(action, rate=rate, mode="observe")])
    verdicts = [gate.check("digits", "thief") for _ in range(3)]
    assert all(verdict.allowed and verdict.retry_after == 0 for verdict in verdicts)
    assert verdicts[-1].would_have == action
    would_have = {"refuse": {"would_have_refused": 3}, "slow": {"would_have_slowed": 2}}[action]
    assert _counted(gate) == {"allowed": 3, **would_have}


RESPONDER = Responder(b"0123456789abcdef")


def graded(name: str, mode: Any = "enforce", fallback: Any = None, **parameters: float) -> Decision:
    action = make_action(name, dict(parameters), fallback)
    return replace(decision("refuse", mode=mode), action=action)


def test_a_graded_action_lets_requests_pass_and_says_what_to_do_with_them() -> None:
    gate = FedGate([graded("round", digits=2.0)], responder=RESPONDER)
    verdict = gate.check("digits", "thief")
    assert (verdict.allowed, verdict.graded, verdict.mode) == (True, Graded("round", {"digits": 2.0}), "enforce")
    assert (verdict.queries_per_second, verdict.retry_after, verdict.decision_id) == (None, 0.0, "d" * 32)
    assert _counted(gate) == {"allowed": 1, "rounded": 1}


def test_a_graded_action_may_limit_the_rate_as_well() -> None:
    gate = FedGate([graded("label_only", queries_per_second=0.5)], responder=RESPONDER)
    first, second = (gate.check("digits", "thief") for _ in range(2))
    assert (first.allowed, first.graded, first.queries_per_second) == (True, Graded("label_only", {RATE: 0.5}), 0.5)
    assert (second.action, second.graded, second.retry_after) == ("slow", None, 2.0)
    assert _counted(gate) == {"allowed": 1, "labelled": 1, "slowed": 1}


@pytest.mark.parametrize("name", [name for name, kind in ACTIONS.items() if kind.fallback is not None])
def test_a_graded_action_that_observes_changes_nothing_and_counts_what_it_would_have_done(name: str) -> None:
    gate = FedGate([graded(name, mode="observe")], responder=RESPONDER)
    verdict = gate.check("digits", "thief")
    assert (verdict.allowed, verdict.graded, verdict.would_have) == (True, None, name)
    assert _counted(gate) == {"allowed": 1, f"would_have_{ACTIONS[name].done}": 1}


def test_a_fallback_that_refuses_is_not_taken_by_a_gate_that_knows_better() -> None:
    gate = FedGate([graded("perturb", fallback="refuse")], responder=RESPONDER)
    assert gate.check("digits", "thief").allowed


@pytest.mark.parametrize("name", ["round", "label_only", "perturb", "spec_noise"])
def test_a_gate_that_changes_no_answers_falls_back(name: str) -> None:
    assert FedGate([graded(name, fallback="refuse")]).check("digits", "thief").action == "refuse"
    gate = FedGate([graded(name)])
    assert [gate.check("digits", "thief").action for _ in range(2)] == ["none", "slow"]


@pytest.mark.parametrize("parameters", [{"digits": 40.0}, {"decimals": 2.0}, {"response": "of a later version"}])
def test_a_response_that_this_version_does_not_know_falls_back(parameters: dict[str, float | str]) -> None:
    later = replace(decision("refuse"), action=Action("refuse", None, Graded("round", parameters)))
    assert FedGate([later], responder=RESPONDER).check("digits", "thief").action == "refuse"


def test_an_action_of_a_later_version_falls_back() -> None:
    later = replace(decision("refuse"), action=Action("slow", 0.5, Graded("proof_of_work", {"bits": 20.0})))
    gate = FedGate([later])
    assert [gate.check("digits", "thief").action for _ in range(2)] == ["none", "slow"]


def test_the_kill_switch_and_a_release_end_a_graded_action() -> None:
    gate = FedGate([graded("tag"), decision("none", model="*", principal="*")])
    assert gate.check("digits", "thief").graded is None
    gate = FedGate([graded("tag"), decision("none", epoch=(1, 2))])
    assert gate.check("digits", "thief") == Verdict()


def test_the_kill_switch_frees_everyone_until_it_expires() -> None:
    clock = Clock(100.0)
    everyone = decision("none", model="*", principal="*", expires_at=120.0)
    gate = FedGate([decision("refuse"), everyone], clock)
    assert gate.check("digits", "thief").allowed
    assert gate.counters.snapshot()["switched_off"] == 1
    clock.now = 120.0
    assert not gate.check("digits", "thief").allowed


@pytest.mark.parametrize(
    ("when_stale", "expected"),
    [("allow", Verdict(stale=True)), ("refuse", Verdict("refuse", retry_after=5.0, stale=True))],
)
def test_a_gate_that_knows_nothing_yet_does_what_the_operator_chose(when_stale: Any, expected: Verdict) -> None:
    with Gate(NOWHERE, when_stale=when_stale) as gate:
        assert gate.check("digits", "anybody") == expected
        assert not gate.ready
        assert gate.counters.snapshot()[f"stale_{'allowed' if expected.allowed else 'refused'}"] == 1
        gate.close(0.1)


def test_without_current_decisions_each_model_is_open_or_closed_as_the_operator_chose() -> None:
    clock = Clock(100.0)
    gate = FedGate([decision("refuse")], clock, when_stale={"credit": "refuse"})
    assert gate.check("credit", "unknown").allowed
    clock.now = 161.0
    assert gate.check("credit", "unknown") == Verdict("refuse", retry_after=5.0, stale=True)
    assert gate.check("digits", "thief") == Verdict(stale=True)
    assert _counted(gate) == {"allowed": 2, "refused": 1, "stale_refused": 1, "stale_allowed": 1}


def test_by_default_closed_with_one_model_open() -> None:
    gate = FedGate(clock=Clock(0.0), when_stale={"*": "refuse", "digits": "allow"})
    gate._clock = Clock(61.0)
    assert [gate.check(model, "anyone").allowed for model in ("digits", "credit")] == [True, False]


def test_a_report_tells_what_the_gate_did_how_stale_it_is_and_what_it_does_then() -> None:
    clock = Clock(100.0)
    gate = FedGate([decision("refuse"), decision("refuse", principal="odd", mode="observe")], clock)
    for principal in ("thief", "odd", "honest"):
        gate.check("digits", principal)
    gate.responses.add("round", 5)
    clock.now = 107.0
    report = gate.report()
    assert decode(GateReport, encode(report)) == report
    assert (report.running, report.ready, report.stale_seconds, report.max_stale_seconds) == (True, True, 7.0, 60.0)
    assert (report.started_at, report.occurred_at, report.known) == (100.0, 107.0, 2)
    assert {name: total for name, total in report.counts.items() if total} == _counted(gate)
    assert _counted(gate) == {"allowed": 2, "refused": 1, "would_have_refused": 1}
    assert report.responses == {"round": 5}
    assert report.when_stale == {"*": "allow"}
    assert report.gate != Gate(NOWHERE).report().gate


def test_decisions_bind_until_contact_is_lost_for_too_long_and_again_when_it_is_back() -> None:
    clock = Clock(100.0)
    gate = FedGate([decision("refuse")], clock)
    clock.now = 160.0
    assert not gate.check("digits", "thief").allowed
    clock.now = 160.1
    assert gate.check("digits", "thief") == Verdict(stale=True)
    gate.contact()
    assert not gate.check("digits", "thief").allowed


def test_a_detector_that_falls_silent_in_one_partition_closes_closed_models_and_no_others() -> None:
    clock = Clock(100.0)
    gate = FedGate([decision("refuse")], clock, when_stale={"credit": "refuse"})
    for partition in (0, 1):
        gate._background.hear(partition, 100.0)
    for now, closed in ((175.0, False), (175.1, True)):
        clock.now = now
        gate._background.hear(0, now)
        gate.contact()
        assert gate.check("credit", "honest") == (
            Verdict("refuse", retry_after=5.0, stale=True) if closed else Verdict()
        )
    assert gate.check("digits", "honest") == Verdict()
    assert gate.check("digits", "thief").action == "refuse" and not gate.check("digits", "thief").stale
    assert (gate.gauges()["age_seconds"], gate.gauges()["silence_seconds"]) == pytest.approx((60.1, 75.1))
    assert _counted(gate) == {"allowed": 2, "refused": 3, "stale_refused": 1}
    gate._background.hear(1, clock.now)
    gate.contact()
    assert gate.check("credit", "honest") == Verdict()


def test_a_dead_broker_never_blocks() -> None:
    """As many look-ups as anybody wants while the thread tries to connect: none waits for it."""
    begun = time.monotonic()
    gate = Gate(NOWHERE)
    for number in range(20_000):
        assert gate.check("digits", f"p{number}").allowed
    gate.close(0.1)
    assert gate.counters.snapshot()["stale_allowed"] == 20_000
    assert (gate.gauges()["age_seconds"], gate.gauges()["silence_seconds"]) == (-1.0, -1.0)
    assert time.monotonic() - begun < 5.0


def test_a_fault_of_the_gate_lets_the_request_pass_and_is_counted() -> None:
    def broken() -> float:
        raise RuntimeError("no time")

    gate = FedGate([decision("refuse")])
    gate._clock = broken
    assert gate.check("digits", "thief") == Verdict(stale=True)
    assert gate.counters.snapshot()["failures"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_staleness_seconds": 0},
        {"report_seconds": 0},
        {"when_stale": "deny"},
        {"when_stale": {"digits": "deny"}},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="max_staleness_seconds"):
        Gate(NOWHERE, **wrong)
