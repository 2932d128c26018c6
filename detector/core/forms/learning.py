"""The form of honest queries of one model version: which features they have, which are texts, what their outputs are.

Nothing depends on the order of the queries nor on how they are cut into batches.
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
"""A feature that a smaller share of the queries names is none of the model's."""
_NUMBERS = 0.95
"""Where at least this share of what a feature is are numbers, the texts among them are missing numbers."""
_VALUES = 64
"""The most values of a feature that are told apart: the most frequent."""
_CLASSES = 1_000
"""The most classes that are told apart."""
_LABELS = 100
"""Numbers that are all whole, and no more of them than this, are labels."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The ``form``, and in words why its outputs are taken for what they are; empty where they say so themselves."""

    form: Form
    why: str


def learn(batches: Sequence[QueryBatch], outputs: Outputs | None = None) -> Learned:
    """The form of honest ``batches`` of one model version. ``outputs`` wins over what they look like. Raises
    ConfigurationError where there are more features than a model may have."""
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
    """The feature ``name``, which is a text somewhere."""
    often: Counter[str] = Counter()
    for own in batches:
        often.update(_texts_of(name, own))
    numbers = sum(rows for text, rows in often.items() if isfinite(number_of(text)))
    if numbers >= _NUMBERS * often.total():
        return Field(name)
    ranked = sorted(often.items(), key=lambda entry: (-entry[1], entry[0]))
    # Of names and ids, which are all different, none says anything.
    told = ranked if len(ranked) <= _VALUES else [entry for entry in ranked[:_VALUES] if entry[1] > 1]
    return Field(name, tuple(sorted(text for text, _ in told)))


def _texts_of(name: str, batch: QueryBatch) -> Counter[str]:
    """How often ``batch`` has each value under ``name``, numbers as texts."""
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
    """What most rows have."""
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
    """The names of all classes, by name; of too many the most frequent."""
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
