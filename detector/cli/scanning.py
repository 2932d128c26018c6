"""Query logs to who stands out in them: each model version by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detector.cli.honest import digest_of
from detector.cli.sieve import Sieve
from detector.contracts.errors import ConfigurationError
from detector.core.calibration.accounts import accounts_of
from detector.core.calibration.calibrate import FEWEST_ACCOUNTS
from detector.core.calibration.scanning import scan
from detector.sources import format_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from detector.contracts.queries import QueryBatch
    from detector.core.calibration.scanning import Scan

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Log:
    """What files hold: the ``sieve`` with their queries, ``refused`` rows by reason, and each file's digest."""

    sieve: Sieve
    refused: Counter[str]
    digests: list[str]


@dataclass(frozen=True, slots=True)
class Scanned:
    """One model version: its ``accounts``' queries by name, all of one form, and its ``scan``. ``asked``: how many
    queries each account asked, looked at or not; ``other_form``: queries that have another form and were not."""

    model: str
    version: str
    accounts: dict[str, QueryBatch]
    scan: Scan
    asked: dict[str, int]
    other_form: int


@dataclass(slots=True)
class Report:
    """All of a log: the model versions that could be ``scanned``, and sentences on what could not."""

    log: Log
    budget: float
    scanned: list[Scanned] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def read(paths: Sequence[Path], progress: Progress) -> Log:
    """The queries in ``paths``, whatever a log of the lab says of them; ``progress`` is told how many rows were read
    since. Raises ConfigurationError."""
    log = Log(Sieve(), Counter(), [])
    for path in paths:
        for portion in format_of(path).read(path):
            log.refused.update(bad.reason for bad in portion.bad_rows)
            if portion.batch is not None and len(portion.batch):
                log.sieve.put(portion.batch)
            progress(len(portion.rows) + len(portion.bad_rows))
        log.digests.append(digest_of(path))
    return log


def scan_log(log: Log, budget: float, stage: Callable[[str, int], AbstractContextManager[Progress]]) -> Report:
    """Each model version of ``log``; ``stage`` is entered with what is done and how much there is of it. Raises
    ConfigurationError where no model version has accounts enough."""
    report = Report(log, budget)
    for (model, version), accounts, other in _versions(log):
        if len(accounts) < FEWEST_ACCOUNTS:
            report.passed_over.append(f"{model} {version} has {len(accounts)} accounts, and it takes {FEWEST_ACCOUNTS}")
            continue
        found = scan(accounts, budget, lambda count, what=f"{model} {version}": stage(what, count))  # type: ignore[misc]
        asked = {name: count for (*own, name), count in log.sieve.seen.items() if own == [model, version]}
        named = {own.principals[0]: own for own in accounts}
        report.scanned.append(Scanned(model, version, named, found, asked, other))
    if not report.scanned:
        why = "; ".join(report.passed_over) or _nothing(log)
        raise ConfigurationError(f"nothing was scanned: {why}")
    return report


def _versions(log: Log) -> Iterator[tuple[tuple[str, str], list[QueryBatch], int]]:
    """The model versions, each with the accounts that asked it in the form that most queries have, and how many queries
    have another. The log lets go of them."""
    by_version: dict[tuple[str, str], list[QueryBatch]] = {}
    for piece in log.sieve.pieces:
        by_version.setdefault((piece.model, piece.model_version), []).append(piece)
    log.sieve.pieces.clear()
    for key in sorted(by_version):
        accounts, other = _accounts(by_version.pop(key))
        yield key, accounts, other


def _accounts(pieces: Sequence[QueryBatch]) -> tuple[list[QueryBatch], int]:
    alike, other = _of_one_form(pieces)
    return accounts_of(alike), other


def _of_one_form(pieces: Sequence[QueryBatch]) -> tuple[list[QueryBatch], int]:
    """Those of the form that most queries have, and how many have another."""
    counts: Counter[tuple[int, str, int]] = Counter()
    for own in pieces:
        counts[_form(own)] += len(own)
    most = max(counts, key=lambda form: (counts[form], form))
    return [own for own in pieces if _form(own) == most], counts.total() - counts[most]


def _form(queries: QueryBatch) -> tuple[int, str, int]:
    return queries.dimension, queries.output_kind, queries.outputs.shape[1]


def _nothing(log: Log) -> str:
    refused = ", ".join(f"{reason} {count}" for reason, count in log.refused.most_common(3))
    return f"the logs hold no query; refused rows: {refused}" if refused else "the logs hold no query"


def times(queries: QueryBatch) -> tuple[float, float]:
    """The first and the last, seconds UTC."""
    return float(np.min(queries.occurred_at)), float(np.max(queries.occurred_at))
