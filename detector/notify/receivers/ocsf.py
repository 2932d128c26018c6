"""OCSF Detection Finding (class 2004) with MITRE ATLAS ids, as data, and as lines to a file or to standard output.

Fields and numbers are those of OCSF 1.5 (https://schema.ocsf.io/1.5.0/classes/detection_finding).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

import detector
from detector.contracts.errors import ReceiverAway
from detector.contracts.findings import Severity
from detector.notify.notification import Notification
from detector.notify.receivers.base import Receiver, Surroundings
from detector.notify.receivers.http import failure_text
from detector.runtime.receivers import OcsfSettings

_CATEGORY, _CLASS = 2, 2004
_ACTIVITIES = {"Create": 1, "Update": 2, "Close": 3}
_STATUSES = {"New": 1, "Resolved": 4}
_SEVERITIES: Final[dict[Severity, tuple[int, str]]] = {"low": (2, "Low"), "medium": (3, "Medium"), "high": (4, "High")}
_RULE, _STATISTICAL = 1, 3
_USER_NAME, _RESOURCE_UID = 4, 10

_TACTIC = {"uid": "AML.TA0010", "name": "Exfiltration"}
_TECHNIQUES = {"AML.T0024": "Exfiltration via AI Inference API", "AML.T0024.002": "Extract AI Model"}
"""Names of MITRE ATLAS techniques."""


def finding(notification: Notification) -> dict[str, Any]:
    """Returns ``notification`` as an OCSF Detection Finding, plain data."""
    activity = "Close" if notification.resolved else "Create" if notification.revision == 1 else "Update"
    status = "Resolved" if notification.resolved else "New"
    milliseconds = round(notification.occurred_at * 1000)
    severity, severity_name = _SEVERITIES[notification.severity]
    return {
        "category_uid": _CATEGORY,
        "category_name": "Findings",
        "class_uid": _CLASS,
        "class_name": "Detection Finding",
        "activity_id": _ACTIVITIES[activity],
        "activity_name": activity,
        "type_uid": 100 * _CLASS + _ACTIVITIES[activity],
        "time": milliseconds,
        "severity_id": severity,
        "severity": severity_name,
        "status_id": _STATUSES[status],
        "status": status,
        "is_alert": not notification.resolved,
        "message": notification.title,
        "metadata": {
            "version": "1.5.0",
            "uid": notification.key,
            "product": {"name": "Weirguard", "vendor_name": "Weirguard", "version": detector.__version__},
        },
        "finding_info": _information(notification, milliseconds),
        **_subject(notification),
        "unmapped": dict(notification.record),
    }


def _information(notification: Notification, milliseconds: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "uid": notification.id,
        "title": notification.title,
        "types": [notification.kind],
        "analytic": _analytic(notification),
        "modified_time": milliseconds,
    }
    if notification.revision == 1:
        found["created_time"] = milliseconds
    if notification.technique:
        found["attacks"] = [_attack(notification.technique)]
    return found


def _analytic(notification: Notification) -> dict[str, Any]:
    signal = notification.labels.get("signal")
    if signal is None:
        return {"type_id": _RULE, "type": "Rule", "name": notification.kind}
    return {"type_id": _STATISTICAL, "type": "Statistical", "name": signal}


def _attack(technique: str) -> dict[str, Any]:
    """Returns the technique in the matrix of MITRE ATLAS, and what it is a part of."""
    parent, _, part = technique.rpartition(".")
    is_part = part.isdigit() and len(part) == 3
    attack: dict[str, Any] = {"technique": _technique(parent if is_part else technique)}
    if is_part:
        attack["sub_technique"] = _technique(technique)
    if technique.startswith("AML.T0024"):
        attack["tactic"] = _TACTIC
    return attack


def _technique(uid: str) -> dict[str, str]:
    return {"uid": uid, "name": _TECHNIQUES[uid]} if uid in _TECHNIQUES else {"uid": uid}


def _subject(notification: Notification) -> dict[str, Any]:
    """Returns the model as the resource, and the principal, or the members of a group, as users in the evidence."""
    subject: dict[str, Any] = {}
    observables = []
    if notification.model is not None:
        resource = {"uid": notification.model, "name": notification.model, "type": "AI model"}
        if "model_version" in notification.labels:
            resource["version"] = notification.labels["model_version"]
        subject["resources"] = [resource]
        observables.append({"name": "resources[].uid", "type_id": _RESOURCE_UID, "value": notification.model})
    principals = _principals(notification)
    if principals:
        evidence = {"evidence": notification.record.get("evidence", [])}
        users = [{"actor": {"user": {"name": name, "uid": name}}} for name in principals]
        subject["evidences"] = [{**users[0], "data": evidence}, *users[1:]]
        name = "evidences[].actor.user.name"
        observables += [{"name": name, "type_id": _USER_NAME, "value": principal} for principal in principals]
    return {**subject, "observables": observables} if observables else subject


def _principals(notification: Notification) -> list[str]:
    members = [member["principal"] for member in notification.record.get("members", [])]
    return [notification.labels["principal"]] if "principal" in notification.labels else members


class FindingLines(Receiver):
    """Appends each notification as a line. The file is opened again for each line, so it may be rotated."""

    def __init__(self, settings: OcsfSettings, around: Surroundings) -> None:
        self._path = settings.path

    def send(self, notification: Notification) -> str:
        line = json.dumps(finding(notification)) + "\n"
        try:
            if self._path == "-":
                sys.stdout.write(line)
                sys.stdout.flush()
                return "written to standard output"
            with open(self._path, "a", encoding="utf-8") as file:  # noqa: PTH123 - a path as it was given
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, ValueError) as error:
            raise ReceiverAway(f"not written: {failure_text(error)}") from None
        return f"appended to {self._path}"
