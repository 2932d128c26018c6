"""Repairs bad values of queries and refuses bad rows, in every format, for all rows of a batch at once.

A caller must not be able to hide a query by its content: names are made usable, NaN is a missing feature, infinity is
the largest number, and the time of the record replaces an invalid time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

from detector.contracts.batches import take
from detector.contracts.codecs.limits import (
    DIMENSIONS,
    LARGEST_FLOAT32,
    LATEST_TIME,
    OUTPUTS,
    PROBABILITY_SUM_TOLERANCE,
    all_plain,
    made_plain,
)
from detector.contracts.principals import (
    EVENT_ID_CHARACTERS,
    EVERYONE,
    NAME_CHARACTERS,
    names_one,
    plain,
    usable_event_id,
    usable_principal,
)
from detector.contracts.queries import BadRow, DecodedQueries, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

TEXT_COLUMNS = ("served_mode", "network_prefix", "organisation", "user_agent_hash")

Moments = Callable[[], "NDArray[np.float64]"]
"""Returns the time of each row's record, float64 (n,) seconds UTC, or NaN."""


def mend(batch: QueryBatch, repaired: Counter[str], moments: Moments | None) -> QueryBatch:
    """Returns ``batch`` with bad values replaced, and counts them in ``repaired`` by a word of ``limits.REPAIRS``.

    A NaN feature becomes missing, and 0 like every missing one; an infinite one becomes the largest float32.
    ``moments`` replace invalid times. If ``batch`` itself is returned, its times are valid.
    """
    changed: dict[str, Any] = {}
    _names(batch, changed, repaired)
    _times(batch, changed, repaired, moments)
    _features(batch, changed, repaired)
    _numbers(batch, changed, repaired)
    if batch.is_loose:
        changed |= plain_texts(batch, repaired)
    return replace(batch, **changed) if changed else batch


def with_names(batch: QueryBatch) -> QueryBatch:
    """Returns ``batch`` with usable names and plain texts; other values are unchanged."""
    changed: dict[str, Any] = {}
    _names(batch, changed, Counter())
    changed |= plain_texts(batch, Counter())
    return replace(batch, **changed)


def all_of(fine: NDArray[np.bool_]) -> bool:
    """``fine.all()`` at a third of its cost on the few entries of a single query."""
    import numpy as np

    return int(np.count_nonzero(fine)) == fine.size


