"""Reads class probabilities from what a model returned, in any form, and writes others in the same form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from detector.contracts.errors import WeirguardError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detector.serving.responses.response import Array
else:
    from detector.contracts.lazy import np

_TOLERANCE = 1e-3
_CLASSES, _SHARES = ("label", "class", "name"), ("score", "probability")

Change = Callable[["Array", "NDArray[np.int64]"], "Array"]
"""(class probabilities (n, k), their numbers in the call (n,)) -> others of the same shape."""


class NoProbabilities(WeirguardError):
    """The outputs hold no class probabilities; the message says what they are."""


def changed(outputs: Any, queries: int, change: Change) -> Any:
    """Returns ``outputs`` of ``queries`` with ``change`` applied to their class probabilities, in the same form.

    (k,) or (n, k); a number a query, or (n, 1), the probability of the second of two classes; an object of classes, or
    a list of ``{label, score}``, one or n. If only the best classes are shown, these count as all, and sum to 1
    afterwards. Arrays keep their type of number. Raises NoProbabilities.
    """
    if _is_named(outputs) or (queries == 1 and _is_list(outputs)):
        return _named(outputs, 0, change)
    if (
        isinstance(outputs, list | tuple)
        and len(outputs) == queries
        and all(_is_named(r) or _is_list(r) for r in outputs)
    ):
        return [_named(row, number, change) for number, row in enumerate(outputs)]
    return _numbers(outputs, queries, change)


def changed_scores(outputs: Any, queries: int, change: Change) -> Any:
    """Returns the scores ``outputs`` of ``queries``, (n,) or (n, k), changed in the same form. Raises
    NoProbabilities."""
    given = _array(outputs)
    if given.size % queries or not np.isfinite(given).all():
        raise NoProbabilities(f"scores of shape {given.shape} for {queries} queries, or without a value")
    rows = given.reshape(queries, -1).astype(np.float64)
    answers = change(rows, np.arange(queries)).reshape(given.shape).astype(given.dtype)
    return answers if hasattr(outputs, "dtype") and given.ndim else answers.tolist()


def _is_named(row: Any) -> bool:
    return isinstance(row, Mapping) and len(row) > 0


def _is_list(row: Any) -> bool:
    """Returns whether ``row`` is a list of ``{label, score}``."""
    return isinstance(row, list | tuple) and len(row) > 0 and all(map(_is_named, row)) and _share_of(row[0]) is not None


def _share_of(entry: Mapping[str, Any]) -> str | None:
    shares = [name for name in _SHARES if name in entry]
    return shares[0] if shares and any(name in entry for name in _CLASSES) else None


def _named(row: Any, number: int, change: Change) -> Any:
    if isinstance(row, Mapping):
        shares = _changed_row(list(row.values()), number, change)
        return dict(zip(row, shares, strict=True))
    name = _share_of(row[0]) or ""
    shares = _changed_row([entry.get(name) for entry in row], number, change)
    return [{**entry, name: share} for entry, share in zip(row, shares, strict=True)]


def _changed_row(values: list[Any], number: int, change: Change) -> list[float]:
    row = _probabilities(_array(values).reshape(1, -1))
    answer: list[float] = change(row, np.array([number]))[0].tolist()
    return answer


def _numbers(outputs: Any, queries: int, change: Change) -> Any:
    given = _array(outputs)
    single = given.size == queries
    fits = len(given) == queries if given.ndim == 2 else queries == 1 or given.shape == (queries,)
    if given.ndim > 2 or not fits:
        raise NoProbabilities(f"outputs of shape {given.shape} for {queries} queries")
    if single:
        second = given.reshape(-1, 1).astype(np.float64)
        rows = np.concatenate([1 - second, second], axis=1)
    else:
        rows = given.reshape(queries, -1)
    answers = change(_probabilities(rows), np.arange(queries))
    answers = (answers[:, 1:] if single else answers).reshape(given.shape).astype(given.dtype)
    return answers if hasattr(outputs, "dtype") and given.ndim else answers.tolist()


def _array(values: Any) -> NDArray[Any]:
    try:
        given: NDArray[Any] = np.asarray(values)
    except (TypeError, ValueError):
        raise NoProbabilities("rows of several lengths") from None
    if given.dtype.kind != "f" or not given.size:
        raise NoProbabilities("labels, not probabilities")
    return given


def _probabilities(rows: NDArray[Any]) -> Array:
    """Returns ``rows`` (n, k) on the simplex. Raises NoProbabilities for other numbers."""
    shares = rows.astype(np.float64)
    total = shares.sum(axis=1, keepdims=True)
    if not (
        np.isfinite(total).all() and (shares >= -_TOLERANCE).all() and (np.abs(total - 0.5) < 0.5 + _TOLERANCE).all()
    ):
        raise NoProbabilities("scores, not probabilities")
    shares = np.maximum(shares, 0.0)
    total = shares.sum(axis=1, keepdims=True)
    if not total.all():
        raise NoProbabilities("rows of zeros")
    unit: Array = shares / total
    return unit
