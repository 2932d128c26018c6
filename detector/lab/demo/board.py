"""What the detector has said so far, as anybody can read it from its topics."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from detector.contracts.findings import Alert, Decision, Score

SIGNAL = "prada"

_EVENTS = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """A record, and the wall-clock second at which it was read."""

    record: Score | Alert | Decision
    at: float


@dataclass(frozen=True, slots=True)
class Event:
    """A line for people. ``grave`` when it is about more than slowing or releasing somebody."""

    at: float
    principal: str
    text: str
    grave: bool


@dataclass(slots=True)
class Board:
    """The latest score and decision, the lowest W and the first alert of each principal; the last 200 events."""

    scores: dict[str, Score] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=_EVENTS))

    def absorb(self, seen: Seen) -> Event | None:
        """Takes a record; the event it makes, or None where it tells nothing new."""
        event = self._take(seen)
        if event is not None:
            self.events.append(event)
        return event

    def statistic(self, principal: str) -> float | None:
        """The latest W of ``principal``, None while there are too few distances for one."""
        score = self.scores.get(principal)
        return None if score is None else score.signals.get(SIGNAL)

    def state(self, principal: str) -> str:
        """One word or two: how the detector stands to ``principal``."""
        decision = self.decisions.get(principal)
        if decision is not None and decision.action.name != "none":
            done = {"slow": "slowed", "refuse": "refused"}[decision.action.name]
            return done if decision.mode == "enforce" else f"would be {done}"
        score = self.scores.get(principal)
        if principal in self.alerts or (score is not None and score.flagged):
            return "suspect"
        return "watched" if score is not None and score.score is not None else "too few yet"

    def _take(self, seen: Seen) -> Event | None:
        record = seen.record
        if isinstance(record, Score):
            self._take_score(record)
            return None
        if isinstance(record, Alert):
            self.alerts.setdefault(record.principal, record)
            return Event(seen.at, record.principal, _alert_text(record), grave=True)
        before = self.decisions.get(record.principal)
        if before is not None and record.epoch < before.epoch:
            return None
        self.decisions[record.principal] = record
        if before is not None and (before.action, before.mode) == (record.action, record.mode):
            return None
        return Event(seen.at, record.principal, _decision_text(record), grave=record.action.name == "refuse")

    def _take_score(self, score: Score) -> None:
        self.scores[score.principal] = score
        if SIGNAL in score.signals:
            statistic = score.signals[SIGNAL]
            self.least[score.principal] = min(statistic, self.least.get(score.principal, statistic))


def _alert_text(alert: Alert) -> str:
    figures = ", ".join(
        f"{item.name} {item.value:.4g}" + (f" (threshold {item.threshold:g})" if item.threshold is not None else "")
        for item in alert.evidence[:2]
    )
    return f"alert: {alert.signal} at query {alert.query_index + 1:,}; {figures}"


def _decision_text(decision: Decision) -> str:
    rate = decision.action.queries_per_second
    action = decision.action.name if rate is None else f"{decision.action.name} to {rate:g} a second"
    return f"decision: {action}" + ("" if decision.mode == "enforce" else ", only observed")
