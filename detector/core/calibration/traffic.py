"""Prepares logged honest queries for calibration: their form, plain numbers, and one batch for each account.

The form does not depend on the order of the queries or on the batch boundaries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import Any, cast

import numpy as np

from detector.contracts.batches import COLUMNS, concatenate, cut, take
from detector.contracts.codecs.limits import DIMENSIONS
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.forms import Field, Form, Outputs, absent_in, canonical, listed, names_of, number_of, number_text
from detector.core.profile import Profile

_FREQUENT_SHARE = 0.01
"""A feature that a smaller share of the queries names is dropped."""
_NUMERIC_SHARE = 0.95
"""If at least this share of a feature's values are numbers, its texts are missing numbers."""
_MAX_VALUES = 64
"""Maximum number of values per feature; the most frequent are kept."""
_CLASSES = 1_000
"""Maximum number of classes; the most frequent are kept."""
_LABELS = 100
"""Outputs are labels if all are whole numbers, with at most this many different values."""


def learn(batches: Sequence[QueryBatch], outputs: Outputs | None = None) -> tuple[Form, str]:
    """Returns the form of honest ``batches`` of one model version, and in words why the kind of outputs was inferred;
    empty if the log states it. ``outputs`` wins over the inferred kind. Raises ConfigurationError if there are too many
    features."""
    kind, why = (outputs, "") if outputs is not None else _output_kind(batches)
    return Form(_fields(batches), kind, _classes(batches) if kind in ("label", "probabilities") else None), why


def _fields(batches: Sequence[QueryBatch]) -> tuple[Field, ...] | None:
    if all(batch.feature_names is None for batch in batches):
        return None
    rows: Counter[str] = Counter()
    for batch in batches:
        rows.update(dict.fromkeys(names_of(batch), len(batch)))
    least = _FREQUENT_SHARE * sum(len(batch) for batch in batches)
    texts = {name for batch in batches for name in names_of(batch)[batch.dimension :]}
    names = sorted(name for name, often in rows.items() if often >= least)
    fields = tuple(_text_field(name, batches) if name in texts else Field(name) for name in names)
    width = sum(field.width for field in fields)
    if not 0 < width <= DIMENSIONS:
        raise ConfigurationError(
            f"the honest queries of {batches[0].model} have {width} features, a text counted once for each of its "
            f"values; a model may have {DIMENSIONS}: leave those out of the log that the model does not look at"
        )
    return fields


def _text_field(name: str, batches: Sequence[QueryBatch]) -> Field:
    """Returns the feature ``name``, which has at least one text."""
    counts: Counter[str] = Counter()
    for batch in batches:
        for text, rows in _values_of(name, batch):
            counts[canonical(text)] += rows
    numbers = sum(rows for text, rows in counts.items() if isfinite(number_of(text)))
    if numbers >= _NUMERIC_SHARE * counts.total():
        return Field(name)
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    # Values that are all different, such as names and ids, carry no information.
    kept = ranked if len(ranked) <= _MAX_VALUES else [entry for entry in ranked[:_MAX_VALUES] if entry[1] > 1]
    return Field(name, tuple(sorted(text for text, _ in kept)))


def _values_of(name: str, batch: QueryBatch) -> Iterator[tuple[str, int]]:
    """Yields each value of ``name`` in ``batch``, numbers as texts, and how often it occurs."""
    names = names_of(batch)
    at = names.index(name) if name in names else -1
    if at >= batch.dimension:
        assert batch.texts is not None
        texts = Counter(batch.texts[:, at - batch.dimension].tolist())
        yield from ((text, rows) for text, rows in texts.items() if text is not None)
    elif at >= 0:
        numbers, rows = np.unique(batch.features[~absent_in(batch)[:, at], at], return_counts=True)
        yield from zip(map(number_text, numbers.tolist()), rows.tolist(), strict=True)


def _output_kind(batches: Sequence[QueryBatch]) -> tuple[Outputs, str]:
    """Returns the kind of outputs of most rows, and the reason if it was inferred."""
    rows: Counter[str] = Counter()
    for batch in batches:
        rows[_sort(batch)] += len(batch)
    most = max(sorted(rows), key=rows.__getitem__)
    return _kind_of_numbers(batches) if most == "unstated" else (cast("Outputs", most), "")


def _sort(batch: QueryBatch) -> str:
    single = batch.output_kind == "probabilities" and batch.outputs.shape[1] == 1 and batch.output_names is None
    return "probability" if single else batch.output_kind


def _kind_of_numbers(batches: Sequence[QueryBatch]) -> tuple[Outputs, str]:
    numbers = np.unique(np.concatenate([batch.outputs.ravel() for batch in batches if batch.output_kind == "unstated"]))
    whole = bool((np.floor(numbers) == numbers).all())
    if not whole and numbers[0] >= 0 and numbers[-1] <= 1:
        return "probability", "all numbers lie between 0 and 1"
    if whole and len(numbers) <= _LABELS:
        return "label", f"all numbers are whole, {len(numbers)} different ones"
    return "score", f"the numbers range from {numbers[0]:g} to {numbers[-1]:g}"


def _classes(batches: Sequence[QueryBatch]) -> tuple[str, ...] | None:
    """Returns the sorted class names, the most frequent if there are too many, or None for unnamed classes."""
    often: Counter[str] = Counter()
    for batch in batches:
        if batch.output_names is not None:
            often.update(batch.output_names.ravel().tolist())
        elif batch.output_kind == "label":
            labels, rows = np.unique(batch.outputs[:, 0], return_counts=True)
            often.update(dict(zip((str(int(label)) for label in labels.tolist()), rows.tolist(), strict=True)))
    if all(batch.output_names is None for batch in batches):
        return None
    ranked = sorted(often, key=lambda name: (-often[name], name))
    return tuple(sorted(ranked[:_CLASSES]))


