"""The worker's reports: health for the watchdog and the probes, metrics for Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import structlog

from detector.core.profile.profile import Profile, ProfileMismatch
from detector.runtime import metric_defs as names
from detector.runtime.health import Health
from detector.runtime.metrics import Metrics
from detector.stream.intake import SourceRecord
from detector.stream.profiles import hashes, told, uncalibrated
from detector.stream.reading import Reading
from detector.stream.record_time import TimeFault

if TYPE_CHECKING:
    from detector.stream.partition import Partition
    from detector.stream.step import Step

_log = structlog.get_logger("weirguard.stream")
_MOST_LOGGED = 100
_FAULT = (
    "see weirguard_queries_unjudged_total for the reasons, and whether the deployment and its profile fit each other"
)
_CALIBRATE = "write one with `weirguard calibrate` and name it in detection.profiles"

_Name = TypeVar("_Name")

Place = tuple[str, int]
"""(source, partition)."""


class Reporter:
    """Gathers facts from the owner. ``wall`` gives Unix time: how old a record is, and whether that can be."""

    def __init__(self, health: Health, metrics: Metrics, wall: Callable[[], float] = time.time) -> None:
        self.health = health
        self.metrics = metrics
        self.applied: dict[Place, int] = {}
        self._wall = wall
        self._logged: set[str] = set()
        self._heard_at: float | None = None

    def failed(self, where: str, error: Exception) -> None:
        """A failure outside the stream, which goes on: counted, and each kind is logged once."""
        self.metrics.add(names.INTERNAL_ERRORS, where=where)
        if self._is_new(f"{where} {type(error).__name__}"):
            _log.error("an internal error; it goes on", where=where, exc_info=error)

    def left_out(self, topic: str) -> None:
        """A message to ``topic`` was refused for good."""
        self.metrics.add(names.REFUSED, topic=topic)

    def judged_by(self, profiles: Sequence[Profile]) -> None:
        """These profiles are in use."""
        self.health.profiles = hashes(profiles)
        for own in profiles:
            self.metrics.set(names.PROFILE_INFO, 1, model=own.model, model_version=own.model_version, profile=own.hash)
        for line in told(profiles):
            _log.info(line)
        if not profiles:
            self._warn(f"{uncalibrated('every model')}; {_CALIBRATE}")

    def assigned(self, partitions: Collection[int]) -> None:
        """These partitions are ours now, their state not yet restored."""
        self.health.assigned(len(partitions))
        self.applied = {place: offset for place, offset in self.applied.items() if place[1] in partitions}
        self.metrics.set(names.PARTITIONS_ASSIGNED, len(partitions))
        self.metrics.set(names.PARTITIONS_RECOVERED, 0)

    def absorbed(self) -> None:
        """A record of the state log was read."""
        self.health.absorbed()

    def recovered(self, partitions: int) -> None:
        """The state of this many partitions is restored."""
        self.health.recovered(partitions)
        self.metrics.set(names.PARTITIONS_RECOVERED, partitions)

    def restored(self, partition: Partition) -> None:
        """This partition's state log was read to its end; counts what was left out."""
        self.metrics.add(names.STALE_RECORDS, partition.place.stale_records)
        self.metrics.add(names.SKIPPED_SECTIONS, partition.judge.engine.skipped_sections)

    def now(self) -> float:
        """Unix time."""
        return self._wall()

    def disbelieved(self, fault: TimeFault, topic: str, timestamp: float | None) -> None:
        """A record's Kafka timestamp is impossible; logged once per topic and fault."""
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
        """How long ``stage`` took, each time."""
        self.metrics.observe(names.STAGE_DURATION, seconds, stage=stage)

    def performed(self, done: Sequence[tuple[Partition, Sequence[SourceRecord], Step]]) -> None:
        """These micro-batches are applied, and all that follows from them is published."""
        if not done:
            return
        now = self._wall()
        counts: Counter[str] = Counter()
        for partition, records, _ in done:
            last = records[-1]
            self.health.applied(last.timestamp)
            self.applied[last.source, partition.number] = last.offset
            counts[last.source] += len(records)
        for source, count in counts.items():
            self.metrics.add(names.RECORDS, count, topic=source)
        oldest = min(records[-1].timestamp for _, records, _ in done)
        self.metrics.set(names.EVENT_TIME_LAG, max(now - oldest, 0.0))
        self.metrics.set(names.LAST_RECORD, now)
        self._count([step for _, _, step in done])

    def logged(self, steps: Sequence[Step]) -> None:
        """The state records of ``steps`` are on the broker."""
        for kind in {step.kind for step in steps}:
            nbytes = [step.nbytes for step in steps if step.kind == kind]
            self.metrics.add(names.STATE_LOG_RECORDS, len(nbytes), kind=kind)
            self.metrics.add(names.STATE_LOG_BYTES, sum(nbytes), kind=kind)
            if kind == "round":
                self.metrics.add(names.CHECKPOINT_ROUNDS, len(nbytes))

    def heard(self, at: float | None, connected: bool) -> None:
        """When a fetch was last answered, Unix time; where nothing is fetched a connection has to do."""
        answered = connected if at is None else at != self._heard_at
        self._heard_at = at
        self.health.contacted(answered, connected)

    def passed_gap(self, source: str, missing: int) -> None:
        """A gap in ``source`` was passed; ``missing`` of its offsets were deleted unread."""
        self.metrics.add(names.GAPS, topic=source)
        self.metrics.add(names.RECORDS_LOST, missing, topic=source)

    def survey(
        self, partitions: Collection[Partition], readings: Mapping[Place, Reading], committed: Mapping[Place, int]
    ) -> None:
        """A look at everything held, and at how far the ``readings`` of the sources are, every few seconds."""
        held = {(source, one.number): offset for one in partitions for source, offset in one.applied.items()}
        behind = {place: reading.waiting(held.get(place, -1)) for place, reading in readings.items()}
        if self.health.brokers_answer():
            self.health.behind(sum(behind.values()))
        self.metrics.replace(names.RECORDS_BEHIND, _labelled(behind))
        waiting = {place: max(offset + 1 - committed.get(place, 0), 0) for place, offset in self.applied.items()}
        self.metrics.replace(names.RECORDS_UNCOMMITTED, _labelled(waiting))
        engines = [partition.judge.engine for partition in partitions]
        self.metrics.set(names.PRINCIPALS_TRACKED, sum(len(engine) for engine in engines))
        ledgers = [partition.judge.ledger for partition in partitions]
        policy = sum(ledger.nbytes + ledger.accounting.nbytes for ledger in ledgers)
        self.metrics.set(names.STATE_BYTES, policy + (engines[0].nbytes() if engines else 0))
        standing: Counter[tuple[str, ...]] = Counter()
        for partition in partitions:
            for decision in partition.judge.ledger.active(partition.policy_time):
                standing[decision.model, decision.action.name, decision.mode] += 1
        self.metrics.replace(names.DECISIONS_ACTIVE, dict(standing))

    def _count(self, steps: Sequence[Step]) -> None:
        self._count_answered(steps)
        counts = (
            (names.DEAD_LETTERS, "reason", _total(step.refused for step in steps)),
            (names.DEAD_LETTERS_NOT_KEPT, "reason", _total(step.not_kept for step in steps)),
            (names.QUERIES_MISSING, "kind", _total(step.missing for step in steps)),
            (names.REPAIRED, "what", _total(step.repaired for step in steps)),
        )
        for metric, label, total in counts:
            for value, count in total.items():
                self.metrics.add(metric, count, **{label: value})
        for model in {model for step in steps for model in step.scores}:
            self.metrics.observe(names.SCORE, [v for step in steps for v in step.scores.get(model, ())], model=model)
        for model, signal in {key for step in steps for key in step.exposures}:
            shares = [share for step in steps for share in step.exposures.get((model, signal), ())]
            self.metrics.observe(names.EXPOSURE, shares, model=model, signal=signal)
        for step in steps:
            self._count_findings(step)
            self._count_misfits(step.misfits)
        self.metrics.add(names.REKEYED, sum(step.rekeyed for step in steps))
        self.metrics.add(names.EVICTIONS, sum(step.evicted for step in steps))

    def _count_answered(self, steps: Sequence[Step]) -> None:
        """Counts the fate of answered queries: the first figure is the sum of the others."""
        answered: Counter[str] = Counter()
        for metric, plain in ((names.QUERIES, "judged"), (names.QUERIES_REPEATED, "repeated")):
            for model, queries in _total(getattr(step, plain) for step in steps).items():
                self.metrics.add(metric, queries, model=model)
                answered[model] += queries
        for (model, version), queries in _total(step.uncalibrated for step in steps).items():
            self.metrics.add(names.QUERIES_UNCALIBRATED, queries, model=model)
            self._uncalibrated(f"{model} {version}")
        for metric, parts in ((names.QUERIES_UNJUDGED, "unjudged"), (names.QUERIES_DROPPED, "dropped")):
            for (model, reason), queries in _total(getattr(step, parts) for step in steps).items():
                self.metrics.add(metric, queries, model=model, reason=reason)
                answered[model] += queries
        for model, queries in answered.items():
            self.metrics.add(names.QUERIES_ANSWERED, queries, model=model)
        for model, queries in _total(step.excused for step in steps).items():
            self.metrics.add(names.QUERIES_EXCUSED, queries, model=model)
            self._warn(
                f"most active principals of {model} send what cannot be judged, and none is accused of it; {_FAULT}"
            )

    def _uncalibrated(self, version: str) -> None:
        """Say it of each model version once, to the probes and in the log."""
        if version not in self.health.uncalibrated and len(self.health.uncalibrated) < _MOST_LOGGED:
            self.health.uncalibrated.add(version)
            self._warn(f"{uncalibrated(version)}; {_CALIBRATE}")

    def _warn(self, warning: str) -> None:
        """Log ``warning`` once."""
        if self._is_new(warning):
            _log.warning(warning)

    def _count_misfits(self, misfits: Iterable[ProfileMismatch]) -> None:
        """Counts them, and logs each kind once."""
        for misfit in misfits:
            self.metrics.add(names.MISFITS, misfit.queries, model=misfit.model, reason=misfit.reason)
            self._warn(misfit.detail)

    def _count_findings(self, step: Step) -> None:
        for alert in (alert for alert in step.alerts if alert.revision == 1):
            self.metrics.add(names.ALERTS, model=alert.model, signal=alert.signal, severity=alert.severity)
        for decision in step.decisions:
            origin = decision.causes[0].origin.partition(":")[0] if decision.causes else "operator"
            self.metrics.add(names.DECISIONS, action=decision.action.name, mode=decision.mode, origin=origin)


def _total(counts: Iterable[Counter[_Name]]) -> Counter[_Name]:
    total: Counter[_Name] = Counter()
    for one in counts:
        total.update(one)
    return total


def _labelled(by_place: Mapping[Place, int]) -> dict[tuple[str, ...], float]:
    return {(source, str(partition)): value for (source, partition), value in by_place.items()}
