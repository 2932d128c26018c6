"""What should have come of the queries, had nothing happened: the same records through the same judge, in one go.

The disturbed run's alerts and decisions are those on the broker; its verdicts are what an engine says that is rebuilt
from the state records that count. Both engines are then asked the same question: one further query by everybody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from detector.contracts.codecs.queries import decode_queries
from detector.contracts.codecs.records import encode
from detector.contracts.partitioning import partition_of
from detector.contracts.queries import QueryBatch
from detector.core.batch import MicroBatch, Observation
from detector.core.engine import Engine
from detector.policy.ledger import Ledger
from detector.runtime.settings import Settings
from detector.stream.building import engine_config, policy_of
from detector.stream.judge import POLICY_SECTION, Judge
from tests.chaos.audit import Counted, Names, content, counted_records
from tests.chaos.logs import Entry, Logs

_BATCH_RECORDS = 200
_SCORE_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one principal after one further query: which number it has, whether he is a suspect, how suspect."""

    queries: int
    flagged: bool
    score: float

    def agrees(self, other: Verdict) -> bool:
        close = np.isclose(self.score, other.score, rtol=_SCORE_ROUNDING, atol=_SCORE_ROUNDING, equal_nan=True)
        return (self.queries, self.flagged) == (other.queries, other.flagged) and bool(close)


@dataclass(slots=True)
class Outcome:
    """Alerts and decisions without their epochs, and verdicts by principal."""

    alerts: set[str] = field(default_factory=set)
    decisions: set[str] = field(default_factory=set)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        self.alerts |= other.alerts
        self.decisions |= other.decisions
        self.verdicts |= other.verdicts


def expected(logs: Logs, settings: Settings, further: QueryBatch) -> Outcome:
    """The outcome of an undisturbed run over the source topic as it lies on the broker."""
    outcome = Outcome()
    names = Names(settings.kafka.prefix)
    for partition in logs.partitions(names.queries):
        outcome.add(_undisturbed(logs.entries[names.queries, partition], settings, _of(further, partition, settings)))
    return outcome


def observed(logs: Logs, settings: Settings, further: QueryBatch) -> Outcome:
    """The outcome of the disturbed run."""
    names = Names(settings.kafka.prefix)
    outcome = Outcome(_contents(logs.of(names.alerts)), _contents(logs.of(names.decisions)))
    for partition in logs.partitions(names.queries):
        records = counted_records(logs, settings.kafka.prefix, partition)
        for start in {0, _last_cut(records)}:
            rebuilt = _rebuilt([record for record in records if record.entry.offset >= start], settings)
            outcome.verdicts |= _merged(outcome.verdicts, _verdicts(rebuilt, _of(further, partition, settings)))
    return outcome


def differences(wanted: Outcome, got: Outcome) -> list[str]:
    """What differs, in sentences; none where all is equal."""
    found = []
    for kind in ("alerts", "decisions"):
        one, other = getattr(wanted, kind), getattr(got, kind)
        found += [f"missing from {kind}: {text:.300}" for text in sorted(one - other)]
        found += [f"too many in {kind}: {text:.300}" for text in sorted(other - one)]
    for name in sorted(wanted.verdicts | got.verdicts):
        one, other = wanted.verdicts.get(name), got.verdicts.get(name)
        if one is None or other is None or not one.agrees(other):
            found.append(f"verdict of {name}: {other} where {one} is due")
    return found


def _contents(entries: Iterable[Entry]) -> set[str]:
    return {content(entry.value) for entry in entries if entry.value is not None}


def _of(batch: QueryBatch, partition: int, settings: Settings) -> QueryBatch:
    """One row of ``batch`` for each principal of this partition."""
    from detector.contracts.batches import take

    _, first = np.unique(batch.principal_index, return_index=True)
    homes = [partition_of(batch.principals[batch.principal_index[row]], settings.kafka.partitions) for row in first]
    return take(batch, np.asarray([row for row, home in zip(first, homes, strict=True) if home == partition], np.int64))


def _judge(settings: Settings) -> Judge:
    config = engine_config(settings)
    return Judge(Engine(config), Ledger(policy_of(settings), config.configuration_hash()))


def _undisturbed(entries: Sequence[Entry], settings: Settings, further: QueryBatch) -> Outcome:
    judge, outcome, clock = _judge(settings), Outcome(), 0.0
    for start in range(0, len(entries), _BATCH_RECORDS):
        pieces, times = list[QueryBatch](), list[float]()
        for entry in entries[start : start + _BATCH_RECORDS]:
            clock = max(clock, entry.at / 1000)
            batch = decode_queries(entry.value, _content_type(entry), timestamp=entry.at / 1000).batch
            if batch is not None:
                pieces.append(batch)
                times += [clock] * len(batch)
        effects = judge.judge(pieces, np.asarray(times)).effects
        outcome.alerts |= {content(encode(alert)) for alert in effects.alerts}
        outcome.decisions |= {content(encode(decision)) for decision in effects.decisions}
    outcome.verdicts = _verdicts(judge.engine, further)
    return outcome


def _content_type(entry: Entry) -> str | None:
    found = dict(entry.headers).get("content-type")
    return None if found is None else found.decode()


def _last_cut(records: Sequence[Counted]) -> int:
    """Where the last finished checkpoint round lets the log begin."""
    cuts = [record.header["first_chunk"] for record in records if record.header["kind"] == "round"]
    return max((cut for cut in cuts if cut is not None), default=0)


def _rebuilt(records: Iterable[Counted], settings: Settings) -> Engine:
    engine = Engine(engine_config(settings))
    for record in records:
        sections = _sections(record.entry)
        if sections:
            (engine.load if record.header["kind"] == "chunk" else engine.absorb)(sections)
    return engine


def _sections(entry: Entry) -> dict[str, tuple[int, bytes]]:
    assert entry.value is not None
    sections: dict[str, Any] = msgspec.msgpack.decode(entry.value)["sections"]
    return {name: (version, data) for name, (version, data) in sections.items() if name != POLICY_SECTION}


def _verdicts(engine: Engine, further: QueryBatch) -> dict[str, Verdict]:
    if not len(further):
        return {}
    said: Observation = engine.observe(MicroBatch((further,)))
    names = [said.keys[key].principal for key in said.key_index]
    rows = zip(said.index.tolist(), said.flagged.tolist(), said.score.tolist(), strict=True)
    return {name: Verdict(*row) for name, row in zip(names, rows, strict=True)}


def _merged(before: dict[str, Verdict], now: dict[str, Verdict]) -> dict[str, Verdict]:
    """Both ways of rebuilding must agree; where they do not, a verdict that nobody expects says so."""
    return {
        name: verdict if name not in before or before[name].agrees(verdict) else replace(verdict, queries=-1)
        for name, verdict in now.items()
    }


def plain(outcome: Outcome) -> dict[str, int]:
    """Figures for a table."""
    flagged = sum(verdict.flagged for verdict in outcome.verdicts.values())
    return {"alerts": len(outcome.alerts), "decisions": len(outcome.decisions), "suspects": flagged}


def actions(outcome: Outcome) -> dict[str, int]:
    """How many decisions of each action."""
    found: dict[str, int] = {}
    for text in outcome.decisions:
        name = json.loads(text)["action"]["name"]
        found[name] = found.get(name, 0) + 1
    return found
