"""A running service for a test: topics, one worker, and readers of what it publishes."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from detector.contracts.codecs import HEARTBEAT_KEY
from detector.contracts.topics import Topics
from detector.runtime.sections import KafkaSettings
from detector.serving import Connection
from detector.stream import topics as topic_admin
from tests.chaos.workers import WEIRGUARD_RUN, Worker
from tests.conftest import Broker

PARTITIONS = 4


@dataclass
class Service:
    """``worker`` runs; ``kafka`` says how to reach the broker."""

    kafka: KafkaSettings
    worker: Worker
    producer: KafkaProducer

    @property
    def topics(self) -> Topics:
        return self.kafka.topics

    @property
    def connection(self) -> Connection:
        """What a serving layer reaches the broker with."""
        return Connection(self.kafka.bootstrap_servers, self.topics, self.kafka.client_arguments())

    def read(self, topic: str, enough: Callable[[list[Any]], bool], seconds: float = 60.0) -> list[Any]:
        """All records of ``topic`` from its beginning, but heartbeats, until ``enough``; fails after ``seconds``."""
        with KafkaConsumer(
            **self.kafka.client_arguments(), group_id=None, auto_offset_reset="earliest", enable_auto_commit=False
        ) as consumer:
            consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
            consumer.seek_to_beginning()
            records: list[Any] = []
            deadline = time.monotonic() + seconds
            while not enough(records):
                if time.monotonic() > deadline:
                    raise AssertionError(f"{topic} has {len(records)} records; the worker's log:\n{self.log_tail()}")
                for batch in consumer.poll(timeout_ms=200).values():
                    records += [record for record in batch if record.key != HEARTBEAT_KEY]
            return records

    def resident_bytes(self) -> int:
        """Memory of the worker process."""
        with urllib.request.urlopen(f"{self.worker.url}/metrics", timeout=5) as answer:
            page = answer.read().decode()
        line = next(line for line in page.splitlines() if line.startswith("process_resident_memory_bytes "))
        return int(float(line.split()[1]))

    def metric(self, name: str) -> float:
        """The sum of all series of ``name``; NaN where the worker does not answer."""
        try:
            with urllib.request.urlopen(f"{self.worker.url}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return float("nan")
        series = (line.rsplit(" ", 1) for line in lines if line.partition("{")[0].partition(" ")[0] == name)
        return sum(float(value) for _, value in series)

    def last_words(self) -> str:
        """Why the worker stopped, as it logged it."""
        lines = [json.loads(line) for line in self.worker.log.read_text().splitlines() if line.startswith("{")]
        return " ".join(line["why"] for line in lines if line["level"] == "critical")

    def log_tail(self) -> str:
        return "\n".join(self.worker.log.read_text().splitlines()[-20:])


@contextmanager
def running_service(
    broker: Broker, prefix: str, directory: Path, command: Sequence[str] = WEIRGUARD_RUN, **variables: str
) -> Iterator[Service]:
    """A worker under its supervisor, ready, with ``variables`` added to its environment; stopped cleanly at the end."""
    address = {"bootstrap_servers": broker.bootstrap, "embedded": broker.embedded, **broker.security}
    kafka = KafkaSettings.model_validate({**address, "prefix": prefix, "partitions": PARTITIONS})
    topic_admin.ensure(kafka)
    environment = {
        "WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "WEIRGUARD_KAFKA__EMBEDDED": str(broker.embedded).lower(),
        "WEIRGUARD_KAFKA__PREFIX": prefix,
        "WEIRGUARD_KAFKA__PARTITIONS": str(PARTITIONS),
        "WEIRGUARD_WORKER__SESSION_TIMEOUT_SECONDS": "3" if broker.embedded else "6",
        "WEIRGUARD_POLICY__MODE": "enforce",
        "WEIRGUARD_POLICY__ENFORCE_UNCALIBRATED": "true",
    }
    environment |= {f"WEIRGUARD_KAFKA__{name.upper()}": value for name, value in broker.security.items()}
    worker = Worker("worker", environment | variables, directory / "worker.log", command)
    worker.start()
    producer = KafkaProducer(**kafka.client_arguments())
    service = Service(kafka, worker, producer)
    try:
        _wait_until_ready(service)
        yield service
        if worker.running:
            worker.leave()
    finally:
        producer.close()
        worker.kill_all()


def _wait_until_ready(service: Service, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not service.worker.ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"the worker did not become ready:\n{service.log_tail()}")
        time.sleep(0.1)
