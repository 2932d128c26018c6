"""A worker under a hostile producer: was every good query judged, did it ever stop, and what did it cost?"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

import numpy as np
import psutil
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine
from detector.groups.owner import GroupOwner
from detector.policy.ledger import Ledger
from detector.runtime.sections import DetectionSettings, KafkaSettings, LimitSettings, PolicySettings, WorkerSettings
from detector.runtime.settings import Settings
from detector.stream import topics
from detector.stream.checkpoint import Checkpointer
from detector.stream.detection_config import engine_config, policy_config
from detector.stream.detector import Detector
from detector.stream.intake import RecordDecoder
from detector.stream.partition import LogWriter, Partition
from tests.chaos.looks import Look, look, looking, metric
from tests.chaos.nonsense import DIMENSION, HostileProducer, Sent
from tests.chaos.stage import environment
from tests.chaos.workers import Worker

PARTITIONS = 4
_PATIENCE_SECONDS = 180.0
_SURVEYS_SECONDS = 12.0
"""Two surveys of a worker are within this."""

Progress = Callable[[int], None]


@dataclass(slots=True)
class Onslaught:
    """What came of it. ``letters``: dead letters on their topic, ``counted`` and ``not_kept`` rows and records.

    ``began``, ``full`` and ``rested`` are looks before anything was sent, when the flood of newcomers was applied, and
    when all was; ``looks`` those while records were sent.
    """

    sent: Sent = field(default_factory=Sent)
    judged: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    letters: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    not_kept: int = 0
    restarts: int = 0
    began: Look | None = None
    full: Look | None = None
    looks: list[Look] = field(default_factory=list)
    rested: Look | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def unjudged(self) -> dict[str, int]:
        """Good queries that were not judged, or judged more often than sent, by principal."""
        due, got = self.sent.due, self.judged
        return {name: due[name] - got[name] for name in sorted(due | got) if due[name] != got[name]}

    def at(self, share: float) -> Look:
        """The look when ``share`` of the records was sent."""
        return min(self.looks, key=lambda look: abs(look.share - share))


class _Service:
    """The worker, its settings and what it reports."""

    def __init__(self, bootstrap: str, directory: Path, letters_per_minute: int) -> None:
        self.settings = _settings(bootstrap, letters_per_minute)
        self.worker = Worker("worker", environment(self.settings), directory / "worker.log")


def run(
    bootstrap: str,
    directory: Path,
    *,
    records: int,
    good: int,
    newcomers: int,
    seed: int = 1,
    letters_per_minute: int = 1_000,
    progress: Progress = lambda _: None,
) -> Onslaught:
    """``records`` of nonsense among ``good`` ones, after a flood of ``newcomers``, to a fresh worker on fresh topics of
    this broker."""
    service, found = _Service(bootstrap, directory, letters_per_minute), Onslaught()
    kafka = service.settings.kafka
    topics.ensure(kafka)
    producer = HostileProducer(bootstrap, kafka.topics, kafka.partitions, seed)
    service.worker.start()
    try:
        _wait_ready(service.worker)
        (process,) = service.worker.processes()
        url = service.worker.url
        found.began = look(process, url, 0.0)
        producer.flood(newcomers)
        _wait_applied(service.settings)
        found.full = _look_later(process, url, 0.0)
        started, cpu = time.monotonic(), _cpu(process)
        with looking(process, url, lambda: producer.sent.records / records, found.looks):
            found.sent = producer.send(records, good, progress)
            _wait_applied(service.settings)
        found.seconds, found.cpu_seconds = time.monotonic() - started, _cpu(process) - cpu
        found.rested = _look_later(process, url, 1.0)
        _read_metrics(url, found)
        found.letters = sum(1 for _ in _records(service.settings, kafka.topics.dead_letters))
        found.judged = _judged(service.settings, producer.generator.names)
    finally:
        service.worker.stop()
    found.restarts += service.worker.log.read_text(errors="replace").count('"worker stopped"')
    return found


def _settings(bootstrap: str, letters_per_minute: int) -> Settings:
    """Limits that are reached early, so that what still grows later has no bound."""
    return Settings(
        kafka=KafkaSettings(
            bootstrap_servers=bootstrap, prefix=f"hostile-{secrets.token_hex(3)}", partitions=PARTITIONS
        ),
        worker=WorkerSettings(
            session_timeout_seconds=10.0, checkpoint_bytes=4_000_000, dead_letters_per_minute=letters_per_minute
        ),
        detection=DetectionSettings(
            dimensions={"digits": DIMENSION}, limits=LimitSettings(principals=1_000, history_queries=256)
        ),
        policy=PolicySettings(mode="enforce", enforce_uncalibrated=True),
    )


def _wait_ready(worker: Worker) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not worker.ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the worker is not ready within {_PATIENCE_SECONDS:g} s")
        time.sleep(0.2)


def _cpu(process: psutil.Process) -> float:
    """CPU seconds; NaN once it has ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return nan
    return float(times.user + times.system)


