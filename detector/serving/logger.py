"""The logger that a prediction service calls once a request."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, Unpack

from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import principal_of
from detector.contracts.queries import Count, OutputKind
from detector.serving.buffers import FairQueue, Tallies, as_count, as_reason
from detector.serving.calls import count_rows, is_loose, pick, rows_of_call
from detector.serving.connection import Connection
from detector.serving.delivery import Delivery
from detector.serving.isolation import not_forking, suppress_errors
from detector.serving.metrics import Counters, RateLimitedLogger
from detector.serving.rows import (
    OptionalColumns,
    QueryOrigin,
    QueuedRows,
    as_columns,
    as_matrix,
    as_outputs,
    as_times,
    check_names,
    correct_times,
    cut,
    origin_of,
)
from detector.serving.threads import BackgroundService

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_TALLY_ENTRIES = 10_000

Call = tuple[Any, Any, Any, Any, OptionalColumns]
"""Features, outputs, event id, time and optional columns, as they were passed."""

_Kind = Literal["refused", "unjudged"]


class QueryLogger(BackgroundService[Delivery]):
    """Sends scored queries to the detector without ever delaying or breaking the caller.

    ``max_queries`` and ``max_bytes`` bound the queue while Kafka is slow or down. When it is full, the principal with
    the most queued rows loses their newest ones, and these losses are counted and sent. The thread starts with the
    first call of each process, so a logger made or used before a server forks works in each worker.

    Every query given to ``log`` is in one of ``sent`` (acknowledged by Kafka), ``dropped``, ``unjudged`` (unusable, by
    principal and reason), or the gauges ``queued`` and ``in_flight``. Other counters: ``logged`` queries were queued,
    ``refused`` ones reported by the gate; ``invalid`` calls could not be used in whole; of the queries that are sent,
    ``clipped`` had a number beyond float32, ``converted`` outputs that were not probabilities, ``repaired`` an odd
    name, id, time or column; ``failures`` are errors of Kafka, ``records`` its acknowledged records.
    """

    NAME = "logger"

    def __init__(self, connection: Connection, *, max_queries: int = 100_000, max_bytes: int = 64 << 20) -> None:
        self.counters = Counters(*_COUNTERS)
        self._connection = connection
        self._bounds = {"max_queries": max_queries, "max_bytes": max_bytes}
        self._queue: FairQueue[QueuedRows] = FairQueue(max_queries, max_bytes)
        self._tallies = Tallies(_TALLY_ENTRIES)
        self._log = RateLimitedLogger(logging.getLogger(__name__))
        self._name_events()
        super().__init__()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Gives a spawned process its own logger, without the rows that wait here."""
        return partial(type(self), self._connection, **self._bounds), ()

    def renew(self) -> None:
        """Starts again in a forked process, where the thread is gone."""
        self._background.drop_inherited()
        super().renew()
        self._name_events()

    def log(  # noqa: PLR0913  one call with everything about a request
        self,
        principal: str,
        model: str,
        model_version: str,
        features: ArrayLike | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        outputs: ArrayLike | Mapping[str, Any] | Sequence[Any] | None,
        *,
        output_kind: OutputKind = "probabilities",
        event_id: str | Sequence[str] | None = None,
        occurred_at: ArrayLike | None = None,
        **columns: Unpack[OptionalColumns],
    ) -> None:
        """Queues the inputs and the outputs of the model, before any perturbation.

        ``features``: (d,) for one query or (n, d) for many; an image must be flattened. None or NaN is a missing
        feature, a number beyond float32 is clipped. By name: an object of numbers, booleans and texts, or a list of n
        of them; a list may hold texts as well. ``outputs``: (k,) or (n, k), or a number or (n,): the probability of the
        second of two classes, a score or a class number, which the detector infers unless ``output_kind`` says. Also a
        label that is a text, an object of classes and their probabilities, a list of ``{"label": ..., "score": ...}``
        of the best classes, or None for unknown ones: one, or n of them. ``event_id``: one string, or n; with several
        rows one string is numbered. ``occurred_at``: seconds UTC, one or n, by default now. ``columns``: see
        :class:`detector.serving.rows.OptionalColumns`. Never raises and never waits for Kafka; what cannot be used is
        counted against the principal under ``unjudged``.
        """
        try:
            if not self._started:
                self._ensure_started()
            if type(principal) is not str:
                principal = principal_of(principal)
            origin = origin_of(principal, model, model_version, output_kind)
            pieces = self._read(origin, (features, outputs, event_id, occurred_at, columns))
            if origin.principal != principal:
                self._repaired(sum(piece.queries for piece in pieces))
            self._enqueue(pieces)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  no fault of the SDK may break the caller
            self._reject(principal, model, features, error)

    def refused(self, principal: str, model: str, queries: int = 1) -> None:
        """Counts ``queries`` that were refused unanswered; the counts are sent about once a second."""
        self._count("refused", principal, model, queries, "")

    def unjudged(self, principal: str, model: str, queries: int = 1, *, reason: str) -> None:
        """Counts ``queries`` that were answered and cannot be logged; ``reason`` is a short word of ``a-z`` and ``-``.

        Never raises.
        """
        self._count("unjudged", principal, model, queries, reason)

    def gauges(self) -> Mapping[str, float]:
        """Returns ``queued`` and ``in_flight`` queries, and ``unattributed`` losses, whose principal is unknown."""
        return {
            "queued": len(self._queue),
            "in_flight": self._background.in_flight,
            "unattributed": self._tallies.unattributed,
        }

    def close(self, timeout: float = 5.0) -> None:
        """Sends what waits, for at most ``timeout`` seconds; what is left then is counted as dropped.

        Later calls are counted as dropped too, until :meth:`start`.
        """
        self._close(timeout)
        left = self._queue.clear()
        for rows in left:
            self._drop(rows, "closed")
        if left or self._background.in_flight:
            unsent, unconfirmed = sum(rows.queries for rows in left), self._background.in_flight
            self._log.warning("close", "closed with %d queries unsent and %d unconfirmed", unsent, unconfirmed)

    def _name_events(self) -> None:
        """Sets a prefix for the event ids of this process."""
        self._prefix = uuid.uuid4().hex[:16]
        self._numbers = count()

    def _new_background(self, before: Delivery | None) -> Delivery:
        return Delivery(self._connection, self._queue, self._tallies, self.counters)

    def _read(self, origin: QueryOrigin, call: Call) -> list[QueuedRows]:
        features, outputs, event_id, occurred_at, columns = call
        if outputs is None:
            return self._read_by_row(origin, call, loose=True)
        try:
            matrix = as_matrix(features)
            answers = as_outputs(outputs, len(matrix))
        except (TypeError, ValueError, OverflowError):
            return self._read_by_row(origin, call, is_loose(features, outputs))
        queries, dimension = matrix.shape
        times = self._times(occurred_at, queries)
        ids = self._event_ids(event_id, queries)
        optional = self._columns(columns, queries, dimension) if columns else {}
        return cut(QueuedRows(origin, ids, times, matrix, answers, optional))

    def _read_by_row(self, origin: QueryOrigin, call: Call, loose: bool) -> list[QueuedRows]:
        """Returns the usable rows of a call that cannot be converted at once, and counts the others."""
        features, outputs, event_id, occurred_at, columns = call
        queries = count_rows(features)
        times = self._times(occurred_at, queries)
        ids = self._event_ids(event_id, queries)
        given = {name: values for name, values in columns.items() if name != "missing" or not loose}
        rows = []
        for part in rows_of_call(features, outputs, origin.output_kind, loose):
            picked: Any = {name: pick(values, part.positions, queries) for name, values in given.items()}
            optional = self._columns(picked, *part.features.shape) | part.columns
            part_origin = origin_of(origin.principal, origin.model, origin.model_version, part.output_kind)
            part_ids = [ids[position] for position in part.positions]
            rows += cut(
                QueuedRows(
                    part_origin,
                    part_ids,
                    times[part.positions],
                    part.features,
                    part.outputs,
                    optional,
                    part.feature_names,
                )
            )
        unusable = queries - sum(piece.queries for piece in rows)
        if unusable:
            self.counters.add("invalid")
            self._count("unjudged", origin.principal, origin.model, unusable, "structure")
            self._log.warning("invalid", "of a call for model %r %d rows cannot be used", origin.model, unusable)
        return rows

    def _times(self, occurred_at: ArrayLike | None, queries: int) -> NDArray[np.float64]:
        now = time.time()
        if occurred_at is None:
            return as_times(now, queries)
        times = as_times(occurred_at, queries)
        self._repaired(correct_times(times, now))
        return times

    def _columns(self, columns: OptionalColumns, queries: int, dimension: int) -> dict[str, Any]:
        optional = as_columns(columns, queries, dimension)
        if len(optional) < len(columns):
            self._repaired(queries)
        return optional

    def _event_ids(self, event_id: Any, queries: int) -> list[str]:
        if event_id is None:
            return [f"{self._prefix}-{next(self._numbers):x}" for _ in range(queries)]
        if isinstance(event_id, str | bytes) or not hasattr(event_id, "__len__"):
            event_id = event_id if type(event_id) is str else str(event_id)
            return [event_id] if queries == 1 else [f"{event_id}-{row}" for row in range(queries)]
        if len(event_id) != queries:
            raise InvalidRecord("length", f"{len(event_id)} event ids came with {queries} queries")
        return [name if type(name) is str else str(name) for name in event_id]

    def _repaired(self, queries: int) -> None:
        if queries:
            self.counters.add("repaired", queries)

    def _enqueue(self, pieces: Iterable[QueuedRows]) -> None:
        for piece in pieces:
            self.counters.add("logged", piece.queries)
            if self._closed:
                self._drop(piece, "closed")
                self._log.warning("closed", "the logger is closed: queries are dropped until it is started again")
                continue
            for dropped in self._queue.put(piece):
                self._drop(dropped, "queue-full")
        self._wake()

    def _drop(self, rows: QueuedRows, reason: str) -> None:
        self.counters.add("dropped", rows.queries)
        self._tallies.add(Count(rows.origin.model, rows.principal, "dropped", rows.queries, time.time(), reason))

    def _reject(self, principal: Any, model: Any, features: Any, error: BaseException) -> None:
        """Counts the queries of an unusable call."""
        self.counters.add("invalid")
        queries = count_rows(features)
        reason = error.reason if isinstance(error, InvalidRecord) else "structure"
        if queries:
            self._count("unjudged", principal, model, queries, reason)
        self._log.warning("invalid", "a query of model %.80r was not logged: %s", model, error)

    def _count(self, kind: _Kind, principal: Any, model: Any, queries: int, reason: Any) -> None:
        """Counts ``queries``, and keeps a count to be sent if their principal and model can be named. Never raises."""

        def failed(error: BaseException) -> None:
            self.counters.add("invalid")
            self._log.warning("invalid", "%s queries of model %.80r were not counted: %s", kind, model, error)

        def count_unattributed(_: BaseException) -> None:
            self._tallies.add_unattributed(queries)
            self._log.warning("nameless", "%d queries (%s) were counted without a name", queries, kind)

        with suppress_errors(failed):
            queries, why = as_count(queries), "" if kind == "refused" else as_reason(reason)
            self.counters.add(kind, queries)
            with suppress_errors(count_unattributed):
                check_names(model=model)
                self._tallies.add(Count(model, principal_of(principal), kind, queries, time.time(), why))
            self._wake()

    def _wake(self) -> None:
        if not self._started:
            self._ensure_started()
        self._background.wake()

    def _ensure_started(self) -> None:
        with not_forking():
            import numpy as np  # noqa: F401  slow to import: by start, not in the path of the first request
        super()._ensure_started()


_COUNTERS = (
    *("logged", "sent", "records", "dropped", "unjudged", "refused", "invalid"),
    *("clipped", "converted", "repaired", "failures"),
)
