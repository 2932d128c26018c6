"""Packs rows of many principals into records, each for one partition of the queries topic.

Rows are repaired so that they are valid in a record, for all rows of a record at once. Names, features and optional
columns are repaired as the detector would (``codecs.screening``). Outputs that do not fit their kind are converted if
their meaning is clear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from detector.contracts.batches import empty_batch, join_columns, take
from detector.contracts.codecs import screening
from detector.contracts.codecs.limits import DIMENSIONS, LARGEST_FLOAT32, OUTPUTS, PROBABILITY_SUM_TOLERANCE
from detector.contracts.codecs.packed_queries import encode_packed
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import Count, QueryBatch
from detector.contracts.topics import partition_of
from detector.serving.rows import QueuedRows, in_steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    from detector.contracts.lazy import np

_PACK_BYTES = 800_000
"""Estimated bytes at which a record is closed, below what a record may have."""
_COUNTS = 500
"""Counts in one record: each has a name of up to 256 characters of up to four bytes, and a reason."""
_COUNTED_REPAIRS = ("event_id", "principal", "attribute", "number", "text")
"""The words of ``limits.REPAIRS`` that are counted as ``repaired``."""
_MEANINGS = {"probabilities": "probabilities", "label": "class numbers", "score": "numbers", "unstated": "numbers"}

QueriesByOwner = Counter[tuple[str, str]]
"""Queries by model and principal."""


@dataclass(frozen=True, slots=True)
class Record:
    """One packed record and what it carries: ``counts`` alone or ``queries``; ``repairs``: rows repaired, by
    counter."""

    partition: int
    value: bytes
    queries: QueriesByOwner
    counts: tuple[Count, ...] = ()
    repairs: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Unpackable:
    """Queries that no record can hold, and why."""

    queries: QueriesByOwner
    error: InvalidRecord


def pack(rows: Iterable[QueuedRows], partitions: int) -> Iterator[Record | Unpackable]:
    """Yields records of ``rows``, which stay in order within each principal and layout. Does not raise for a bad
    row."""
    groups: dict[tuple[int, object], list[QueuedRows]] = {}
    for piece in rows:
        groups.setdefault((partition_of(piece.principal, partitions), piece.layout), []).append(piece)
    for (partition, _), group in groups.items():
        for portion in _portions(group):
            yield from _encode(portion, partition)


def pack_counts(counts: Iterable[Count], partitions: int) -> Iterator[Record]:
    """Yields records that carry ``counts`` and no rows, one for each partition and model, or several for very many."""
    groups: dict[tuple[int, str], list[Count]] = {}
    for count in counts:
        groups.setdefault((partition_of(count.principal, partitions), count.model), []).append(count)
    for (partition, model), group in groups.items():
        for start in range(0, len(group), _COUNTS):
            part = tuple(group[start : start + _COUNTS])
            yield Record(partition, encode_packed(empty_batch(model, "-"), part), Counter(), part)


def count_by_owner(rows: Iterable[QueuedRows]) -> QueriesByOwner:
    """Returns how many queries of each model and principal are in ``rows``."""
    queries: QueriesByOwner = Counter()
    for piece in rows:
        queries[piece.origin.model, piece.principal] += piece.queries
    return queries


def _portions(group: list[QueuedRows]) -> Iterator[list[QueuedRows]]:
    portion: list[QueuedRows] = []
    nbytes = 0
    for piece in group:
        if portion and nbytes + piece.nbytes > _PACK_BYTES:
            yield portion
            portion, nbytes = [], 0
        portion.append(piece)
        nbytes += piece.nbytes
    yield portion


def _encode(portion: list[QueuedRows], partition: int) -> Iterator[Record | Unpackable]:
    """Yields one record, or several if the estimate was too low or a row is bad."""
    try:
        whole = _to_batch(portion)
        batch, unusable, repairs = _repair(whole)
        value = encode_packed(batch) if len(batch) else None
    except Exception as error:  # noqa: BLE001  whatever a row holds, the others must not be lost with it
        yield from _encode_halves(portion, partition, error)
        return
    queries = count_by_owner(portion)
    if unusable is not None:
        rows, fault = unusable
        lost = Counter((whole.model, whole.principals[at]) for at in whole.principal_index[rows].tolist())
        queries -= lost
        yield Unpackable(lost, fault)
    if value is not None:
        yield Record(partition, value, queries, repairs=repairs)


def _encode_halves(portion: list[QueuedRows], partition: int, error: Exception) -> Iterator[Record | Unpackable]:
    """Encodes each half of ``portion`` separately, down to the single bad row."""
    pieces = portion if len(portion) > 1 else in_steps(portion[0], max(1, (portion[0].queries + 1) // 2))
    if len(pieces) > 1:
        half = len(pieces) // 2
        yield from _encode(pieces[:half], partition)
        yield from _encode(pieces[half:], partition)
    else:
        fault = error if isinstance(error, InvalidRecord) else InvalidRecord("structure", str(error)[:200])
        yield Unpackable(count_by_owner(portion), fault)


def _to_batch(portion: list[QueuedRows]) -> QueryBatch:
    """Returns one batch of ``portion``, whose rows share their layout."""
    origin = portion[0].origin
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(piece.principal, len(numbers)) for piece in portion]
    return QueryBatch(
        model=origin.model,
        model_version=origin.model_version,
        output_kind=origin.output_kind,
        event_ids=[event_id for piece in portion for event_id in piece.event_ids],
        occurred_at=np.concatenate([piece.occurred_at for piece in portion]),
        principals=list(numbers),
        principal_index=np.repeat(np.array(index, dtype=np.int32), [piece.queries for piece in portion]),
        features=np.concatenate([piece.features for piece in portion]),
        outputs=np.concatenate([piece.outputs for piece in portion]),
        feature_names=portion[0].feature_names,
        **{name: join_columns([piece.columns[name] for piece in portion]) for name in portion[0].columns},
    )


def _repair(batch: QueryBatch) -> tuple[QueryBatch, tuple[NDArray[np.bool_], InvalidRecord] | None, Counter[str]]:
    """Returns the usable rows, repaired; a mask (n,) and the reasons of the unusable rows of ``batch``, or None; and
    the number of repaired rows, by counter.

    No row is lost except those whose outputs cannot fit their kind, and those that are too wide.
    """
    repairs: Counter[str] = Counter()
    fault = _too_wide(batch)
    if fault is not None:
        repaired, usable = batch, np.zeros(len(batch), dtype=np.bool_)
    else:
        repaired, usable = _repair_outputs(batch, repairs)
    unusable = None
    if not usable.all():
        meaning = _MEANINGS.get(repaired.output_kind)
        unusable = ~usable, fault or InvalidRecord("outputs", f"the outputs are no {meaning}")
        repaired = take(repaired, np.flatnonzero(usable))
    if fault is None:
        words: Counter[str] = Counter()
        repaired = screening.repair(repaired, words, None)
        if words:
            repairs.update(clipped=words["clipped"], repaired=sum(words[word] for word in _COUNTED_REPAIRS))
    return repaired, unusable, repairs


def _too_wide(batch: QueryBatch) -> InvalidRecord | None:
    texts = 0 if batch.texts is None else batch.texts.shape[1]
    for what, width, limit in (
        ("features", batch.features.shape[1] + texts, DIMENSIONS),
        ("outputs", batch.outputs.shape[1], OUTPUTS),
    ):
        if width > limit:
            return InvalidRecord("too-large", f"{what} of a query have {width} entries; send at most {limit}")
    return None


def _repair_outputs(batch: QueryBatch, repairs: Counter[str]) -> tuple[QueryBatch, NDArray[np.bool_]]:
    """Returns ``batch`` with outputs that fit their kind, and which rows (n,) are usable."""
    outputs, named = batch.outputs, batch.output_names is not None
    if batch.output_kind == "none":
        return replace(batch, outputs=outputs[:, :0]), np.ones(len(batch), dtype=np.bool_)
    if batch.output_kind == "label":
        return batch, screening.usable_outputs(batch)
    if batch.output_kind == "probabilities" and (named or outputs.shape[1] != 1):
        good = screening.are_probabilities(outputs, named)
        if good.all():
            return batch, good
        usable: NDArray[np.bool_] = np.logical_and.reduce(~np.isnan(outputs), axis=1)
        wrong = usable & ~good
        converted = outputs.copy()
        converted[wrong] = _distributions(outputs[wrong])
        repairs["converted"] += int(np.count_nonzero(wrong))
        return replace(batch, outputs=converted), usable
    if batch.output_kind == "probabilities":
        batch = replace(batch, output_kind="unstated")
    if np.isfinite(outputs).all():
        return batch, np.ones(len(batch), dtype=np.bool_)
    repairs["clipped"] += int(np.isinf(outputs).any(axis=1).sum())
    usable = np.logical_and.reduce(~np.isnan(outputs), axis=1)
    return replace(batch, outputs=np.nan_to_num(outputs)), usable


def _distributions(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns rows that add up to 1 in the same order: percentages or parts divided by their sum, softmax of logits."""
    wide = np.nan_to_num(rows.astype(np.float64), posinf=LARGEST_FLOAT32, neginf=-LARGEST_FLOAT32)
    sums = wide.sum(axis=1, keepdims=True)
    parts = (wide.max(axis=1, keepdims=True) <= 1) | (np.abs(sums - 100) <= 100 * PROBABILITY_SUM_TOLERANCE)
    parts &= (wide.min(axis=1, keepdims=True) >= 0) & (sums > 0)
    exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    return np.where(parts, wide / np.where(parts, sums, 1), softmax).astype(np.float32)
