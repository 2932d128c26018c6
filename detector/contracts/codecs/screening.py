"""The rules that a row of queries must obey, whatever format it came in; all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from detector.contracts.batches import take
from detector.contracts.codecs.limits import (
    DIMENSIONS,
    EVENT_ID_CHARACTERS,
    LATEST_TIME,
    NAME_CHARACTERS,
    OUTPUTS,
    PROBABILITY_SUM_TOLERANCE,
    all_plain,
    names_one,
    plain,
)
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import EVERYONE
from detector.contracts.queries import BadRow, DecodedQueries, QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXT_COLUMNS = ("served_mode", "network_prefix", "organisation", "user_agent_hash")
_A_NAME = f"1 to {NAME_CHARACTERS} plain characters and not {EVERYONE!r}"


def check_model(model: str, model_version: str) -> None:
    """Raise InvalidRecord unless both can be names."""
    if not (names_one(model) and names_one(model_version)):
        raise InvalidRecord("identity", f"model and model_version must be {_A_NAME}")


def _check_batch(batch: QueryBatch) -> None:
    check_model(batch.model, batch.model_version)
    if not len(batch):
        return
    for what, width, limit in (
        ("features", batch.features.shape[1], DIMENSIONS),
        ("outputs", batch.outputs.shape[1], OUTPUTS),
    ):
        if not 0 < width <= limit:
            raise InvalidRecord("dimension", f"{what} have {width} entries; send 1 to {limit}")


def screen(batch: QueryBatch) -> DecodedQueries:
    """Split the rows of ``batch`` into good ones and bad ones; an entry marked missing becomes 0.

    A row that breaks several rules is reported for the first of them, whatever stands in the other rows. Raises
    InvalidRecord for what is wrong with the batch as a whole: its model or its dimensions.
    """
    _check_batch(batch)
    batch = _blank_missing(batch)
    bad: dict[int, BadRow] = {}
    for reason, detail, find in _RULES:
        for row in find(batch):
            bad.setdefault(row, BadRow(row, reason, detail))
    return _split(batch, bad)


def _split(batch: QueryBatch, bad: dict[int, BadRow]) -> DecodedQueries:
    import numpy as np

    rows = np.arange(len(batch), dtype=np.int64)
    if not bad:
        return DecodedQueries(batch if len(batch) else None, rows)
    rows = np.delete(rows, list(bad))
    good = take(batch, rows) if len(rows) else None
    return DecodedQueries(good, rows, bad_rows=[bad[row] for row in sorted(bad)])


def _blank_missing(batch: QueryBatch) -> QueryBatch:
    import numpy as np

    if batch.missing is None:
        return batch
    return replace(batch, features=np.where(batch.missing, np.float32(0), batch.features))


def _all(fine: NDArray[np.bool_]) -> bool:
    """``fine.all()`` at a third of its cost on the few entries of a single query."""
    import numpy as np

    return int(np.count_nonzero(fine)) == fine.size


def _where_not(fine: NDArray[np.bool_]) -> list[int]:
    import numpy as np

    return [] if _all(fine) else np.flatnonzero(~fine).tolist()


def _bad_event_id(batch: QueryBatch) -> list[int]:
    if all_plain(batch.event_ids, EVENT_ID_CHARACTERS):
        return []
    return [row for row, event in enumerate(batch.event_ids) if not event or not plain(event, EVENT_ID_CHARACTERS)]


def _bad_principal(batch: QueryBatch) -> list[int]:
    import numpy as np

    if all_plain(batch.principals, NAME_CHARACTERS) and EVERYONE not in batch.principals:
        return []
    wrong = [index for index, principal in enumerate(batch.principals) if not names_one(principal)]
    return np.flatnonzero(np.isin(batch.principal_index, wrong)).tolist()


def _bad_time(batch: QueryBatch) -> list[int]:
    fine: NDArray[np.bool_] = (batch.occurred_at >= 0) & (batch.occurred_at < LATEST_TIME)
    return _where_not(fine)


def _not_finite(batch: QueryBatch) -> list[int]:
    import numpy as np

    wrong: list[int] = []
    for column in (batch.features, batch.outputs, batch.hardness, batch.specification):
        if column is not None and not _all(finite := np.isfinite(column)):
            wrong += _where_not(np.logical_and.reduce(finite.reshape(len(batch), -1), axis=1))
    return wrong


def _bad_outputs(batch: QueryBatch) -> list[int]:
    if batch.output_kind == "score" or not len(batch):
        return []
    return _not_label(batch.outputs) if batch.output_kind == "label" else _not_probabilities(batch.outputs)


def _not_label(outputs: NDArray[np.float32]) -> list[int]:
    import numpy as np

    if outputs.shape[1] != 1:
        return list(range(len(outputs)))
    labels = outputs[:, 0]
    whole: NDArray[np.bool_] = (labels >= 0) & (np.floor(labels) == labels)
    return _where_not(whole)


def _not_probabilities(outputs: NDArray[np.float32]) -> list[int]:
    import numpy as np

    if not _all(possible := (outputs >= 0) & (outputs <= 1 + PROBABILITY_SUM_TOLERANCE)):
        outputs = np.where(np.logical_and.reduce(possible, axis=1)[:, None], outputs, np.float32(0))
    sums = np.add.reduce(outputs, axis=1)  # a product with ones rounds a row by the number of its neighbours
    fine: NDArray[np.bool_] = np.abs(sums - 1) <= PROBABILITY_SUM_TOLERANCE
    return _where_not(fine)


def _bad_attribute(batch: QueryBatch) -> list[int]:
    wrong: list[int] = []
    for name in TEXT_COLUMNS:
        texts = getattr(batch, name)
        if texts is not None and not all_plain(texts, NAME_CHARACTERS):
            wrong += [row for row, text in enumerate(texts) if not plain(text, NAME_CHARACTERS)]
    return wrong


_RULES: tuple[tuple[str, str, Callable[[QueryBatch], list[int]]], ...] = (
    ("identity", f"event_id must be 1 to {EVENT_ID_CHARACTERS} characters without control characters", _bad_event_id),
    ("identity", f"principal must be {_A_NAME}", _bad_principal),
    ("time", "occurred_at must be RFC 3339 with a zone, or seconds (not milliseconds) since 1970", _bad_time),
    ("non-finite", "features, outputs and other numbers must be finite; mark absent features in missing", _not_finite),
    ("outputs", "outputs must be non-negative and add up to 1, or one whole class number for a label", _bad_outputs),
    ("attribute", f"{', '.join(TEXT_COLUMNS)} must be at most {NAME_CHARACTERS} plain characters", _bad_attribute),
)
