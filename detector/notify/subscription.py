"""The thread of one receiver: records to notifications, delivery with retries, and the commit after it."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from detector.contracts.errors import ConfigurationError, InvalidRecord, NotificationRefused, ReceiverAway
from detector.notify.group_reader import LETTERS, GroupReader
from detector.notify.letter_rates import LetterRates
from detector.notify.notification import READERS, Notification, severity_rank
from detector.notify.receivers.base import REFRESH_SECONDS, Receiver
from detector.runtime.metric_defs import (
    NOTIFY_DELIVERED,
    NOTIFY_LAG,
    NOTIFY_REFUSED,
    NOTIFY_RETRIES,
    NOTIFY_UNREADABLE,
)
from detector.runtime.metrics import Metrics
from detector.runtime.receivers import ReceiverSettings
from detector.runtime.settings import Settings
from detector.runtime.text import rfc3339
from detector.serving.connection import TopicMissing
from detector.serving.threads import LONGEST_PAUSE_SECONDS, BackgroundThread

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 30.0
_LAG_SECONDS = 5.0
_MOST_REFUSED_BYTES = 10_000_000

_log = structlog.get_logger("weirguard.notify")


class RefusalFile:
    """Notifications that a receiver refused permanently, a line each, in the file ``path``; beyond ten megabytes it
    replaces ``path.1``.

    Several threads may append. Raises ConfigurationError if the file cannot be written now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.open("ab").close()
        except OSError as error:
            raise ConfigurationError(f"notify.refused_file: cannot write {path}: {error.strerror}") from None

    def keep(self, receiver: str, why: str, notification: Notification, now: float) -> None:
        """Writes what ``receiver`` refused at ``now``, seconds, and its answer. Raises OSError."""
        line = {"receiver": receiver, "refused_at": rfc3339(now), "why": why, "notification": notification.as_data()}
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            if self._path.exists() and self._path.stat().st_size + len(data) > _MOST_REFUSED_BYTES:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            with self._path.open("ab") as file:
                file.write(data)


@dataclass(frozen=True, slots=True)
class Selection:
    """The filter of a receiver."""

    least_severity: int
    models: frozenset[str]

    @classmethod
    def of(cls, settings: ReceiverSettings) -> Selection:
        return cls(severity_rank(settings.least_severity), frozenset(settings.models))

    def takes(self, notification: Notification) -> bool:
        """Returns whether the receiver gets ``notification``."""
        if self.models and notification.model not in self.models:
            return False
        return severity_rank(notification.severity) >= self.least_severity


