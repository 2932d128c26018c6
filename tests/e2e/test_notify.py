"""Over a broker: receivers are killed and come back, the notifier is killed and starts again, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from detector.contracts.codecs.records import encode
from detector.contracts.findings import Command
from detector.contracts.topics import partition_of
from tests.conftest import Broker
from tests.e2e.service import PARTITIONS, running_service
from tests.e2e.test_service import DELTA, send
from tests.notify.notifier import Alerts, running
from tests.notify.stands import ALERTMANAGER, STANDS, AlertmanagerStand, Stand, WebhookStand

PAGERDUTY = Path(__file__).parents[2] / "deploy" / "notify" / "pagerduty.json.j2"


@pytest.fixture
def alerts(broker: Broker, prefix: str) -> Iterator[Alerts]:
    made = Alerts(broker, prefix)
    yield made
    made.producer.close()


def _name(kind: str) -> str:
    return kind.lower().replace(" ", "-")


@pytest.fixture
def stands(tmp_path: Path) -> Iterator[dict[str, Stand]]:
    """One receiver of each kind, all of them there."""
    with ExitStack() as stack:
        made = {}
        for kind, stand in STANDS.items():
            folder = tmp_path / _name(kind)
            folder.mkdir()
            made[_name(kind)] = stack.enter_context(stand(folder))
        yield made


def test_receivers_that_are_killed_meanwhile_get_all_and_each_only_waits_for_itself(
    alerts: Alerts, stands: dict[str, Stand], tmp_path: Path
) -> None:
    receivers = {name: stand.settings for name, stand in stands.items()}
    with running(alerts, {"receivers": receivers}, tmp_path) as notifier:
        alerts.publish(3)
        for stand in stands.values():
            notifier.wait(lambda stand=stand: set(stand.received()) == set(alerts.sent))  # type: ignore[misc]
        dead, alive = list(stands)[:-1], list(stands)[-1]
        for name in dead:
            stands[name].kill()
        alerts.publish(4)
        notifier.wait(lambda: set(stands[alive].received()) == set(alerts.sent))
        for name in dead:
            notifier.wait(lambda name=name: notifier.metric("retries_total", name) >= 2)  # type: ignore[misc]
        assert notifier.page("/readyz") is not None, "a receiver that is away is no reason to restart"
        for name in dead:
            stands[name].start()
        alerts.publish(2)
        for name, stand in stands.items():
            # Alertmanager forgets what it had; that is said again every minute, see test_alertmanager.py.
            wanted = set(alerts.sent[3:] if isinstance(stand, AlertmanagerStand) else alerts.sent)
            notifier.wait(lambda stand=stand, wanted=wanted: wanted <= set(stand.received()))  # type: ignore[misc]
            notifier.wait(lambda name=name: notifier.metric("delivered_total", name) == len(alerts.sent))  # type: ignore[misc]
        notifier.wait(lambda: notifier.metric("lag_records", alive) == 0)
        assert notifier.stop() == 0


def test_a_notifier_that_is_killed_goes_on_where_its_receiver_was(alerts: Alerts, tmp_path: Path) -> None:
    with WebhookStand(tmp_path) as stand:
        notify = {"receivers": {"hook": stand.settings}}
        with running(alerts, notify, tmp_path) as notifier:
            alerts.publish(3)
            notifier.wait(lambda: len(stand.received()) == 3)
            stand.kill()
            alerts.publish(3)
            notifier.wait(lambda: notifier.metric("retries_total", "hook") >= 1)
            notifier.stop(signal.SIGKILL)
            stand.start()
            alerts.publish(1)
            notifier.start()
            notifier.wait(lambda: set(stand.received()) == set(alerts.sent))
            assert notifier.stop() == 0
        # All but the last before the kill were committed before the next was sent.
        assert len(stand.received()) <= len(alerts.sent) + 1


def test_what_is_refused_for_good_is_kept_counted_and_in_nobodys_way(alerts: Alerts, tmp_path: Path) -> None:
    class Refusing(WebhookStand):
        def command(self) -> list[str]:
            return self._listener("http", 422)

    refused = tmp_path / "refused.jsonl"
    with Refusing(tmp_path) as stand:
        notify = {"refused_file": str(refused), "receivers": {"hook": stand.settings}}
        with running(alerts, notify, tmp_path) as notifier:
            alerts.publish(2)
            notifier.wait(lambda: notifier.metric("refused_total", "hook") == 2)
            assert notifier.metric("retries_total", "hook") == 0
            notifier.stop()
    lines = [json.loads(line) for line in refused.read_text("utf-8").splitlines()]
    assert {line["notification"]["id"] for line in lines} == set(alerts.sent)
    assert {(line["receiver"], line["why"]) for line in lines} == {("hook", "422 what you sent is kept")}
    log = [json.loads(line) for line in notifier.log.read_text("utf-8").splitlines()]
    assert [line["id"] for line in log if line["event"] == "refused permanently"]


def test_models_severities_and_dead_letters_reach_whom_they_are_for(alerts: Alerts, tmp_path: Path) -> None:
    wanted: dict[str, tuple[dict[str, Any], list[str]]] = {
        "all": ({}, ["alert0", "alert1", "alert2", "letters"]),
        "high": ({"least_severity": "high"}, ["alert1"]),
        "iris": ({"models": ["iris"]}, ["alert2"]),
    }
    with ExitStack() as stack:
        stands = {}
        for name in wanted:
            (tmp_path / name).mkdir()
            stands[name] = stack.enter_context(WebhookStand(tmp_path / name))
        receivers = {name: {**stands[name].settings, **selection} for name, (selection, _) in wanted.items()}
        notify = {"receivers": receivers, "letters_per_window": 5, "letters_window_seconds": 86_400}
        notifier = stack.enter_context(running(alerts, notify, tmp_path))
        alerts.publish(1)
        alerts.publish(1, severity="high")
        alerts.publish(1, model="iris")
        alerts.publish_letters(12)
        for name, (_, ids) in wanted.items():
            notifier.wait(lambda name=name, ids=ids: len(stands[name].received()) == len(ids))  # type: ignore[misc]
        notifier.wait(lambda: all(notifier.metric("lag_records", name) == 0 for name in wanted))
    for name, (_, ids) in wanted.items():
        bodies = [json.loads(entry["body"]) for entry in stands[name].entries()]
        assert sorted(body["id"] if body["kind"] == "alert" else "letters" for body in bodies) == ids


def test_of_a_group_that_grows_receivers_hear_when_it_matters(alerts: Alerts, tmp_path: Path) -> None:
    with (
        WebhookStand(tmp_path) as stand,
        running(alerts, {"receivers": {"hook": stand.settings}}, tmp_path) as notifier,
    ):
        for revision, size in enumerate((3, 3, 4, 5, 7, 8), start=1):
            alerts.publish_group(size, revision)
        alerts.publish_group(8, 7, severity="high")
        alerts.publish_group(9, 8, severity="high", dismissed_by="alice")
        notifier.wait(lambda: len(stand.received()) >= 5)
        notifier.wait(lambda: notifier.metric("lag_records", "hook") == 0)
        records = [json.loads(entry["body"]) for entry in stand.entries()]
    assert [(one["revision"], one["record"]["size"], one["resolved"]) for one in records] == [
        *((1, 3, False), (3, 4, False), (6, 8, False), (7, 8, False), (8, 9, True)),
    ]


def test_a_release_resolves_what_receivers_were_told(
    broker: Broker, prefix: str, stands: dict[str, Stand], tmp_path: Path
) -> None:
    """From the detector's alert and the operator's command to Alertmanager, PagerDuty's template and a webhook."""
    (tmp_path / "pager").mkdir()
    with ExitStack() as stack:
        pager = stack.enter_context(WebhookStand(tmp_path / "pager"))
        paging = {"webhook": {**pager.settings["webhook"], "template": str(PAGERDUTY), "token": "routing-key"}}
        receivers = {name: stand.settings for name, stand in stands.items()} | {"pager": paging}
        service = stack.enter_context(running_service(broker, prefix, tmp_path, **DELTA))
        notifier = stack.enter_context(running(service, {"receivers": receivers}, tmp_path))
        for seed in range(8):
            send(service, 300, seed)
        notifier.wait(lambda: all(stand.received() for stand in stands.values()))
        fired = set(stands["webhook"].received())
        order = Command("c1", "clear", time.time(), "eve", "m", "thief", "an agreed test")
        home = partition_of("thief", PARTITIONS)
        service.producer.send(service.topics.commands, encode(order), b"thief", partition=home).get(timeout=10)
        notifier.wait(lambda: any(event["event_action"] == "resolve" for event in _bodies(pager)))
        over = {event["dedup_key"] for event in _bodies(pager) if event["event_action"] == "resolve"}
        assert over and over <= {f"weirguard-{one}" for one in fired}
        notifier.wait(lambda: any(body["resolved"] for body in _bodies(stands["webhook"])))
        told = _bodies(stands["webhook"])
        assert {body["record"]["released_by"] for body in told if body["resolved"]} == {"eve"}
        if ALERTMANAGER:
            notifier.wait(lambda: not any(f"weirguard-{one}" in over for one in stands["alertmanager"].received()))


