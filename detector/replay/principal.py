"""Finds one principal's queries in files or in the service's topics, and judges them again, row by row, for
``explain``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import concatenate, cut, take
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Alert, Audit, Finding
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import Topics
from detector.core.configuration import EngineConfig
from detector.core.engine import Engine, Observation, PrincipalKey
from detector.core.profile import Profile
from detector.core.signals import SIGNALS
from detector.core.signals.base import PRADA
from detector.core.signals.prada import distances_in
from detector.policy.activity import Activity, Effects, UnjudgedRow
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.replay.judging import portions_of
from detector.sources import LogReader
from detector.sources.merge import Portion
from detector.stream.detector import affiliations_of, exposure_of, later_families
from detector.stream.intake import RecordDecoder
from detector.stream.source_records import SourceRecord

Floats = NDArray[np.float64]
TimedQueries = tuple[QueryBatch, Floats]
"""Queries and the policy time of each, float64 (n,), seconds UTC."""

_ROWS_AT_ONCE = 512
_RECORDS_AT_ONCE = 256
_CLOSE_NAMES = 5


@dataclass(slots=True)
class PrincipalQueries:
    """The queries of ``principal`` in a stream, by model, in order; ``names`` are those of all principals in it."""

    principal: str
    by_model: dict[str, list[TimedQueries]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def of(self, model: str | None) -> list[TimedQueries]:
        """Returns the principal's queries to ``model``, which may be None if they queried a single model. Raises
        ConfigurationError."""
        if not self.by_model:
            raise ConfigurationError(f"there is no query of {self.principal!r}{self._others()}")
        if model is None and len(self.by_model) > 1:
            raise ConfigurationError(
                f"{self.principal!r} queried several models: {', '.join(sorted(self.by_model))}; choose with --model"
            )
        chosen = next(iter(self.by_model)) if model is None else model
        if chosen not in self.by_model:
            raise ConfigurationError(
                f"there is no query of {self.principal!r} to {chosen!r}, only to {', '.join(sorted(self.by_model))}"
            )
        return self.by_model[chosen]

    def _others(self) -> str:
        if not self.names:
            return ", nor of any other principal"
        close = difflib.get_close_matches(self.principal, self.names, n=_CLOSE_NAMES, cutoff=0.5)
        if close:
            return f"; did you mean {', '.join(map(repr, close))}?"
        some = ", ".join(map(repr, sorted(self.names)[:_CLOSE_NAMES]))
        return f"; {len(self.names):,} other principals sent queries, such as {some}"


@dataclass(frozen=True, slots=True, eq=False)
class PrincipalReplay:
    """The results of engine and policy for each of the n queries of one principal of one model, in order.

    ``versions``: the model version under which each was judged. ``time`` float64 (n,): policy time, seconds UTC.
    ``flagged`` bool (n,), ``score`` float64 (n,) and ``signals`` float64 (n,) each: as in the engine's observation.
    ``findings`` and ``records`` by row. ``distances``: by row, those that PRADA tests after it, at the first verdict
    and at the end. ``refused``: rows that the engine refused, which are not among the n.
    """

    model: str
    principal: str
    versions: list[str]
    time: Floats
    flagged: NDArray[np.bool_]
    score: Floats
    signals: dict[str, Floats]
    findings: dict[int, Finding]
    records: list[tuple[int, Alert | Audit]]
    distances: dict[int, Floats]
    refused: int

    def __len__(self) -> int:
        return len(self.time)

    @property
    def verdict(self) -> int | None:
        """The first flagged row."""
        rows = np.flatnonzero(self.flagged)
        return int(rows[0]) if len(rows) else None


def queries_in_logs(
    paths: Sequence[Path], reader: LogReader, progress: Callable[[int], None]
) -> Iterator[TimedQueries]:
    """Yields the good rows that ``reader`` reads from files, with the times of ``replay``.

    ``progress`` is called with the number of rows, good or bad, read since. Raises ConfigurationError, at once if a
    file is missing or has no known format.
    """
    return _timed(portions_of(paths, reader), progress)


def _timed(portions: Iterable[Portion], progress: Callable[[int], None]) -> Iterator[TimedQueries]:
    latest = 0.0
    for _, portion in portions:
        batch = portion.batch
        if batch is not None and len(batch):
            times = np.maximum(np.maximum.accumulate(batch.occurred_at), latest)
            latest = float(times[-1])
            yield batch, times
        progress(len(portion.rows) + len(portion.bad_rows))


def queries_in_partition(
    records: Iterable[SourceRecord], partition: int, partitions: int, topics: Topics
) -> Iterator[TimedQueries]:
    """Yields the queries of ``partition``, from the records of its sources in order of time, with its owner's times.
    Skips re-keyed records that are repeated or have no valid origin header, as the owner does."""
    decoder = RecordDecoder(partition, partitions, topics)
    latest, source = 0.0, iter(records)
    while some := list(islice(source, _RECORDS_AT_ONCE)):
        decoded = decoder.decode(some, latest)
        latest = decoded.policy_time
        ends = np.cumsum([len(piece) for piece in decoded.pieces])
        for piece, end in zip(decoded.pieces, ends.tolist(), strict=True):
            yield piece, decoded.times[end - len(piece) : end]


def queries_of(principal: str, stream: Iterable[TimedQueries]) -> PrincipalQueries:
    """Returns the queries of ``principal`` in ``stream``."""
    queries = PrincipalQueries(principal)
    for batch, times in stream:
        queries.names.update(batch.principals)
        at = [number for number, name in enumerate(batch.principals) if name == principal]
        rows = np.flatnonzero(np.isin(batch.principal_index, at))
        if len(rows):
            queries.by_model.setdefault(batch.model, []).append((take(batch, rows), times[rows]))
    return queries


def queries_after(queries: Sequence[TimedQueries], time: float) -> list[TimedQueries]:
    """Returns the ``queries`` that came after ``time``, seconds UTC."""
    kept = ((batch, times, np.flatnonzero(times > time)) for batch, times in queries)
    return [(take(batch, rows), times[rows]) for batch, times, rows in kept if len(rows)]


def replay_principal(queries: Sequence[TimedQueries], engine_config: EngineConfig, policy: Policy) -> PrincipalReplay:
    """Returns the results for the principal with these ``queries``, of one model, at least one.

    Raises ConfigurationError if the engine refuses all of them.
    """
    pieces = list(concatenate(batch for batch, _ in queries))
    times = np.concatenate([piece_times for _, piece_times in queries])
    engine = Engine(engine_config)
    seen = _observe(engine, pieces)
    judged = np.concatenate([observation.index >= 0 for observation in seen])
    if not judged.any():
        raise ConfigurationError(f"the engine refused all of these queries: {seen[0].refused[0].detail}")
    number = np.cumsum(judged) - 1
    findings: dict[int, Finding] = {}
    records: list[tuple[int, Alert | Audit]] = []
    ledger = Ledger(policy, engine.configuration_hash())
    for row, row_findings, effects in _policy_by_row(seen, pieces, times, ledger, engine.config.judging):
        findings.update((int(number[row]), finding) for finding in row_findings[:1])
        published: list[Alert | Audit] = [*effects.alerts, *effects.audits]
        records += [(max(int(number[row]), 0), record) for record in published]
    flagged = np.concatenate([observation.flagged for observation in seen])[judged]
    rows = np.flatnonzero(judged)
    return PrincipalReplay(
        model=pieces[0].model,
        principal=seen[0].keys[0].principal,
        versions=[key.model_version for observation in seen for key in _judged_keys(observation)],
        time=times[judged],
        flagged=flagged,
        score=np.concatenate([observation.score for observation in seen])[judged],
        signals={
            name: np.concatenate([observation.signals[name] for observation in seen])[judged]
            for name in seen[0].signals
        },
        findings=findings,
        records=records,
        distances={
            row: _distances(pieces, int(rows[row]) + 1, engine_config)
            for row in sorted({*np.flatnonzero(flagged)[:1].tolist(), len(flagged) - 1})
        },
        refused=int((~judged).sum()),
    )


def _observe(engine: Engine, pieces: Sequence[QueryBatch]) -> list[Observation]:
    return [
        engine.observe([cut(piece, start, min(start + _ROWS_AT_ONCE, len(piece)))])
        for piece in pieces
        for start in range(0, len(piece), _ROWS_AT_ONCE)
    ]


def _judged_keys(observation: Observation) -> list[PrincipalKey]:
    """Returns the key of the state that judged each judged row."""
    return [observation.keys[at] for at in observation.key_index[observation.index >= 0].tolist()]


def _policy_by_row(
    seen: Sequence[Observation],
    pieces: Sequence[QueryBatch],
    times: Floats,
    ledger: Ledger,
    profiles: Sequence[Profile],
) -> Iterator[tuple[int, list[Finding], Effects]]:
    """Yields each row with its findings and the policy's effects. Policy gets one row at a time, so that the row of
    each record is known."""
    versions = [piece.model_version for piece in pieces for _ in range(len(piece))]
    affiliations, start = affiliations_of(pieces), 0
    for observation in seen:
        exposure, families = (
            exposure_of(observation),
            later_families(observation, profiles, np.flatnonzero(observation.flagged)),
        )
        unjudged = {bad.row: UnjudgedRow(bad.reason, versions[start + bad.row]) for bad in observation.refused}
        for row in range(len(observation.index)):
            only = slice(row, row + 1)
            findings = [finding for finding in observation.findings if finding.row == row]
            activity = Activity(
                time=times[start + row : start + row + 1],
                keys=observation.keys,
                key_index=observation.key_index[only],
                flagged=observation.flagged[only],
                findings=[replace(finding, row=0) for finding in findings],
                judged=observation.index[only] >= 0,
                unjudged={0: unjudged[row]} if row in unjudged else {},
                score=observation.score[only],
                index=observation.index[only],
                exposure=exposure[only],
                affiliations=affiliations[start + row : start + row + 1],
                families={0: families[row]} if row in families else {},
            )
            yield start + row, findings, ledger.observe(activity)
        start += len(observation.index)


def _distances(pieces: Sequence[QueryBatch], count: int, engine_config: EngineConfig) -> Floats:
    """Returns the distances that PRADA tests after the first ``count`` queries, in the state that judged the last of
    them."""
    engine = Engine(engine_config, {PRADA: SIGNALS[PRADA]})
    for piece in pieces:
        part = cut(piece, 0, min(count, len(piece)))
        seen = _observe(engine, [part])
        count -= len(part)
        if not count:
            break
    return distances_in(engine.dump(_judged_keys(seen[-1])[-1:]))
