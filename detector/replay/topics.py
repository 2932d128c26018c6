"""What the topics of a running service hold: queries, and scores, alerts, decisions, audits and reports of gates."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol, TypeVar

from detector.contracts.actions import is_release
from detector.contracts.codecs import KILL_SWITCH_KEY, decode
from detector.contracts.errors import BrokerError, ConfigurationError, InvalidRecord, read_error
from detector.contracts.findings import Alert, Audit, Decision, GateReport, GroupAlert, Score
from detector.contracts.topics import partition_of
from detector.runtime import odd_batches
from detector.runtime.sections import KafkaSettings
from detector.runtime.text import print_error
from detector.stream.source_records import SourceRecord

BOOTSTRAP_MILLISECONDS = 5_000
REPLY_MILLISECONDS = 10_000
_POLL_MILLISECONDS = 100
_QUIET_SECONDS, _LATEST_SECONDS = 0.3, 3.0
_SILENT_SECONDS = 120.0
_MOST_REMEMBERED = 10_000

Key = tuple[str, str]
"""(model, principal)"""

R = TypeVar("R", Alert, Audit, Decision, GateReport, GroupAlert, Score)


class _WithId(Protocol):
    @property
    def id(self) -> str: ...


G = TypeVar("G", bound=_WithId)


class Topic:
    """Reads all partitions of the topic ``name``, or only that of ``principal``. A context manager. Raises
    BrokerError."""

    def __init__(self, settings: KafkaSettings, name: str, principal: str | None = None) -> None:
        import kafka

        self.name = name
        self._embedded = settings.embedded
        self._count = partitions_of(settings, name)
        with broker_errors(settings):
            self._consumer = odd_batches.new_consumer(
                settings, bootstrap_timeout_ms=BOOTSTRAP_MILLISECONDS, fetch_max_wait_ms=_POLL_MILLISECONDS
            )
        wanted = range(self._count) if principal is None else [partition_of(principal, self._count)]
        self._partitions = [kafka.TopicPartition(name, number) for number in wanted]
        self._consumer.assign(self._partitions)

    def __enter__(self) -> Topic:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def __len__(self) -> int:
        """Returns the number of partitions of the topic."""
        return self._count

    def until_now(self, since: float = -inf) -> Iterator[Any]:
        """Yields every record with a timestamp of ``since`` (seconds UTC) or later, up to the present end.

        The embedded broker cannot look up a time, and reports ends that are too low, by less than its last batch: so
        reading continues until no record comes for a moment.
        """
        ends = self._ends()
        self._seek(since, ends)
        last_record, at_end = time.monotonic(), inf
        while True:
            records = self._poll()
            now = time.monotonic()
            last_record = now if records else last_record
            yield from (record for record in records if record.timestamp >= 1000 * since)
            if all(self._consumer.position(partition) >= end for partition, end in ends.items() if end):
                at_end = min(at_end, now)
            if at_end < inf and (now - last_record >= _QUIET_SECONDS or now - at_end >= _LATEST_SECONDS):
                return
            if now - last_record > _SILENT_SECONDS:
                raise BrokerError(f"{self.name} was silent for {_SILENT_SECONDS:g} seconds before its end")

    def seek_to_end(self) -> None:
        """Skips to new records (on the embedded broker, to some of its last batch)."""
        for partition, end in self._ends().items():
            self._consumer.seek(partition, end)

    def follow(self, seconds: float = inf) -> Iterator[Any]:
        """Yields records as they come, for ``seconds`` or without end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            yield from self._poll()

    def _seek(self, since: float, ends: dict[Any, int]) -> None:
        self._consumer.seek_to_beginning()
        if self._embedded or since == -inf:
            return
        found = self._consumer.offsets_for_times(dict.fromkeys(self._partitions, int(1000 * since)))
        for partition, first in found.items():
            self._consumer.seek(partition, ends[partition] if first is None else first.offset)

    def _poll(self) -> list[Any]:
        from kafka.errors import KafkaError

        try:
            batches = self._consumer.poll(timeout_ms=_POLL_MILLISECONDS)
        except KafkaError as error:
            raise read_error(f"cannot read {self.name}", error) from error
        return [record for records in batches.values() for record in records]

    def _ends(self) -> dict[Any, int]:
        from kafka.errors import KafkaError

        try:
            ends: dict[Any, int] = self._consumer.end_offsets(self._partitions, timeout_ms=REPLY_MILLISECONDS)
        except KafkaError as error:
            raise BrokerError(
                f"the broker does not report the end of {self.name}: {error}; check that it runs"
            ) from error
        return ends


