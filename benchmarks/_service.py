"""What the benchmarks of the running service share: a broker, workers, and figures about them."""

from __future__ import annotations

import argparse
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec

from detector.runtime.broker import EmbeddedBroker
from detector.runtime.sections import DetectionSettings, KafkaSettings, PolicySettings, WorkerSettings
from detector.runtime.settings import Settings
from detector.stream import topics
from tests.brokers.node import KafkaNode
from tests.chaos.stage import environment
from tests.chaos.workers import Worker

BROKERS = ("embedded", "apache")


def brokers_to_measure(description: str | None) -> list[str]:
    """``--broker``, or all that this machine can run: Apache Kafka needs Java, and Maven the first time."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--broker", choices=BROKERS)
    chosen = parser.parse_args().broker
    if chosen is not None:
        return [chosen]
    if shutil.which("java") is None:
        print("no Java here: Apache Kafka is left out")
        return ["embedded"]
    return list(BROKERS)


@dataclass(frozen=True, slots=True)
class Service:
    """Topics under a fresh prefix on a broker of its own, and one worker, not yet started."""

    settings: Settings
    worker: Worker

    def wait_ready(self) -> None:
        wait_until("the worker ready", self.worker.ready)

    def ends(self, topic: str) -> dict[int, int]:
        """The end offset of each partition of ``topic``."""
        kafka = self.settings.kafka
        with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
            return {number: end for number, (_, end) in retained(admin, topic, kafka.partitions).items()}

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the worker process so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def process(self) -> psutil.Process:
        return self.worker.processes()[0]


@contextmanager
def service(
    broker: str,
    partitions: int,
    worker: WorkerSettings | None = None,
    detection: DetectionSettings | None = None,
    policy: PolicySettings | None = None,
) -> Iterator[Service]:
    """A service with these settings, which enforces unless they say otherwise; everything is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, _running(broker, Path(folder) / "kafka") as bootstrap:
        settings = Settings(
            kafka=KafkaSettings(
                bootstrap_servers=bootstrap,
                embedded=broker == "embedded",
                prefix=f"bench-{secrets.token_hex(3)}",
                partitions=partitions,
            ),
            worker=worker or WorkerSettings(session_timeout_seconds=6.0),
            detection=detection or DetectionSettings(),
            policy=policy or PolicySettings(mode="enforce", enforce_uncalibrated=True),
        )
        topics.ensure(settings.kafka)
        one = Worker("worker", environment(settings), Path(folder) / "worker.log")
        try:
            yield Service(settings, one)
        finally:
            one.stop()


@contextmanager
def _running(broker: str, directory: Path) -> Iterator[str]:
    with EmbeddedBroker() if broker == "embedded" else KafkaNode(directory) as process:
        yield process.bootstrap


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 600.0, every: float = 0.05) -> float:
    """Until ``condition`` holds; returns how long that took. Raises TimeoutError."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)
    return time.monotonic() - started


def retained(admin: KafkaAdminClient, topic: str, partitions: int) -> dict[int, tuple[int, int]]:
    """First and end offset of each partition of ``topic``, by what the broker still holds."""
    places = [TopicPartition(topic, number) for number in range(partitions)]
    first = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
    end = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
    return {place.partition: (first[place].offset, end[place].offset) for place in places}
