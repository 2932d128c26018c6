"""Queries as producers write them, and as one record is read by itself."""

from __future__ import annotations

from binascii import b2a_base64
from math import isnan
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.json_queries import JSON_CONTENT_TYPE, JsonQuery, decode_json
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, decode_packed
from detector.contracts.codecs.screening import TEXT_COLUMNS
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import DecodedQueries, QueryBatch


def decode_queries(value: bytes | None, content_type: str | None, *, timestamp: float) -> DecodedQueries:
    """Returns the queries in the ``value`` of a record.

    ``content_type``: the header of the record; JSON if absent. ``timestamp``: that of the record, seconds UTC; it
    replaces an absent or invalid ``occurred_at``. Raises only InvalidRecord, if the whole record is unusable; bad rows
    of a packed batch are listed.
    """
    media_type = JSON_CONTENT_TYPE if content_type is None else content_type.partition(";")[0].strip().lower()
    if media_type == PACKED_CONTENT_TYPE:
        return decode_packed(value, timestamp=timestamp)
    if media_type != JSON_CONTENT_TYPE:
        raise InvalidRecord("content-type", f"{media_type[:64]!r} is neither JSON nor {PACKED_CONTENT_TYPE}")
    return decode_json(value, timestamp=timestamp)


def encode_json_query(batch: QueryBatch, row: int = 0) -> bytes:
    """Returns one row of ``batch`` as a record value: vectors in base64, named values as an object."""
    optional: dict[str, Any] = {name: _entry(getattr(batch, name), row) for name in ("hardness", "leaf", *TEXT_COLUMNS)}
    if batch.missing is not None and batch.feature_names is None:
        optional["missing"] = batch.missing[row].tolist()
    query = JsonQuery(
        event_id=batch.event_ids[row],
        principal=batch.principals[int(batch.principal_index[row])],
        model=batch.model,
        model_version=batch.model_version,
        features=_to_base64(batch.features[row]) if batch.feature_names is None else _named_values(batch, row),
        outputs=_written_outputs(batch, row),
        output_kind=batch.output_kind,
        occurred_at=float(batch.occurred_at[row]),
        specification=None if batch.specification is None else tuple(batch.specification[row].tolist()),
        **optional,
    )
    return msgspec.json.encode(query)


def _named_values(batch: QueryBatch, row: int) -> dict[str, float | bool | str | None]:
    missing = None if batch.missing is None else batch.missing[row].tolist()
    numbers = batch.features[row].tolist()
    values = [None if isnan(value) or (missing and missing[at]) else value for at, value in enumerate(numbers)]
    texts = [] if batch.texts is None else batch.texts[row].tolist()
    return dict(zip(batch.feature_names or (), [*values, *texts], strict=True))


def _written_outputs(batch: QueryBatch, row: int) -> Any:
    if batch.output_kind == "none":
        return None
    if batch.output_names is None:
        return _to_base64(batch.outputs[row])
    names = batch.output_names[row].tolist()
    return names[0] if batch.output_kind == "label" else dict(zip(names, batch.outputs[row].tolist(), strict=True))


def _entry(column: Any, row: int) -> Any:
    if column is None or isinstance(column, list):
        return column and column[row]
    return column[row].item()


def _to_base64(vector: NDArray[np.float32]) -> str:
    return b2a_base64(vector.astype("<f4").tobytes(), newline=False).decode("ascii")
