"""The worker's reports: health for the watchdog and the probes, metrics for Prometheus."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from detector.contracts.actions import name_of
from detector.core.profile import Profile
from detector.runtime import metric_defs as names
from detector.runtime.health import Health
from detector.runtime.metrics import Metrics
from detector.stream.detection_config import describe_profiles, uncalibrated_warning
from detector.stream.poison import SourcePartition
from detector.stream.source_records import FetchState, SourceRecord, TimeFault

if TYPE_CHECKING:
    from detector.stream.commit_unit import CommitUnit, Series
    from detector.stream.partition import Partition

_log = structlog.get_logger("weirguard.stream")
_MOST_LOGGED = 100
_CALIBRATE = "write one with `weirguard calibrate` and name it in detection.profiles"


class Reporter:
    """Gathers facts from the partition manager. ``wall`` gives Unix time."""

    def __init__(self, health: Health, metrics: Metrics, wall: Callable[[], float] = time.time) -> None:
        self.health = health
        self.metrics = metrics
        self.applied: dict[SourcePartition, int] = {}
        self.wall = wall
        self._logged: set[str] = set()
        self._answered_at: float | None = None

    def failed(self, where: str, error: Exception) -> None:
        """Counts a failure outside the stream, which continues, and logs each kind once."""
        self.metrics.add(names.INTERNAL_ERRORS, where=where)
        if self._is_new(f"{where} {type(error).__name__}"):
            _log.error("an internal error; the worker continues", where=where, exc_info=error)

    def left_out(self, topic: str) -> None:
        """Counts a message to ``topic`` that was permanently refused."""
        self.metrics.add(names.REFUSED, topic=topic)

    def judged_by(self, profiles: Sequence[Profile]) -> None:
        """Reports the profiles in use."""
        self.health.profiles = {f"{profile.model} {profile.model_version}": profile.hash for profile in profiles}
        for profile in profiles:
            labels = {"model": profile.model, "model_version": profile.model_version, "profile": profile.hash}
            self.metrics.set(names.PROFILE_INFO, 1, **labels)
        for line in describe_profiles(profiles):
            _log.info(line)
        if not profiles:
            self._warn(f"{uncalibrated_warning('every model')}; {_CALIBRATE}")

    def assigned(self, partitions: Collection[int]) -> None:
        """Reports the partitions that are ours now; their state is not restored yet."""
        self.health.assigned(len(partitions))
        self.applied = {source: offset for source, offset in self.applied.items() if source[1] in partitions}
        self.metrics.set(names.PARTITIONS_ASSIGNED, len(partitions))
        self.metrics.set(names.PARTITIONS_RECOVERED, 0)

    def recovered(self, partitions: int) -> None:
        """Reports how many partitions have their state."""
        self.health.recovered(partitions)
        self.metrics.set(names.PARTITIONS_RECOVERED, partitions)

    def restored(self, partition: Partition) -> None:
        """Counts what was left out of a state log that was read to its end."""
        self.metrics.add(names.STALE_RECORDS, partition.cursor.stale_records)
        self.metrics.add(names.SKIPPED_SECTIONS, partition.detector.engine.skipped_sections)

    def time_replaced(self, fault: TimeFault, topic: str, timestamp: float | None) -> None:
        """Counts an impossible Kafka timestamp, and logs it once per topic and fault."""
        self.metrics.add(names.RECORD_TIMES_CLAMPED, fault=fault)
        if self._is_new(f"{topic} {fault}"):
            _log.warning("a record's timestamp is not believed", topic=topic, fault=fault, stamped=timestamp)

    def _is_new(self, what: str) -> bool:
        """Returns whether to log this: it is new, and there were not too many other things."""
        new = what not in self._logged and len(self._logged) < _MOST_LOGGED
        if new:
            self._logged.add(what)
        return new

    def took(self, stage: str, seconds: Iterable[float]) -> None:
        """Observes how long ``stage`` took, each time."""
        self.metrics.observe(names.STAGE_DURATION, seconds, stage=stage)

    def performed(self, done: Sequence[tuple[Partition, Sequence[SourceRecord], CommitUnit]]) -> None:
        """Reports micro-batches that are applied, and whose results are published."""
        if not done:
            return
        now = self.wall()
        for partition, records, _ in done:
            last = records[-1]
            self.health.applied(last.timestamp)
            self.applied[last.source, partition.number] = last.offset
        oldest = min(records[-1].timestamp for _, records, _ in done)
        self.metrics.set(names.EVENT_TIME_LAG, max(now - oldest, 0.0))
        self.metrics.set(names.LAST_RECORD, now)
        self._count([unit for _, _, unit in done])

    def logged(self, units: Sequence[CommitUnit]) -> None:
        """Counts the state records of ``units``, which are on the broker."""
        for unit in units:
            self.metrics.add(names.STATE_LOG_RECORDS, kind=unit.kind)
            self.metrics.add(names.STATE_LOG_BYTES, unit.nbytes, kind=unit.kind)
            self.metrics.add(names.CHECKPOINT_ROUNDS, unit.kind == "round")

    def broker_answered(self, at: float | None, connected: bool) -> None:
        """Reports when a fetch was last answered, Unix time; where nothing is fetched, a connection is enough."""
        answered = connected if at is None else at != self._answered_at
        self._answered_at = at
        self.health.contacted(answered, connected)

    def passed_gap(self, source: str, missing: int) -> None:
        """Counts a gap in ``source``, ``missing`` of whose offsets were deleted unread."""
        self.metrics.add(names.GAPS, topic=source)
        self.metrics.add(names.RECORDS_LOST, missing, topic=source)

    def survey(
        self,
        partitions: Collection[Partition],
        fetched: Mapping[SourcePartition, FetchState],
        committed: Mapping[SourcePartition, int],
    ) -> None:
        """Reports the state of ``partitions``, and how far their sources are ``fetched`` and ``committed``."""
        applied = {
            (source, partition.number): offset
            for partition in partitions
            for source, offset in partition.applied.items()
        }
        behind = {source: state.behind(applied.get(source, -1)) for source, state in fetched.items()}
        if self.health.brokers_answer():
            self.health.behind(sum(behind.values()))
        self.metrics.replace(names.RECORDS_BEHIND, _labelled(behind))
        waiting = {source: max(offset + 1 - committed.get(source, 0), 0) for source, offset in self.applied.items()}
        self.metrics.replace(names.RECORDS_UNCOMMITTED, _labelled(waiting))
        engines = [partition.detector.engine for partition in partitions]
        ledgers = [partition.detector.ledger for partition in partitions]
        self.metrics.set(names.PRINCIPALS_TRACKED, sum(map(len, engines)))
        policy = sum(ledger.nbytes + ledger.accounting.nbytes + ledger.budgets.nbytes for ledger in ledgers)
        groups = sum(partition.groups.nbytes for partition in partitions)
        shared = engines[0].nbytes() if engines else 0
        self.metrics.set(names.STATE_BYTES, policy + groups + shared)
        sizes = [size for partition in partitions for size in partition.groups.sizes().items()]
        for metric, at in ((names.GROUPS, 0), (names.GROUP_MEMBERS, 1)):
            counts: Counter[tuple[str, ...]] = Counter()
            for series, size in sizes:
                counts[series] += size[at]
            self.metrics.replace(metric, dict(counts))
        joint: dict[tuple[str, ...], float] = {
            series: share for partition in partitions for series, share in partition.groups.joint().items()
        }
        self.metrics.replace(names.JOINT_EXPOSURE, joint)
        active = [
            decision for partition in partitions for decision in partition.detector.ledger.active(partition.policy_time)
        ]
        kinds: Counter[tuple[str, ...]] = Counter(
            (decision.model, name_of(decision.action), decision.mode) for decision in active
        )
        self.metrics.replace(names.DECISIONS_ACTIVE, dict(kinds))

    def _count(self, units: Sequence[CommitUnit]) -> None:
        counts: Counter[Series] = Counter()
        observed: defaultdict[Series, list[float]] = defaultdict(list)
        for unit in units:
            counts.update(unit.counts)
            for series, values in unit.observed.items():
                observed[series] += values
        for (metric, labels), amount in counts.items():
            self.metrics.add(metric, amount, **_labels(metric, labels))
        for (metric, labels), values in observed.items():
            self.metrics.observe(metric, values, **_labels(metric, labels))
        for version in sorted({version for unit in units for version in unit.uncalibrated} - self.health.uncalibrated):
            if len(self.health.uncalibrated) < _MOST_LOGGED:
                self.health.uncalibrated.add(version)
                self._warn(f"{uncalibrated_warning(version)}; {_CALIBRATE}")
        for warning in (warning for unit in units for warning in unit.warnings):
            self._warn(warning)

    def _warn(self, warning: str) -> None:
        """Logs ``warning`` once."""
        if self._is_new(warning):
            _log.warning(warning)


def _labels(metric: names.Metric, values: tuple[str, ...]) -> dict[str, str]:
    return {label.name: value for label, value in zip(metric.labels, values, strict=True)}


def _labelled(values: Mapping[SourcePartition, int]) -> dict[tuple[str, ...], float]:
    return {(source, str(partition)): value for (source, partition), value in values.items()}
