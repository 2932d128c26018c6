"""Converts logged outputs to the kind of outputs that the profile expects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.state.arrays import Array

Floats = NDArray[np.float32]
Plain = tuple[OutputKind, Floats]


def plain_outputs(wanted: str, classes: Mapping[str, int] | None, batch: QueryBatch, counted: Counter[str]) -> Plain:
    """Returns kind and outputs float32 (n, k) of ``batch``, converted to the kind ``wanted`` (``Form.outputs``) if
    possible. ``classes`` maps class names to numbers. Other outputs stay unchanged, and no measure uses them."""
    kind, outputs = batch.output_kind, batch.outputs
    if kind == "none" or wanted == "none":
        return "none", outputs[:, :0]
    if batch.output_names is not None:
        return _of_names(wanted, classes, batch, counted)
    if outputs.shape[1] == 1:
        return _of_number(wanted, batch, classes, counted)
    if wanted == "label" and kind == "probabilities":
        return "label", outputs.argmax(axis=1).astype(np.float32)[:, None]
    return kind, outputs


def _of_number(wanted: str, batch: QueryBatch, classes: Mapping[str, int] | None, counted: Counter[str]) -> Plain:
    """Converts one number per row to the kind ``wanted``, unless the batch states another kind."""
    values, kind = batch.outputs, batch.output_kind
    if kind == "label" or (wanted == "label" and kind != "score"):
        whole = np.floor(values)
        odd = whole != values
        _note(counted, odd)
        if classes is not None:
            return "label", _numbered(classes, whole)
        return "label", whole if odd.any() else values
    if wanted == "probability":
        likely = np.clip(values, 0, 1)
        _note(counted, likely != values)
        return "probabilities", np.concatenate((1 - likely, likely), axis=1)
    return "score", values


def _numbered(classes: Mapping[str, int], labels: Floats) -> Floats:
    """Returns the class numbers of ``labels``, for classes whose names are numbers."""
    found, at = np.unique(labels, return_inverse=True)
    numbers = [classes.get(str(int(label)), len(classes)) for label in found.tolist()]
    return np.array(numbers, np.float32)[at].reshape(-1, 1)


def _of_names(wanted: str, classes: Mapping[str, int] | None, batch: QueryBatch, counted: Counter[str]) -> Plain:
    names = batch.output_names
    assert names is not None
    if classes is None:
        return _by_name(wanted, batch)
    if batch.output_kind == "label" or wanted == "label":
        best = names[np.arange(len(batch)), batch.outputs.argmax(axis=1)]
        number = np.array([classes.get(name, len(classes)) for name in best.tolist()], np.float32)
        _note(counted, number[:, None] == len(classes))
        return "label", number[:, None]
    codes = _codes(classes, batch)
    row, at = np.nonzero(codes >= 0)
    outputs, given = np.zeros((len(batch), len(classes)), np.float32), np.zeros((len(batch), len(classes)), np.bool_)
    outputs[row, codes[row, at]], given[row, codes[row, at]] = batch.outputs[row, at], True
    if batch.output_kind == "score":
        return "score", outputs
    _note(counted, codes < 0)
    if len(classes) == 1:
        return "probabilities", np.concatenate((1 - outputs, outputs), axis=1)
    rest = np.maximum(1 - outputs.sum(axis=1, dtype=np.float64), 0) / np.maximum((~given).sum(axis=1), 1)
    return "probabilities", np.where(given, outputs, rest[:, None]).astype(np.float32)


def _by_name(wanted: str, batch: QueryBatch) -> Plain:
    """Returns outputs in the order of their names, as older loggers sent them, for a form without class names."""
    names: Any = batch.output_names
    if batch.output_kind == "label" or wanted not in ("probabilities", "score"):
        return "none", batch.outputs[:, :0]
    order = np.array([sorted(range(len(row)), key=row.__getitem__) for row in names.tolist()], np.int64)
    return batch.output_kind, np.take_along_axis(batch.outputs, order, axis=1)


def _codes(classes: Mapping[str, int], batch: QueryBatch) -> Array:
    """Returns int64 (n, k): the class number of each output, -1 for unknown classes."""
    names: Any = batch.output_names
    return np.array([classes.get(name, -1) for name in names.ravel().tolist()], np.int64).reshape(names.shape)


def _note(counted: Counter[str], odd: NDArray[np.bool_]) -> None:
    if rows := int(odd.any(axis=1).sum()):
        counted["output"] += rows
