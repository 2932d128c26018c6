"""One model of the demo: its accounts, and what the detector published about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from detector.contracts.actions import ACTIONS, describe_action, is_release, name_of
from detector.contracts.findings import Alert, Decision, GroupAlert, Score
from detector.core.measures import MEASURES
from detector.core.signals import WEIGHED
from detector.lab.traffic import Tally

METERS = ("coverage", "information_gain")

_EVENTS = 200
_NAMED = 3
"""The number of contributions that an event names."""


@dataclass(frozen=True, slots=True)
class BoardEvent:
    """A line for people at the wall-clock second ``at``. ``grave``: more than slowing or releasing an account."""

    at: float
    principal: str
    model: str
    text: str
    grave: bool


@dataclass(slots=True)
class Board:
    """The accounts of ``model`` by name (``tallies``), and by principal the latest score and decision, the largest
    suspicion and the first alert; groups by id, as they were found and as they are; and the last 200 events.
    ``signal``: the signal whose statistic is shown."""

    model: str
    signal: str
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    found: dict[str, GroupAlert] = field(default_factory=dict)
    groups: dict[str, GroupAlert] = field(default_factory=dict)
    events: deque[BoardEvent] = field(default_factory=lambda: deque(maxlen=_EVENTS))

    @property
    def suspects(self) -> list[str]:
        return [name for name in self.tallies if name in self.alerts]

    def group_of(self, principal: str) -> str | None:
        """Returns the id of the group that ``principal`` is a member of."""
        return next((group.id for group in self.groups.values() if _is_member(group, principal)), None)

    def absorb(self, record: Score | Alert | Decision | GroupAlert, at: float) -> BoardEvent | None:
        """Adds a record that was read at the wall-clock second ``at``. Returns its event, or None without news."""
        if isinstance(record, Score):
            self.scores[record.principal] = record
            if record.score is not None:
                self.most[record.principal] = max(record.score, self.most.get(record.principal, record.score))
            return None
        if isinstance(record, GroupAlert):
            self.found.setdefault(record.id, record)
            self.groups[record.id] = record
            self.events.append(BoardEvent(at, f"group {record.id}", record.model, _group_text(record), grave=True))
            return self.events[-1]
        if isinstance(record, Alert):
            self.alerts.setdefault(record.principal, record)
            text, grave = _alert_text(record), record.released_by is None
        else:
            before = self.decisions.get(record.principal)
            if before is not None and record.epoch < before.epoch:
                return None
            self.decisions[record.principal] = record
            if before is not None and (before.action, before.mode) == (record.action, record.mode):
                return None
            text, grave = _decision_text(record), name_of(record.action) == "refuse"
        self.events.append(BoardEvent(at, record.principal, record.model, text, grave))
        return self.events[-1]

    def statistic(self, principal: str) -> float | None:
        """Returns the signal's latest statistic of ``principal``, None without one."""
        score = self.scores.get(principal)
        return None if score is None else score.signals.get(self.signal)

    def suspicion(self, principal: str) -> float | None:
        """Returns the latest score of ``principal``, None without one."""
        score = self.scores.get(principal)
        return None if score is None else score.score

    def exposure(self, principal: str) -> dict[str, float]:
        """Returns the latest exposure of ``principal`` by meter, in percent; empty where the model has none."""
        score = self.scores.get(principal)
        return {} if score is None else {name: score.signals[name] for name in METERS if name in score.signals}

    def state(self, principal: str) -> str:
        """Returns the state of ``principal`` in one to three words."""
        decision = self.decisions.get(principal)
        if decision is not None and not is_release(decision.action):
            done = ACTIONS[name_of(decision.action)].done
            return done if decision.mode == "enforce" else f"would be {done}"
        score = self.scores.get(principal)
        if principal in self.alerts or (score is not None and score.flagged):
            return "suspect"
        if self.group_of(principal) is not None:
            return "in a group"
        return "watched" if score is not None and score.score is not None else "too few yet"


def _alert_text(alert: Alert) -> str:
    if alert.released_by is not None:
        return f"alert: {alert.signal} is over, released by {alert.released_by}"
    if alert.revision > 1:
        return f"alert: {alert.signal} rises to severity {alert.severity} at query {alert.query_index + 1:,}"
    first, *others = alert.evidence
    threshold = "" if first.threshold is None else f", threshold {first.threshold:.3g}"
    added = [item.name for item in others if item.name in MEASURES or item.name in WEIGHED]
    named = f": {', '.join(added[:_NAMED])}" if added else ""
    return f"alert: {alert.signal} at query {alert.query_index + 1:,} ({first.value:.3g}{threshold}){named}"


def _group_text(group: GroupAlert) -> str:
    evidence = f": {', '.join(value.name for value in group.evidence[:_NAMED])}" if group.evidence else ""
    return f"alert: {group.size} accounts share one theft (score {group.score:.2g}, limit 1){evidence}"


def _is_member(group: GroupAlert, principal: str) -> bool:
    return any(member.principal == principal for member in group.members)


def _decision_text(decision: Decision) -> str:
    if is_release(decision.action):
        return "decision: released"
    return f"decision: {describe_action(decision.action)}" + ("" if decision.mode == "enforce" else ", only observed")
