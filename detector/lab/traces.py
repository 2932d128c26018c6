"""Queries with their answers, senders and times, and the log that they become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind, QueryBatch
from detector.lab.answers import Answers
from detector.lab.attackers import EVASIONS
from detector.lab.course import Course
from detector.lab.data import Dataset
from detector.lab.honest import population
from detector.lab.honest.habit import HonestRequest
from detector.lab.query_log import Label, Mark, QueryLog, Run
from detector.lab.services import Asked, Service

START = 1_767_225_600.0
"""The start of the simulated clock: the year 2026."""

MODEL_VERSION = "1"

_MOST_HONEST_QUERIES = 500

Rows = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Trace:
    """n answered queries. ``accounts`` and ``marks``, n each: sender and truth; ``at`` float64 (n,): seconds since the
    experiment began; ``features`` float32 (n, d), NaN where one was left out; ``outputs`` float64 (n, k): what the
    service logs; ``leaf`` int64 (n,) or None: the tree node, where the service returns it; ``specification`` float32
    (n, 2) or None: the accuracy and the milliseconds requested, where an attacker sweeps them."""

    accounts: list[str]
    marks: list[Mark]
    at: NDArray[np.float64]
    features: Rows
    outputs: NDArray[np.float64]
    leaf: NDArray[np.int64] | None
    specification: NDArray[np.float32] | None = None


def thief_trace(attack: str, course: Course) -> Trace:
    """Returns all queries of the thief's accounts. Raises LabError if nothing was answered."""
    if not course.exchanges:
        raise LabError(f"{attack}: not one query was answered")
    streams = [exchange.stream for exchange in course.exchanges]
    answers = Answers.joined([exchange.answers for exchange in course.exchanges])
    features = np.concatenate([stream.features for stream in streams])
    cover = np.concatenate([stream.cover for stream in streams])
    marks = (Mark(_label_of(attack), attack), course.cover)
    return Trace(
        accounts=[account for stream in streams for account in course.accounts(stream)],
        marks=[marks[int(covered)] for covered in cover.tolist()],
        at=np.concatenate([stream.at for stream in streams]),
        features=features,
        outputs=course.service.said(features, answers),
        leaf=answers.leaf,
        specification=_joined([exchange.specifications for exchange in course.exchanges]),
    )


def _label_of(attack: str) -> Label:
    return "evasion" if attack in EVASIONS else "extraction"


def honest_traces(dataset: Dataset, service: Service, accounts: int, seed: int, seconds: float) -> list[Trace]:
    """Returns the queries of ``accounts`` honest users to ``service`` in ``seconds``, each at most 500.

    The habits of the data set take turns, known false alarms included.
    """
    traces = []
    for user in population(dataset, accounts, seed):
        at, features = _asked(user.requests, dataset.dimension, seconds)
        if len(features):
            accounts_of_rows, marks = [user.account] * len(at), [Mark("honest", user.habit)] * len(at)
            answers = service.ask(Asked(features, accounts_of_rows, at))
            outputs = service.said(features, answers)
            traces.append(Trace(accounts_of_rows, marks, at, features, outputs, answers.leaf))
    return traces


def _asked(asks: Iterator[HonestRequest], dimension: int, seconds: float) -> tuple[NDArray[np.float64], Rows]:
    """Returns the requests of ``asks``: float64 (n,) seconds and float32 (n, d)."""
    at: list[float] = []
    rows, now = [np.empty((0, dimension), np.float32)], 0.0
    for ask in asks:
        now += ask.pause
        if now > seconds or len(at) == _MOST_HONEST_QUERIES:
            break
        rows.append(ask.rows[: _MOST_HONEST_QUERIES - len(at)])
        at += [now] * len(rows[-1])
    return np.array(at, np.float64), np.concatenate(rows)


def log_of(run: Run, output_kind: OutputKind, traces: Sequence[Trace]) -> QueryLog:
    """All of ``traces`` by time as the log of ``run``, whose victim names the model."""
    order = np.argsort(np.concatenate([trace.at for trace in traces]), kind="stable")
    features = np.concatenate([trace.features for trace in traces])[order]
    accounts = [account for trace in traces for account in trace.accounts]
    marks = [mark for trace in traces for mark in trace.marks]
    names = sorted(set(accounts))
    numbers = {name: number for number, name in enumerate(names)}
    absent = np.isnan(features)
    queries = QueryBatch(
        model=run.victim,
        model_version=MODEL_VERSION,
        output_kind=output_kind,
        event_ids=_event_ids(run, len(order)),
        occurred_at=START + np.concatenate([trace.at for trace in traces])[order],
        principals=names,
        principal_index=np.array([numbers[account] for account in accounts], np.int32)[order],
        features=np.where(absent, np.float32(0), features),
        outputs=_logged(output_kind, np.concatenate([trace.outputs for trace in traces])[order]),
        missing=absent if absent.any() else None,
        leaf=_column([trace.leaf for trace in traces], order),
        specification=_column([trace.specification for trace in traces], order),
    )
    return QueryLog(queries, [marks[row] for row in order.tolist()], run)


def _event_ids(run: Run, rows: int) -> list[str]:
    """Numbers, after a digest of the run, so that two logs can be read together."""
    digest = sha256(repr(asdict(run)).encode()).hexdigest()[:12]
    return [f"{digest}-{row}" for row in range(rows)]


def _logged(output_kind: OutputKind, outputs: NDArray[np.float64]) -> NDArray[np.float32]:
    if output_kind == "label":
        return np.asarray(outputs.argmax(axis=1)[:, None], np.float32)
    return np.asarray(outputs, np.float32)


def _column(parts: Sequence[NDArray[Number] | None], order: NDArray[np.int64]) -> NDArray[Number] | None:
    column = _joined(parts)
    return None if column is None else column[order]


def _joined(parts: Sequence[NDArray[Number] | None]) -> NDArray[Number] | None:
    """All of ``parts``; None where one of them is: a log has a column for every query or for none."""
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None
