"""Prometheus's Alertmanager, API version 2: one alert a notification, whose labels all revisions share."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from detector.notify.notification import Notification
from detector.notify.receivers.base import Receiver, Surroundings
from detector.notify.receivers.http import HttpEndpoint
from detector.runtime.receivers import AlertmanagerSettings
from detector.runtime.sections import secret
from detector.runtime.text import rfc3339

_NAMES = {"alert": "WeirguardAlert", "group-alert": "WeirguardGroupAlert", "dead-letters": "WeirguardDeadLetters"}
_PATH = "/api/v2/alerts"
_MOST_FIRING = 1_000


class Alertmanager(Receiver):
    """Posts alerts. The label ``receiver`` is the name in the settings: two receivers with other severities can have
    other routes. The severity is an annotation, or a revision would be another alert.

    Alertmanager keeps alerts in memory and expects repeats, so this receiver repeats the last ``_MOST_FIRING`` alerts
    that fire.
    """

    def __init__(self, settings: AlertmanagerSettings, around: Surroundings) -> None:
        key = around.key("alertmanager")
        address = (secret(settings, key, "url") or "").rstrip("/")
        self._endpoint = HttpEndpoint(address.removesuffix(_PATH) + _PATH, f"{key}.url", settings.ssl_cafile)
        self._name = around.name
        self._clock = around.clock
        self._firing_seconds = settings.firing_seconds
        self._firing: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()

    def send(self, notification: Notification) -> str:
        ends_at = self._clock() + (0.0 if notification.resolved else self._firing_seconds)
        alert = self._alert(notification, ends_at)
        answer = self._endpoint.post(json.dumps([alert]).encode())
        self._firing[notification.id] = ends_at, alert
        self._firing.move_to_end(notification.id)
        if len(self._firing) > _MOST_FIRING:
            self._firing.popitem(last=False)
        return answer

    def refresh(self) -> None:
        now = self._clock()
        for identity in [identity for identity, (ends_at, _) in self._firing.items() if ends_at <= now]:
            del self._firing[identity]
        if self._firing:
            self._endpoint.post(json.dumps([alert for _, alert in self._firing.values()]).encode())

    def _alert(self, notification: Notification, ends_at: float) -> dict[str, Any]:
        return {
            "labels": {
                "alertname": _NAMES[notification.kind],
                "receiver": self._name,
                "alert_id": notification.id,
                **notification.labels,
            },
            "annotations": {
                "summary": notification.title,
                "severity": notification.severity,
                "revision": str(notification.revision),
                "technique": notification.technique or "",
                "record": json.dumps(notification.record),
            },
            "startsAt": rfc3339(min(notification.occurred_at, ends_at)),  # the broker's clock may be ahead
            "endsAt": rfc3339(ends_at),
        }