def are_times(seconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which of ``seconds`` since 1970 are before the year 10000; False for NaN."""
    fine: NDArray[np.bool_] = (seconds >= 0) & (seconds < LATEST_TIME)
    return fine


def _names(batch: QueryBatch, changed: dict[str, Any], repaired: Counter[str]) -> None:
    if not all_plain(batch.event_ids, EVENT_ID_CHARACTERS):
        changed["event_ids"] = [usable_event_id(event_id) for event_id in batch.event_ids]
        _note(repaired, "event_id", _differing(batch.event_ids, changed["event_ids"]))
    if EVERYONE in batch.principals or not all_plain(batch.principals, NAME_CHARACTERS):
        changed["principals"] = [usable_principal(principal) for principal in batch.principals]
        _note(repaired, "principal", _rows_renamed(batch, changed["principals"]))
    for name in TEXT_COLUMNS:
        texts = getattr(batch, name)
        if texts is not None and not all_plain(texts, NAME_CHARACTERS):
            changed[name] = [
                text if plain(text, NAME_CHARACTERS) else made_plain(text, NAME_CHARACTERS) for text in texts
            ]
            _note(repaired, "attribute", _differing(texts, changed[name]))


def _differing(before: list[str], after: list[str]) -> int:
    return sum(map(str.__ne__, before, after))


def _rows_renamed(batch: QueryBatch, usable: list[str]) -> int:
    import numpy as np

    renamed = np.array([old != new for old, new in zip(batch.principals, usable, strict=True)])
    return int(np.count_nonzero(renamed[batch.principal_index]))


def _times(batch: QueryBatch, changed: dict[str, Any], repaired: Counter[str], moments: Moments | None) -> None:
    import numpy as np

    times, fine = batch.occurred_at, are_times(batch.occurred_at)
    if not all_of(fine):
        changed["occurred_at"] = times if moments is None else np.where(fine, times, moments())
        _note(repaired, "time", int(np.count_nonzero(are_times(changed["occurred_at"]) & ~fine)))


def _features(batch: QueryBatch, changed: dict[str, Any], repaired: Counter[str]) -> None:
    import numpy as np

    features, given = batch.features, batch.missing
    if _finite(features):
        if given is not None:
            changed["features"] = np.where(given, np.float32(0), features)
        return
    absent = np.isnan(features)
    if given is not None:
        _note(repaired, "missing", _rows_with(absent & ~given))
        absent |= given
    _note(repaired, "clipped", _rows_with(np.isinf(features) & ~absent))
    changed["features"] = np.where(absent, np.float32(0), np.clip(features, -LARGEST_FLOAT32, LARGEST_FLOAT32))
    changed["missing"] = absent if given is not None or absent.any() else None


def _finite(numbers: NDArray[np.float32]) -> bool:
    """Returns whether all are finite. For long arrays, a sum of squares is twice as fast, except for very large
    numbers."""
    import numpy as np

    flat = numbers.ravel()
    if flat.size < _MANY:
        return all_of(np.isfinite(flat))
    with np.errstate(over="ignore", invalid="ignore"):
        if isfinite(flat.dot(flat)):
            return True
    return all_of(np.isfinite(flat))


_MANY = 8_192


def _rows_with(cells: NDArray[np.bool_]) -> int:
    return int(cells.any(axis=1).sum())


def _note(repaired: Counter[str], word: str, rows: int) -> None:
    if rows:
        repaired[word] += rows


def _numbers(batch: QueryBatch, changed: dict[str, Any], repaired: Counter[str]) -> None:
    """Replaces infinite numbers of optional columns by NaN, which marks them as absent."""
    import numpy as np

    for name in ("hardness", "specification"):
        column = getattr(batch, name)
        if column is not None and np.isinf(column).any():
            changed[name] = np.where(np.isinf(column), np.float32(np.nan), column)
            _note(repaired, "number", _rows_with(np.isinf(column).reshape(len(batch), -1)))


def plain_texts(batch: QueryBatch, repaired: Counter[str]) -> dict[str, Any]:
    """Returns the repaired columns of a loose ``batch`` with texts that are not plain. Names of features stay
    different. ``repaired`` counts the texts by a word of ``limits.REPAIRS``."""
    changed: dict[str, Any] = {}
    names = batch.feature_names
    if names is not None and not all_plain(list(names), NAME_CHARACTERS) and (apart := _apart(names)) != names:
        changed["feature_names"] = apart
        repaired["text"] += len(batch)
    for name in ("texts", "output_names"):
        column = getattr(batch, name)
        if column is not None and (mended := _mended(column, repaired)) is not None:
            changed[name] = mended
    return changed


def _apart(names: tuple[str, ...]) -> tuple[str, ...]:
    kept: dict[str, None] = {}
    for name in names:
        shown = name if plain(name, NAME_CHARACTERS) else made_plain(name, NAME_CHARACTERS - 1)
        while not shown or shown in kept:
            shown += "~"
        kept[shown] = None
    return tuple(kept)


def _mended(column: NDArray[np.object_], repaired: Counter[str]) -> NDArray[np.object_] | None:
    """Returns ``column`` with plain texts, or None if all are plain already."""
    import numpy as np

    texts = column.ravel().tolist()
    if all_plain([text for text in texts if text], NAME_CHARACTERS):
        return None
    made = [text and made_plain(text, NAME_CHARACTERS) for text in texts]
    odd = sum(text != other for text, other in zip(texts, made, strict=True))
    if not odd:
        return None
    repaired["text"] += odd
    mended = np.empty(len(made), dtype=object)
    mended[:] = made
    return mended.reshape(column.shape)


def screen(batch: QueryBatch, repaired: Counter[str], moments: Moments | None = None) -> DecodedQueries:
    """Mends the rows of ``batch`` (see ``mend``) and splits them into good and bad ones.

    A row that breaks several rules is reported for the first of them, independent of the other rows, with its
    principal. If model, version or dimensions are wrong, all rows are bad.
    """
    mended = mend(batch, repaired, moments)
    fault = _fault_of_all(mended)
    if fault:
        return _split(mended, dict.fromkeys(range(len(mended)), fault), repaired)
    bad: dict[int, tuple[str, str]] = {}
    if mended is not batch:
        bad = dict.fromkeys(_where_not(are_times(mended.occurred_at)), _NO_TIME)
    for row in _bad_outputs(mended):
        bad.setdefault(row, _NOT_FINITE if not isfinite(sum(mended.outputs[row].tolist())) else _NO_OUTPUTS)
    return _split(mended, bad, repaired)


def _fault_of_all(batch: QueryBatch) -> tuple[str, str] | None:
    if not (names_one(batch.model) and names_one(batch.model_version)):
        return NO_MODEL
    texts = 0 if batch.texts is None else batch.texts.shape[1]
    for what, width, limit in (
        ("features", batch.features.shape[1] + texts, DIMENSIONS),
        ("outputs", batch.outputs.shape[1] + (batch.output_kind == "none"), OUTPUTS),
    ):
        if not 0 < width <= limit:
            return "dimension", f"{what} have {width} entries; send 1 to {limit}"
    return None


def _split(batch: QueryBatch, bad: dict[int, tuple[str, str]], repaired: Counter[str]) -> DecodedQueries:
    import numpy as np

    rows = np.arange(len(batch), dtype=np.int64)
    if not bad:
        return DecodedQueries(batch if len(batch) else None, rows, repaired=repaired)
    model = batch.model if names_one(batch.model) else ""
    who = batch.principal_index.tolist()
    faults = [BadRow(row, *bad[row], model, batch.principals[who[row]]) for row in sorted(bad)]
    rows = np.delete(rows, list(bad))
    good = take(batch, rows) if len(rows) else None
    return DecodedQueries(good, rows, bad_rows=faults, repaired=repaired)


def _where_not(fine: NDArray[np.bool_]) -> list[int]:
    import numpy as np

    return [] if all_of(fine) else np.flatnonzero(~fine).tolist()


def _bad_outputs(batch: QueryBatch) -> list[int]:
    import numpy as np

    if batch.output_kind == "probabilities":
        some = batch.output_names is not None or batch.outputs.shape[1] == 1
        return _not_probabilities(batch.outputs, some) if len(batch) else []
    if batch.output_kind == "label":
        return _not_label(batch.outputs)
    if batch.outputs.shape[1] != _WIDTHS.get(batch.output_kind, batch.outputs.shape[1]):
        return list(range(len(batch)))
    if all_of(finite := np.isfinite(batch.outputs)):
        return []
    return _where_not(np.logical_and.reduce(finite, axis=1))


def _not_label(outputs: NDArray[np.float32]) -> list[int]:
    import numpy as np

    if outputs.shape[1] != 1:
        return list(range(len(outputs)))
    labels = outputs[:, 0]
    return _where_not(np.isfinite(labels) & (np.floor(labels) == labels))


_WIDTHS: dict[str, int] = {"none": 0, "unstated": 1}


def _not_probabilities(outputs: NDArray[np.float32], some: bool) -> list[int]:
    """Returns the rows of ``outputs`` that are not probabilities of all classes, or of ``some`` classes."""
    import numpy as np

    if not all_of(possible := (outputs >= 0) & (outputs <= 1 + PROBABILITY_SUM_TOLERANCE)):
        outputs = np.where(np.logical_and.reduce(possible, axis=1)[:, None], outputs, np.float32(2))
    sums = np.add.reduce(outputs, axis=1)  # a product with ones rounds a row by the number of its neighbours
    beside = np.maximum(sums - 1, 0) if some else np.abs(sums - 1)
    fine: NDArray[np.bool_] = beside <= PROBABILITY_SUM_TOLERANCE
    return _where_not(fine)


NO_MODEL = "identity", f"model and model_version must be 1 to {NAME_CHARACTERS} plain characters and not {EVERYONE!r}"
_NO_TIME = "time", "occurred_at must be RFC 3339 with a zone, or seconds (not milliseconds) since 1970"
_NOT_FINITE = "non-finite", "outputs must be finite numbers"
_NO_OUTPUTS = "outputs", "outputs must be probabilities (of all classes, or named), a whole class number, or one number"


def by_layout(parsed: Iterable[T], layout: Callable[[T], object]) -> Iterable[list[T]]:
    """Returns groups of ``parsed`` records with the same ``layout``, which can be joined; each keeps the order."""
    groups: dict[object, list[T]] = {}
    for one in parsed:
        groups.setdefault(layout(one), []).append(one)
    return groups.values()
