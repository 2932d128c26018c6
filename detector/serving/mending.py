"""Repairs rows at the edge, for all rows of a record at once, so that they are valid in a record.

Names, features and optional columns are repaired as the detector would (``codecs.mending``); outputs that the detector
would refuse for their kind are converted where their meaning is clear.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from detector.contracts.batches import take
from detector.contracts.codecs import mending
from detector.contracts.codecs.limits import DIMENSIONS, LARGEST_FLOAT32, OUTPUTS, PROBABILITY_SUM_TOLERANCE
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    mended.batch = mending.mend(mended.batch, repaired, None)
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
