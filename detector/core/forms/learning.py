"""Learns the form of honest queries of one model version: features, texts and kind of outputs.

The result does not depend on the order of the queries or on the batch boundaries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import cast

import numpy as np

from detector.contracts.codecs.limits import DIMENSIONS
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.forms.features import Field, canonical, names_of, number_of, number_text
from detector.core.forms.form import Form, Outputs

_OFTEN = 0.01
"""A feature that a smaller share of the queries names is dropped."""
_NUMBERS = 0.95
"""If at least this share of a feature's values are numbers, its texts are missing numbers."""
_VALUES = 64
"""Maximum number of values per feature; the most frequent are kept."""
_CLASSES = 1_000
"""Maximum number of classes; the most frequent are kept."""
_LABELS = 100
"""Outputs are labels if all are whole numbers, with at most this many different values."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The ``form``, and in words why the kind of outputs was inferred; empty if the log states it."""

    form: Form
    why: str


def learn(batches: Sequence[QueryBatch], outputs: Outputs | None = None) -> Learned:
    """Returns the form of honest ``batches`` of one model version. ``outputs`` wins over the inferred kind. Raises
    ConfigurationError if there are too many features."""
    kind, why = (outputs, "") if outputs is not None else _outputs(batches)
    return Learned(Form(_fields(batches), kind, _classes(batches) if kind in ("label", "probabilities") else None), why)


def _fields(batches: Sequence[QueryBatch]) -> tuple[Field, ...] | None:
    if all(own.feature_names is None for own in batches):
        return None
    rows: Counter[str] = Counter()
    for own in batches:
        rows.update(dict.fromkeys(names_of(own), len(own)))
    least = _OFTEN * sum(len(own) for own in batches)
    texts = {name for own in batches for name in names_of(own)[own.dimension :]}
    names = sorted(name for name, often in rows.items() if often >= least)
    fields = tuple(_of_texts(name, batches) if name in texts else Field(name) for name in names)
    width = sum(own.width for own in fields)
    if not 0 < width <= DIMENSIONS:
        raise ConfigurationError(
            f"the honest queries of {batches[0].model} have {width} features, a text counted once for each of its "
            f"values; a model may have {DIMENSIONS}: leave those out of the log that the model does not look at"
        )
    return fields


def _of_texts(name: str, batches: Sequence[QueryBatch]) -> Field:
    """Returns the feature ``name``, which has at least one text."""
    often: Counter[str] = Counter()
    for own in batches:
        often.update(_texts_of(name, own))
    numbers = sum(rows for text, rows in often.items() if isfinite(number_of(text)))
    if numbers >= _NUMBERS * often.total():
        return Field(name)
    ranked = sorted(often.items(), key=lambda entry: (-entry[1], entry[0]))
    # Values that are all different, such as names and ids, carry no information.
    told = ranked if len(ranked) <= _VALUES else [entry for entry in ranked[:_VALUES] if entry[1] > 1]
    return Field(name, tuple(sorted(text for text, _ in told)))


def _texts_of(name: str, batch: QueryBatch) -> Counter[str]:
    """Returns the count of each value of ``name`` in ``batch``, numbers as texts."""
    names = names_of(batch)
    if name not in names:
        return Counter()
    at, found = names.index(name), Counter[str]()
    if at >= batch.dimension:
        assert batch.texts is not None
        given = Counter(batch.texts[:, at - batch.dimension].tolist())
        found.update({text: rows for text, rows in given.items() if text is not None})
    else:
        column = batch.features[:, at]
        present = ~np.isnan(column) if batch.missing is None else ~(batch.missing[:, at] | np.isnan(column))
        numbers, rows = np.unique(column[present], return_counts=True)
        found.update(dict(zip(map(number_text, numbers.tolist()), rows.tolist(), strict=True)))
    once: Counter[str] = Counter()
    for text, often in found.items():
        once[canonical(text)] += often
    return once


def _outputs(batches: Sequence[QueryBatch]) -> tuple[Outputs, str]:
    """Returns the kind of outputs of most rows, and the reason if it was inferred."""
    rows: Counter[str] = Counter()
    for own in batches:
        rows[_sort(own)] += len(own)
    most = max(sorted(rows), key=rows.__getitem__)
    return _of_numbers(batches) if most == "unstated" else (cast("Outputs", most), "")


def _sort(batch: QueryBatch) -> str:
    single = batch.output_kind == "probabilities" and batch.outputs.shape[1] == 1 and batch.output_names is None
    return "probability" if single else batch.output_kind


def _of_numbers(batches: Sequence[QueryBatch]) -> tuple[Outputs, str]:
    numbers = np.unique(np.concatenate([own.outputs.ravel() for own in batches if own.output_kind == "unstated"]))
    whole = bool((np.floor(numbers) == numbers).all())
    if not whole and numbers[0] >= 0 and numbers[-1] <= 1:
        return "probability", "all numbers lie between 0 and 1"
    if whole and len(numbers) <= _LABELS:
        return "label", f"all numbers are whole, {len(numbers)} different ones"
    return "score", f"the numbers range from {numbers[0]:g} to {numbers[-1]:g}"


def _classes(batches: Sequence[QueryBatch]) -> tuple[str, ...] | None:
    """Returns the sorted class names, the most frequent if there are too many, or None for unnamed classes."""
    often: Counter[str] = Counter()
    for own in batches:
        if own.output_names is not None:
            often.update(own.output_names.ravel().tolist())
        elif own.output_kind == "label":
            labels, rows = np.unique(own.outputs[:, 0], return_counts=True)
            often.update(dict(zip((str(int(label)) for label in labels.tolist()), rows.tolist(), strict=True)))
    if all(own.output_names is None for own in batches):
        return None
    ranked = sorted(often, key=lambda name: (-often[name], name))
    return tuple(sorted(ranked[:_CLASSES]))