def _look_later(process: psutil.Process, url: str, share: float) -> Look:
    """A look when the worker has surveyed what it holds now."""
    time.sleep(_SURVEYS_SECONDS)
    return look(process, url, share)


def _wait_applied(settings: Settings) -> None:
    """Until all records of the sources are committed. Raises TimeoutError where that does not go on."""
    before, moved = -1, time.monotonic()
    with KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers) as admin:
        while (left := _left(admin, settings)) > 0:
            if left != before:
                before, moved = left, time.monotonic()
            if time.monotonic() > moved + _PATIENCE_SECONDS:
                raise TimeoutError(f"{left:,} records are not applied, and for {_PATIENCE_SECONDS:g} s none was")
            time.sleep(1.0)


def _left(admin: KafkaAdminClient, settings: Settings) -> int:
    """How many offsets of the sources are not committed."""
    names = settings.kafka.topics
    places = [TopicPartition(one, at) for one in (names.queries, names.rekeyed, names.commands) for at in _numbers()]
    ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
    done = admin.list_group_offsets(names.application).get(names.application, {})
    return sum(int(ends[at].offset - (done[at].offset if at in done else 0)) for at in places)


def _numbers() -> range:
    return range(PARTITIONS)


def _read_metrics(url: str, found: Onslaught) -> None:
    found.rows = metric(url, "weirguard_queries_total").total()
    found.counted = metric(url, "weirguard_dead_letters_total")
    found.not_kept = metric(url, "weirguard_dead_letters_not_kept_total").total()
    found.restarts = metric(url, "weirguard_restarts_total").total()


def _records(settings: Settings, topic: str) -> Iterator[tuple[int, int, bytes]]:
    """Partition, offset and value of all that ``topic`` holds now."""
    with KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, group_id=None, enable_auto_commit=False
    ) as consumer:
        for place in (TopicPartition(topic, at) for at in _numbers()):
            consumer.assign([place])
            end = consumer.end_offsets([place])[place]
            consumer.seek_to_beginning(place)
            while consumer.position(place) < end:
                for record in consumer.poll(timeout_ms=500).get(place, []):
                    yield record.partition, record.offset, record.value


def _judged(settings: Settings, names: list[str]) -> Counter[str]:
    """How many queries of each of ``names`` the state log holds: what a next one of theirs would be numbered."""
    engine, successors = Engine(engine_config(settings)), {}
    for number in _numbers():
        judge = Detector(engine.sibling(), Ledger(policy_config(settings), ""))
        receiver = RecordDecoder(number, PARTITIONS, settings.kafka.topics)
        writer = LogWriter("successor", "", settings.kafka.state_record_bytes)
        groups = GroupOwner((), "", settings.detection.group_bytes)
        checkpointer = Checkpointer(judge, groups, 1 << 40, 1)
        successors[number] = Partition(receiver, judge, groups, checkpointer, writer)
    for number, offset, value in _records(settings, settings.kafka.topics.state_log):
        successors[number].absorb(offset, value)
    judged: Counter[str] = Counter()
    for successor in successors.values():
        own = {key.principal for key in successor.detector.engine.keys()} & set(names)
        if own:
            said = successor.detector.engine.observe([_one_each(sorted(own))])
            judged.update(
                {said.keys[key].principal: int(at) for key, at in zip(said.key_index, said.index, strict=True)}
            )
    return judged


def _one_each(names: list[str]) -> QueryBatch:
    return QueryBatch(
        model="digits",
        model_version="1",
        output_kind="probabilities",
        event_ids=["next"] * len(names),
        occurred_at=np.zeros(len(names)),
        principals=names,
        principal_index=np.arange(len(names), dtype=np.int32),
        features=np.ones((len(names), DIMENSION), np.float32),
        outputs=np.tile(np.array([0.25, 0.75], np.float32), (len(names), 1)),
    )
