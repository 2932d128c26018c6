"""Writes the results of engine and policy for recorded queries: verdicts, alerts, decisions, bad rows and a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs import encode
from detector.contracts.queries import BadRow
from detector.core.engine import EngineConfig, Observation
from detector.core.profile import Profile
from detector.policy.config import Policy
from detector.replay.groups import group_record
from detector.replay.judging import LogBatch, ReplayResult, counts_before, judge_logs
from detector.replay.odometer import Reading
from detector.replay.readings import Readings
from detector.sources import LogReader

COUNTED_FROM = 0
"""``index`` and ``first_flagged`` in the files count from 0, for compatibility; text for people counts from 1."""
_ROWS_IN_A_GROUP = 65_536
_REWRITE_GROWTH = 1.125
"""A group is written again when it has grown by this, as each line holds all its members."""


def replay(  # noqa: PLR0913 - one keyword for each option of the command
    paths: Sequence[Path],
    out: Path,
    *,
    engine_config: EngineConfig,
    policy: Policy,
    reader: LogReader | None = None,
    progress: Callable[[int], None] | None = None,
    must_fit: Sequence[Profile] = (),
    not_after: float = inf,
) -> dict[str, Any]:
    """Judges the queries in ``paths``, writes the results to the folder ``out``, and returns the summary.

    ``reader`` tells how to read the files, by default in the order given. Policy time is the running maximum of
    ``occurred_at``, capped at ``not_after``, seconds UTC.

    ``verdicts.parquet`` has one row per query in the order of judging. ``alerts.jsonl`` and ``decisions.jsonl`` hold
    the records that the service would publish, with the epoch (0, 0) in decisions. ``groups.jsonl`` has a line for each
    revision of a group. ``refused.jsonl`` lists the bad
    rows, counted from 1. ``summary.json`` has the reasons of refusal, the repairs (``limits.REPAIRS``), the model
    versions with their profiles, and for each principal the number of queries, the first flagged query or null, the
    unjudged rows by reason, and as ``odometer`` the ``fidelity``, from ``low`` to ``high``, that a clone trained on the
    answers would have, or null; of a group, one trained on those of all members. ``index`` and ``first_flagged`` count
    from 0, ``first_flagged_query`` from 1; ``alerts`` counts the revisions of one alert once. ``progress`` is called
    with the number of rows, good or bad,
    processed since. Raises ConfigurationError, also if ``must_fit`` has profiles and a query matches none of them.
    """
    batches = judge_logs(
        paths, engine_config=engine_config, policy=policy, reader=reader, must_fit=must_fit, not_after=not_after
    )
    out.mkdir(parents=True, exist_ok=True)
    with ReplayReport(out, paths, Readings(engine_config)) as report:
        for batch, judgement in batches:
            report.clamp(sum(int((piece.occurred_at >= not_after).sum()) for piece in batch.pieces))
            report.add(batch, judgement)
            if progress:
                progress(len(batch))
        return report.summary()


class ReplayReport:
    """The files that a replay of ``paths`` writes to the folder ``out``, with ``readings`` of the odometer. A context
    manager."""

    def __init__(self, out: Path, paths: Sequence[Path], readings: Readings) -> None:
        self._out = out
        self._paths = paths
        self._readings = readings
        self._accounts: dict[tuple[str, str], _AccountCounts] = {}
        self._counts = Counter(dict.fromkeys(("queries", "refused", "alerts", "decisions", "evicted", "clamped"), 0))
        self._reasons: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()
        self._profiles: dict[tuple[str, str], str | None] = {}
        self._files = ExitStack()
        self._verdicts = VerdictFile(out / "verdicts.parquet")
        self._files.callback(self._verdicts.close)
        self._groups: dict[str, dict[str, Any]] = {}
        self._written: dict[str, int] = {}
        self._alerts, self._decisions, self._refused, self._revisions = (
            self._files.enter_context((out / f"{name}.jsonl").open("wb"))
            for name in ("alerts", "decisions", "refused", "groups")
        )

    def __enter__(self) -> ReplayReport:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def clamp(self, rows: int) -> None:
        """Counts rows whose time is too far in the future."""
        self._counts["clamped"] += rows

    def add(self, batch: LogBatch, judged: ReplayResult | None) -> None:
        """Writes one micro-batch."""
        if judged is not None:
            self._add_groups(judged)
            self._profiles.update(judged.profiles)
            self._verdicts.uncalibrated = [f"{m} {v}" for (m, v), profile in self._profiles.items() if profile is None]
            self._add_observation(batch, judged)
            self._readings.add(batch.pieces, judged.observation)
            for alert in judged.effects.alerts:
                self._counts["alerts"] += alert.revision == 1
                self._alerts.write(encode(alert) + b"\n")
            for decision in judged.effects.decisions:
                self._counts["decisions"] += 1
                self._decisions.write(encode(decision) + b"\n")
        for log, bad in batch.bad_rows:
            self._refuse(log, bad)
        self._repaired += batch.repaired

    def summary(self) -> dict[str, Any]:
        """Returns the totals and one entry per principal, and writes them to ``summary.json``."""
        models = [
            {"model": model, "model_version": version, "calibrated": profile is not None, "profile": profile}
            for (model, version), profile in self._profiles.items()
        ]
        for group, entry in self._groups.items():
            if len(entry["members"]) > self._written[group]:
                self._write_group(group, max(self._counts["queries"] - 1, 0))
        suspects = [key for key, entry in self._accounts.items() if entry.first_flagged is not None]
        read, groups = self._readings.of_accounts(suspects), list(self._groups.values())
        of_groups = self._readings.of_groups(
            [[(group["model"], name) for name in group["members"]] for group in groups]
        )
        summary = {
            **self._counts,
            "reasons": dict(self._reasons.most_common()),
            "repaired": dict(self._repaired),
            "index_counts_from": COUNTED_FROM,
            "queries_count_from": 1,
            "rows_count_from": 1,
            "calibrated": all(model["calibrated"] for model in models),
            "models": models,
            "groups": [
                group | {"members": list(group["members"]), "odometer": _reading(reading)}
                for group, reading in zip(groups, of_groups, strict=True)
            ],
            "principals": [
                {"model": key[0], "principal": key[1], **counts.entry(), "odometer": _reading(read.get(key))}
                for key, counts in self._accounts.items()
                if counts.queries or counts.unjudged
            ],
        }
        (self._out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        return summary

    def _add_groups(self, judged: ReplayResult) -> None:
        index = judged.observation.index
        for model, version, revision in judged.groups.revisions:
            row = self._counts["queries"] + int((index[: revision.row] >= 0).sum())
            first = self._groups.get(revision.id, {"row": row, "members": {}})
            first["members"].update(dict.fromkeys(revision.joined))  # a member that was forgotten may join again
            self._groups[revision.id] = group_record(model, version, revision, first["row"]) | {
                "members": first["members"]
            }
            if len(first["members"]) >= _REWRITE_GROWTH * self._written.get(revision.id, 0):
                self._write_group(revision.id, row)

    def _write_group(self, group: str, row: int) -> None:
        record = self._groups[group] | {"row": row, "members": list(self._groups[group]["members"])}
        self._written[group] = len(record["members"])
        self._revisions.write(json.dumps(record).encode() + b"\n")

    def _add_observation(self, batch: LogBatch, judged: ReplayResult) -> None:
        observation = judged.observation
        self._counts["evicted"] += observation.evicted
        self._repaired += observation.repaired
        if observation.refused:
            log, row = batch.log, batch.row
            for bad in observation.refused:
                self._refuse(int(log[bad.row]), replace(bad, row=int(row[bad.row])))
        rows = np.flatnonzero(observation.index >= 0)
        self._counts["queries"] += len(rows)
        groups = judged.groups.ids[rows].tolist()
        self._verdicts.write(observation, rows, self._number(observation, rows), batch.event_ids, groups)

    def _refuse(self, log: int, bad: BadRow) -> None:
        """Writes one bad row of the file with the number ``log``."""
        self._counts["refused"] += 1
        self._reasons[bad.reason] += 1
        if bad.model and bad.principal:
            self._account(bad.model, bad.principal).unjudged[bad.reason] += bad.queries
        line = {"file": str(self._paths[log]), "row": bad.row + 1, "reason": bad.reason, "detail": bad.detail}
        self._refused.write(json.dumps(line).encode() + b"\n")

    def _number(self, observation: Observation, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts ``rows`` and returns the index of each within its account, int64, from 0."""
        numbers: dict[tuple[str, str], int] = {}
        of_key = [numbers.setdefault((key.model, key.principal), len(numbers)) for key in observation.keys]
        accounts = [self._account(*name) for name in numbers]
        account = np.array(of_key, np.int64)[observation.key_index[rows]]
        index = np.array([entry.queries for entry in accounts], np.int64)[account] + counts_before(account)
        for entry, queries in zip(accounts, np.bincount(account, minlength=len(accounts)).tolist(), strict=True):
            entry.queries += queries
        for at in np.flatnonzero(observation.flagged[rows]).tolist():
            entry = accounts[account[at]]
            entry.first_flagged = int(index[at]) if entry.first_flagged is None else entry.first_flagged
        return index

    def _account(self, model: str, principal: str) -> _AccountCounts:
        return self._accounts.setdefault((model, principal), _AccountCounts())


