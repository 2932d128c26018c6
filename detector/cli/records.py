"""Reads topics for the latest decision and score of each principal, their alerts and audit records."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from detector.cli.kafka import Topic
from detector.cli.screen import complain
from detector.contracts.codecs import KILL_SWITCH_KEY, decode
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import Alert, Audit, Decision, Score
from detector.runtime.sections import KafkaSettings

_MOST_REMEMBERED = 10_000

Key = tuple[str, str]
"""(model, principal)"""

R = TypeVar("R", Alert, Audit, Decision, Score)


@dataclass(slots=True)
class Decisions:
    """The newest decision of each principal that has not expired, without releases, and the kill switch."""

    current: dict[Key, Decision] = field(default_factory=dict)
    kill_switch: Decision | None = None


def read_decisions(settings: KafkaSettings, now: float) -> Decisions:
    """The decisions at ``now``, seconds UTC. Of two records the one with the later epoch counts, as in a gate."""
    decisions = Decisions()
    newest: dict[Key, Decision] = {}
    with Topic(settings, settings.topics.decisions) as topic:
        for record in topic.to_end():
            if record.key == KILL_SWITCH_KEY:
                decisions.kill_switch = _readable(Decision, record) if record.value else None
            elif record.value:
                _take(newest, _readable(Decision, record))
    decisions.current = {
        key: decision
        for key, decision in newest.items()
        if decision.action.name != "none" and decision.expires_at > now
    }
    if decisions.kill_switch is not None and decisions.kill_switch.expires_at <= now:
        decisions.kill_switch = None
    return decisions


def read_scores(settings: KafkaSettings) -> dict[Key, Score]:
    """The latest score of each principal."""
    scores: dict[Key, Score] = {}
    with Topic(settings, settings.topics.scores) as topic:
        for record in topic.to_end():
            score = _readable(Score, record) if record.value else None
            if score is not None:
                scores[score.model, score.principal] = score
    return scores


def read_alerts(settings: KafkaSettings, model: str, principal: str) -> list[Alert]:
    """All alerts of one principal in the topic, each revision once, in order of time."""
    alerts: dict[tuple[str, int], Alert] = {}
    with Topic(settings, settings.topics.alerts) as topic:
        for alert in readable_alerts(topic.to_end()):
            if (alert.model, alert.principal) == (model, principal):
                alerts[alert.id, alert.revision] = alert
    return sorted(alerts.values(), key=lambda alert: alert.occurred_at)


def newest(alerts: Iterable[Alert]) -> list[Alert]:
    """The last revision of each of ``alerts``, in order of time."""
    last: dict[str, Alert] = {}
    for alert in sorted(alerts, key=lambda alert: alert.revision):
        last[alert.id] = alert
    return sorted(last.values(), key=lambda alert: alert.occurred_at)


def known_keys(settings: KafkaSettings) -> set[Key]:
    """The principals with a score, an alert or a decision, expired or not, in the topics."""
    names = settings.topics
    kinds: dict[str, Any] = {names.scores: Score, names.decisions: Decision, names.alerts: Alert}
    known: set[Key] = set()
    for name, kind in kinds.items():
        with Topic(settings, name) as topic:
            records = (record for record in topic.to_end() if record.value and record.key != KILL_SWITCH_KEY)
            found = (_readable(kind, record) for record in records)
            known.update((one.model, one.principal) for one in found if one is not None)
    return known


def read_audits(settings: KafkaSettings, model: str, principal: str) -> list[Audit]:
    """All audit records of one principal in the topic, each once, in order of time."""
    audits: dict[str, Audit] = {}
    with Topic(settings, settings.topics.audit) as topic:
        for record in topic.to_end():
            audit = _readable(Audit, record)
            if audit is not None and (audit.model, audit.principal) == (model, principal):
                audits[audit.id] = audit
    return sorted(audits.values(), key=lambda audit: audit.occurred_at)


def readable_alerts(records: Iterator[Any]) -> Iterator[Alert]:
    """Yields the alerts among ``records``, and names unreadable records on standard error.

    Skips a repeat, and a revision that follows a higher one, by a memory of the last 10,000 alerts.
    """
    revisions: OrderedDict[str, int] = OrderedDict()
    for record in records:
        alert = _readable(Alert, record)
        if alert is None or alert.revision <= revisions.get(alert.id, 0):
            continue
        revisions[alert.id] = alert.revision
        revisions.move_to_end(alert.id)
        if len(revisions) > _MOST_REMEMBERED:
            revisions.popitem(last=False)
        yield alert


def _take(newest: dict[Key, Decision], decision: Decision | None) -> None:
    if decision is None:
        return
    key = decision.model, decision.principal
    if key not in newest or decision.epoch >= newest[key].epoch:
        newest[key] = decision


def _readable(kind: type[R], record: Any) -> R | None:
    try:
        return decode(kind, record.value)
    except InvalidRecord as error:
        where = f"{record.topic}, partition {record.partition}, offset {record.offset}"
        complain(f"skipped a record that cannot be read ({where}): {error}")
        return None
