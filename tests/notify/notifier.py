"""A notifier in a process of its own, and what a detector would publish for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaProducer

from detector.contracts.codecs.records import LETTER_HEADER, encode
from detector.contracts.findings import DeadLetter
from detector.runtime.broker import dying_with_parent, free_port
from detector.runtime.sections import KafkaSettings
from detector.stream import topics
from tests.conftest import Broker
from tests.e2e.service import Service
from tests.notify.alerts import alert_value, group_value

PARTITIONS = 2


class Alerts:
    """The topics of a detector, and a producer in its place."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self.kafka = KafkaSettings(
            bootstrap_servers=broker.bootstrap, embedded=broker.embedded, prefix=prefix, partitions=PARTITIONS
        )
        topics.ensure(self.kafka)
        self.sent: list[str] = []
        self.connect()

    def connect(self) -> None:
        """Connects, and again after the broker was down: the producer takes up to half a minute to see that it is
        back."""
        self.producer = KafkaProducer(**self.kafka.client_arguments())

    def publish(self, count: int, ago: float = 0.0, **changes: Any) -> None:
        """Publishes ``count`` more alerts, with the record time of ``ago`` seconds before."""
        then = int(1000 * (time.time() - ago))
        for _ in range(count):
            self.sent.append(f"alert{len(self.sent)}")
            self._send(self.kafka.topics.alerts, alert_value(self.sent[-1], **changes), timestamp_ms=then)

    def publish_group(self, size: int, revision: int, **changes: Any) -> None:
        self._send(self.kafka.topics.groups, group_value("group", size, revision, **changes), key=b"group")

    def publish_letters(self, count: int) -> None:
        described = encode(DeadLetter(self.kafka.topics.queries, 0, 12, None, "syntax", "no JSON"))
        for _ in range(count):
            self._send(self.kafka.topics.dead_letters, b"x", headers=[(LETTER_HEADER, described)])

    def _send(self, topic: str, value: bytes, **more: Any) -> None:
        self.producer.send(topic, value, partition=len(self.sent) % PARTITIONS, **more).get(timeout=10)


class Notifier:
    """``weirguard notify`` in a process of its own, about what ``alerts`` or a running service publishes."""

    def __init__(self, alerts: Alerts | Service, notify: dict[str, Any], folder: Path) -> None:
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
def running(alerts: Alerts | Service, notify: dict[str, Any], folder: Path) -> Iterator[Notifier]:
    notifier = Notifier(alerts, notify, folder)
    notifier.start()
    try:
        yield notifier
    finally:
        if notifier.process is not None:
            notifier.process.kill()
            notifier.process.wait()
