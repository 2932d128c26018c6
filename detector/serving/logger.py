"""The logger that a prediction service calls once a request."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import Count, OutputKind
from detector.serving.complaints import Complaints
from detector.serving.connection import Connection
from detector.serving.delivery import Delivery
from detector.serving.fair_queue import FairQueue
from detector.serving.metrics import Counters
from detector.serving.rows import (
    Columns,
    Rows,
    Source,
    as_columns,
    as_matrix,
    as_outputs,
    as_times,
    build,
    check_names,
    cut,
    source_of,
)
from detector.serving.tallies import Tallies

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_TALLY_ENTRIES = 10_000


class QueryLogger:
    """Sends scored queries to the detector without ever delaying or breaking the caller.

    ``max_queries`` and ``max_bytes`` bound what waits while Kafka is slow or away; when they are reached, whoever
    holds most of the queue loses his newest rows, and his losses are counted and sent. The thread starts with
    the first call, so a logger made before a server forks works in each of its workers.

    Counters: ``logged`` queries were accepted, ``sent`` acknowledged by Kafka, ``dropped`` given up, ``refused``
    reported by the gate, ``invalid`` calls could not be used; ``failures`` are errors of Kafka, ``records`` its
    acknowledged records.
    """

    NAME = "logger"

    def __init__(self, connection: Connection, *, max_queries: int = 100_000, max_bytes: int = 64 << 20) -> None:
        self.counters = Counters("logged", "sent", "records", "dropped", "refused", "invalid", "failures")
        self._queue: FairQueue[Rows] = FairQueue(max_queries, max_bytes)
        self._tallies = Tallies(_TALLY_ENTRIES)
        self._delivery = Delivery(connection, self._queue, self._tallies, self.counters)
        self._complaints = Complaints(logging.getLogger(__name__))
        self._lock = threading.Lock()
        self._started = False
        self._closed = False
        self._prefix = uuid.uuid4().hex[:16]
        self._numbers = count()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread now instead of at the first call. Returns at once, with or without a broker."""
        import numpy as np  # noqa: F401  slow to import: not in the path of the first request

        with self._lock:
            if not self._started and not self._closed:
                self._started = True
                self._delivery.start()

    def log(  # noqa: PLR0913  one call with everything about a request
        self,
        principal: str,
        model: str,
        model_version: str,
        features: ArrayLike,
        outputs: ArrayLike,
        *,
        output_kind: OutputKind = "probabilities",
        event_id: str | Sequence[str] | None = None,
        occurred_at: ArrayLike | None = None,
        **columns: Unpack[Columns],
    ) -> None:
        """Queue what the model was asked and what it said, before any perturbation.

        ``features``: (d,) for one query or (n, d) for many; an image must be flattened. ``outputs``: (k,) or (n, k);
        for the kinds ``label`` (a class number) and ``score`` also a number or (n,). ``event_id``: one string, or
        n; with several rows one string is numbered. ``occurred_at``: seconds UTC, one or n, by default now.
        ``columns``: see :class:`detector.serving.rows.Columns`. Never raises and never waits for Kafka; what
        cannot be used is counted under ``invalid``.
        """
        try:
            source = source_of(principal, model, model_version, output_kind)
            self._enqueue(self._rows(source, features, outputs, event_id, occurred_at, columns))
        except Exception as error:  # noqa: BLE001  nothing of ours may break the caller
            self.counters.add("invalid")
            self._complaints.say("invalid", "a query of model %r was not logged: %s", model, error)

    def unjudged(self, principal: str, model: str, queries: int = 1, *, reason: str) -> None:
        """Report that ``queries`` of ``principal`` were answered and cannot be logged, for ``reason``, a word."""
        self._tallies.add(Count(model, principal, "unjudged", queries, time.time(), reason))

    def refused(self, principal: str, model: str, queries: int = 1) -> None:
        """Count ``queries`` that were refused unanswered; the counts are sent about once a second."""
        try:
            check_names(principal=principal, model=model)
            self._tallies.add(Count(model, principal, "refused", queries, time.time()))
            self.counters.add("refused", queries)
            self._wake()
        except Exception as error:  # noqa: BLE001  nothing of ours may break the caller
            self.counters.add("invalid")
            self._complaints.say("invalid", "a refusal of model %r was not counted: %s", model, error)

    def gauges(self) -> Mapping[str, float]:
        """``queued`` and ``in_flight`` queries, and ``unattributed`` losses, whose principal was not kept."""
        return {
            "queued": len(self._queue),
            "in_flight": self._delivery.in_flight,
            "unattributed": self._tallies.unattributed,
        }

    def snapshot(self) -> dict[str, float]:
        """Counters and gauges by name."""
        return {**self.counters.snapshot(), **self.gauges()}

    def close(self, timeout: float = 5.0) -> None:
        """Send what waits, for at most ``timeout`` seconds; what is left then is counted as dropped."""
        with self._lock:
            started, closed = self._started, self._closed
            self._closed = True
        if started and not closed:
            self._delivery.close(timeout)
        left = sum(rows.queries for rows in self._queue.clear())
        if left or self._delivery.in_flight:
            self.counters.add("dropped", left)
            self._complaints.say(
                "close", "closed with %d queries unsent and %d unconfirmed", left, self._delivery.in_flight
            )

    def _rows(
        self,
        source: Source,
        features: ArrayLike,
        outputs: ArrayLike,
        event_id: str | Sequence[str] | None,
        occurred_at: ArrayLike | None,
        columns: Columns,
    ) -> list[Rows]:
        matrix = as_matrix(features, "features")
        queries, dimension = matrix.shape
        times = as_times(time.time() if occurred_at is None else occurred_at, queries)
        ids = self._event_ids(event_id, queries)
        optional = as_columns(columns, queries, dimension) if columns else {}
        return cut(build(source, ids, times, matrix, as_outputs(outputs, queries), optional))

    def _event_ids(self, event_id: str | Sequence[str] | None, queries: int) -> list[str]:
        if event_id is None:
            return [f"{self._prefix}-{next(self._numbers):x}" for _ in range(queries)]
        if isinstance(event_id, str):
            return [event_id] if queries == 1 else [f"{event_id}-{row}" for row in range(queries)]
        if len(event_id) != queries:
            raise InvalidRecord("length", f"{len(event_id)} event ids came with {queries} queries")
        return list(event_id)

    def _enqueue(self, pieces: Iterable[Rows]) -> None:
        for piece in pieces:
            self.counters.add("logged", piece.queries)
            for lost in [piece] if self._closed else self._queue.put(piece):
                self.counters.add("dropped", lost.queries)
                self._tallies.add(Count(lost.source.model, lost.principal, "dropped", lost.queries, time.time()))
        self._wake()

    def _wake(self) -> None:
        if not self._started:
            self.start()
        self._delivery.wake()
