"""A service on a broker, under load and watched: what a series of faults is played on."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from detector.runtime.sections import DetectionSettings, KafkaSettings, PolicySettings, WorkerSettings
from detector.runtime.settings import Settings
from detector.stream import topics
from tests.chaos.audit import Names, audit, counted_records
from tests.chaos.load import Load
from tests.chaos.logs import CONSUMER_OFFSETS, Logs, commit_of
from tests.chaos.population import Population
from tests.chaos.report import Report
from tests.chaos.tail import Tail
from tests.chaos.workers import WEIRGUARD_RUN, Worker

SESSION_SECONDS = 6.0
_WARM_UP_QUERIES = 600
PATIENCE_SECONDS = 240.0
_POLL_SECONDS = 0.5
_QUERY_BYTES = 32_768
_AHEAD_SECONDS = 330.0
"""A record's time is believed so far ahead of the worker's, and half a minute for the way."""


class Broker(Protocol):
    """What can be done to either broker."""

    @property
    def bootstrap(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Stage:
    """Topics, workers, load and tail under one prefix. Entering it ends with everybody at work; leaving stops all.

    ``population`` is queried at ``queries_per_second``; ``workers`` start, a ``guest`` may join them, and each has its
    log in ``directory``. ``command`` starts a worker. ``instruments``: another address of the broker,
    for load and tail. ``profile``: the file of the profile that they judge by.
    ``poison``: partition and offset of queries that were sent to end workers.
    """

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        directory: Path,
        population: Population,
        *,
        embedded: bool = False,
        queries_per_second: float = 400.0,
        partitions: int = 6,
        workers: int = 2,
        command: Sequence[str] = WEIRGUARD_RUN,
        instruments: str | None = None,
        profile: Path | None = None,
    ) -> None:
        self.broker = broker
        self.poison: set[tuple[int, int]] = set()
        self.bootstrap = instruments or broker.bootstrap
        self._command = command
        self.directory = directory
        self.embedded = embedded
        self.settings = _settings(broker.bootstrap, prefix, partitions, embedded, profile)
        self.population = population
        self.workers = [self._new_worker(f"worker-{at + 1}") for at in range(workers)]
        self.guest = self._new_worker("guest")
        self.load = Load(self.bootstrap, prefix, partitions, population, queries_per_second)
        self.tail = Tail(self.bootstrap, prefix, embedded=embedded)
        self._names = Names(prefix)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Until ``condition`` holds. Raises TimeoutError when that is hopeless, however slow the machine."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {seconds:g} s; logs in {self.directory}")
            time.sleep(_POLL_SECONDS)

    def drain(self) -> Report:
        """Stop the load, wait until all of it is applied and committed, and audit; the audit as it is at the latest."""
        self.load.stop()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._settled() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return self.audit()

    def audit(self) -> Report:
        """What the audit says now."""
        logs, commits = self.tail.snapshot()
        most = self.settings.policy.decision_seconds + _AHEAD_SECONDS
        prefix, stamped = self._names.prefix, not self.embedded
        return audit(logs, prefix, commits=commits, append_times=stamped, poison=self.poison, most_seconds=most)

    def exits(self) -> Counter[str]:
        """Why workers stopped, from what the supervisors logged."""
        found: Counter[str] = Counter()
        for log in sorted(self.directory.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines():
                if '"worker stopped"' in line:
                    found[json.loads(line[line.index("{") :])["why"]] += 1
        return found

    def _new_worker(self, name: str) -> Worker:
        return Worker(name, environment(self.settings), self.directory / f"{name}.log", self._command)

    def _begin(self) -> None:
        topics.ensure(self.settings.kafka)
        if not self.embedded:
            _stamp_by_broker(self.bootstrap, self._names)
            _offsets_topic(self.bootstrap)
        self._stack.enter_context(self.tail)
        self._stack.callback(self.load.close)
        for worker in (*self.workers, self.guest):
            self._stack.callback(worker.stop)
        for worker in self.workers:
            worker.start()
        self.wait("workers ready", self.all_ready)
        self.load.send(_WARM_UP_QUERIES)
        self.wait("the first queries applied", self._warm)
        self.load.start()

    def all_ready(self) -> bool:
        gone = [worker.name for worker in self.workers if not worker.running]
        if gone:
            raise RuntimeError(f"{', '.join(gone)} ended before being ready; logs in {self.directory}")
        return all(worker.ready() for worker in self.workers)

    def last_words(self, worker: Worker) -> str:
        """Why the workers of ``worker`` stopped, as they logged it."""
        lines = (line for line in worker.log.read_text(errors="replace").splitlines() if line.startswith("{"))
        return " ".join(told["why"] for told in map(json.loads, lines) if told["level"] == "critical")

    def _warm(self) -> bool:
        self.load.check()
        return self._sent_and_applied() and len(self.load.last) == self.settings.kafka.partitions

    def _sent_and_applied(self) -> bool:
        return self.applied(dict(self.load.last))

    def applied(self, wanted: Mapping[int, int]) -> bool:
        """Whether the state holds these offsets, by partition."""
        logs, _ = self.tail.snapshot()
        return all(applied_offset(logs, self._names, number) >= offset for number, offset in wanted.items())

    def _settled(self) -> bool:
        if not (self._sent_and_applied() and self._followed()):
            return False
        report = self.audit()
        return not report.problems and self._committed()

    def _followed(self) -> bool:
        """Whether the state holds what workers have sent each other so far."""
        logs, _ = self.tail.snapshot()
        sources = {source: getattr(self._names, source) for source in ("judged", "commands")}
        return all(
            applied_offset(logs, self._names, number, source) >= logs.entries[topic, number][-1].offset
            for source, topic in sources.items()
            for number in logs.partitions(topic)
        )

    def _committed(self) -> bool:
        """Whether every partition's last record is acknowledged."""
        logs, seen = self.tail.snapshot()
        commits = (
            [commit for entry in logs.of(CONSUMER_OFFSETS) if (commit := commit_of(entry, self._names.prefix))]
            if seen is None
            else seen
        )
        done = {(commit.partition, commit.offset) for commit in commits if commit.topic == self._names.queries}
        return all((number, last + 1) in done for number, last in self.load.last.items())


