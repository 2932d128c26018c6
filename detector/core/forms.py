"""The form of a model version's queries, and the conversion of logged queries to plain numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from math import isfinite, isnan, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.state.arrays import Array

Floats = NDArray[np.float32]
Marks = NDArray[np.bool_]

_UNSEEN = -1.0
"""Marks an unknown text in the first column of its feature: outside the honest range, and as far from each known value
as these are from each other."""


@dataclass(frozen=True, slots=True)
class Field:
    """A feature by ``name``. ``values``: its known texts, with one column of 0 and 1 for each, or None for a number."""

    name: str
    values: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        return 1 if self.values is None else len(self.values)

    @property
    def columns(self) -> tuple[str, ...]:
        """The name of each column: ``name=value`` for the columns of a text."""
        return (self.name,) if self.values is None else tuple(f"{self.name}={value}" for value in self.values)


class Layout:
    """The columns of ``fields``, side by side."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = {own.name: own for own in fields}
        self._start: dict[str, int] = {}
        self._width = 0
        for own in fields:
            self._start[own.name] = self._width
            self._width += own.width
        self._codes = {
            own.name: {canonical(value): at for at, value in enumerate(own.values)}
            for own in fields
            if own.values is not None
        }

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for own in self._fields.values() for name in own.columns)

    def knows(self, batch: QueryBatch) -> bool:
        """Returns whether ``batch`` has any of the fields."""
        return not self._fields.keys().isdisjoint(names_of(batch))

    def plain(self, batch: QueryBatch, counted: Counter[str]) -> tuple[Floats, Marks | None]:
        """Returns the features float32 (n, width) of ``batch``, and its missing features bool (n, width) or None."""
        names = names_of(batch)
        features, missing = np.zeros((len(batch), self._width), np.float32), np.zeros((len(batch), self._width), bool)
        absent = np.isnan(batch.features) if batch.missing is None else batch.missing | np.isnan(batch.features)
        numbers = batch.dimension
        self._place_numbers(batch.features, absent, names[:numbers], features, missing, counted)
        for at, name in enumerate(names[numbers:]):
            if name in self._fields:
                assert batch.texts is not None
                self._place_texts(batch.texts[:, at].tolist(), self._fields[name], features, missing, counted)
        self._note_names(names, len(batch), missing, counted)
        return features, missing if missing.any() else None

    def _note_names(self, names: Sequence[str], rows: int, missing: Marks, counted: Counter[str]) -> None:
        left_out = self._fields.keys() - set(names)
        for name in left_out:
            missing[:, self._span(name)] = True
        if left_out:
            counted["absent"] += rows
        if set(names) - self._fields.keys():
            counted["unknown"] += rows

    def _span(self, name: str) -> slice:
        return slice(self._start[name], self._start[name] + self._fields[name].width)

    def _place_numbers(
        self,
        given: Floats,
        absent: Marks,
        names: Sequence[str],
        features: Floats,
        missing: Marks,
        counted: Counter[str],
    ) -> None:
        plain = [at for at, name in enumerate(names) if name in self._fields and name not in self._codes]
        target = [self._start[names[at]] for at in plain]
        features[:, target] = np.where(absent[:, plain], np.float32(0), given[:, plain])
        missing[:, target] = absent[:, plain]
        for at, name in enumerate(names):
            if name in self._codes:
                texts = [
                    None if gone else number_text(value)
                    for value, gone in zip(given[:, at].tolist(), absent[:, at].tolist(), strict=True)
                ]
                self._place_texts(texts, self._fields[name], features, missing, counted)

    def _place_texts(
        self, texts: Sequence[str | None], own: Field, features: Floats, missing: Marks, counted: Counter[str]
    ) -> None:
        gone = np.array([text is None for text in texts], np.bool_)
        span = self._span(own.name)
        if own.values is None:
            numbers = np.array([nan if text is None else number_of(text) for text in texts], np.float32)
            odd = np.isnan(numbers)
            _count(counted, "unreadable", int((odd & ~gone).sum()))
            features[:, span.start] = np.where(odd, np.float32(0), numbers)
            missing[:, span.start] = odd
            return
        missing[gone, span] = True
        if own.values:
            codes = self._codes[own.name]
            found = np.array([-1 if text is None else _code(codes, text) for text in texts], np.int64)
            at = np.flatnonzero(found >= 0)
            features[at, span.start + found[at]] = 1
            unseen = (found < 0) & ~gone
            features[unseen, span.start] = _UNSEEN
            _count(counted, "category", int(unseen.sum()))


def names_of(batch: QueryBatch) -> tuple[str, ...]:
    """Returns the names of the features of ``batch``, or their positions from 1 if they are unnamed."""
    return tuple(map(str, range(1, batch.dimension + 1))) if batch.feature_names is None else batch.feature_names


def number_of(text: str) -> float:
    """Returns the number in ``text``, or NaN if it is not a number that is finite as float32."""
    try:
        number = float(text)
    except ValueError:
        return nan
    return number if abs(number) < _BEYOND else nan


def number_text(number: float) -> str:
    """Returns the text of a number that fits float32; the text of a whole number has no decimal point."""
    if number == int(number):
        return str(int(number))
    return str(np.float32(number))


def canonical(text: str) -> str:
    """Returns ``text``; if it is a number, its canonical spelling."""
    number = number_of(text)
    return number_text(float(np.float32(number))) if isfinite(number) else text


_BEYOND = 3.4028235677973366e38
"""Numbers from here on overflow float32."""


