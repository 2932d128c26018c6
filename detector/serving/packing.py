"""From rows of many principals to packed records, each for one partition of the queries topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from detector.contracts.batches import no_queries
from detector.contracts.codecs.queries_packed import encode_packed
from detector.contracts.errors import InvalidRecord
from detector.contracts.partitioning import partition_of
from detector.contracts.queries import Count, QueryBatch
from detector.serving.mending import mend
from detector.serving.rows import Rows, in_steps

_PACK_BYTES = 800_000
"""Estimated bytes at which a record is closed, below what a record may have."""

Carried = Counter[tuple[str, str]]
"""Queries by model and principal."""


@dataclass(frozen=True, slots=True)
class Record:
    """One packed record and what it carries: ``counts`` alone or ``queries``; ``mends``: rows mended, by counter."""

    partition: int
    value: bytes
    queries: Carried
    counts: tuple[Count, ...] = ()
    mends: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Unpackable:
    """Queries that no record can hold, and why."""

    queries: Carried
    error: InvalidRecord


def pack(rows: Iterable[Rows], partitions: int) -> Iterator[Record | Unpackable]:
    """Records for ``rows``, which stay in order within each principal and shape. Raises nothing for a row's sake."""
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
    """One record, or several where the estimate was too low or a row spoils it."""
    try:
        mended = mend(to_batch(portion))
        value = encode_packed(mended.batch) if len(mended.batch) else None
    except Exception as error:  # noqa: BLE001  whatever a row holds, the others must not be lost with it
        yield from _encode_apart(portion, partition, error)
        return
    queries = carried(portion)
    if mended.fault is not None:
        lost = Counter((mended.batch.model, principal) for principal in mended.lost)
        queries -= lost
        yield Unpackable(lost, mended.fault)
    if value is not None:
        yield Record(partition, value, queries, mends=mended.mends)


def _encode_apart(portion: list[Rows], partition: int, error: Exception) -> Iterator[Record | Unpackable]:
    """Both halves of ``portion``, down to the single row that is at fault."""
    pieces = portion if len(portion) > 1 else in_steps(portion[0], max(1, (portion[0].queries + 1) // 2))
    if len(pieces) > 1:
        half = len(pieces) // 2
        yield from _encode(pieces[:half], partition)
        yield from _encode(pieces[half:], partition)
    else:
        fault = error if isinstance(error, InvalidRecord) else InvalidRecord("structure", str(error)[:200])
        yield Unpackable(carried(portion), fault)


def carried(rows: Iterable[Rows]) -> Carried:
    """How many queries of each (model, principal) are in ``rows``."""
    queries: Carried = Counter()
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
        feature_names=portion[0].feature_names,
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
            yield Record(partition, encode_packed(no_queries(model, "-"), part), Counter(), part)


_COUNTS = 500
"""Counts in one record: each has a name of up to 256 characters of up to four bytes, and a reason."""
