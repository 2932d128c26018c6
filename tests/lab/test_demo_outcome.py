"""The demo succeeds only when it shows what it promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from detector.lab.attackers.attacker import run_offline
from detector.lab.demo.report import (
    HonestOutcome,
    Leaves,
    ModelOutcome,
    Outcome,
    Promise,
    RingOutcome,
    ThiefOutcome,
    render_report,
)
from detector.lab.demo.script import DemoOptions, scripts
from detector.lab.fidelity import Fidelity, Yardstick
from tests.lab.records import alert, drawn, group, suspected

THIEF = ThiefOutcome(
    sent=260,
    answered=190,
    alert=alert("mallory", query_index=169),
    slowed_at=176,
    refused_at=221,
    latency_seconds=0.12,
    hindered=Fidelity(190, 0.91, 0.2, 0.88, 0.3),
    unhindered=Fidelity(1600, 0.94, 0.6, 0.92, 0.7),
    own_inputs=Fidelity(100, 0.89, 0.4, 0.88, 0.5),
)
PATHS = replace(
    THIEF,
    alert=suspected("mallory", query_index=22),
    slowed_at=26,
    refused_at=78,
    own_inputs=None,
    leaves=Leaves(3, 4, 12, 1_033),
    exposure={"coverage": 24.5, "information_gain": 3.25},
)
ANN = HonestOutcome("ann", answered=300, refused=0, flagged=False, most=0.52)
DIGITS = ModelOutcome(
    "digits", "Jacobian augmentation", Promise("prada", 400), THIEF, (ANN, replace(ANN, account="bob"))
)
RING = RingOutcome(
    accounts=("ring-1", "ring-2", "ring-3"),
    sent=50,
    answered=12,
    groups=(group("ring-1", "ring-2", "ring-3", "mallory"),),
    found_at=5,
    alone=0,
    hindered=Fidelity(12, 0.43, 0.69, 0.5, 0.6),
    unhindered=Fidelity(1026, 1.0, 0.99, 1.0, 1.0),
)
TUMOURS = ModelOutcome("tumours", "path finding", Promise("suspicion", 200), PATHS, (ANN,), RING)
AS_PROMISED = Outcome("enforce", 60.0, 5_000, 0, (DIGITS, TUMOURS), 1.25)


def observed(own: ModelOutcome) -> ModelOutcome:
    ring = own.ring and replace(own.ring, sent=300, answered=300)
    return replace(own, thief=replace(own.thief, sent=480, answered=480, slowed_at=None, refused_at=None), ring=ring)


OBSERVED = replace(AS_PROMISED, mode="observe", models=(observed(DIGITS), observed(TUMOURS)))


@pytest.mark.parametrize("outcome", [AS_PROMISED, OBSERVED], ids=["enforce", "observe"])
def test_a_run_as_promised_has_no_broken_promise(outcome: Outcome) -> None:
    assert outcome.broken_promises() == []
    assert "As promised" in drawn(render_report(outcome))


@pytest.mark.parametrize("model", [DIGITS, TUMOURS], ids=lambda own: own.model)
@pytest.mark.parametrize(
    ("thief", "honest", "sentence"),
    [
        ({"refused_at": None}, {}, "never refused"),
        ({"refused_at": 400}, {}, "at query 400"),
        ({"alert": None}, {}, "never flagged"),
        ({"alert": replace(alert("mallory", query_index=3), signal="margin")}, {}, "flagged by margin, not by"),
        ({}, {"flagged": True}, "honest accounts were flagged: ann"),
        ({}, {"refused": 1}, "honest accounts were refused: ann"),
        ({}, {"answered": 0}, "no answer at all: ann"),
    ],
)
def test_each_broken_promise_of_either_model_is_said(
    model: ModelOutcome, thief: dict[str, Any], honest: dict[str, Any], sentence: str
) -> None:
    changed = replace(model, thief=replace(model.thief, **thief), honest=(replace(ANN, **honest),))
    check_it_is_said(replace(AS_PROMISED, models=(changed, TUMOURS)), f"{model.model}: ", sentence)


@pytest.mark.parametrize(
    ("thief", "honest", "sentence"),
    [
        ({"slowed_at": 176}, {}, "nothing was to be enforced"),
        ({"alert": None}, {}, "never flagged"),
        ({}, {"refused": 1}, "honest accounts were refused: ann"),
    ],
)
def test_each_broken_promise_of_a_run_that_only_observes_is_said(
    thief: dict[str, Any], honest: dict[str, Any], sentence: str
) -> None:
    model = observed(TUMOURS)
    changed = replace(model, thief=replace(model.thief, **thief), honest=(replace(ANN, **honest),))
    check_it_is_said(replace(OBSERVED, models=(observed(DIGITS), changed)), "tumours: ", sentence)


@pytest.mark.parametrize(
    ("outcome", "ring", "sentence"),
    [
        (AS_PROMISED, {"groups": ()}, "0 of the ring's 3 accounts were found in a group"),
        (AS_PROMISED, {"groups": (group("ring-1", "ring-2"),)}, "2 of the ring's 3 accounts"),
        (AS_PROMISED, {"groups": (group(*RING.accounts, "ann"),)}, "taken for members of the ring: ann"),
        (AS_PROMISED, {"sent": 300, "answered": 200}, "the ring got 200 answers"),
        (OBSERVED, {"answered": 299}, "the ring was turned away"),
    ],
)
def test_each_broken_promise_about_the_ring_is_said(outcome: Outcome, ring: dict[str, Any], sentence: str) -> None:
    digits, tumours = outcome.models
    assert tumours.ring is not None
    changed = replace(tumours, ring=replace(tumours.ring, **ring))
    check_it_is_said(replace(outcome, models=(digits, changed)), "tumours: ", sentence)


def test_the_report_says_when_the_ring_was_found_and_what_its_clone_got() -> None:
    text = " ".join(drawn(render_report(AS_PROMISED), width=240).split())
    for told in (
        "3 accounts that share one path finding",
        "after 5 answers to all of them: 3 of 3 accounts, 0 honest ones; 0 of them flagged alone",
        "one or two features changed of another account's query: 1.5",
        "50 queries sent, 12 answered",
        "agrees on 43.0% of unseen natural inputs and 69.0% of uniform ones; 12 answers",
        "agrees on 100.0% of unseen natural inputs and 99.0% of uniform ones; 1,026 answers",
    ):
        assert told in text


def check_it_is_said(outcome: Outcome, model: str, sentence: str) -> None:
    (broken,) = outcome.broken_promises()
    assert broken.startswith(model)
    assert sentence in broken
    assert "Not as promised" in drawn(render_report(outcome))


def test_failed_queries_break_a_promise() -> None:
    check_it_is_said(replace(AS_PROMISED, failed=51), "", "51 of 5,000 queries failed")


def test_a_release_that_no_gate_obeys_breaks_a_promise() -> None:
    check_it_is_said(replace(AS_PROMISED, release_seconds=None), "", "no gate obeyed the operator's release")


def test_the_report_has_the_figures_and_names_the_habits_it_leaves_out() -> None:
    text = drawn(render_report(AS_PROMISED), width=140)
    for figure in (
        "query 170",
        "released the thief of the tumours; a gate obeyed 1.2 s later",
        "query 221",
        "91.0%",
        "94.0%",
        "20.0%",
        "60.0%",
        "120 ms",
        "5,000 queries in",
    ):
        assert figure in text
    for habit in ("what-if", "video", "camera", "rescans"):
        assert habit in text


def test_the_report_quotes_agreement_on_natural_inputs_first_and_says_what_own_inputs_alone_reach() -> None:
    text = " ".join(drawn(render_report(replace(AS_PROMISED, models=(DIGITS,))), width=240).split())
    for told in (
        "agrees on 91.0% of unseen natural inputs and 20.0% of uniform ones; 190 answers",
        "agrees on 94.0% of unseen natural inputs and 60.0% of uniform ones; 1,600 answers",
        "agrees on 89.0% of unseen natural inputs and 40.0% of uniform ones; 100 answers to the thief's own",
        "needs 100 answers to natural inputs of their own for a clone that agrees on 89.0% of unseen ones",
    ):
        assert told in text
    assert "inputs of their own" not in drawn(render_report(replace(AS_PROMISED, models=(TUMOURS,))), width=240)


def test_the_digits_thief_s_own_images_alone_give_a_good_clone_and_the_tree_s_thief_has_none() -> None:
    digits, tumours = scripts(DemoOptions())
    assert digits.own_inputs is not None
    assert tumours.own_inputs is None
    thief, victim = digits.own_inputs(), digits.victim()
    assert run_offline(thief, victim) == 100
    assert Yardstick.of(victim, digits.dataset, 0).measure(thief.clone(), 100).test > 0.9


def test_the_report_says_why_each_thief_was_flagged_and_how_much_of_the_tree_was_seen() -> None:
    text = " ".join(drawn(render_report(AS_PROMISED), width=240).split())
    for told in (
        "W of the distances between queries: 0.85 (limit 0.9)",
        "deviation that no honest account explains: 21.2 (limit 14)",
        "queries that change one or two features: 12.5 (closest honest account 3.5)",
        "coverage 24%, information gain 3%",
        "3 of 12 when flagged, 4 in the end; without Weirguard all after 1,033 queries",
    ):
        assert told in text
