"""The expected outcome of an undisturbed run: ``weirguard replay`` of the same records.

The records go into one Parquet file a partition, with their Kafka timestamps. The disturbed run's alerts and decisions
are those on the broker; its verdicts are what an engine says that is rebuilt from the state records that count. Both
are asked the same question: one further query by everybody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import partition_of
from detector.core.engine import Engine, Observation
from detector.groups.owner import SECTION as GROUPS_SECTION
from detector.replay.report import replay
from detector.runtime.settings import Settings
from detector.stream.detection_config import engine_config, policy_config
from detector.stream.detector import POLICY_SECTION
from detector.stream.source_checks import SECTION
from tests.chaos.audit import Counted, Names, content, counted_records
from tests.chaos.logs import Entry, Logs
from tests.contracts.wire import decode_queries

_SCORE_ROUNDING = 1e-9
_OTHERS = {POLICY_SECTION, SECTION, GROUPS_SECTION}

Timed = tuple[Entry, float]
"""A source record, and when it came, in seconds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One principal after one further query: the query's number, the verdict and the score."""

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


def expected(
    logs: Logs, settings: Settings, further: QueryBatch, directory: Path, poison: Collection[tuple[int, int]] = ()
) -> Outcome:
    """The outcome of an undisturbed run over the source topic as it lies on the broker, without the ``poison`` in it;
    files go to ``directory``."""
    outcome = Outcome()
    names = Names(settings.kafka.prefix)
    for partition in logs.partitions(names.queries):
        home = directory / f"partition-{partition}"
        home.mkdir(parents=True)
        records = counted_records(logs, settings.kafka.prefix, partition)
        entries = believed(logs.entries[names.queries, partition], records)
        kept = (one for one in entries if (partition, one[0].offset) not in poison)
        queries = write_queries(kept, home / "queries.parquet")
        said = _replay([queries], home / "replayed", settings)
        outcome.alerts |= _contents((said / "alerts.jsonl").read_bytes().splitlines())
        outcome.decisions |= _contents((said / "decisions.jsonl").read_bytes().splitlines())
        outcome.verdicts |= _undisturbed_verdicts(queries, home, settings, _of(further, partition, settings))
    return outcome


def observed(logs: Logs, settings: Settings, further: QueryBatch) -> Outcome:
    """The outcome of the disturbed run."""
    names = Names(settings.kafka.prefix)
    alerts, decisions = (_contents(one.value for one in logs.of(topic)) for topic in (names.alerts, names.decisions))
    outcome = Outcome(alerts, decisions)
    for partition in logs.partitions(names.queries):
        records = counted_records(logs, settings.kafka.prefix, partition)
        for start in {0, _last_cut(records)}:
            rebuilt = _rebuilt([record for record in records if record.entry.offset >= start], settings)
            outcome.verdicts |= _merged(outcome.verdicts, _verdicts(rebuilt, _of(further, partition, settings)))
    return outcome


def differences(wanted: Outcome, got: Outcome, colluding: Collection[str] = ()) -> list[str]:
    """What differs, in sentences; none where all is equal. ``replay`` decides nothing about groups: the decisions about
    ``colluding`` principals are left out, and of their alerts the episode, which begins with the group's command."""
    found = []
    for kind in ("alerts", "decisions"):
        due, there = (_comparable(kind, getattr(own, kind), colluding) for own in (wanted, got))
        found += [f"missing from {kind}: {text:.1500}" for text in sorted(due - there)]
        found += [f"too many in {kind}: {text:.1500}" for text in sorted(there - due)]
    for name in sorted(wanted.verdicts | got.verdicts):
        one, other = wanted.verdicts.get(name), got.verdicts.get(name)
        if one is None or other is None or not one.agrees(other):
            found.append(f"verdict of {name}: {other} where {one} is due")
    return found


def _comparable(kind: str, texts: Iterable[str], colluding: Collection[str]) -> set[str]:
    alone = {text for text in texts if json.loads(text)["principal"] not in colluding}
    if kind == "decisions":
        return alone
    others = (json.loads(text) for text in set(texts) - alone)
    return alone | {json.dumps(own | {"id": "", "episode": 0}, sort_keys=True) for own in others}