def source_record(source: str, record: Any) -> SourceRecord:
    """Returns a record that kafka-python read from the topic of ``source`` ("queries" or "rekeyed")."""
    headers = dict(record.headers or ())
    return SourceRecord(source, record.offset, record.timestamp / 1000, record.key, record.value, headers)


def partitions_of(settings: KafkaSettings, name: str) -> int:
    """Returns the number of partitions of the topic ``name``. Raises BrokerError.

    Uses the admin client, which never creates a topic: the broker would create it with its own settings, which the
    detector refuses.
    """
    from kafka.admin import KafkaAdminClient

    with broker_errors(settings):
        admin = KafkaAdminClient(**settings.client_arguments(), bootstrap_timeout_ms=BOOTSTRAP_MILLISECONDS)
        try:
            count = sum(len(topic["partitions"]) for topic in admin.describe_topics([name]))
        finally:
            admin.close()
    if not count:
        raise BrokerError(
            f"there is no topic {name} for this user; start the detector, which creates it, correct the prefix, or "
            "grant Describe there"
        )
    return count


@contextmanager
def broker_errors(settings: KafkaSettings) -> Iterator[None]:
    """Raises a BrokerError that names the address for each error of kafka-python."""
    from kafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise BrokerError(f"cannot use Kafka at {settings.bootstrap_servers} as configured: {error}") from error


@dataclass(slots=True)
class CurrentDecisions:
    """The newest decision of each principal that has not expired, without releases, and the kill switch."""

    current: dict[Key, Decision] = field(default_factory=dict)
    kill_switch: Decision | None = None


def read_decisions(settings: KafkaSettings, now: float) -> CurrentDecisions:
    """Returns the decisions at ``now``, seconds UTC. Of two records the one with the later epoch counts, as in a
    gate."""
    decisions = CurrentDecisions()
    for record, decision in _read(settings, settings.topics.decisions, Decision):
        if record.key == KILL_SWITCH_KEY:
            decisions.kill_switch = decision
        elif decision is not None:
            key = decision.model, decision.principal
            if key not in decisions.current or decision.epoch >= decisions.current[key].epoch:
                decisions.current[key] = decision
    for key, decision in [*decisions.current.items()]:
        if is_release(decision.action) or decision.expires_at <= now:
            del decisions.current[key]
    if decisions.kill_switch is not None and decisions.kill_switch.expires_at <= now:
        decisions.kill_switch = None
    return decisions


def read_scores(settings: KafkaSettings) -> dict[Key, Score]:
    """Returns the latest score of each principal."""
    scores = _records(settings, settings.topics.scores, Score)
    return {(score.model, score.principal): score for score in scores}


def read_groups(settings: KafkaSettings) -> list[GroupAlert]:
    """Returns the last revision of each group, the newest first."""
    groups = {alert.id: alert for alert in sorted(read_group_alerts(settings), key=lambda alert: alert.revision)}
    return sorted(groups.values(), key=lambda alert: -alert.occurred_at)


def read_group_alerts(settings: KafkaSettings) -> list[GroupAlert]:
    """Returns all revisions of all groups that the topic holds."""
    return list(_records(settings, settings.topics.groups, GroupAlert))


