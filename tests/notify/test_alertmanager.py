"""Alertmanager: what fires is said again, as Alertmanager keeps it in memory alone."""

from __future__ import annotations

from pathlib import Path

from detector.notify.receivers import new_receiver
from detector.notify.receivers.base import Surroundings
from detector.runtime.receivers import ReceiverSettings
from tests.notify.alerts import notification
from tests.notify.stands import AlertmanagerStand


class Clock:
    def __init__(self) -> None:
        from time import time

        self.now = time()

    def __call__(self) -> float:
        return self.now


def test_what_fires_is_said_again_after_a_restart(tmp_path: Path) -> None:
    with AlertmanagerStand(tmp_path) as stand:
        clock = Clock()
        settings = ReceiverSettings.model_validate(
            {"alertmanager": {"url": f"http://127.0.0.1:{stand.port}/", "firing_seconds": 600}}
        )
        receiver = new_receiver(settings, Surroundings("one", clock, "h"))
        receiver.send(notification("one", severity="medium"))
        receiver.send(notification("one", severity="high", revision=2))
        clock.now += 300
        receiver.send(notification("two"))
        stand.kill()
        (tmp_path / "kept.jsonl").unlink(missing_ok=True)
        stand.start()
        receiver.refresh()
        found = {alert["labels"]["alert_id"]: alert for alert in stand.alerts()}
        assert found.keys() == {"one", "two"}
        assert found["one"]["annotations"]["severity"] == "high"
        assert found["one"]["labels"].keys() == {
            *("alertname", "alert_id", "receiver", "model", "model_version", "principal", "signal"),
        }
        clock.now += 400
        (tmp_path / "kept.jsonl").unlink(missing_ok=True)
        stand.kill()
        stand.start()
        receiver.refresh()
        assert {alert["labels"]["alert_id"] for alert in stand.alerts()} == {"two"}
