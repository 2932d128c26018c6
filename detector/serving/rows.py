"""The queue entry of one call of the logger: the caller's values, checked, copied and made compact."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict, get_args

from detector.contracts.codecs.screening import are_times
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import is_name, usable_principal
from detector.contracts.queries import OutputKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
else:
    from detector.contracts.lazy import np

_PIECE_ROWS = 128
_PIECE_BYTES = 400_000
"""Longer matrices are cut into pieces of at most this many rows and bytes, or of one larger row."""

_ROW_OVERHEAD = 200
"""Bytes charged for the Python objects around a row."""
_TEXT_OVERHEAD = 8
"""Bytes charged for what is around a text."""


class OptionalColumns(TypedDict, total=False):
    """Optional columns, one entry per row, as :class:`detector.contracts.queries.QueryBatch` describes them.

    A single string applies to every row.
    """

    missing: ArrayLike
    hardness: ArrayLike
    leaf: ArrayLike
    specification: ArrayLike
    served_mode: str | Sequence[str]
    network_prefix: str | Sequence[str]
    organisation: str | Sequence[str]
    user_agent_hash: str | Sequence[str]


_NUMERIC = {"hardness": ("float32", ()), "leaf": ("int64", ()), "specification": ("float32", (2,))}
"""Type and shape of an entry."""


@dataclass(frozen=True, slots=True)
class QueryOrigin:
    """Principal, model and output kind of rows."""

    principal: str
    model: str
    model_version: str
    output_kind: OutputKind


@dataclass(slots=True, eq=False)
class QueuedRows:
    """``queries`` rows of one principal: ``features`` float32 (n, d), ``outputs`` float32 (n, k), ``columns`` of n.
    ``feature_names`` as in a batch.

    Numbers are as they came; those that are not finite, or no probabilities, are repaired when rows are packed.
    """

    origin: QueryOrigin
    event_ids: list[str]
    occurred_at: NDArray[np.float64]
    features: NDArray[np.float32]
    outputs: NDArray[np.float32]
    columns: dict[str, Any]
    feature_names: tuple[str, ...] | None = None
    nbytes: int = field(init=False)
    """An estimate of the memory that the rows take."""

    def __post_init__(self) -> None:
        ids = self.event_ids
        nbytes = self.features.nbytes + self.outputs.nbytes + len(ids) * _ROW_OVERHEAD + sum(map(len, ids))
        for column in self.columns.values():
            nbytes += sum(map(len, column)) if isinstance(column, list) else _nbytes(column)
        self.nbytes = nbytes

    @property
    def principal(self) -> str:
        return self.origin.principal

    @property
    def queries(self) -> int:
        return len(self.event_ids)

    @property
    def layout(self) -> tuple[object, ...]:
        """The properties that rows must share to be packed in one batch, besides the partition."""
        origin = self.origin
        widths = self.features.shape[1], self.outputs.shape[1]
        texts = self.columns["texts"].shape[1] if "texts" in self.columns else 0
        columns = (*widths, texts, self.feature_names, *sorted(self.columns))
        return origin.model, origin.model_version, origin.output_kind, *columns


def check_names(**names: object) -> None:
    """Raises InvalidRecord unless each can name a model or a version."""
    for what, name in names.items():
        if not (isinstance(name, str) and is_name(name)):
            raise InvalidRecord("identity", f"{what} is {name!r:.80}; it must be 1 to 256 plain characters and not '*'")


@lru_cache(maxsize=8_192)
def origin_of(principal: str, model: str, model_version: str, output_kind: OutputKind) -> QueryOrigin:
    """Returns the origin, with its principal made usable. Raises InvalidRecord if the detector would refuse all its
    rows."""
    check_names(model=model, model_version=model_version)
    if output_kind not in get_args(OutputKind):
        raise InvalidRecord("structure", f"output_kind is {output_kind!r:.80}; use one of {get_args(OutputKind)}")
    return QueryOrigin(usable_principal(principal), model, model_version, output_kind)


def as_matrix(features: ArrayLike) -> NDArray[np.float32]:
    """Returns a float32 copy of ``features`` with one row per query: (d,) counts as one row. Raises InvalidRecord.

    None becomes NaN, and a number beyond float32 becomes infinite.
    """
    matrix = _as_floats(features)
    if matrix.ndim == 1:
        matrix = matrix.reshape(1, -1)
    if matrix.ndim != 2 or not matrix.size:
        raise InvalidRecord(
            "dimension", f"features have shape {matrix.shape}; flatten each query to one row of numbers"
        )
    return matrix


def as_outputs(values: ArrayLike, queries: int) -> NDArray[np.float32]:
    """Returns a float32 copy of ``values`` as (queries, k); one number per query may come as (queries,)."""
    outputs = _as_floats(values)
    if outputs.ndim < 2:
        outputs = outputs.reshape(1, -1) if queries == 1 else outputs.reshape(-1, 1)
    if outputs.ndim != 2 or len(outputs) != queries or not outputs.size:
        raise InvalidRecord("length", f"outputs have shape {outputs.shape} for {queries} queries")
    return outputs


def _as_floats(values: Any) -> NDArray[np.float32]:
    try:
        silently, numpy = _thread.silently
    except AttributeError:
        silently, numpy = _thread.silently = _silent_numpy()
    if type(values) is not numpy.ndarray and hasattr(values, "filled"):  # masked; numpy.ma takes long to import
        values = values.astype(numpy.float64).filled(numpy.nan)
    matrix: NDArray[np.float32] = silently(numpy.array, values, dtype=numpy.float32, order="C")
    return matrix


_thread = threading.local()
"""Has a context in which numpy does not warn about values beyond float32; np.errstate takes ten times as long."""


def _silent_numpy() -> tuple[Callable[..., Any], Any]:
    silently = contextvars.Context().run
    silently(np.seterr, all="ignore")
    return silently, np


def as_times(seconds: ArrayLike, queries: int) -> NDArray[np.float64]:
    """Returns float64 (queries,) of ``seconds``, one for all or one each."""
    times = np.empty(queries, dtype=np.float64)
    times[:] = seconds
    return times


def correct_times(times: NDArray[np.float64], now: float) -> int:
    """Replaces times that are not between 1970 and 9999 by ``now``; returns their number."""
    invalid = ~are_times(times)
    times[invalid] = now
    return int(np.count_nonzero(invalid))


def as_columns(columns: OptionalColumns, queries: int, dimension: int) -> dict[str, Any]:
    """Returns the optional columns of a batch, without numeric columns whose entries are not numbers.

    Raises InvalidRecord for an unknown column and for one of another length.
    """
    unknown = columns.keys() - OptionalColumns.__annotations__
    if unknown:
        known = ", ".join(OptionalColumns.__annotations__)
        raise InvalidRecord("structure", f"no column is called {', '.join(sorted(unknown))}; there are {known}")
    converted = {name: _column(name, values, queries, dimension) for name, values in columns.items()}
    return {name: column for name, column in converted.items() if column is not None}


def _column(name: str, values: Any, queries: int, dimension: int) -> Any:
    if name in _NUMERIC:
        return _numbers(name, values, queries)
    if name == "missing":
        return _mask(values, (queries, dimension))
    texts = [values] * queries if isinstance(values, str) else list(values)
    if len(texts) != queries:
        raise InvalidRecord("length", f"{name} has {len(texts)} entries for {queries} queries")
    return [text if type(text) is str else "" if text is None else str(text) for text in texts]


def _mask(values: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.array(values, dtype=np.bool_)
    if mask.size != shape[0] * shape[1]:
        raise InvalidRecord("length", f"missing has {mask.size} marks for {shape[0]} queries of {shape[1]} features")
    return mask.reshape(shape)


def _numbers(name: str, values: Any, queries: int) -> NDArray[Any] | None:
    """Returns the column, or None if it cannot be read: a caller must not hide a query by the values of a column."""
    dtype, entry = _NUMERIC[name]
    try:
        with np.errstate(all="ignore"):
            given = np.asarray(values)
            column = given.astype(dtype).reshape(queries, *entry)
    except (TypeError, ValueError, OverflowError):
        return None
    exact = dtype != "int64" or given.dtype.kind == "i" or np.array_equal(column.reshape(-1), given.reshape(-1))
    return column if exact else None


def cut(rows: QueuedRows) -> list[QueuedRows]:
    """Returns ``rows`` in pieces, each with its own memory, that the queue can drop separately."""
    if rows.queries == 1:
        return [rows]
    step = max(1, min(_PIECE_ROWS, _PIECE_BYTES // (rows.features[0].nbytes + rows.outputs[0].nbytes)))
    return [rows] if rows.queries <= step else in_steps(rows, step)


def in_steps(rows: QueuedRows, step: int) -> list[QueuedRows]:
    """Returns ``rows`` in pieces of ``step`` queries."""
    return [_slice(rows, start, start + step) for start in range(0, rows.queries, step)]


def _slice(rows: QueuedRows, start: int, stop: int) -> QueuedRows:
    return QueuedRows(
        rows.origin,
        rows.event_ids[start:stop],
        rows.occurred_at[start:stop].copy(),
        rows.features[start:stop].copy(),
        rows.outputs[start:stop].copy(),
        {name: column[start:stop].copy() for name, column in rows.columns.items()},
        rows.feature_names,
    )


def _nbytes(column: NDArray[Any]) -> int:
    """Returns the approximate encoded size of an optional column, in bytes."""
    if column.dtype.hasobject:
        return sum(len(text or "") + _TEXT_OVERHEAD for text in column.ravel().tolist())
    return int(column.nbytes)
