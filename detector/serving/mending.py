"""What a row may hold and a record may not, made fit at the edge, for all rows of a record at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from detector.contracts.batches import take
from detector.contracts.codecs.limits import (
    DIMENSIONS,
    EVENT_ID_CHARACTERS,
    NAME_CHARACTERS,
    OUTPUTS,
    PROBABILITY_SUM_TOLERANCE,
    all_plain,
)
from detector.contracts.codecs.screening import TEXT_COLUMNS
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import usable_event_id, usable_principal
from detector.contracts.queries import QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class Mended:
    """``batch`` made fit. ``mends``: how many of its rows, by counter. ``fault``: why others cannot be used, and

    ``lost``: the principals of these, one entry a row.
    """

    batch: QueryBatch
    mends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    fault: InvalidRecord | None = None


def mend(batch: QueryBatch) -> Mended:
    """``batch`` as the detector takes it: no row is lost but those whose outputs cannot be what their kind says.

    NaN features are marked missing, others beyond float32 clipped; outputs that are no probabilities become such;
    odd texts are replaced. Rows that are too wide are lost.
    """
    import numpy as np

    mended = Mended(batch)
    for what, width, limit in (
        ("features", batch.features.shape[1], DIMENSIONS),
        ("outputs", batch.outputs.shape[1], OUTPUTS),
    ):
        if width > limit:
            fault = InvalidRecord("too-large", f"{what} of a query have {width} entries; send at most {limit}")
            _set_aside(mended, np.ones(len(batch), dtype=np.bool_), fault)
            return mended
    for step in (_features, _outputs, _numbers, _texts):
        step(mended)
    return mended


def _features(mended: Mended) -> None:
    import numpy as np

    features = mended.batch.features
    if np.isfinite(features).all():
        return
    missing = np.isnan(features)
    if mended.batch.missing is not None:
        missing |= mended.batch.missing
    beyond = np.isinf(features) & ~missing
    mended.mends["clipped"] += int(beyond.any(axis=1).sum())
    mended.batch = replace(
        mended.batch,
        features=np.nan_to_num(np.where(missing, np.float32(0), features)),
        missing=missing if missing.any() else None,
    )


def _outputs(mended: Mended) -> None:
    {"probabilities": _probabilities, "label": _labels, "score": _scores}[mended.batch.output_kind](mended)


def _probabilities(mended: Mended) -> None:
    import numpy as np

    outputs = mended.batch.outputs
    with np.errstate(invalid="ignore", over="ignore"):
        fine = np.abs(np.add.reduce(outputs, axis=1) - 1) <= PROBABILITY_SUM_TOLERANCE
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

    wide = np.nan_to_num(rows.astype(np.float64), posinf=_LARGEST, neginf=-_LARGEST)
    sums = wide.sum(axis=1, keepdims=True)
    parts = (wide.max(axis=1, keepdims=True) <= 1) | (np.abs(sums - 100) <= 100 * PROBABILITY_SUM_TOLERANCE)
    parts &= (wide.min(axis=1, keepdims=True) >= 0) & (sums > 0)
    exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    return np.where(parts, wide / np.where(parts, sums, 1), softmax).astype(np.float32)


_LARGEST = 3.4028234663852886e38
"""Of float32."""


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


_MEANINGS = {"probabilities": "probabilities", "label": "class numbers", "score": "numbers"}


def _numbers(mended: Mended) -> None:
    """Mend numbers that a caller may choose: NaN is 0, others beyond float32 are clipped."""
    import numpy as np

    for name in ("hardness", "specification"):
        column = getattr(mended.batch, name)
        if column is not None and not np.isfinite(column).all():
            odd = ~np.isfinite(column.reshape(len(column), -1)).all(axis=1)
            mended.mends["repaired"] += int(odd.sum())
            mended.batch = replace(mended.batch, **{name: np.nan_to_num(column)})


def _texts(mended: Mended) -> None:
    _replace_texts(mended, "event_ids", EVENT_ID_CHARACTERS)
    for name in TEXT_COLUMNS:
        if getattr(mended.batch, name) is not None:
            _replace_texts(mended, name, NAME_CHARACTERS)


def _replace_texts(mended: Mended, name: str, characters: int) -> None:
    texts: list[str] = getattr(mended.batch, name)
    if all_plain(texts, characters):
        return
    usable = usable_event_id if name == "event_ids" else _usable_attribute
    fit: Any = [usable(text) for text in texts]
    mended.mends["repaired"] += sum(before != after for before, after in zip(texts, fit, strict=True))
    mended.batch = replace(mended.batch, **{name: fit})


def _usable_attribute(text: str) -> str:
    """As a principal is, but that an attribute may be empty or a star."""
    return text if text in {"", "*"} else usable_principal(text)
