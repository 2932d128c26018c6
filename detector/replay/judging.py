"""Judges recorded queries by engine and policy, without Kafka: for ``replay`` and ``evaluate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import concatenate, cut
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import BadRow, Count, DecodedQueries, QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.profile.profile import Profile, ProfileMatcher
from detector.policy.activity import Counted
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.sources import LogReader, open_logs
from detector.sources.merge import Portion, one_after_another
from detector.sources.merge import merge as by_time
from detector.stream.detector import DetectionInput, DetectionResult, Detector
from detector.stream.intake import count_of

QUERIES_AT_ONCE = 512
"""Rows after which a micro-batch is closed; it has less than twice as many. Verdicts do not depend on it."""


@dataclass(slots=True)
class LogBatch:
    """Rows of one micro-batch; ``log`` and ``row`` int64 (n,) give the file and position of each good row. ``unread``:
    bad rows of a known principal, each with the number of good ones before it."""

    pieces: list[QueryBatch] = field(default_factory=list)
    bad_rows: list[tuple[int, BadRow]] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)
    queries: int = 0
    unread: list[tuple[int, Count]] = field(default_factory=list)
    _logs: list[NDArray[np.int64]] = field(default_factory=list)
    _rows: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, log: int, portion: DecodedQueries) -> None:
        self.bad_rows += [(log, bad) for bad in portion.bad_rows]
        self.repaired += portion.repaired
        counts = (count_of(bad, 0.0) for bad in portion.bad_rows)
        self.unread += [(self.queries, count) for count in counts if count is not None]
        if portion.batch is not None:
            self.pieces.append(portion.batch)
            self.queries += len(portion.batch)
            self._logs.append(np.full(len(portion.rows), log))
            self._rows.append(portion.rows)

    def __len__(self) -> int:
        """All its rows, good and bad."""
        return self.queries + len(self.bad_rows)

    @property
    def log(self) -> NDArray[np.int64]:
        return np.concatenate(self._logs)

    @property
    def row(self) -> NDArray[np.int64]:
        return np.concatenate(self._rows)

    @property
    def event_ids(self) -> list[str]:
        return [event for piece in self.pieces for event in piece.event_ids]


def counts_before(groups: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Returns int64 (n,): for each entry of ``groups`` (n,), the number of equal entries before it."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    counts = np.empty(len(groups), np.int64)
    counts[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return counts


def judge_logs(
    paths: Sequence[Path],
    *,
    engine_config: EngineConfig,
    policy: Policy,
    reading: LogReader | None = None,
    must_fit: Sequence[Profile] = (),
    not_after: float = inf,
) -> Iterator[tuple[LogBatch, DetectionResult | None]]:
    """The queries in ``paths``, a micro-batch at a time, with what engine and policy say; None for nobody's rows.

    The files are read as ``reading`` says, by default in the order given. Policy time is the running maximum
    of ``occurred_at``, of which none is taken to be later than ``not_after``, seconds UTC. Raises ConfigurationError,
    at once where a file is missing or of no known format, and later where queries are of none of the profiles
    ``must_fit``, if there are any, or the first ones all have another form.
    """
    reading = reading or LogReader()
    logs = [_believed(log, not_after) for log in open_logs(paths, reading)]
    engine = Engine(engine_config)
    judge = Detector(engine, Ledger(policy, engine.configuration_hash()))
    batches = _micro_batches(by_time(logs) if reading.merge else one_after_another(logs))
    return _judged(judge, _fitting(batches, ProfileMatcher(must_fit)) if must_fit else batches)


def _believed(portions: Iterable[DecodedQueries], not_after: float) -> Iterator[DecodedQueries]:
    """No time of a row is later than ``not_after``: policy time never goes back."""
    for portion in portions:
        batch = portion.batch
        if batch is not None and len(batch) and batch.occurred_at.max() > not_after:
            portion = replace(portion, batch=replace(batch, occurred_at=np.minimum(batch.occurred_at, not_after)))  # noqa: PLW2901
        yield portion


def _fitting(batches: Iterable[LogBatch], fitting: ProfileMatcher) -> Iterator[LogBatch]:
    """Yields ``batches``. Raises ConfigurationError for another model or version, and if no query of the first one has
    the form of a profile; a few of another form are left to the engine, which refuses them."""
    fits = False
    for batch in batches:
        misfits = fitting.mismatches(batch.pieces)
        fits |= len(misfits) < len(batch.pieces)
        for misfit in misfits:
            if not fits or misfit.reason in {"model", "model_version"}:
                raise ConfigurationError(misfit.detail)
        yield batch


def _judged(judge: Detector, batches: Iterable[LogBatch]) -> Iterator[tuple[LogBatch, DetectionResult | None]]:
    latest = 0.0
    for batch in batches:
        pieces = list(concatenate(batch.pieces))
        if not (pieces or batch.unread):
            yield batch, None
            continue
        times = np.maximum.accumulate(np.concatenate([[latest], *(piece.occurred_at for piece in pieces)]))
        counts = [Counted(count, float(times[row]), row) for row, count in batch.unread]
        latest = float(times[-1])
        yield batch, judge.detect(DetectionInput(pieces, times[1:], counts))


def _micro_batches(portions: Iterable[Portion]) -> Iterator[LogBatch]:
    batch = LogBatch()
    for log, portion in portions:
        for piece in _cut(portion):
            batch.add(log, piece)
            if len(batch) >= QUERIES_AT_ONCE:
                yield batch
                batch = LogBatch()
    yield batch


def _cut(portion: DecodedQueries) -> Iterator[DecodedQueries]:
    """``portion`` in pieces of at most QUERIES_AT_ONCE rows; what it has besides rows goes with the first."""
    yield replace(portion, batch=None, rows=portion.rows[:0])
    for start in range(0, len(portion.rows), QUERIES_AT_ONCE):
        stop = start + QUERIES_AT_ONCE
        assert portion.batch is not None
        yield DecodedQueries(cut(portion.batch, start, stop), portion.rows[start:stop])
