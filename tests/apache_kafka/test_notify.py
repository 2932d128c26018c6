"""The notifier on real Kafka: members of a group come and go, and the broker does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.brokers.node import KafkaNode
from tests.conftest import Broker
from tests.notify.notifier import Alerts, running
from tests.notify.stands import WebhookStand


@pytest.fixture
def alerts(broker: Broker, prefix: str) -> Iterator[Alerts]:
    made = Alerts(broker, prefix)
    yield made
    made.producer.close()


def test_two_notifiers_share_the_work_and_one_takes_over_from_the_other(alerts: Alerts, tmp_path: Path) -> None:
    with WebhookStand(tmp_path) as stand, ExitStack() as stack:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
        notify = {"receivers": {"hook": stand.settings}}
        first = stack.enter_context(running(alerts, notify, tmp_path / "first"))
        alerts.publish(4)
        second = stack.enter_context(running(alerts, notify, tmp_path / "second"))
        alerts.publish(8)
        second.wait(lambda: set(stand.received()) == set(alerts.sent))
        stand.kill()
        alerts.publish(6)
        second.wait(lambda: first.metric("retries_total", "hook") + second.metric("retries_total", "hook") >= 2)
        first.stop(signal.SIGKILL)
        stand.start()
        alerts.publish(2)
        second.wait(lambda: set(stand.received()) == set(alerts.sent))
        assert second.stop() == 0


def test_a_broker_that_is_killed_delays_and_loses_nothing(tmp_path: Path) -> None:
    with KafkaNode(tmp_path / "node") as node, WebhookStand(tmp_path) as stand:
        alerts = Alerts(Broker(node.bootstrap, embedded=False, process=node), "x")
        with running(alerts, {"receivers": {"hook": stand.settings}}, tmp_path) as notifier:
            alerts.publish(3)
            notifier.wait(lambda: set(stand.received()) == set(alerts.sent))
            stand.kill()
            alerts.publish(3)
            notifier.wait(lambda: notifier.metric("retries_total", "hook") >= 1)
            alerts.producer.close()
            node.restart(down_seconds=5.0, kill=True)
            alerts.connect()
            stand.start()
            alerts.publish(3)
            notifier.wait(lambda: set(stand.received()) == set(alerts.sent), seconds=120)
            assert notifier.stop() == 0
        alerts.producer.close()


def test_a_new_receiver_begins_with_the_last_hour(alerts: Alerts, tmp_path: Path) -> None:
    alerts.publish(2, ago=2 * 3600.0)
    alerts.publish(2, ago=600.0)
    with WebhookStand(tmp_path) as stand, running(alerts, {"receivers": {"new": stand.settings}}, tmp_path) as notifier:
        notifier.wait(lambda: set(stand.received()) == set(alerts.sent[2:]))
        notifier.wait(lambda: notifier.metric("lag_records", "new") == 0)
        assert set(stand.received()) == set(alerts.sent[2:])


def test_where_a_new_receiver_begins_is_kept_before_anything_is_told(alerts: Alerts, tmp_path: Path) -> None:
    alerts.publish(2, ago=2 * 3600.0)
    with WebhookStand(tmp_path) as stand, running(alerts, {"receivers": {"new": stand.settings}}, tmp_path) as notifier:
        assert notifier.stop() == 0
        alerts.publish(2, ago=2 * 3600.0)
        notifier.start()
        notifier.wait(lambda: set(stand.received()) == set(alerts.sent[2:]))