class SentRevisions:
    """The last notification that a receiver got about each id, for the last ``most`` ids."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._sent: OrderedDict[str, tuple[int, object]] = OrderedDict()

    def is_news(self, notification: Notification) -> bool:
        """Returns whether ``notification`` is a later revision with another state than the last one sent."""
        revision, state = self._sent.get(notification.id, (0, None))
        return notification.revision > revision and notification.state != state

    def remember(self, notification: Notification) -> None:
        """Notes that the receiver has ``notification``, or has refused it."""
        self._sent[notification.id] = notification.revision, notification.state
        self._sent.move_to_end(notification.id)
        if len(self._sent) > self._most:
            self._sent.popitem(last=False)


def retry_seconds(failures: int, retry_after: float, draw: float) -> float:
    """Returns how long to wait after this many ``failures`` in a row, from 1: doubled each time, and shortened by up to
    a half by ``draw``, from [0, 1), to spread retries; at least ``retry_after``, which the receiver gave."""
    longest: float = min(FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 16), LONGEST_RETRY_SECONDS)
    return max(longest * (1 - draw / 2), retry_after)


class Subscription(BackgroundThread):
    """Sends ``receiver``, called ``name`` in the settings, what its group has not sent yet.

    A notification is committed once the receiver has it or has refused it permanently. While the receiver does not
    answer, nothing else happens here; other receivers have threads and groups of their own.
    """

    def __init__(
        self, name: str, receiver: Receiver, settings: Settings, metrics: Metrics, refusals: RefusalFile | None
    ) -> None:
        super().__init__(f"weirguard-notify-{name}")
        notify = settings.notify
        self.name = name
        self.group = f"{settings.kafka.prefix}-notify-{name}"
        self.ready = False
        """Whether it is in its group and reads."""
        self.moved_at = time.monotonic()
        """When its thread last did something, by the monotonic clock."""
        self._receiver = receiver
        self._kafka = settings.kafka
        self._selection = Selection.of(notify.receivers[name])
        self._metrics = metrics
        self._refusals = refusals
        self._rates = LetterRates(
            settings.kafka.topics.dead_letters, notify.letters_window_seconds, notify.letters_per_window
        )
        self._sent = SentRevisions()
        self._lag_at = float("-inf")
        self._refreshed_at = time.monotonic()
        for metric in (NOTIFY_DELIVERED, NOTIFY_REFUSED, NOTIFY_RETRIES, NOTIFY_UNREADABLE):
            metrics.add(metric, 0, receiver=name)

    def _report_error(self, error: BaseException) -> None:
        """Logs ``error``. A notifier often starts before its topics: for some seconds that is no failure."""
        self.ready = False
        self.moved_at = time.monotonic()
        if not isinstance(error, TopicMissing) or self._back_off >= LONGEST_PAUSE_SECONDS:
            _log.warning("delivery stopped; will try again", receiver=self.name, why=f"{type(error).__name__}: {error}")

    def _work(self) -> None:
        reader = GroupReader(self._kafka, self.group, time.time, self._rates.forget)
        try:
            while not self._closing.is_set():
                self.moved_at = time.monotonic()
                self._take(reader)
                self._refresh()
                self._report_lag(reader)
        finally:
            self.ready = False
            reader.close()

    def _take(self, reader: GroupReader) -> None:
        """Handles the records of one poll."""
        idle = True
        for topic, record in reader.poll():
            idle = False
            notification = self._notification(topic, record)
            if notification is not None and not self._deliver(notification, record, reader):
                return
            reader.done(record, self._rates.resume_offset(record.partition) if topic == LETTERS else None)
        self.ready = reader.joined
        if reader.joined:
            self._reset_back_off()
            if idle:
                self._rates.close(time.time())
                reader.settle(self._rates.resume_offset)

    def _notification(self, topic: str, record: Any) -> Notification | None:
        """Returns the notification to send because of ``record``, or None."""
        if topic == LETTERS:
            headers = dict(record.headers or ())
            notification = self._rates.count(record.partition, record.offset, record.timestamp / 1000, headers)
        elif record.value is None:  # of a topic that is compacted: what it was about is gone
            return None
        else:
            try:
                notification = READERS[topic](record.value)
            except InvalidRecord as error:
                self._metrics.add(NOTIFY_UNREADABLE, receiver=self.name)
                _log.error("an alert cannot be read", receiver=self.name, why=str(error), **_position(record))
                return None
        if notification is None or not self._selection.takes(notification) or not self._sent.is_news(notification):
            return None
        return notification

    def _deliver(self, notification: Notification, record: Any, reader: GroupReader) -> bool:
        """Delivers ``notification``, however long that takes; returns False if ``record`` is no longer ours."""
        failures = 0
        while not self._closing.is_set():
            try:
                self._receiver.send(notification)
            except NotificationRefused as error:
                self._refused(notification, str(error), record)
            except ReceiverAway as error:
                failures += 1
                self._metrics.add(NOTIFY_RETRIES, receiver=self.name)
                if failures & (failures - 1) == 0:  # at the first failure, the second, the fourth …
                    _log.warning("receiver is away", receiver=self.name, why=str(error), failures=failures)
                if not self._wait(retry_seconds(failures, error.retry_after, random.random()), reader):
                    return False
                continue
            else:
                self._metrics.add(NOTIFY_DELIVERED, receiver=self.name)
                if failures:
                    _log.info("receiver is back", receiver=self.name, failures=failures)
            self._sent.remember(notification)
            return True
        return False

    def _wait(self, seconds: float, reader: GroupReader) -> bool:
        """Waits for ``seconds`` in the group; returns False if the record is no longer ours, or the notifier stops."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._closing.is_set():
            self.moved_at = time.monotonic()
            self._report_lag(reader)
            if not reader.wait(min(left, 1.0)):
                return False
        return not self._closing.is_set()

    def _refused(self, notification: Notification, why: str, record: Any) -> None:
        self._metrics.add(NOTIFY_REFUSED, receiver=self.name)
        _log.error("refused permanently", receiver=self.name, why=why, id=notification.id, **_position(record))
        if self._refusals is not None:
            self._refusals.keep(self.name, why, notification, time.time())

    def _refresh(self) -> None:
        if time.monotonic() - self._refreshed_at >= REFRESH_SECONDS:
            self._refreshed_at = time.monotonic()
            try:
                self._receiver.refresh()
            except (NotificationRefused, ReceiverAway) as error:
                self._metrics.add(NOTIFY_RETRIES, receiver=self.name)
                _log.warning("cannot repeat firing alerts; will try again", receiver=self.name, why=str(error))

    def _report_lag(self, reader: GroupReader) -> None:
        if time.monotonic() - self._lag_at >= _LAG_SECONDS:
            self._lag_at = time.monotonic()
            self._metrics.set(NOTIFY_LAG, reader.lag(), receiver=self.name)


def _position(record: Any) -> dict[str, Any]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
