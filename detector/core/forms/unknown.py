"""Queries of a model that has no profile as plain numbers. Each row is read by itself, so that no verdict depends on
which queries come together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from math import isnan

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.forms.features import names_of, number_of
from detector.core.forms.form import Outputs
from detector.core.forms.outputs import plain_outputs

_LABELS = 65_536
"""Names of classes become labels below this."""


def guessed(batch: QueryBatch, outputs: Outputs | None = None) -> QueryBatch:
    """``batch`` as plain numbers: features by name, a text as the number that it writes or else one from 0 to 1 made
    from it; the best of named classes as a label made from its name. ``outputs``: what these are. By default a number
    from 0 to 1 is taken as the probability of the second of two classes, and another whole number as a label."""
    kind, said = _outputs(batch, outputs)
    plain = replace(batch, output_kind=kind, outputs=said, output_names=None)
    return plain if batch.feature_names is None else _by_name(plain)


def _by_name(batch: QueryBatch) -> QueryBatch:
    names = names_of(batch)
    order = sorted(range(len(names)), key=names.__getitem__)
    absent = np.isnan(batch.features) if batch.missing is None else batch.missing | np.isnan(batch.features)
    features = np.where(absent, np.float32(0), batch.features)
    if batch.texts is not None:
        texts = [[None if text is None else _number(text) for text in row] for row in batch.texts.tolist()]
        made = np.array(texts, np.float32).reshape(batch.texts.shape)
        absent = np.concatenate((absent, np.isnan(made)), axis=1)
        features = np.concatenate((features, np.nan_to_num(made)), axis=1)
    absent = absent[:, order]
    missing = absent if absent.any() else None
    return replace(batch, features=features[:, order], missing=missing, feature_names=None, texts=None)


@lru_cache(maxsize=65_536)
def _number(text: str) -> float:
    number = number_of(text)
    return _hash(text) / 2**32 if isnan(number) else number


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little")


def _outputs(batch: QueryBatch, outputs: Outputs | None) -> tuple[OutputKind, NDArray[np.float32]]:
    if batch.output_names is not None:
        best = batch.output_names[np.arange(len(batch)), batch.outputs.argmax(axis=1)]
        return "label", np.array([_label(name) for name in best.tolist()], np.float32)[:, None]
    if outputs is not None or batch.output_kind != "unstated":
        return plain_outputs(outputs or batch.output_kind, None, batch, Counter())
    values = batch.outputs
    likely = (values >= 0) & (values <= 1)
    whole = np.floor(values) == values
    return "label", np.where(likely, values > 0.5, np.where(whole, values, 0)).astype(np.float32)


def _label(name: str) -> float:
    number = number_of(name)
    return float(_hash(name) % _LABELS) if isnan(number) or number != int(number) else number
