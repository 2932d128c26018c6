"""Over a broker: receivers are killed and come back, the notifier is killed and starts again, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaProducer

from detector.contracts.codecs.records import LETTER_HEADER, encode
from detector.contracts.findings import DeadLetter
from detector.runtime.broker import dying_with_parent, free_port
from detector.runtime.sections import KafkaSettings
from detector.stream import topics
from tests.conftest import Broker
from tests.notify.alerts import alert_value
from tests.notify.stands import STANDS, AlertmanagerStand, Stand, WebhookStand

PARTITIONS = 2


class Alerts:
    """The topics of a detector, and a producer in its place."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self.kafka = KafkaSettings(
            bootstrap_servers=broker.bootstrap, embedded=broker.embedded, prefix=prefix, partitions=PARTITIONS
        )
        topics.ensure(self.kafka)
        self.producer = KafkaProducer(**self.kafka.client_arguments())
        self.sent: list[str] = []

    def publish(self, count: int, **changes: Any) -> None:
        """Publishes ``count`` more alerts."""
        for _ in range(count):
            self.sent.append(f"alert{len(self.sent)}")
            self._send(self.kafka.topics.alerts, alert_value(self.sent[-1], **changes))

    def publish_letters(self, count: int) -> None:
        described = encode(DeadLetter(self.kafka.topics.queries, 0, 12, None, "syntax", "no JSON"))
        for _ in range(count):
            self._send(self.kafka.topics.dead_letters, b"x", headers=[(LETTER_HEADER, described)])

    def _send(self, topic: str, value: bytes, **more: Any) -> None:
        self.producer.send(topic, value, partition=len(self.sent) % PARTITIONS, **more).get(timeout=10)


class Notifier:
    """``weirguard notify`` in a process of its own."""

    def __init__(self, alerts: Alerts, notify: dict[str, Any], folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "notify.log"
        kafka = {
            name: getattr(alerts.kafka, name) for name in ("bootstrap_servers", "embedded", "prefix", "partitions")
        }
        settings = {"kafka": kafka, "notify": notify, "metrics": {"port": self.port}}
        self._settings = folder / "settings.yaml"
        self._settings.write_text(yaml.safe_dump(settings), "utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it reads for all receivers."""
        command = [sys.executable, "-m", "detector.cli.main", "notify", "--settings", str(self._settings)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(dying_with_parent(command), stdout=log, stderr=log)
        self.wait(lambda: self.page("/readyz") is not None)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it by this signal and returns its status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def page(self, path: str) -> str | None:
        """A page of its port, None if it does not answer with 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, ConnectionError):
            return None

    def metric(self, name: str, receiver: str) -> float:
        page = self.page("/metrics") or ""
        series = f'weirguard_notify_{name}{{receiver="{receiver}"}} '
        return float(next(line for line in page.splitlines() if line.startswith(series)).removeprefix(series))

    def wait(self, holds: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process is not None
            ended = self.process.poll() is not None
            assert not ended and time.monotonic() < deadline, self.log.read_text("utf-8")[-4000:]
            time.sleep(0.05)


@contextmanager
def running(alerts: Alerts, notify: dict[str, Any], folder: Path) -> Iterator[Notifier]:
    notifier = Notifier(alerts, notify, folder)
    notifier.start()
    try:
        yield notifier
    finally:
        if notifier.process is not None:
            notifier.process.kill()
            notifier.process.wait()


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
    assert [line["id"] for line in log if line["event"] == "refused for good"]


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
