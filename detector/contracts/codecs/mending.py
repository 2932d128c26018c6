"""What is odd about a row and no reason to leave it unjudged is replaced and counted, for all rows of a batch at once.

A caller must not be able to hide a query by what they put into it: names become usable names, NaN is a missing feature,
infinity is far, the time of the record stands in for one that is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from detector.contracts.codecs.limits import LARGEST_FLOAT32, LATEST_TIME, all_plain, made_plain
from detector.contracts.codecs.mending_texts import plain_texts
from detector.contracts.principals import (
    EVENT_ID_CHARACTERS,
    EVERYONE,
    NAME_CHARACTERS,
    plain,
    usable_event_id,
    usable_principal,
)
from detector.contracts.queries import QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXT_COLUMNS = ("served_mode", "network_prefix", "organisation", "user_agent_hash")

Moments = Callable[[], "NDArray[np.float64]"]
"""Gives the time of the record of each row, float64 (n,) seconds UTC, NaN where there is none."""


def mend(batch: QueryBatch, repaired: Counter[str], moments: Moments | None) -> QueryBatch:
    """``batch`` with what is odd replaced, by what of it each in ``repaired``, a word of ``limits.REPAIRS``.

    A feature that is NaN is missing, and 0 as every missing one; an infinite one is the largest float32. ``moments``
    stand in for a time that is not a moment. A ``batch`` that is given back itself has good times.
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
    """``batch`` with usable names and plain texts, and nothing else replaced."""
    changed: dict[str, Any] = {}
    _names(batch, changed, Counter())
    changed |= plain_texts(batch, Counter())
    return replace(batch, **changed)


def all_of(fine: NDArray[np.bool_]) -> bool:
    """``fine.all()`` at a third of its cost on the few entries of a single query."""
    import numpy as np

    return int(np.count_nonzero(fine)) == fine.size


def are_times(seconds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of ``seconds`` since 1970 lie before the year 10000; NaN do not."""
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
    """Whether all are finite; of many a sum of squares tells at half the cost, but for very large numbers."""
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
    """Infinite numbers of optional columns become NaN, which says that the row lacks them."""
    import numpy as np

    for name in ("hardness", "specification"):
        column = getattr(batch, name)
        if column is not None and np.isinf(column).any():
            changed[name] = np.where(np.isinf(column), np.float32(np.nan), column)
            _note(repaired, "number", _rows_with(np.isinf(column).reshape(len(batch), -1)))
