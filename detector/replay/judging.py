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
from detector.core.engine import Engine, EngineConfig, Observation
from detector.core.profile import Profile, ProfileMatcher
from detector.policy.activity import Counted, Effects
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.replay.groups import GroupReplay, GroupsInBatch
from detector.sources import LogReader, open_logs
from detector.sources.merge import Portion, one_after_another
from detector.sources.merge import merge as by_time
from detector.stream.detector import DetectionInput, Detector
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
        """Returns the number of its rows, good and bad."""
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
    reader: LogReader | None = None,
    must_fit: Sequence[Profile] = (),
    not_after: float = inf,
) -> Iterator[tuple[LogBatch, ReplayResult | None]]:
    """Yields the queries in ``paths`` by micro-batches, with the results of engine, policy and groups; None for a batch
    that has neither queries nor a principal with unreadable ones.

    ``reader`` tells how to read the files, by default in the order given. Policy time is the running maximum of
    ``occurred_at``, capped at ``not_after``, seconds UTC. Raises ConfigurationError, at once if a file is missing or
    has no known format. Also raises it, if ``must_fit`` has profiles, for a query of another model or version, or if
    no query among the first has the form of a profile.
    """
    engine = Engine(engine_config)
    detector = Detector(engine, Ledger(policy, engine.configuration_hash()))
    batches = _micro_batches(portions_of(paths, reader or LogReader()))
    fitting = _check_fit(batches, ProfileMatcher(must_fit)) if must_fit else batches
    return _detect(detector, GroupReplay(engine_config.judging), fitting, not_after)


def portions_of(paths: Sequence[Path], reader: LogReader) -> Iterator[Portion]:
    """Returns the portions of the logs in ``paths``, in order of time if ``reader`` merges. Raises
    ConfigurationError, at once if a file is missing or has no known format."""
    logs = open_logs(paths, reader)
    return by_time(logs) if reader.merge else one_after_another(logs)


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
    """Yields ``portion`` in pieces of at most QUERIES_AT_ONCE rows; first what it has besides rows."""
    yield replace(portion, batch=None, rows=portion.rows[:0])
    for start in range(0, len(portion.rows), QUERIES_AT_ONCE):
        stop = start + QUERIES_AT_ONCE
        assert portion.batch is not None
        yield DecodedQueries(cut(portion.batch, start, stop), portion.rows[start:stop])


def _check_fit(batches: Iterable[LogBatch], matcher: ProfileMatcher) -> Iterator[LogBatch]:
    """Yields ``batches``; a few queries of another form are left to the engine, which refuses them."""
    fits = False
    for batch in batches:
        mismatches = matcher.mismatches(batch.pieces)
        fits |= len(mismatches) < len(batch.pieces)
        for mismatch in mismatches:
            if not fits or mismatch.reason in {"model", "model_version"}:
                raise ConfigurationError(mismatch.detail)
        yield batch


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The results for one micro-batch: of its accounts, and of their groups. ``profiles`` as in
    ``Detector.profiles_of``."""

    observation: Observation
    effects: Effects
    profiles: dict[tuple[str, str], str | None]
    groups: GroupsInBatch


def _detect(
    detector: Detector, groups: GroupReplay, batches: Iterable[LogBatch], not_after: float = inf
) -> Iterator[tuple[LogBatch, ReplayResult | None]]:
    latest = 0.0
    for batch in batches:
        pieces = list(concatenate(batch.pieces))
        if not (pieces or batch.unread):
            yield batch, None
            continue
        times = np.maximum.accumulate(np.concatenate([[latest], *(piece.occurred_at for piece in pieces)]))
        times = np.minimum(times, not_after)
        counts = [Counted(count, float(times[row]), row) for row, count in batch.unread]
        latest = float(times[-1])
        observation, effects = detector.detect(DetectionInput(pieces, times[1:], counts))
        yield batch, ReplayResult(observation, effects, detector.profiles_of(pieces), groups.observe(observation))
