"""Repairs bad values of queries and refuses bad rows, in every format, for all rows of a batch at once.

A caller must not be able to hide a query by its content: names are made usable, NaN is a missing feature, infinity is
the largest number, and the time of the record replaces an invalid time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from detector.contracts.batches import take
from detector.contracts.codecs.limits import (
    DIMENSIONS,
    LARGEST_FLOAT32,
    LATEST_TIME,
    OUTPUTS,
    PROBABILITY_SUM_TOLERANCE,
    are_plain,
    make_plain,
)
from detector.contracts.principals import (
    EVENT_ID_CHARACTERS,
    EVERYONE,
    NAME_CHARACTERS,
    is_name,
    is_plain,
    usable_event_id,
    usable_principal,
)
from detector.contracts.queries import BadRow, DecodedQueries, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    from detector.contracts.lazy import np

TEXT_COLUMNS = ("served_mode", "network_prefix", "organisation", "user_agent_hash")

RecordTimes = Callable[[], "NDArray[np.float64]"]
"""Returns the time of each row's record, float64 (n,) seconds UTC, or NaN."""

NO_MODEL = "identity", f"model and model_version must be 1 to {NAME_CHARACTERS} plain characters and not {EVERYONE!r}"
_NO_TIME = "time", "occurred_at must be RFC 3339 with a zone, or seconds (not milliseconds) since 1970"
_NOT_FINITE = "non-finite", "outputs must be finite numbers"
_NO_OUTPUTS = "outputs", "outputs must be probabilities (of all classes, or named), a whole class number, or one number"
_LONG_ARRAY = 8_192
"""Entries of an array from which a sum of squares is the faster test."""


def screen(batch: QueryBatch, repaired: Counter[str], record_times: RecordTimes | None = None) -> DecodedQueries:
    """Repairs the rows of ``batch`` (see ``repair``) and splits them into good and bad ones.

    A row that breaks several rules is reported for the first of them, independent of the other rows, with its
    principal. If model, version or dimensions are wrong, all rows are bad.
    """
    screened = repair(batch, repaired, record_times)
    fault = _fault_of_all(screened)
    if fault:
        return _split(screened, dict.fromkeys(range(len(screened)), fault), repaired)
    bad: dict[int, tuple[str, str]] = {}
    if screened is not batch:
        bad = dict.fromkeys(_rows_without(are_times(screened.occurred_at)), _NO_TIME)
    for row in _rows_without(usable_outputs(screened)):
        bad.setdefault(row, _NO_OUTPUTS if isfinite(sum(screened.outputs[row].tolist())) else _NOT_FINITE)
    return _split(screened, bad, repaired)


def repair(batch: QueryBatch, repaired: Counter[str], record_times: RecordTimes | None) -> QueryBatch:
    """Returns ``batch`` with bad values replaced, and counts them in ``repaired`` by a word of ``limits.REPAIRS``.

    A NaN feature becomes missing, and 0 like every missing one; an infinite one becomes the largest float32.
    ``record_times`` replace invalid times. If ``batch`` itself is returned, its times are valid.
    """
    changed: dict[str, Any] = {}
    _repair_names(batch, changed, repaired)
    _repair_times(batch, changed, repaired, record_times)
    _repair_features(batch, changed, repaired)
    for name in ("hardness", "specification"):
        column = getattr(batch, name)
        if column is not None and (infinite := np.isinf(column)).any():
            changed[name] = np.where(infinite, np.float32(np.nan), column)
            _note(repaired, "number", _count_rows(infinite.reshape(len(batch), -1)))
    if batch.is_loose:
        _repair_texts(batch, changed, repaired)
    return replace(batch, **changed) if changed else batch


def with_usable_names(batch: QueryBatch) -> QueryBatch:
    """Returns ``batch`` with usable names and plain texts; other values are unchanged."""
    changed: dict[str, Any] = {}
    _repair_names(batch, changed, Counter())
    _repair_texts(batch, changed, Counter())
    return replace(batch, **changed)


