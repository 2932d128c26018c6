"""Scans query logs for accounts that stand out, each model version separately, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from detector.contracts.batches import take
from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import EVERYONE
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import FEWEST_ACCOUNTS
from detector.core.calibration.scan import Scan, scan
from detector.core.calibration.traffic import PlainTraffic, accounts_of, plain_traffic
from detector.core.forms import Outputs
from detector.replay.calibrate import digest_of
from detector.replay.judging import counts_before
from detector.replay.rings import FoundRing, find_rings
from detector.sources import LogReader, files_of, format_of

Progress = Callable[[int], None]

ROOM = 2 << 30
"""Approximate memory limit for queries, bytes."""
FIRST = 10_000
"""Maximum number of queries kept per account."""
_COPIES, _OVERHEAD, _TEXT = 3, 400, 60
"""Copies of the columns in memory at once; bytes of derived data per query; bytes per text."""

Account = tuple[str, str, str]
"""Model, version and principal."""


@dataclass(slots=True)
class Sieve:
    """``pieces``: the first ``most`` queries of each account, without ids and addresses. ``seen``: the number of
    queries of each account. ``most`` is halved whenever the pieces take more than ``room`` bytes."""

    room: int = ROOM
    most: int = FIRST
    pieces: list[QueryBatch] = field(default_factory=list)
    seen: dict[Account, int] = field(default_factory=dict)
    _taken: int = 0

    def put(self, batch: QueryBatch) -> None:
        """Adds the queries of ``batch`` that are among the first of their accounts."""
        kept = self._first(_bare(batch), self.seen)
        self.pieces += kept
        self._taken += sum(map(_bytes, kept))
        while self._taken > self.room and self.most > 1:
            self.most //= 2
            again: dict[Account, int] = {}
            self.pieces = [part for piece in self.pieces for part in self._first(piece, again)]
            self._taken = sum(map(_bytes, self.pieces))

    def _first(self, batch: QueryBatch, seen: dict[Account, int]) -> list[QueryBatch]:
        """Returns the queries of ``batch`` among the first of their accounts; ``seen``: the number before, updated."""
        accounts = [(batch.model, batch.model_version, name) for name in batch.principals]
        before = np.array([seen.get(account, 0) for account in accounts], np.int64)
        rows = np.flatnonzero(before[batch.principal_index] + counts_before(batch.principal_index) < self.most)
        counts = np.bincount(batch.principal_index, minlength=len(accounts)).tolist()
        for account, count in zip(accounts, counts, strict=True):
            seen[account] = seen.get(account, 0) + count
        if len(rows) == len(batch):
            return [batch]
        return [take(batch, rows)] if len(rows) else []

    def cut(self) -> Iterator[tuple[Account, int]]:
        """Returns the accounts with more queries than were kept, and their number of queries."""
        return ((account, count) for account, count in self.seen.items() if count > self.most)


def _bare(batch: QueryBatch) -> QueryBatch:
    none = {"served_mode": None, "network_prefix": None, "organisation": None, "user_agent_hash": None}
    return replace(batch, event_ids=[""] * len(batch), **none)  # type: ignore[arg-type]


def _bytes(batch: QueryBatch) -> int:
    texts = sum(int(table.shape[1]) for table in (batch.texts, batch.output_names) if table is not None)
    numbers = batch.dimension + int(batch.outputs.shape[1])
    return len(batch) * (4 * _COPIES * numbers + _TEXT * texts + _OVERHEAD)


@dataclass(frozen=True, slots=True)
class ScanInput:
    """The content of log files: the ``sieve`` with their queries, ``refused`` rows by reason, and the file digests."""

    sieve: Sieve
    refused: Counter[str]
    digests: list[str]

    @property
    def rows(self) -> int:
        """The number of rows read, good and bad."""
        return sum(self.sieve.seen.values()) + self.refused.total()


@dataclass(frozen=True, slots=True)
class ScannedVersion:
    """One model version: the plain queries of its ``accounts`` by name, its ``scan``, and the ``rings`` among them.
    ``query_counts``: queries by account, including those beyond the limit. ``traffic``: the form of the queries, one
    piece of them, and the number of queries left out because of another form."""

    model: str
    version: str
    accounts: dict[str, QueryBatch]
    scan: Scan
    query_counts: dict[str, int]
    traffic: PlainTraffic
    rings: list[FoundRing]


@dataclass(slots=True)
class ScanReport:
    """The results for a log: the model versions ``scanned``, and sentences on those ``skipped`` (not scanned)."""

    log: ScanInput
    budget: float
    scanned: list[ScannedVersion] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def read(paths: Sequence[Path], progress: Progress, reader: LogReader) -> ScanInput:
    """Returns the queries in ``paths`` (files, folders of parts or patterns), read by ``reader``. Ignores the labels
    of lab logs. ``progress`` is called with the number of rows read since. Raises ConfigurationError."""
    log = ScanInput(Sieve(), Counter(), [])
    for path in files_of(paths):
        for portion in format_of(path).read(path, reader):
            log.refused.update(bad.reason for bad in portion.bad_rows)
            if portion.batch is not None and len(portion.batch):
                log.sieve.put(portion.batch)
            progress(len(portion.rows) + len(portion.bad_rows))
        log.digests.append(digest_of(path))
    return log


def scan_log(
    log: ScanInput,
    budget: float,
    stage: Callable[[str, int], AbstractContextManager[Progress]],
    outputs: Mapping[str, Outputs],
) -> ScanReport:
    """Returns the scan of each model version of ``log``. ``stage`` gets the name of each task and its number of
    accounts. ``outputs``: kind of outputs by model, ``*`` for all other models; inferred by default. Raises
    ConfigurationError if no model version has enough accounts."""
    report = ScanReport(log, budget)
    by_version: dict[tuple[str, str], list[QueryBatch]] = {}
    for piece in log.sieve.pieces:
        by_version.setdefault((piece.model, piece.model_version), []).append(piece)
    log.sieve.pieces.clear()
    for model, version in sorted(by_version):
        what = f"{model} {version}"
        plain = plain_traffic(by_version.pop((model, version)), outputs.get(model, outputs.get(EVERYONE)))
        accounts = accounts_of(plain.pieces)
        if len(accounts) < FEWEST_ACCOUNTS:
            report.skipped.append(f"{what} has {len(accounts)} accounts, and it takes {FEWEST_ACCOUNTS}")
            continue
        plain = replace(plain, pieces=plain.pieces[:1])
        rings = find_rings(accounts, budget, partial(stage, what))
        in_rings = {name for ring in rings for name in ring.members}
        result = scan(accounts, budget, partial(stage, what), apart=in_rings)
        counts = {name: count for (*key, name), count in log.sieve.seen.items() if key == [model, version]}
        named = {account.principals[0]: account for account in accounts}
        report.scanned.append(ScannedVersion(model, version, named, result, counts, plain, rings))
    if not report.scanned:
        raise ConfigurationError(f"nothing was scanned: {'; '.join(report.skipped)}")
    return report


def times(queries: QueryBatch) -> tuple[float, float]:
    """Returns the times of the first and the last query, seconds UTC."""
    return float(np.min(queries.occurred_at)), float(np.max(queries.occurred_at))
