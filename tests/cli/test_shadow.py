"""The shadow report of the records that a real ledger publishes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from detector.contracts.findings import Alert, Audit, Command, Decision
from detector.explain.shadow import (
    ShadowReport,
    as_json,
    duration,
    headline,
    page,
    reasons_of,
    sentences,
    shadow_report,
    table_of,
)
from detector.policy.allowlist import Allowlist, Exemption
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from tests.policy.oracle import Row
from tests.policy.streams import MODEL, activity

OBSERVES = Policy(decision_seconds=1000.0)


def queries(principal: str, *times: float, found: Sequence[str] = ("prada",)) -> list[Row]:
    return [Row(time, principal, "1", True, tuple(found) if at == 0 else ()) for at, time in enumerate(times)]


class Published:
    """Collects what a ledger publishes."""

    def __init__(self, policy: Policy = OBSERVES) -> None:
        self.ledger = Ledger(policy)
        self.audits: list[Audit] = []
        self.alerts: list[Alert] = []
        self.decisions: dict[str, Decision] = {}

    def observe(self, rows: Sequence[Row], **finding: Any) -> None:
        whole = activity(rows)
        self._note(self.ledger.observe(replace(whole, findings=[replace(own, **finding) for own in whole.findings])))

    def command(self, now: float, kind: Any, principal: str, **fields: Any) -> None:
        self._note(self.ledger.command(Command("c", kind, now, "eve", MODEL, principal, "why", **fields), now))

    def _note(self, effects: Any) -> None:
        self.audits += effects.audits
        self.alerts += effects.alerts
        self.decisions |= {one.principal: one for one in effects.decisions}

    def report(self, since: float, until: float, known: int = 50) -> ShadowReport:
        audits = [audit for audit in self.audits if audit.occurred_at >= since]
        current = [one for one in self.decisions.values() if one.expires_at > until and one.action.name != "none"]
        return shadow_report(audits, current, self.alerts, {MODEL: known}, since, until)


def seconds(report: ShadowReport) -> dict[str, dict[str, float]]:
    return {one.principal: one.seconds for one in report.principals}


def test_each_action_counts_until_the_next_decision_or_its_expiry() -> None:
    own = Published()
    own.observe(queries("thief", *[1000.0] * 50, *[1200.0] * 5))
    own.observe(queries("ada", 1100.0))
    assert seconds(own.report(0.0, 9000.0)) == {
        "thief": {"slow": 200.0, "refuse": 1000.0},
        "ada": {"slow": 1000.0},
    }
    assert seconds(own.report(0.0, 1300.0)) == {"thief": {"slow": 200.0, "refuse": 100.0}, "ada": {"slow": 200.0}}


def test_a_decision_that_began_earlier_counts_from_the_beginning_of_the_report() -> None:
    own = Published()
    own.observe(queries("thief", 1000.0))
    assert seconds(own.report(1500.0, 1900.0)) == {"thief": {"slow": 400.0}}
    assert seconds(own.report(2100.0, 3000.0)) == {}


def test_what_is_enforced_is_no_shadow() -> None:
    own = Published(Policy(mode="enforce", enforce_uncalibrated=True))
    own.observe(queries("thief", 1000.0))
    assert own.report(0.0, 9000.0).principals == ()
    own.command(1001.0, "delete", "thief")
    assert own.report(0.0, 9000.0).principals == ()


def test_a_release_ends_it_and_says_that_an_honest_user_would_have_lost_that_time() -> None:
    own = Published()
    own.observe(queries("ada", 1000.0))
    own.command(1360.0, "delete", "ada")
    (ada,) = own.report(0.0, 9000.0).principals
    assert (ada.seconds, ada.released_since) == ({"slow": 360.0}, True)
    assert "released 1 account of these since: 6.0 min that honest users would have lost" in " ".join(
        sentences(own.report(0.0, 9000.0))
    )


def test_the_report_says_how_many_why_and_at_what_cost() -> None:
    own = Published()
    own.observe(queries("thief", *[1000.0] * 60), family="structure", profile="a1")
    own.observe(queries("ada", 1100.0), family="content")
    report = own.report(0.0, 9000.0)
    text = " ".join(sentences(report))
    assert headline(report) == "2 accounts would have met an action"
    assert "digits: 2 of 50 accounts with a score (4.0%)." in text
    assert "refuse: 1 account for 16.7 min together; it would have cost them: all answers." in text
    assert "Judged without a profile: 1 account." in text
    assert [reasons_of(one) for one in report.principals] == [
        "signal:prada; evidence of structure; w",
        "signal:prada; evidence of content; w; uncalibrated",
    ]
    assert [row[0] for row in table_of(report).rows] == ["thief", "ada"]


def test_the_allowlist_is_counted() -> None:
    own = Published(replace(OBSERVES, allowlist=Allowlist((Exemption("ada", "sales", "contract", 9e9),))))
    own.observe(queries("ada", 1000.0))
    report = own.report(0.0, 9000.0)
    assert (report.principals, report.withheld) == ((), ((MODEL, "ada"),))
    assert "The allowlist has spared 1 account." in sentences(report)


def test_json_and_the_page_hold_the_same_and_escape_names() -> None:
    own = Published()
    own.observe(queries("<thief>&\x1b", 1000.0))
    report = own.report(0.0, 9000.0)
    (told,) = json.loads(json.dumps(as_json(report)))["principals"]
    assert (told["principal"], told["seconds"], told["costs"]) == (
        "<thief>&\x1b",
        {"slow": 1000.0},
        {"slow": "waiting"},
    )
    html = page(report)
    assert html.rstrip().endswith("</html>")
    assert "<thief>" not in html
    assert "\x1b" not in html


def test_durations_are_in_the_largest_unit() -> None:
    assert [duration(value) for value in (5.0, 90.0, 5400.0, 180_000.0)] == ["5 s", "1.5 min", "1.5 h", "2.1 d"]