def are_times(seconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which of ``seconds`` since 1970 are before the year 10000; False for NaN."""
    valid: NDArray[np.bool_] = (seconds >= 0) & (seconds < LATEST_TIME)
    return valid


def usable_outputs(batch: QueryBatch) -> NDArray[np.bool_]:
    """Returns which rows (n,) of ``batch`` have outputs that fit their kind."""
    outputs, width = batch.outputs, batch.outputs.shape[1]
    if batch.output_kind == "probabilities":
        partial = batch.output_names is not None or width == 1
        return are_probabilities(outputs, partial) if len(batch) else np.ones(0, dtype=np.bool_)
    if width != {"label": 1, "none": 0, "unstated": 1}.get(batch.output_kind, width):
        return np.zeros(len(batch), dtype=np.bool_)
    finite = np.isfinite(outputs)
    if batch.output_kind == "label":
        finite &= np.floor(outputs) == outputs
    usable: NDArray[np.bool_] = np.logical_and.reduce(finite, axis=1)
    return usable


def are_probabilities(outputs: NDArray[np.float32], partial: bool) -> NDArray[np.bool_]:
    """Returns which rows (n,) of ``outputs`` (n, k) are probabilities of all classes, or with ``partial`` of some."""
    possible = (outputs >= 0) & (outputs <= 1 + PROBABILITY_SUM_TOLERANCE)
    if not _all(possible):
        outputs = np.where(np.logical_and.reduce(possible, axis=1)[:, None], outputs, np.float32(2))
    sums = np.add.reduce(outputs, axis=1)  # a product with ones rounds a row by the number of its neighbours
    excess = np.maximum(sums - 1, 0) if partial else np.abs(sums - 1)
    usable: NDArray[np.bool_] = excess <= PROBABILITY_SUM_TOLERANCE
    return usable


def _fault_of_all(batch: QueryBatch) -> tuple[str, str] | None:
    if not (is_name(batch.model) and is_name(batch.model_version)):
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
    rows = np.arange(len(batch), dtype=np.int64)
    if not bad:
        return DecodedQueries(batch if len(batch) else None, rows, repaired=repaired)
    model = batch.model if is_name(batch.model) else ""
    principals = batch.principal_index.tolist()
    faults = [BadRow(row, *bad[row], model, batch.principals[principals[row]]) for row in sorted(bad)]
    rows = np.delete(rows, list(bad))
    good = take(batch, rows) if len(rows) else None
    return DecodedQueries(good, rows, bad_rows=faults, repaired=repaired)


def _all(flags: NDArray[np.bool_]) -> bool:
    """Returns ``flags.all()``, at a third of its cost on the few entries of a single query."""
    return int(np.count_nonzero(flags)) == flags.size


def _rows_without(flags: NDArray[np.bool_]) -> list[int]:
    return [] if _all(flags) else np.flatnonzero(~flags).tolist()


def _count_rows(cells: NDArray[np.bool_]) -> int:
    """Returns the number of rows with a True cell."""
    return int(cells.any(axis=1).sum())


def _note(repaired: Counter[str], word: str, rows: int) -> None:
    if rows:
        repaired[word] += rows


def _repair_names(batch: QueryBatch, changed: dict[str, Any], repaired: Counter[str]) -> None:
    if not are_plain(batch.event_ids, EVENT_ID_CHARACTERS):
        changed["event_ids"] = [usable_event_id(event_id) for event_id in batch.event_ids]
        _note(repaired, "event_id", sum(map(str.__ne__, batch.event_ids, changed["event_ids"])))
    if EVERYONE in batch.principals or not are_plain(batch.principals, NAME_CHARACTERS):
        changed["principals"] = [usable_principal(principal) for principal in batch.principals]
        renamed = np.array(list(map(str.__ne__, batch.principals, changed["principals"])))
        _note(repaired, "principal", int(np.count_nonzero(renamed[batch.principal_index])))
    for name in TEXT_COLUMNS:
        texts = getattr(batch, name)
        if texts is not None and not are_plain(texts, NAME_CHARACTERS):
            changed[name] = [
                text if is_plain(text, NAME_CHARACTERS) else make_plain(text, NAME_CHARACTERS) for text in texts
            ]
            _note(repaired, "attribute", sum(map(str.__ne__, texts, changed[name])))


def _repair_times(
    batch: QueryBatch, changed: dict[str, Any], repaired: Counter[str], record_times: RecordTimes | None
) -> None:
    times, valid = batch.occurred_at, are_times(batch.occurred_at)
    if not _all(valid):
        changed["occurred_at"] = times if record_times is None else np.where(valid, times, record_times())
        _note(repaired, "time", int(np.count_nonzero(are_times(changed["occurred_at"]) & ~valid)))


def _repair_features(batch: QueryBatch, changed: dict[str, Any], repaired: Counter[str]) -> None:
    features, mask = batch.features, batch.missing
    if _is_finite(features):
        if mask is not None:
            changed["features"] = np.where(mask, np.float32(0), features)
        return
    missing = np.isnan(features)
    if mask is not None:
        _note(repaired, "missing", _count_rows(missing & ~mask))
        missing |= mask
    _note(repaired, "clipped", _count_rows(np.isinf(features) & ~missing))
    changed["features"] = np.where(missing, np.float32(0), np.clip(features, -LARGEST_FLOAT32, LARGEST_FLOAT32))
    changed["missing"] = missing if mask is not None or missing.any() else None


def _is_finite(numbers: NDArray[np.float32]) -> bool:
    """Returns whether all are finite. For long arrays, a sum of squares is twice as fast, except for very large
    numbers."""
    flat = numbers.ravel()
    if flat.size >= _LONG_ARRAY:
        with np.errstate(over="ignore", invalid="ignore"):
            if isfinite(flat.dot(flat)):
                return True
    return _all(np.isfinite(flat))


def _repair_texts(batch: QueryBatch, changed: dict[str, Any], repaired: Counter[str]) -> None:
    """Cuts names of features and classes, and text features, and marks control characters. Names of features stay
    different."""
    names = batch.feature_names
    if names is not None and not are_plain(list(names), NAME_CHARACTERS):
        different = _made_unique(names)
        if different != names:
            changed["feature_names"] = different
            repaired["text"] += len(batch)
    for name in ("texts", "output_names"):
        column = getattr(batch, name)
        texts = [] if column is None else column.ravel().tolist()
        if are_plain([text for text in texts if text], NAME_CHARACTERS):
            continue
        made = [text and make_plain(text, NAME_CHARACTERS) for text in texts]
        if made != texts:
            repaired["text"] += sum(text != other for text, other in zip(texts, made, strict=True))
            changed[name] = np.array([*made, None], dtype=object)[:-1].reshape(column.shape)


def _made_unique(names: tuple[str, ...]) -> tuple[str, ...]:
    different: dict[str, None] = {}
    for name in names:
        made = name if is_plain(name, NAME_CHARACTERS) else make_plain(name, NAME_CHARACTERS - 1)
        while not made or made in different:
            made += "~"
        different[made] = None
    return tuple(different)
