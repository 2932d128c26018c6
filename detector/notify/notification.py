"""Notifications, and how they are made from records of Kafka."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import msgspec

from detector.contracts.codecs.records import decode, encode
from detector.contracts.findings import Alert, Evidence, GroupAlert, Severity
from detector.runtime.text import rfc3339

Kind = Literal["alert", "group-alert", "dead-letters"]

_MOST_MEMBERS = 50
"""Of a group, these many are named, the rarest first: receivers refuse long messages."""
_LABELS = ("model", "model_version", "principal", "signal", "reason")


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification, the same for all receivers.

    A later ``revision`` of the same ``id`` replaces the one before, as that of an alert does; the same revision may
    come again. ``title``: one line for people. ``record``: the fields of the record that it is about. ``technique``:
    its id in MITRE ATLAS, or None. ``resolved``: nothing is left to do about it. ``size``: of a group.
    """

    id: str
    revision: int
    kind: Kind
    occurred_at: float
    severity: Severity
    title: str
    record: Mapping[str, Any]
    model: str | None = None
    technique: str | None = None
    resolved: bool = False
    size: int = 1
    labels: Mapping[str, str] = field(init=False)
    """What names its subject: model, principal, signal, reason; the same in all revisions."""

    def __post_init__(self) -> None:
        labels = {name: str(self.record[name]) for name in _LABELS if name in self.record}
        object.__setattr__(self, "labels", labels)

    @property
    def key(self) -> str:
        """Id and revision: the same each time that this is sent."""
        return f"{self.id}-{self.revision}"

    @property
    def state(self) -> tuple[Severity, bool, int]:
        """What makes a later revision worth sending: another severity, ``resolved``, or a doubled size."""
        return self.severity, self.resolved, self.size.bit_length()

    def as_data(self) -> dict[str, Any]:
        """Returns the body of a webhook and what templates see, as plain data."""
        return {
            "schema": "weirguard.notification/1",
            "id": self.id,
            "revision": self.revision,
            "kind": self.kind,
            "occurred_at": self.occurred_at,
            "time": rfc3339(self.occurred_at),
            "severity": self.severity,
            "resolved": self.resolved,
            "title": self.title,
            "model": self.model,
            "technique": self.technique,
            "labels": dict(self.labels),
            "record": dict(self.record),
        }


def severity_rank(severity: Severity) -> int:
    """Returns 0 for the lowest severity, and more for higher ones."""
    return get_args(Severity).index(severity)


def of_alert(value: bytes | None) -> Notification:
    """Returns the notification of an alert, which is the ``value`` of a record: one whose decision was released is
    resolved. Raises InvalidRecord."""
    alert = decode(Alert, value)
    notes = ["uncalibrated"] if alert.calibrated is False else []
    notes += [f"withheld by {alert.suppressed_by}"] if alert.suppressed_by else []
    what = "Possible model theft" if alert.released_by is None else f"Released by {alert.released_by}"
    title = f"{what}: {alert.principal} of {alert.model}, {alert.signal} score {alert.score:.3g}"
    return Notification(
        id=alert.id,
        revision=alert.revision,
        kind="alert",
        occurred_at=alert.occurred_at,
        severity=alert.severity,
        title="; ".join([title, *notes]),
        record=msgspec.json.decode(encode(alert)),
        model=alert.model,
        technique=alert.technique,
        resolved=alert.released_by is not None,
    )


def of_group(value: bytes | None) -> Notification:
    """Returns the notification of a group of accounts, as :func:`of_alert` does. A group is resolved once it is
    dismissed, or all its accounts are evicted."""
    group = decode(GroupAlert, value)
    title = f"Possible model theft by a group: {group.size:,} accounts of {group.model}, score {group.score:.3g}"
    if not group.size:
        title = f"Over: the accounts of a group that used {group.model} are all forgotten"
    if group.dismissed_by is not None:
        title = f"Dismissed by {group.dismissed_by}: a group of {group.size:,} accounts of {group.model}"
    record = msgspec.json.decode(encode(group))
    record["members"] = record["members"][:_MOST_MEMBERS]
    return Notification(
        id=group.id,
        revision=group.revision,
        kind="group-alert",
        occurred_at=group.occurred_at,
        severity=group.severity,
        title=title,
        record=record,
        model=group.model,
        technique=group.technique,
        resolved=group.dismissed_by is not None or not group.size,
        size=group.size,
    )


READERS: Final[dict[str, Callable[[bytes | None], Notification]]] = {
    "alerts": of_alert,
    "groups": of_group,
}
"""For each topic, by its attribute in ``Topics``, of which every record is a notification: what reads it."""


def example_value(now: float) -> bytes:
    """Returns the alert that ``weirguard notify --test`` sends: about no account, of the lowest severity."""
    return encode(
        Alert(
            id="weirguard-notify-test",
            occurred_at=now,
            model="weirguard-test",
            model_version="1",
            principal="nobody",
            signal="test",
            episode=0,
            severity="low",
            score=1.0,
            threshold=1.0,
            query_index=0,
            evidence=(Evidence("test", 1.0, "1", 1.0),),
            configuration="test",
        )
    )
