"""From rows of many principals to packed records, each for one partition of the queries topic.

Rows are repaired so that they are valid in a record, for all rows of a record at once. Names, features and optional
columns are repaired as the detector would (``codecs.screening``). Outputs that the detector would refuse for their kind
are converted where their meaning is clear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from detector.contracts.batches import no_queries, take
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


def pack(rows: Iterable[QueuedRows], partitions: int) -> Iterator[Record | Unpackable]:
    """Records for ``rows``, which stay in order within each principal and shape. Raises nothing for a row's sake."""
    groups: dict[tuple[object, ...], list[QueuedRows]] = {}
    for piece in rows:
        groups.setdefault((partition_of(piece.principal, partitions), piece.shape), []).append(piece)
    for group in groups.values():
        partition = partition_of(group[0].principal, partitions)
        for part in _portions(group):
            yield from _encode(part, partition)


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


def _encode_apart(portion: list[QueuedRows], partition: int, error: Exception) -> Iterator[Record | Unpackable]:
    """Both halves of ``portion``, down to the single row that is at fault."""
    pieces = portion if len(portion) > 1 else in_steps(portion[0], max(1, (portion[0].queries + 1) // 2))
    if len(pieces) > 1:
        half = len(pieces) // 2
        yield from _encode(pieces[:half], partition)
        yield from _encode(pieces[half:], partition)
    else:
        fault = error if isinstance(error, InvalidRecord) else InvalidRecord("structure", str(error)[:200])
        yield Unpackable(carried(portion), fault)


def carried(rows: Iterable[QueuedRows]) -> Carried:
    """How many queries of each (model, principal) are in ``rows``."""
    queries: Carried = Counter()
    for piece in rows:
        queries[piece.source.model, piece.principal] += piece.queries
    return queries


def to_batch(portion: list[QueuedRows]) -> QueryBatch:
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


_REPAIRS = ("event_id", "principal", "attribute", "number", "text")
"""What of ``limits.REPAIRS`` is counted as ``repaired``."""


@dataclass(slots=True)
class Mended:
    """``batch`` made fit. ``mends``: how many of its rows, by counter. ``fault``: why others cannot be used, and
    ``lost``: the principals of these, one entry a row."""

    batch: QueryBatch
    mends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    fault: InvalidRecord | None = None


def mend(batch: QueryBatch) -> Mended:
    """``batch`` as the detector takes it: no row is lost but those whose outputs cannot be what their kind says, and
    those that are too wide. Outputs that are no probabilities become such; the rest is as ``codecs.mending`` does it.
    """
    import numpy as np

    mended = Mended(batch)
    texts = 0 if batch.texts is None else batch.texts.shape[1]
    for what, width, limit in (
        ("features", batch.features.shape[1] + texts, DIMENSIONS),
        ("outputs", batch.outputs.shape[1], OUTPUTS),
    ):
        if width > limit:
            fault = InvalidRecord("too-large", f"{what} of a query have {width} entries; send at most {limit}")
            _set_aside(mended, np.ones(len(batch), dtype=np.bool_), fault)
            return mended
    _MENDERS[batch.output_kind](mended)
    repaired: Counter[str] = Counter()
    mended.batch = screening.mend(mended.batch, repaired, None)
    if repaired:
        mended.mends.update(clipped=repaired["clipped"], repaired=sum(repaired[word] for word in _REPAIRS))
    return mended


def _probabilities(mended: Mended) -> None:
    import numpy as np

    outputs, named = mended.batch.outputs, mended.batch.output_names is not None
    if outputs.shape[1] == 1 and not named:
        mended.batch = replace(mended.batch, output_kind="unstated")
        _scores(mended)
        return
    with np.errstate(invalid="ignore", over="ignore"):
        beside = np.add.reduce(outputs, axis=1) - 1
        fine = (np.maximum(beside, 0) if named else np.abs(beside)) <= PROBABILITY_SUM_TOLERANCE
        fine &= np.minimum.reduce(outputs, axis=1) >= 0
    if fine.all():
        return
    unusable = np.isnan(outputs).any(axis=1)
    wrong = ~fine & ~unusable
    converted = outputs.copy()
    converted[wrong] = _distributions(outputs[wrong])
    mended.mends["converted"] += int(np.count_nonzero(wrong))
    mended.batch = replace(mended.batch, outputs=converted)
    _set_aside(mended, unusable)


def _distributions(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that add up to 1 with the same order: shares of what may be percentages or parts, softmax of logits."""
    import numpy as np

    wide = np.nan_to_num(rows.astype(np.float64), posinf=LARGEST_FLOAT32, neginf=-LARGEST_FLOAT32)
    sums = wide.sum(axis=1, keepdims=True)
    parts = (wide.max(axis=1, keepdims=True) <= 1) | (np.abs(sums - 100) <= 100 * PROBABILITY_SUM_TOLERANCE)
    parts &= (wide.min(axis=1, keepdims=True) >= 0) & (sums > 0)
    exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    return np.where(parts, wide / np.where(parts, sums, 1), softmax).astype(np.float32)


def _labels(mended: Mended) -> None:
    import numpy as np

    outputs = mended.batch.outputs
    whole = np.isfinite(outputs) & (np.floor(outputs) == outputs)
    if not (whole.all() and outputs.shape[1] == 1):
        _set_aside(mended, ~whole[:, 0] | np.bool_(outputs.shape[1] != 1))


def _scores(mended: Mended) -> None:
    import numpy as np

    outputs = mended.batch.outputs
    if np.isfinite(outputs).all():
        return
    mended.mends["clipped"] += int(np.isinf(outputs).any(axis=1).sum())
    mended.batch = replace(mended.batch, outputs=np.nan_to_num(outputs))
    _set_aside(mended, np.isnan(outputs).any(axis=1))


def _set_aside(mended: Mended, wrong: Any, fault: InvalidRecord | None = None) -> None:
    import numpy as np

    if not wrong.any():
        return
    batch = mended.batch
    mended.lost = [batch.principals[at] for at in batch.principal_index[wrong].tolist()]
    mended.batch = take(batch, np.flatnonzero(~wrong))
    mended.fault = fault or InvalidRecord("outputs", f"the outputs are no {_MEANINGS[batch.output_kind]}")


def _nothing(mended: Mended) -> None:
    """There are no outputs."""
    mended.batch = replace(mended.batch, outputs=mended.batch.outputs[:, :0])


_MEANINGS = {"probabilities": "probabilities", "label": "class numbers", "score": "numbers", "unstated": "numbers"}
_MENDERS = {
    "probabilities": _probabilities,
    "label": _labels,
    "score": _scores,
    "unstated": _scores,
    "none": _nothing,
}