def _reading(reading: Reading | None) -> dict[str, float] | None:
    return None if reading is None else {name: round(share, 4) for name, share in asdict(reading).items()}


@dataclass(slots=True)
class _AccountCounts:
    """The queries of one principal of one model, over all its versions; ``first_flagged`` counts from 0."""

    queries: int = 0
    first_flagged: int | None = None
    unjudged: Counter[str] = field(default_factory=Counter)

    def entry(self) -> dict[str, Any]:
        return {
            "queries": self.queries,
            "first_flagged": self.first_flagged,
            "first_flagged_query": None if self.first_flagged is None else self.first_flagged + 1,
            "unjudged": dict(self.unjudged),
        }


class VerdictFile:
    """``verdicts.parquet``: model, principal, index, event_id, flagged, score, one column per signal, and group; null
    while a score or signal has no value. ``group``: the id of the group under a verdict to which the principal belongs
    after the row, or null. ``index`` counts from 0, as the metadata ``index_counts_from`` says; ``uncalibrated`` there
    is a JSON list of the model versions that were judged without a profile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self._tables: list[Any] = []
        self._rows = 0
        self.uncalibrated: list[str] = []

    def write(
        self,
        observation: Observation,
        rows: NDArray[np.int64],
        index: NDArray[np.int64],
        event_ids: list[str],
        groups: list[str | None],
    ) -> None:
        """Writes ``rows`` of an observation, numbered by ``index``, with the ``groups`` of their principals."""
        import pyarrow as pa

        key = pa.array(observation.key_index[rows])
        names = {
            name: pa.array([getattr(key, name) for key in observation.keys], pa.string()).take(key)
            for name in ("model", "principal")
        }
        verdicts = {
            "index": pa.array(index),
            "event_id": pa.array(event_ids, pa.string()).take(pa.array(rows)),
            "flagged": pa.array(observation.flagged[rows]),
            "score": pa.array(observation.score[rows], from_pandas=True),
        }
        signals = {  # without their further values, whose names have a dot and which may be absent
            name: pa.array(values[rows], from_pandas=True)
            for name, values in observation.signals.items()
            if "." not in name
        }
        self._tables.append(pa.table({**names, **verdicts, **signals, "group": pa.array(groups, pa.string())}))
        self._rows += len(rows)
        if self._rows >= _ROWS_IN_A_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes what is buffered and closes the file; a replay without rows gives an empty table."""
        import pyarrow as pa

        if self._writer is None and not self._tables:
            kinds = {"index": pa.int64(), "flagged": pa.bool_(), "score": pa.float64()}
            columns = ("model", "principal", "index", "event_id", "flagged", "score", "group")
            self._tables.append(pa.table({name: pa.array([], kinds.get(name, pa.string())) for name in columns}))
        self._flush()
        self._writer.add_key_value_metadata({"uncalibrated": json.dumps(self.uncalibrated)})
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._tables:
            table = pa.concat_tables(self._tables)
            schema = table.schema.with_metadata({"index_counts_from": str(COUNTED_FROM)})
            self._writer = self._writer or pq.ParquetWriter(self._path, schema)
            self._writer.write_table(table)
            self._tables, self._rows = [], 0