def applied_offset(logs: Logs, names: Names, partition: int, source: str = "queries") -> int:
    """The last offset of ``source`` that the state of ``partition`` holds."""
    records = counted_records(logs, names.prefix, partition)
    return max((record.applied(source) for record in records), default=-1)


def _settings(bootstrap: str, prefix: str, partitions: int, embedded: bool, profile: Path | None) -> Settings:
    """Short sessions, enforcement, decisions that need renewal within a run, several checkpoint rounds in it, and state
    records so small that the larger ones come in parts."""
    return Settings(
        kafka=KafkaSettings(
            bootstrap_servers=bootstrap,
            prefix=prefix,
            partitions=partitions,
            embedded=embedded,
            query_record_bytes=_QUERY_BYTES,
            state_record_bytes=4 * _QUERY_BYTES,
        ),
        worker=WorkerSettings(
            session_timeout_seconds=SESSION_SECONDS,
            checkpoint_bytes=100_000,
            restart_most_seconds=2.0,
            microbatch_bytes=4 * _QUERY_BYTES,
        ),
        detection=DetectionSettings(profiles=() if profile is None else (profile,)),
        policy=PolicySettings(mode="enforce", enforce_uncalibrated=True, decision_seconds=20.0),
    )


def environment(settings: Settings) -> dict[str, str]:
    """``settings`` as a worker's environment variables."""
    found = {}
    for section, values in settings.model_dump(mode="json", exclude_defaults=True).items():
        for name, value in values.items():
            found[f"WEIRGUARD_{section}__{name}".upper()] = value if isinstance(value, str) else json.dumps(value)
    return found


def _stamp_by_broker(bootstrap: str, names: Names) -> None:
    """Append times on all that the audit orders by time."""
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        stamp = {"message.timestamp.type": "LogAppendTime"}
        topics_of_interest = [names.state, names.groups, names.alerts, names.decisions, names.audit]
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, stamp) for name in topics_of_interest])


def _offsets_topic(bootstrap: str) -> None:
    """Have the broker make its offsets topic now, so that it can be read from its first record."""
    deadline = time.monotonic() + 30
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        while CONSUMER_OFFSETS not in admin.list_topics():
            if time.monotonic() > deadline:
                raise TimeoutError("the broker made no offsets topic within 30 s")
            try:
                admin.list_group_offsets("nobody")
            except KafkaError:
                time.sleep(0.2)
        admin.wait_for_topics([CONSUMER_OFFSETS])
