"""The rules that a row of queries must obey, whatever format it came in; all rows of a batch at once."""

from __future__ import annotations

from collections import Counter
from math import isfinite
from typing import TYPE_CHECKING

from detector.contracts.batches import take
from detector.contracts.codecs.limits import DIMENSIONS, OUTPUTS, PROBABILITY_SUM_TOLERANCE
from detector.contracts.codecs.mending import TEXT_COLUMNS, Moments, all_of, are_times, mend
from detector.contracts.principals import EVERYONE, NAME_CHARACTERS, names_one
from detector.contracts.queries import BadRow, DecodedQueries, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NO_MODEL", "TEXT_COLUMNS", "screen"]


def screen(batch: QueryBatch, repaired: Counter[str], moments: Moments | None = None) -> DecodedQueries:
    """Mend the rows of ``batch`` (see ``mend``) and split them into good ones and bad ones.

    A row that breaks several rules is reported for the first of them, whatever stands in the other rows; each says
    whose it is. Where model, version or dimensions are wrong, all rows are bad.
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
    """Rows of ``outputs`` that are no probabilities of all classes, or of ``some`` of them."""
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
