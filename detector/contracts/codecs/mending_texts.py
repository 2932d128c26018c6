"""Names of features and classes, and features that are texts: cut and marked where they are not plain."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from detector.contracts.codecs.limits import all_plain, made_plain
from detector.contracts.principals import NAME_CHARACTERS, plain
from detector.contracts.queries import QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def plain_texts(batch: QueryBatch, repaired: Counter[str]) -> dict[str, Any]:
    """The columns of a loose ``batch`` that hold texts which are not plain, mended: names of features stay apart.
    ``repaired`` counts the texts by a word of ``limits.REPAIRS``."""
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
    """``column`` with plain texts; None where they all are."""
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
