"""The demo succeeds only when it shows what it promises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detector.lab.demo.outcome import HonestOutcome, Outcome, ThiefOutcome
from detector.lab.demo.report import render_report
from detector.lab.fidelity import Fidelity
from tests.lab.drawing import drawn

THIEF = ThiefOutcome(
    sent=260,
    answered=190,
    flagged_at=170,
    slowed_at=176,
    refused_at=221,
    latency_seconds=0.12,
    hindered=Fidelity(190, 0.91, 0.2, 0.88, 0.3),
    unhindered=Fidelity(1600, 0.94, 0.6, 0.92, 0.7),
)
ANN = HonestOutcome("ann", "steady", answered=300, refused=0, flagged=False, least_statistic=0.95)
AS_PROMISED = Outcome("enforce", 60.0, 5_000, 0, THIEF, (ANN, replace(ANN, account="bob")))
OBSERVED = replace(
    AS_PROMISED, mode="observe", thief=replace(THIEF, sent=480, answered=480, slowed_at=None, refused_at=None)
)


@pytest.mark.parametrize("outcome", [AS_PROMISED, OBSERVED], ids=["enforce", "observe"])
def test_a_run_as_promised_has_no_broken_promise(outcome: Outcome) -> None:
    assert outcome.broken_promises() == []
    assert "As promised" in drawn(render_report(outcome))


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (replace(AS_PROMISED, thief=replace(THIEF, refused_at=None)), "never refused"),
        (replace(AS_PROMISED, thief=replace(THIEF, refused_at=400)), "at his query 400"),
        (replace(AS_PROMISED, thief=replace(THIEF, flagged_at=None)), "never flagged"),
        (replace(AS_PROMISED, honest=(replace(ANN, refused=1),)), "honest accounts were refused: ann"),
        (replace(AS_PROMISED, honest=(replace(ANN, answered=0),)), "no answer at all: ann"),
        (replace(AS_PROMISED, failed=51), "51 of 5,000 queries failed"),
        (replace(OBSERVED, thief=replace(OBSERVED.thief, slowed_at=176)), "nothing was to be enforced"),
        (replace(OBSERVED, thief=replace(OBSERVED.thief, flagged_at=None)), "never flagged"),
        (replace(OBSERVED, honest=(replace(ANN, refused=1),)), "honest accounts were refused: ann"),
    ],
)
def test_each_broken_promise_is_said(outcome: Outcome, sentence: str) -> None:
    assert sentence in "; ".join(outcome.broken_promises())
    assert "Not as promised" in drawn(render_report(outcome))


def test_an_honest_account_that_was_flagged_is_told_though_nothing_promised_was_broken() -> None:
    outcome = replace(AS_PROMISED, honest=(replace(ANN, flagged=True),))
    assert outcome.broken_promises() == []
    assert "1: ann" in drawn(render_report(outcome))


def test_the_report_has_the_figures_and_names_the_habits_it_leaves_out() -> None:
    text = drawn(render_report(AS_PROMISED))
    for figure in ("his query 170", "his query 221", "91.0%", "94.0%", "20.0%", "60.0%", "120 ms", "5,000 in 60 s"):
        assert figure in text
    for habit in ("what-if", "video", "camera", "rescans"):
        assert habit in text