@dataclass(frozen=True, slots=True)
class PlainTraffic:
    """``pieces`` of plain queries of one model version, in the ``form`` learned; ``why`` as ``learn`` says.
    ``left_out``: the number of queries with another form."""

    pieces: list[QueryBatch]
    form: Form
    why: str
    left_out: int

    def profile(self, made: Profile) -> Profile:
        """Returns the profile ``made`` from the pieces with the form, unless it implies the form."""
        form = self.form
        implied = form.fields is None and form.classes is None and form.output_kind == made.form.output_kind
        return made if implied else replace(made, stored_form=form)


def plain_traffic(
    pieces: Sequence[QueryBatch], outputs: Outputs | None = None, names: Sequence[str] | None = None
) -> PlainTraffic:
    """Returns ``pieces`` of one model version as plain numbers. ``outputs``: their kind, if the owner gives it.
    ``names``: the columns of the owner's model, which set the order. Raises ConfigurationError if the names differ."""
    form, why = learn(pieces, outputs)
    if names is not None:
        form = _arranged(form, names)
    plain = [form.plain(piece, Counter()) if form.accepts(piece) else piece for piece in pieces]
    shapes: Counter[tuple[object, ...]] = Counter()
    for piece in plain:
        shapes[_shape(piece)] += len(piece)
    most = max(sorted(shapes, key=str), key=shapes.__getitem__)
    left_out = shapes.total() - shapes[most]
    if most[1] != form.output_kind:
        raise ConfigurationError(
            f"--outputs {form.outputs}: the honest logs have {most[1]} outputs, and say so; leave the option out"
        )
    return PlainTraffic([piece for piece in plain if _shape(piece) == most], form, why, left_out)


def _shape(batch: QueryBatch) -> tuple[object, ...]:
    return batch.dimension, batch.output_kind, batch.outputs.shape[1], batch.feature_names is None


def _arranged(form: Form, names: Sequence[str]) -> Form:
    """Returns ``form`` with its features in the order of ``names``."""
    if form.fields is None:
        return form
    position = {name: at for at, name in enumerate(names)}
    fields = sorted(form.fields, key=lambda field: position.get(field.columns[0] if field.width else "", -1))
    arranged = replace(form, fields=tuple(fields))
    if arranged.columns != tuple(names):
        known, logged = listed(names, 6), listed(form.columns or (), 6)
        raise ConfigurationError(
            f"--model has the features {known}, and the honest logs {logged}; name them alike (a text is name=value "
            "for each of its values), or give the logs as the lists that the model takes"
        )
    return arranged


def of_one_version(
    pieces: Sequence[QueryBatch], model: str | None = None, version: str | None = None
) -> list[QueryBatch]:
    """Returns the ``pieces`` for ``model`` and ``version``, any if None. Raises ConfigurationError, with the names,
    unless exactly one model version is left."""
    chosen = [piece for piece in pieces if model in (None, piece.model) and version in (None, piece.model_version)]
    found, every = (sorted({(piece.model, piece.model_version) for piece in batches}) for batches in (chosen, pieces))
    if len(found) > 1:
        versions = ", ".join(map(" ".join, found))
        raise ConfigurationError(
            f"the logs are of {versions}, and a profile is of one model version; choose with --model-name and "
            "--model-version"
        )
    if not found:
        versions = ", ".join(map(" ".join, every)) or "no model"
        raise ConfigurationError(f"there are no honest queries to calibrate on; the logs are of {versions}")
    return chosen


def accounts_of(pieces: Sequence[QueryBatch]) -> list[QueryBatch]:
    """Returns one batch for each principal of ``pieces``, queries of one model version, sorted by name. Queries are
    sorted by time; equal times keep their order. Raises ConfigurationError if features or outputs differ."""
    _check_form(pieces)
    whole = next(concatenate(_alike(pieces)))
    order = np.argsort(whole.occurred_at, kind="stable")
    order = order[np.argsort(whole.principal_index[order], kind="stable")]
    edges = np.cumsum(np.bincount(whole.principal_index, minlength=len(whole.principals)))
    ordered = take(whole, order)
    ends = dict(zip(whole.principals, pairwise([0, *edges.tolist()]), strict=True))
    return [
        replace(cut(ordered, start, end), principals=[name], principal_index=np.zeros(end - start, np.int32))
        for name, (start, end) in sorted(ends.items())
        if start < end
    ]


def _check_form(pieces: Sequence[QueryBatch]) -> None:
    forms = sorted({(piece.dimension, piece.output_kind, piece.outputs.shape[1]) for piece in pieces})
    if len(forms) > 1:
        found = " and ".join(f"{features} features with {width} {kind}" for features, kind, width in forms)
        raise ConfigurationError(
            f"{pieces[0].model} {pieces[0].model_version}: the logs have queries of {found}; a model version has one "
            "form: give logs of one"
        )


def _alike(pieces: Sequence[QueryBatch]) -> list[QueryBatch]:
    """Returns the batches with the optional columns that all of them have, and with missing features if any batch has
    them."""
    masked = any(piece.missing is not None for piece in pieces)
    partial = {name for name in COLUMNS if any(getattr(piece, name) is None for piece in pieces)}
    without: dict[str, Any] = dict.fromkeys(partial - {"missing"})
    return [
        replace(piece, missing=np.zeros(piece.features.shape, np.bool_), **without)
        if masked and piece.missing is None
        else replace(piece, **without)
        for piece in pieces
    ]
