"""From rows of many principals to packed records, each for one partition of the queries topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from detector.contracts.codecs.queries_packed import encode_packed
from detector.contracts.errors import InvalidRecord
from detector.contracts.partitioning import partition_of
from detector.contracts.queries import Count, QueryBatch
from detector.serving.rows import Rows

_PACK_BYTES = 800_000
"""Estimated bytes at which a record is closed, below what a record may have."""


@dataclass(frozen=True, slots=True)
class Record:
    """One packed record and what it carries: ``counts`` alone or, by model and principal, ``queries``."""

    partition: int
    value: bytes
    queries: Counter[tuple[str, str]]
    counts: tuple[Count, ...] = ()


@dataclass(frozen=True, slots=True)
class Unpackable:
    """Rows that no record can hold, and why."""

    rows: Rows
    error: InvalidRecord


def pack(rows: Iterable[Rows], partitions: int) -> Iterator[Record | Unpackable]:
    """Records for ``rows``, which stay in order within each principal and shape."""
    groups: dict[tuple[object, ...], list[Rows]] = {}
    for piece in rows:
        groups.setdefault((partition_of(piece.principal, partitions), piece.shape), []).append(piece)
    for group in groups.values():
        partition = partition_of(group[0].principal, partitions)
        for part in _portions(group):
            yield from _encode(part, partition)


def _portions(group: list[Rows]) -> Iterator[list[Rows]]:
    portion: list[Rows] = []
    nbytes = 0
    for piece in group:
        if portion and nbytes + piece.nbytes > _PACK_BYTES:
            yield portion
            portion, nbytes = [], 0
        portion.append(piece)
        nbytes += piece.nbytes
    yield portion


def _encode(portion: list[Rows], partition: int) -> Iterator[Record | Unpackable]:
    """One record, or several where the estimate was too low."""
    try:
        value = encode_packed(to_batch(portion), ())
    except InvalidRecord as error:
        if len(portion) == 1:
            yield Unpackable(portion[0], error)
            return
        half = len(portion) // 2
        yield from _encode(portion[:half], partition)
        yield from _encode(portion[half:], partition)
    else:
        yield Record(partition, value, carried(portion))


def carried(rows: Iterable[Rows]) -> Counter[tuple[str, str]]:
    """How many queries of each (model, principal) are in ``rows``."""
    queries: Counter[tuple[str, str]] = Counter()
    for piece in rows:
        queries[piece.source.model, piece.principal] += piece.queries
    return queries


def to_batch(portion: list[Rows]) -> QueryBatch:
    """One batch of ``portion``, whose rows share their shape."""
    import numpy as np

    source = portion[0].source
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(piece.principal, len(numbers)) for piece in portion]
    return QueryBatch(
        model=source.model,
        model_version=source.model_version,
        output_kind=source.output_kind,
        event_ids=[event_id for piece in portion for event_id in piece.event_ids],
        occurred_at=np.concatenate([piece.occurred_at for piece in portion]),
        principals=list(numbers),
        principal_index=np.repeat(np.array(index, dtype=np.int32), [piece.queries for piece in portion]),
        features=np.concatenate([piece.features for piece in portion]),
        outputs=np.concatenate([piece.outputs for piece in portion]),
        **{name: _join([piece.columns[name] for piece in portion]) for name in portion[0].columns},
    )


def _join(columns: list[Any]) -> Any:
    import numpy as np

    if isinstance(columns[0], list):
        return [entry for column in columns for entry in column]
    return np.concatenate(columns)


def pack_counts(counts: Iterable[Count], partitions: int) -> Iterator[Record]:
    """Records that carry ``counts`` and no rows, one for each partition and model, some for a great many."""
    groups: dict[tuple[int, str], list[Count]] = {}
    for count in counts:
        groups.setdefault((partition_of(count.principal, partitions), count.model), []).append(count)
    for (partition, model), group in groups.items():
        for start in range(0, len(group), _COUNTS):
            part = tuple(group[start : start + _COUNTS])
            yield Record(partition, encode_packed(_no_rows(model), part), Counter(), part)


_COUNTS = 600
"""Counts in one record: each has a name of up to 256 characters of up to four bytes."""


def _no_rows(model: str) -> QueryBatch:
    import numpy as np

    nothing = np.empty((0, 1), dtype=np.float32)
    return QueryBatch(
        model=model,
        model_version="-",
        output_kind="score",
        event_ids=[],
        occurred_at=np.empty(0, dtype=np.float64),
        principals=[],
        principal_index=np.empty(0, dtype=np.int32),
        features=nothing,
        outputs=nothing,
    )
