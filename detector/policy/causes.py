"""What should follow from each suspicion of a principal: pure functions of the entry and the policy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from detector.contracts.actions import LEFT, NOTICE, make_action
from detector.contracts.findings import Action, Mode, Severity
from detector.policy.budgets import BUDGET
from detector.policy.config import Policy
from detector.policy.entry import ActiveCause, Entry, LatchedAlert, Membership
from detector.policy.ladder import NOTICE_RULE, Case, is_harsher
from detector.policy.records import REVIEW, UNCALIBRATED

Latch = LatchedAlert | Membership


class Plan(NamedTuple):
    """The cause that should be active: its action, mode, life and reason. ``episode`` of the latch.

    ``outlived``: the action is one of before, harsher than the rules say now; it stays until it expires, so that a
    suspect at the edge between two rules does not go up and down.
    """

    action: Action
    mode: Mode
    seconds: float
    reason: str
    episode: int
    outlived: bool

    def renew_at(self, active: ActiveCause) -> float:
        """Returns the policy time from which a query renews ``active``: half of its life, or never."""
        return math.inf if self.outlived else active.cause.expires_at - self.seconds / 2

    def is_due(self, active: ActiveCause | None, now: float) -> bool:
        if active is None or (active.action, active.mode) != (self.action, self.mode):
            return True
        return now >= self.renew_at(active)


def flagging(entry: Entry) -> dict[str, Latch]:
    """Returns the first latch of each signal, and each membership, that was not lifted, by origin."""
    latches: tuple[Latch, ...] = (*entry.latches, *entry.members)
    return {latch.origin: latch for latch in reversed(latches) if not latch.lifted}


def plan_of(policy: Policy, model: str, entry: Entry, latch: Latch, learning: bool) -> Plan | None:
    """Returns what should follow from ``latch``; None where no rule matches. While ``learning``, nothing is enforced
    that is not enforced already."""
    case = case_of(model, entry, latch)
    rule = policy.rule_of(case)
    if rule is None:
        return None
    active = next((active for active in entry.active_causes if active.cause.origin == latch.origin), None)
    rung, mode = rule.rung_after(entry.queries * weight_of(latch)), policy.mode_for(case, rule)
    if rule is NOTICE_RULE:
        rung = replace(rung, action=make_action(NOTICE, {LEFT: float(entry.budget_left)}))
    if learning and not (active is not None and active.mode == "enforce"):
        mode = "observe"
    reasons = [UNCALIBRATED] * (case.calibrated is False) + [REVIEW] * rule.review
    same_policy = entry.decision is None or entry.decision.policy_version == policy.version
    outlived = active is not None and same_policy and is_harsher(active.action, rung.action)
    action = active.action if active is not None and outlived else rung.action
    seconds = policy.decision_seconds if rung.seconds is None else rung.seconds
    return Plan(action, mode, seconds, "; ".join(reasons), latch.episode, outlived)


def weight_of(latch: Latch) -> int:
    """Returns for how many queries each of the suspect's counts on the ladder: members of a group climb it as one, so
    that it is as many as the group has accounts."""
    return max(1, latch.size) if isinstance(latch, Membership) else 1


def case_of(model: str, entry: Entry, latch: Latch) -> Case:
    """Returns ``latch`` as rules match it."""
    if isinstance(latch, Membership):
        severity: Severity | None = "medium" if latch.signal == BUDGET else None
        return Case(model, latch.signal, latch.family, severity, latch.size, exposure=entry.exposure)
    alert = latch.alert
    if alert is None:
        return Case(model, latch.signal, exposure=entry.exposure)
    return Case(
        model,
        latch.signal,
        latch.family,
        alert.severity,
        exposure=entry.exposure,
        calibrated=alert.calibrated,
    )
