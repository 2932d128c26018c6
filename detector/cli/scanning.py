"""Scans query logs for accounts that stand out, each model version separately."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from detector.cli.honest import digest_of
from detector.cli.sieve import Sieve
from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import EVERYONE
from detector.core.calibration.calibrate import FEWEST_ACCOUNTS
from detector.core.calibration.scan import scan
from detector.core.calibration.traffic import PlainTraffic, accounts_of, plain_traffic
from detector.sources import Reading, files_of, format_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from detector.contracts.queries import QueryBatch
    from detector.core.calibration.scan import Scan
    from detector.core.forms import Outputs

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Log:
    """The content of files: the ``sieve`` with their queries, ``refused`` rows by reason, and the file digests."""

    sieve: Sieve
    refused: Counter[str]
    digests: list[str]

    @property
    def rows(self) -> int:
        """The number of rows read, good and bad."""
        return sum(self.sieve.seen.values()) + self.refused.total()


@dataclass(frozen=True, slots=True)
class Scanned:
    """One model version: the plain queries of its ``accounts`` by name, and its ``scan``. ``asked``: the number of
    queries of each account, including those beyond the limit. ``traffic``: the form of the queries, one piece of
    them, and the number of queries left out because of another form."""

    model: str
    version: str
    accounts: dict[str, QueryBatch]
    scan: Scan
    asked: dict[str, int]
    traffic: PlainTraffic


@dataclass(slots=True)
class Report:
    """The results for a log: the model versions ``scanned``, and sentences on those ``passed_over``."""

    log: Log
    budget: float
    scanned: list[Scanned] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def read(paths: Sequence[Path], progress: Progress, reading: Reading) -> Log:
    """Returns the queries in ``paths`` (files, folders of parts or patterns), read by ``reading``. Ignores the labels
    of lab logs. ``progress`` is called with the number of rows read since. Raises ConfigurationError."""
    log = Log(Sieve(), Counter(), [])
    for path in files_of(paths):
        for portion in format_of(path).read(path, reading):
            log.refused.update(bad.reason for bad in portion.bad_rows)
            if portion.batch is not None and len(portion.batch):
                log.sieve.put(portion.batch)
            progress(len(portion.rows) + len(portion.bad_rows))
        log.digests.append(digest_of(path))
    return log


def scan_log(
    log: Log,
    budget: float,
    stage: Callable[[str, int], AbstractContextManager[Progress]],
    outputs: Mapping[str, str],
) -> Report:
    """Returns the scan of each model version of ``log``. ``stage`` gets the name of each task and its number of
    accounts. ``outputs``: kind of outputs by model, ``*`` for all other models; inferred by default. Raises
    ConfigurationError if no model version has enough accounts."""
    report = Report(log, budget)
    for (model, version), pieces in _versions(log):
        plain = plain_traffic(pieces, cast("Outputs | None", outputs.get(model, outputs.get(EVERYONE))))
        pieces.clear()
        accounts = accounts_of(plain.pieces)
        if len(accounts) < FEWEST_ACCOUNTS:
            report.passed_over.append(f"{model} {version} has {len(accounts)} accounts, and it takes {FEWEST_ACCOUNTS}")
            continue
        plain = replace(plain, pieces=plain.pieces[:1])
        found = scan(accounts, budget, lambda count, what=f"{model} {version}": stage(what, count))  # type: ignore[misc]
        asked = {name: count for (*own, name), count in log.sieve.seen.items() if own == [model, version]}
        named = {own.principals[0]: own for own in accounts}
        report.scanned.append(Scanned(model, version, named, found, asked, plain))
    if not report.scanned:
        raise ConfigurationError(f"nothing was scanned: {'; '.join(report.passed_over)}")
    return report


def _versions(log: Log) -> Iterator[tuple[tuple[str, str], list[QueryBatch]]]:
    """Yields each model version with its queries, and removes them from the log."""
    by_version: dict[tuple[str, str], list[QueryBatch]] = {}
    for piece in log.sieve.pieces:
        by_version.setdefault((piece.model, piece.model_version), []).append(piece)
    log.sieve.pieces.clear()
    for key in sorted(by_version):
        yield key, by_version.pop(key)


def times(queries: QueryBatch) -> tuple[float, float]:
    """Returns the times of the first and the last query, seconds UTC."""
    return float(np.min(queries.occurred_at)), float(np.max(queries.occurred_at))
