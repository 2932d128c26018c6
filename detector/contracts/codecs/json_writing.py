"""One query as JSON: how ``queries_json`` reads it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import isnan
from typing import TYPE_CHECKING, Any

from detector.contracts.codecs.mending import TEXT_COLUMNS
from detector.contracts.codecs.queries_json import JsonQuery
from detector.contracts.queries import QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def encode_json_query(batch: QueryBatch, row: int = 0) -> bytes:
    """One row of ``batch`` as a record value, its vectors in base64, what has names as an object."""
    optional: dict[str, Any] = {name: _at(getattr(batch, name), row) for name in ("hardness", "leaf", *TEXT_COLUMNS)}
    if batch.missing is not None and batch.feature_names is None:
        optional["missing"] = batch.missing[row].tolist()
    return _encoder()(
        JsonQuery(
            event_id=batch.event_ids[row],
            principal=batch.principals[int(batch.principal_index[row])],
            model=batch.model,
            model_version=batch.model_version,
            features=_base64(batch.features[row]) if batch.feature_names is None else _named(batch, row),
            outputs=_outputs(batch, row),
            output_kind=batch.output_kind,
            occurred_at=float(batch.occurred_at[row]),
            specification=None if batch.specification is None else tuple(batch.specification[row].tolist()),
            **optional,
        )
    )


def _named(batch: QueryBatch, row: int) -> dict[str, float | bool | str | None]:
    missing = None if batch.missing is None else batch.missing[row].tolist()
    numbers = batch.features[row].tolist()
    values = [None if isnan(value) or (missing and missing[at]) else value for at, value in enumerate(numbers)]
    texts = [] if batch.texts is None else batch.texts[row].tolist()
    return dict(zip(batch.feature_names or (), [*values, *texts], strict=True))


def _outputs(batch: QueryBatch, row: int) -> Any:
    if batch.output_kind == "none":
        return None
    if batch.output_names is None:
        return _base64(batch.outputs[row])
    names = batch.output_names[row].tolist()
    return names[0] if batch.output_kind == "label" else dict(zip(names, batch.outputs[row].tolist(), strict=True))


def _at(column: Any, row: int) -> Any:
    if column is None or isinstance(column, list):
        return column and column[row]
    return column[row].item()


def _base64(vector: NDArray[np.float32]) -> str:
    from binascii import b2a_base64

    return b2a_base64(vector.astype("<f4").tobytes(), newline=False).decode("ascii")


@cache
def _encoder() -> Callable[[JsonQuery], bytes]:
    import msgspec

    return msgspec.json.Encoder().encode
