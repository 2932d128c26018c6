"""Recorded queries through engine and policy, without Kafka."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.cli.verdicts import Accounts, VerdictFile
from detector.contracts.batches import concatenate, cut
from detector.contracts.codecs import encode
from detector.contracts.findings import Alert, Decision
from detector.contracts.queries import BadRow, DecodedQueries, QueryBatch
from detector.core.batch import Observation
from detector.core.engine import Engine, EngineConfig
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.sources import format_of
from detector.sources.merge import merge as by_time
from detector.sources.merge import one_after_another
from detector.stream.judge import Hearing, Judge

QUERIES_AT_ONCE = 512
"""Rows after which a micro-batch is closed; it has less than twice as many. Verdicts do not depend on it."""


def replay(
    paths: Sequence[Path],
    out: Path,
    *,
    engine_config: EngineConfig,
    policy: Policy,
    merge: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Judge the queries in ``paths`` and write what comes of it to the folder ``out``; returns the summary.

    The files are read in the order given or, with ``merge``, by ``occurred_at``. Policy time is the running maximum
    of ``occurred_at``. ``verdicts.parquet`` has one row a query in the order of judging; ``alerts.jsonl`` and
    ``decisions.jsonl`` are records as they would be published, decisions with the epoch (0, 0); ``refused.jsonl`` says
    which rows were bad; ``summary.json`` has the queries of each principal and the index of the first one flagged, or
    null. ``progress`` is told how many rows, good or bad, were dealt with since. Raises ConfigurationError.
    """
    logs = [format_of(path).read(path) for path in paths]
    engine = Engine(engine_config)
    judge = Judge(engine, Ledger(policy, engine.configuration_hash()))
    out.mkdir(parents=True, exist_ok=True)
    with Report(out, paths) as report:
        latest = 0.0
        for part in _micro_batches(by_time(logs) if merge else one_after_another(logs)):
            pieces = list(concatenate(part.pieces))
            if pieces:
                times = np.maximum.accumulate(np.concatenate([[latest], *(piece.occurred_at for piece in pieces)]))[1:]
                latest = float(times[-1])
                judgement = judge.judge(Hearing(pieces, times))
                report.judged(part, judgement.observation, judgement.effects.alerts, judgement.effects.decisions)
            for log, bad in part.bad_rows:
                report.refused(log, bad)
            if progress:
                progress(part.queries + len(part.bad_rows))
        return report.summary()


@dataclass(slots=True)
class _Part:
    """Rows for one micro-batch; ``log`` and ``row`` int64 (n,) say where in the files each good row stood."""

    pieces: list[QueryBatch] = field(default_factory=list)
    bad_rows: list[tuple[int, BadRow]] = field(default_factory=list)
    queries: int = 0
    _logs: list[NDArray[np.int64]] = field(default_factory=list)
    _rows: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, log: int, portion: DecodedQueries) -> None:
        self.bad_rows += [(log, bad) for bad in portion.bad_rows]
        if portion.batch is not None:
            self.pieces.append(portion.batch)
            self.queries += len(portion.batch)
            self._logs.append(np.full(len(portion.rows), log))
            self._rows.append(portion.rows)

    @property
    def log(self) -> NDArray[np.int64]:
        return np.concatenate(self._logs)

    @property
    def row(self) -> NDArray[np.int64]:
        return np.concatenate(self._rows)

    @property
    def event_ids(self) -> list[str]:
        return [event for piece in self.pieces for event in piece.event_ids]


def _micro_batches(portions: Iterable[tuple[int, DecodedQueries]]) -> Iterator[_Part]:
    part = _Part()
    for log, portion in portions:
        for piece in _cut(portion):
            part.add(log, piece)
            if part.queries + len(part.bad_rows) >= QUERIES_AT_ONCE:
                yield part
                part = _Part()
    yield part


def _cut(portion: DecodedQueries) -> Iterator[DecodedQueries]:
    """``portion`` in pieces of at most QUERIES_AT_ONCE rows; its bad rows go with the first."""
    yield DecodedQueries(None, portion.rows[:0], bad_rows=portion.bad_rows)
    for start in range(0, len(portion.rows), QUERIES_AT_ONCE):
        stop = start + QUERIES_AT_ONCE
        assert portion.batch is not None
        yield DecodedQueries(cut(portion.batch, start, stop), portion.rows[start:stop])


class Report:
    """The files that a replay writes."""

    def __init__(self, out: Path, paths: Sequence[Path]) -> None:
        self._out = out
        self._paths = paths
        self._accounts = Accounts()
        self._counts = dict.fromkeys(("queries", "refused", "alerts", "decisions", "evicted"), 0)
        self._verdicts = VerdictFile(out / "verdicts.parquet")
        self._alerts, self._decisions, self._refused = (
            (out / f"{name}.jsonl").open("wb") for name in ("alerts", "decisions", "refused")
        )

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._verdicts, self._alerts, self._decisions, self._refused):
            file.close()

    def judged(
        self, part: _Part, observation: Observation, alerts: Iterable[Alert], decisions: Iterable[Decision]
    ) -> None:
        """Write what one micro-batch came to."""
        self._count("evicted", observation.evicted)
        self._refuse_by_engine(part, observation)
        kept = np.flatnonzero(observation.index >= 0)
        self._count("queries", len(kept))
        index = self._accounts.number(observation, kept)
        self._verdicts.write(observation, kept, index, part.event_ids)
        for alert in alerts:
            self._count("alerts")
            self._alerts.write(encode(alert) + b"\n")
        for decision in decisions:
            self._count("decisions")
            self._decisions.write(encode(decision) + b"\n")

    def refused(self, log: int, bad: BadRow) -> None:
        """Write down one bad row of the file with the number ``log``."""
        self._count("refused")
        line = {"file": str(self._paths[log]), "row": bad.row, "reason": bad.reason, "detail": bad.detail}
        self._refused.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def summary(self) -> dict[str, Any]:
        """Totals and each principal; also written to ``summary.json``."""
        summary = {**self._counts, "principals": self._accounts.summary()}
        (self._out / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")
        return summary

    def _count(self, what: str, number: int = 1) -> None:
        self._counts[what] += number

    def _refuse_by_engine(self, part: _Part, observation: Observation) -> None:
        if observation.refused:
            log, row = part.log, part.row
            for bad in observation.refused:
                self.refused(int(log[bad.row]), BadRow(int(row[bad.row]), bad.reason, bad.detail))