def _bodies(stand: Stand) -> list[dict[str, Any]]:
    return [json.loads(entry["body"]) for entry in stand.entries()]


def _command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detector.cli.main", "notify", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEIRGUARD_")}
    return subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_test_tells_each_receiver_and_prints_what_came_back(stands: dict[str, Stand], tmp_path: Path) -> None:
    receivers = {name: {**stand.settings, "models": ["another"]} for name, stand in stands.items()}
    stands["webhook"].kill()
    variable = {"WEIRGUARD_NOTIFY__RECEIVERS": json.dumps(receivers)}
    done = _command("--test", **variable)
    assert done.returncode == 1, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines.pop("webhook") == "FAILED: no answer: Connection refused"
    assert lines.keys() | {"webhook"} == stands.keys()
    assert all(line.startswith("ok: ") for line in lines.values())
    assert all(stand.received() == ["weirguard-notify-test"] for name, stand in stands.items() if name in lines)
    stands["webhook"].start()
    done = _command("--test", "--json", **variable)
    assert done.returncode == 0, done.stderr
    assert {one["receiver"]: one["ok"] for one in json.loads(done.stdout)} == dict.fromkeys(stands, True)
    assert "SECRET" not in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [[], ["--test"]])
def test_settings_without_a_receiver_are_told(arguments: list[str]) -> None:
    done = _command(*arguments)
    assert done.returncode == 2
    assert "docs/notify.md" in done.stderr
