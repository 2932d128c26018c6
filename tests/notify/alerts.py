"""Alerts for tests, as records and as notifications."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detector.contracts.codecs.records import decode, encode
from detector.contracts.findings import Alert
from detector.notify.notification import Notification, example_value, of_alert

NOW = 1_796_000_000.25


def alert_value(identity: str, **changes: Any) -> bytes:
    """The record of an alert with this id."""
    fields = {"model": "digits", "principal": "account-17", "signal": "prada", "severity": "medium", **changes}
    return encode(replace(decode(Alert, example_value(NOW)), id=identity, **fields))


def notification(identity: str = "b1946ac9", **changes: Any) -> Notification:
    """The notification of that alert."""
    return of_alert(alert_value(identity, **changes))