def find_group(groups: Sequence[G], prefix: str) -> G:
    """Returns the one of ``groups`` whose id begins with ``prefix``. Raises ConfigurationError unless there is exactly
    one."""
    found = [group for group in groups if group.id.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    named = ", ".join(group.id for group in found or groups) or "none"
    raise ConfigurationError(f"{len(found)} groups begin with {prefix!r}; there are: {named}")


def read_gates(settings: KafkaSettings) -> list[GateReport]:
    """Returns the latest report of each gate that reported within the last days, in order of their ids."""
    latest: dict[str, GateReport] = {}
    for report in _records(settings, settings.topics.gates, GateReport):
        if report.gate not in latest or report.occurred_at >= latest[report.gate].occurred_at:
            latest[report.gate] = report
    return [latest[gate] for gate in sorted(latest)]


def read_alerts(settings: KafkaSettings, model: str, principal: str) -> list[Alert]:
    """Returns all alerts of one principal in the topic, each revision once, in order of time."""
    with Topic(settings, settings.topics.alerts) as topic:
        alerts = {
            (alert.id, alert.revision): alert
            for alert in readable_alerts(topic.until_now())
            if (alert.model, alert.principal) == (model, principal)
        }
    return sorted(alerts.values(), key=lambda alert: alert.occurred_at)


def newest(alerts: Iterable[Alert]) -> list[Alert]:
    """Returns the last revision of each of ``alerts``, in order of time."""
    last = {alert.id: alert for alert in sorted(alerts, key=lambda alert: alert.revision)}
    return sorted(last.values(), key=lambda alert: alert.occurred_at)


def read_audits(settings: KafkaSettings, model: str, principal: str) -> list[Audit]:
    """Returns all audit records of one principal in the topic, each once, in order of time."""
    read = _records(settings, settings.topics.audit, Audit)
    audits = {audit.id: audit for audit in read if (audit.model, audit.principal) == (model, principal)}
    return sorted(audits.values(), key=lambda audit: audit.occurred_at)


def audits_since(settings: KafkaSettings, since: float) -> Iterator[Audit]:
    """Yields the audit records of all principals that were written at ``since``, seconds UTC, or later."""
    return _records(settings, settings.topics.audit, Audit, since)


def alerts_since(settings: KafkaSettings, since: float) -> Iterator[Alert]:
    """Yields the alerts of all principals that were written at ``since``, seconds UTC, or later."""
    return _records(settings, settings.topics.alerts, Alert, since)


def known_keys(settings: KafkaSettings) -> set[Key]:
    """Returns the principals with a score, an alert or a decision, expired or not, in the topics."""
    names = settings.topics
    kinds: dict[str, Any] = {names.scores: Score, names.decisions: Decision, names.alerts: Alert}
    return {
        (audit.model, audit.principal)
        for name, kind in kinds.items()
        for record, audit in _read(settings, name, kind)
        if audit is not None and record.key != KILL_SWITCH_KEY
    }


def readable_alerts(records: Iterable[Any]) -> Iterator[Alert]:
    """Yields the alerts in ``records``, and names unreadable records on standard error.

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


def _read(settings: KafkaSettings, name: str, kind: type[R], since: float = -inf) -> Iterator[tuple[Any, R | None]]:
    """Yields each record of a topic, written at ``since`` or later, with its content; None for a record that is empty
    or cannot be read."""
    with Topic(settings, name) as topic:
        for record in topic.until_now(since):
            yield record, _readable(kind, record) if record.value else None


def _records(settings: KafkaSettings, name: str, kind: type[R], since: float = -inf) -> Iterator[R]:
    """Yields the contents of the records of a topic that can be read."""
    return (content for _, content in _read(settings, name, kind, since) if content is not None)


def _readable(kind: type[R], record: Any) -> R | None:
    try:
        return decode(kind, record.value)
    except InvalidRecord as error:
        where = f"{record.topic}, partition {record.partition}, offset {record.offset}"
        print_error(f"skipped a record that cannot be read ({where}): {error}")
        return None