def _contents(values: Iterable[bytes | None]) -> set[str]:
    return {content(value) for value in values if value is not None}


def _of(batch: QueryBatch, partition: int, settings: Settings) -> QueryBatch:
    """One row of ``batch`` for each principal of this partition."""
    _, first = np.unique(batch.principal_index, return_index=True)
    homes = [partition_of(batch.principals[batch.principal_index[row]], settings.kafka.partitions) for row in first]
    return take(batch, np.asarray([row for row, home in zip(first, homes, strict=True) if home == partition], np.int64))


def believed(entries: Iterable[Entry], records: Sequence[Counted]) -> Iterator[Timed]:
    """``entries`` of one partition with the times, in seconds, that their worker took them to be of: none is later than
    the policy time of the state record that covers it, and where one claimed to be, that is what it was taken for. None
    is earlier than the policy time before that record, which a later command may have moved."""
    bounds, before = dict[int, tuple[float, float]](), 0.0
    for record in records:
        clock = record.header["policy_time"]
        if record.header["source"]:
            first, last = record.header["source"]
            bounds |= dict.fromkeys(range(first, last + 1), (before, clock))
        before = max(before, clock)
    for entry in entries:
        least, most = bounds.get(entry.offset, (0.0, inf))
        yield entry, min(max(entry.at / 1000, least), most)


def write_queries(entries: Iterable[Timed], path: Path) -> Path:
    """All rows of these source records as a query log with their times."""
    table = pa.concat_tables(_as_table(batch, at) for entry, at in entries if (batch := _rows(entry)) is not None)
    pq.write_table(table, path)
    return path


def _rows(entry: Entry) -> QueryBatch | None:
    return decode_queries(entry.value, _content_type(entry), timestamp=entry.at / 1000).batch


def _as_table(batch: QueryBatch, time: float) -> pa.Table:
    rows = len(batch)
    columns = {
        "event_id": batch.event_ids,
        "occurred_at": np.full(rows, time),
        "principal": [batch.principals[at] for at in batch.principal_index],
        "model": [batch.model] * rows,
        "model_version": [batch.model_version] * rows,
        "features": pa.array(list(batch.features), pa.list_(pa.float32())),
        "outputs": pa.array(list(batch.outputs), pa.list_(pa.float32())),
    }
    return pa.table(columns)


def _replay(files: Sequence[Path], out: Path, settings: Settings) -> Path:
    replay(files, out, engine_config=engine_config(settings), policy=policy_config(settings))
    return out


def _undisturbed_verdicts(queries: Path, home: Path, settings: Settings, further: QueryBatch) -> dict[str, Verdict]:
    if not len(further):
        return {}
    asked = home / "further.parquet"
    pq.write_table(_as_table(further, time.time()), asked)
    table = pq.read_table(_replay([queries, asked], home / "asked", settings) / "verdicts.parquet")
    rows = table.slice(table.num_rows - len(further)).to_pylist()
    return {row["principal"]: Verdict(row["index"], row["flagged"], _number(row["score"])) for row in rows}


def _number(score: float | None) -> float:
    return float("nan") if score is None else score


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
    return {name: (version, data) for name, (version, data) in sections.items() if name not in _OTHERS}


def _verdicts(engine: Engine, further: QueryBatch) -> dict[str, Verdict]:
    if not len(further):
        return {}
    said: Observation = engine.observe([further])
    names = [said.keys[key].principal for key in said.key_index]
    rows = zip(said.index.tolist(), said.flagged.tolist(), said.score.tolist(), strict=True)
    return {name: Verdict(*row) for name, row in zip(names, rows, strict=True)}


def _merged(before: dict[str, Verdict], now: dict[str, Verdict]) -> dict[str, Verdict]:
    """Both ways of rebuilding must agree; if they do not, an unexpected verdict shows it."""
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
