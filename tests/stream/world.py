"""A partition, its state log and its source without a broker: owners come, die and come back late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from detector.contracts.batches import take
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.codecs.records import decode
from detector.contracts.findings import Action, Decision
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import Topics
from detector.core.engine import Engine, EngineConfig, Limits, PradaConfig
from detector.core.profile import Profile
from detector.groups.owner import GroupOwner
from detector.policy.config import Policy
from detector.policy.ladder import Rung, plain_ladder
from detector.policy.ledger import Ledger
from detector.runtime.metric_defs import Metric
from detector.stream.checkpoint import Checkpointer
from detector.stream.commit_unit import CommitUnit
from detector.stream.detector import Detector
from detector.stream.intake import RecordDecoder
from detector.stream.partition import LogWriter, Partition, commit_together
from detector.stream.source_records import SourceRecord
from detector.stream.state_log import RECORD_BYTES, Message, StateRecord
from detector.stream.state_log import encode as encode_record

TOPICS = Topics("test")
PACKED = {"content-type": PACKED_CONTENT_TYPE.encode()}


def new_partition(
    number: int = 0,
    partitions: int = 1,
    round_bytes: int = 1 << 30,
    name: str = "w",
    record_bytes: int = RECORD_BYTES,
    profiles: Sequence[Profile] = (),
) -> Partition:
    """A partition with small limits, so that everything happens within a few hundred queries."""
    config = EngineConfig(
        prada=PradaConfig(delta=0.85, window=128, consecutive_checks=1),
        limits=Limits(1000, 400),
        profiles=tuple(profiles),
    )
    ladder = plain_ladder(Rung(0, Action("slow", 1.0)), Rung(50, Action("refuse")))
    policy = Policy(mode="enforce", enforce_uncalibrated=True, ladder=ladder, decision_seconds=40.0)
    judge = Detector(Engine(config), Ledger(policy, "test"))
    receiver = RecordDecoder(number, partitions, TOPICS)
    writer = LogWriter(name, "test", record_bytes)
    groups = GroupOwner(profiles, "test", 1 << 22)
    return Partition(receiver, judge, groups, Checkpointer(judge, groups, round_bytes, 3_000), writer)


def queries(rows: int, seed: int, dimension: int = 16) -> QueryBatch:
    """Queries of four principals; one takes equal steps and is flagged."""
    rng = np.random.default_rng(seed)
    who = rng.integers(0, 4, rows).astype(np.int32)
    features = rng.standard_normal((rows, dimension)).astype(np.float32)
    steps = np.flatnonzero(who == 3)
    for at_row, row in enumerate(steps[40:], start=40):
        features[row] = features[steps[at_row % 40]] + 0.05 * np.sign(rng.standard_normal(dimension))
    outputs = np.tile(np.array([0.2, 0.8], np.float32), (rows, 1))
    ids = [f"{seed}-{row}" for row in range(rows)]
    names = ["ana", "bo", "chi", "thief"]
    return QueryBatch("m", "1", "probabilities", ids, np.zeros(rows), names, who, features, outputs)


def source(batch: QueryBatch, sizes: Sequence[int], seconds: float = 1.0) -> list[SourceRecord]:
    """``batch`` as packed records of these sizes, one every ``seconds``."""
    records, start = [], 0
    for offset, size in enumerate(sizes):
        piece = take(batch, np.arange(start, min(start + size, len(batch))))
        start += size
        records.append(
            SourceRecord("queries", offset, 1000.0 + offset * seconds, None, encode_packed(piece, ()), PACKED)
        )
    return records


@dataclass
class World:
    """The log and the topics, as the current owner and earlier ones wrote them."""

    source: list[SourceRecord]
    round_bytes: int = 1 << 30
    log: list[tuple[int, bytes]] = field(default_factory=list)
    published: list[Message] = field(default_factory=list)
    owners: int = 0
    record_bytes: int = RECORD_BYTES
    _end: int = 0

    def append(self, value: bytes) -> int:
        self.log.append((self._end, value))
        self._end += 1
        return self._end - 1

    def append_step(self, step: CommitUnit) -> int:
        """Log the state record of ``step``; gives the offset of its first part."""
        first, *_ = [self.append(value) for _, value in step.log_entries]
        return first

    def take_over(self) -> Partition:
        """A new owner: fence, recovery, publication of what is missing."""
        self.owners += 1
        partition = new_partition(round_bytes=self.round_bytes, name=f"w{self.owners}", record_bytes=self.record_bytes)
        fence = self.append(encode_record(StateRecord("fence", -1, 0)))
        for offset, value in self.log:
            partition.absorb(offset, value)
        self.published += partition.takeover(fence, 0)
        opening = partition.taken_over()
        if opening is not None:
            partition.confirm(opening, self.append_step(opening))
        return partition

    def run(self, partition: Partition, upto: int, batch: int = 2, dies_after: str = "") -> CommitUnit | None:
        """Let ``partition`` apply records up to offset ``upto``; in the last step it dies at a named point."""
        step = None
        while (start := partition.applied.get("queries", -1) + 1) < upto:
            records = self.source[start : min(start + batch, upto)]
            step = apply(partition, records)
            last = records[-1].offset + 1 >= upto
            if last and dies_after == "step":
                return step
            if last and dies_after == "part":
                parts = [value for _, value in step.log_entries]
                for value in parts[: len(parts) // 2]:
                    self.append(value)
                return step
            offset = self.append_step(step)
            if last and dies_after == "record":
                return step
            self.published += step.after
            partition.confirm(step, offset)
            self._checkpoint(partition)
        return step

    def _checkpoint(self, partition: Partition) -> None:
        while (chunk := partition.checkpoint()) is not None:
            offset = self.append_step(chunk)
            partition.confirm(chunk, offset)
            if chunk.kind == "round":
                assert chunk.first_chunk is not None
                self.log = [(at, value) for at, value in self.log if at >= chunk.first_chunk]

    def outcome(self) -> tuple[set[bytes], set[bytes]]:
        """Alerts, and decisions without their epochs."""
        alerts = {message.value for message in self.published if message.topic == TOPICS.alerts}
        decisions = [message.value for message in self.published if message.topic == TOPICS.decisions]
        return alerts, {_without_epoch(value) for value in decisions}


def _without_epoch(value: bytes) -> bytes:
    fields: dict[str, Any] = msgspec.json.decode(value)
    fields.pop("epoch")
    return msgspec.json.encode(fields)


def state_of(partition: Partition) -> tuple[Any, ...]:
    """Everything that must be equal in two owners of the same state."""
    engine, ledger = partition.detector.engine, partition.detector.ledger
    keys = sorted(engine.keys(), key=lambda key: key.principal)
    entries = sorted(ledger.keys())
    return (
        dict(partition.applied),
        partition.policy_time,
        [engine.dump([key]) for key in keys],
        [(key.model, key.principal) for key in keys],
        [ledger.dump([key]) for key in entries],
        [ledger.accounting.dump([key]) for key in sorted(ledger.accounting.keys())],
        list(partition.groups.dump()),
        ledger.exemptions.dump(),
    )


def apply(partition: Partition, records: Sequence[SourceRecord]) -> CommitUnit:
    """Applies fresh ``records`` of queries or re-keyed queries as one state record."""
    (unit,) = commit_together([(partition, partition.decode(records))])
    return unit


def figures(unit: CommitUnit, metric: Metric) -> dict[tuple[str, ...], int]:
    """What ``unit`` adds to ``metric``, by its labels, without zeros."""
    return {labels: amount for (one, labels), amount in unit.counts.items() if one is metric and amount}


def decisions_of(unit: CommitUnit) -> list[Decision]:
    """The decisions that ``unit`` publishes."""
    return [decode(Decision, message.value) for message in unit.after if message.topic == TOPICS.decisions]


def command(offset: int, value: bytes, timestamp: float = 1060.0) -> SourceRecord:
    return SourceRecord("commands", offset, timestamp, None, value)


def at(record: SourceRecord, **changes: Any) -> SourceRecord:
    return replace(record, **changes)