def _code(codes: dict[str, int], text: str) -> int:
    at = codes.get(text)
    return codes.get(canonical(text), -1) if at is None else at


def _count(counted: Counter[str], word: str, rows: int) -> None:
    if rows:
        counted[word] += rows


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
        _count_rows(counted, odd)
        if classes is not None:
            return "label", _numbered(classes, whole)
        return "label", whole if odd.any() else values
    if wanted == "probability":
        likely = np.clip(values, 0, 1)
        _count_rows(counted, likely != values)
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
        return _outputs_by_name(wanted, batch)
    if batch.output_kind == "label" or wanted == "label":
        best = names[np.arange(len(batch)), batch.outputs.argmax(axis=1)]
        number = np.array([classes.get(name, len(classes)) for name in best.tolist()], np.float32)
        _count_rows(counted, number[:, None] == len(classes))
        return "label", number[:, None]
    codes = _codes(classes, batch)
    row, at = np.nonzero(codes >= 0)
    outputs, given = np.zeros((len(batch), len(classes)), np.float32), np.zeros((len(batch), len(classes)), np.bool_)
    outputs[row, codes[row, at]], given[row, codes[row, at]] = batch.outputs[row, at], True
    if batch.output_kind == "score":
        return "score", outputs
    _count_rows(counted, codes < 0)
    if len(classes) == 1:
        return "probabilities", np.concatenate((1 - outputs, outputs), axis=1)
    rest = np.maximum(1 - outputs.sum(axis=1, dtype=np.float64), 0) / np.maximum((~given).sum(axis=1), 1)
    return "probabilities", np.where(given, outputs, rest[:, None]).astype(np.float32)


def _outputs_by_name(wanted: str, batch: QueryBatch) -> Plain:
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


def _count_rows(counted: Counter[str], odd: NDArray[np.bool_]) -> None:
    if rows := int(odd.any(axis=1).sum()):
        counted["output"] += rows


Outputs = Literal["probability", "score", "label", "probabilities", "none"]
"""``probability``: one number, the probability of the second of two classes; it becomes two probabilities."""


@dataclass(frozen=True)
class Form:
    """``fields``: the features in order, or None for unnamed numbers. ``outputs``: their kind. ``classes``: the class
    names, or None for unnamed classes."""

    fields: tuple[Field, ...] | None
    outputs: Outputs
    classes: tuple[str, ...] | None = None

    def takes(self, batch: QueryBatch) -> bool:
        """Returns whether ``batch`` has any feature of the form; always true for a form without names."""
        return self.fields is None or self._layout.knows(batch)

    def plain(self, batch: QueryBatch, repaired: Counter[str] | None = None) -> QueryBatch:
        """Returns ``batch``, which the form ``takes``, as plain numbers, in the same order. Missing features are 0 and
        marked. Counts repaired rows in ``repaired`` by a word of ``limits.REPAIRS``."""
        counted: Counter[str] = Counter() if repaired is None else repaired
        kind, outputs = plain_outputs(self.outputs, self._numbers, batch, counted)
        if outputs is not batch.outputs or kind != batch.output_kind:
            batch = replace(batch, output_kind=kind, outputs=outputs, output_names=None)
        if self.fields is None and batch.feature_names is None:
            return batch
        layout = self._layout if self.fields is not None else _in_order(batch)
        features, missing = layout.plain(batch, counted)
        return replace(batch, features=features, missing=missing, feature_names=None, texts=None)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The name of each plain feature, as in ``Field.columns``; None if unnamed."""
        return None if self.fields is None else self._layout.columns

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self.fields or ())

    @cached_property
    def _numbers(self) -> dict[str, int] | None:
        return None if self.classes is None else {name: number for number, name in enumerate(self.classes)}

    @property
    def names(self) -> tuple[str, ...] | None:
        """The feature name of each plain column; None if unnamed."""
        return None if self.fields is None else tuple(own.name for own in self.fields for _ in range(own.width))

    @property
    def said(self) -> OutputKind:
        """The kind of plain outputs."""
        return "probabilities" if self.outputs == "probability" else self.outputs

    def to_record(self) -> dict[str, Any]:
        fields = None if self.fields is None else [[own.name, own.values and list(own.values)] for own in self.fields]
        return {"fields": fields, "outputs": self.outputs, "classes": self.classes and list(self.classes)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Form:
        fields, classes = record["fields"], record["classes"]
        read = None if fields is None else tuple(Field(name, values and tuple(values)) for name, values in fields)
        return cls(read, record["outputs"], classes and tuple(classes))


def _in_order(batch: QueryBatch) -> Layout:
    """Returns a layout in the order of names: by position for lists that hold texts, else by name, as older loggers
    sent them."""
    names = batch.feature_names or ()
    positions = tuple(map(str, range(1, len(names) + 1)))
    return Layout([Field(name) for name in (positions if set(positions) == set(names) else sorted(names))])


_LABELS = 65_536
"""Class names are hashed to labels below this."""


def plain_without_profile(batch: QueryBatch, outputs: Outputs | None = None) -> QueryBatch:
    """Returns ``batch`` as plain numbers. Features are ordered by name. A text becomes its number, or else a hash from
    0 to 1; the best of named classes becomes a hashed label. ``outputs``: their kind. By default, a number from 0 to 1
    is the probability of the second of two classes, and any other whole number is a label."""
    kind, said = _outputs(batch, outputs)
    plain = replace(batch, output_kind=kind, outputs=said, output_names=None)
    return plain if batch.feature_names is None else _features_by_name(plain)


def _features_by_name(batch: QueryBatch) -> QueryBatch:
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
