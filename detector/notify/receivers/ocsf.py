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
from detector.notify.receivers.http import why
from detector.runtime.receivers import OcsfSettings

_CATEGORY, _CLASS = 2, 2004
_CREATE, _UPDATE = 1, 2
_NEW = 1
_SEVERITIES: Final[dict[Severity, tuple[int, str]]] = {"low": (2, "Low"), "medium": (3, "Medium"), "high": (4, "High")}
_RULE, _STATISTICAL = 1, 3
_USER_NAME, _RESOURCE_UID = 4, 10

_TACTIC = {"uid": "AML.TA0010", "name": "Exfiltration"}
_TECHNIQUES = {"AML.T0024": "Exfiltration via AI Inference API", "AML.T0024.002": "Extract AI Model"}
"""Names of MITRE ATLAS techniques."""


def finding(notification: Notification) -> dict[str, Any]:
    """Returns ``notification`` as an OCSF Detection Finding, plain data."""
    activity = _CREATE if notification.revision == 1 else _UPDATE
    milliseconds = round(notification.occurred_at * 1000)
    severity, severity_name = _SEVERITIES[notification.severity]
    return {
        "category_uid": _CATEGORY,
        "category_name": "Findings",
        "class_uid": _CLASS,
        "class_name": "Detection Finding",
        "activity_id": activity,
        "activity_name": "Create" if activity == _CREATE else "Update",
        "type_uid": 100 * _CLASS + activity,
        "time": milliseconds,
        "severity_id": severity,
        "severity": severity_name,
        "status_id": _NEW,
        "status": "New",
        "is_alert": True,
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
    """Returns the model as the resource, and the principal as the evidence's user."""
    subject: dict[str, Any] = {}
    observables = []
    if notification.model is not None:
        resource = {"uid": notification.model, "name": notification.model, "type": "AI model"}
        if "model_version" in notification.labels:
            resource["version"] = notification.labels["model_version"]
        subject["resources"] = [resource]
        observables.append({"name": "resources[].uid", "type_id": _RESOURCE_UID, "value": notification.model})
    principal = notification.labels.get("principal")
    if principal is not None:
        data = {"evidence": notification.record.get("evidence", [])}
        subject["evidences"] = [{"actor": {"user": {"name": principal, "uid": principal}}, "data": data}]
        observables.append(
            {"name": "evidences[].actor.user.name", "type_id": _USER_NAME, "type": "User Name", "value": principal}
        )
    return {**subject, "observables": observables} if observables else subject


class FindingLines(Receiver):
    """Appends each notification as a line. The file is opened anew for each, so that it may be rotated meanwhile."""

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
            raise ReceiverAway(f"not written: {why(error)}") from None
        return f"appended to {self._path}"
