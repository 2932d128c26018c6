"""Alerts for tests, as records and as notifications."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detector.contracts.codecs.records import decode, encode
from detector.contracts.findings import Alert, Evidence, GroupAlert, GroupMember
from detector.notify.notification import Notification, example_value, of_alert, of_group

NOW = 1_796_000_000.25


def alert_value(identity: str, **changes: Any) -> bytes:
    """The record of an alert with this id."""
    fields = {"model": "digits", "principal": "account-17", "signal": "prada", "severity": "medium", **changes}
    return encode(replace(decode(Alert, example_value(NOW)), id=identity, **fields))


def group_value(identity: str, size: int = 3, revision: int = 1, **changes: Any) -> bytes:
    """The record of a group with this id."""
    members = tuple(GroupMember(f"account-{number}", 0.001, 9) for number in range(min(size, 12)))
    fields: dict[str, Any] = {"severity": "medium", "score": 1.1, "chance": 1e-7, **changes}
    evidence = (Evidence("foreign_sign_steps", 4.1, "standard deviations"),)
    group = GroupAlert(
        id=identity,
        revision=revision,
        occurred_at=NOW,
        model="digits",
        model_version="3",
        size=size,
        members=members,
        evidence=evidence,
        configuration="c",
        profile="p",
        **fields,
    )
    return encode(group)


def group_notification(identity: str = "g1", **changes: Any) -> Notification:
    """The notification of that group."""
    return of_group(group_value(identity, **changes))


def notification(identity: str = "b1946ac9", **changes: Any) -> Notification:
    """The notification of that alert."""
    return of_alert(alert_value(identity, **changes))
