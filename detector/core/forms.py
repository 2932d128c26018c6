"""The form of a model version's queries, and the conversion of logged queries to plain numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import accumulate
from math import isfinite, isnan, nan
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind, QueryBatch

Floats = NDArray[np.float32]
Marks = NDArray[np.bool_]

_UNSEEN = -1.0
"""Marks an unknown text in the first column of its feature: outside the honest range, and as far from each known value
as these are from each other."""


Outputs = Literal["probability", "score", "label", "probabilities", "none"]
"""``probability``: one number, the probability of the second of two classes; it becomes two probabilities."""


class Field(NamedTuple):
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


@dataclass(frozen=True)
class Form:
    """``fields``: the features in order, or None for unnamed numbers. ``outputs``: their kind. ``classes``: the class
    names, or None for unnamed classes."""

    fields: tuple[Field, ...] | None
    outputs: Outputs
    classes: tuple[str, ...] | None = None

    def accepts(self, batch: QueryBatch) -> bool:
        """Returns whether ``batch`` has any feature of the form; always true for a form without names."""
        return self.fields is None or not self._by_name.keys().isdisjoint(names_of(batch))

    def plain(self, batch: QueryBatch, repaired: Counter[str] | None = None) -> QueryBatch:
        """Returns ``batch``, which the form ``accepts``, as plain numbers, in the same order. Missing features are 0
        and marked. Counts repaired rows in ``repaired`` by a word of ``limits.REPAIRS``."""
        counted: Counter[str] = Counter() if repaired is None else repaired
        kind, outputs = plain_outputs(self.outputs, self._class_numbers, batch, counted)
        if outputs is not batch.outputs or kind != batch.output_kind:
            batch = replace(batch, output_kind=kind, outputs=outputs, output_names=None)
        if self.fields is None and batch.feature_names is None:
            return batch
        named = self if self.fields is not None else Form(_fields_in_order(batch), self.outputs)
        features, missing = named._plain_features(batch, counted)
        return replace(batch, features=features, missing=missing, feature_names=None, texts=None)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The name of each plain feature, as in ``Field.columns``; None if unnamed."""
        return None if self.fields is None else tuple(name for field in self.fields for name in field.columns)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The feature name of each plain column; None if unnamed."""
        return None if self.fields is None else tuple(field.name for field in self.fields for _ in range(field.width))

    @property
    def output_kind(self) -> OutputKind:
        """The kind of plain outputs."""
        return "probabilities" if self.outputs == "probability" else self.outputs

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Form:
        """Returns the form that was packed."""
        fields, classes = record["fields"], record["classes"]
        read = None if fields is None else tuple(Field(name, values and tuple(values)) for name, values in fields)
        return cls(read, record["outputs"], classes and tuple(classes))

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields or ()}

    @cached_property
    def _spans(self) -> dict[str, slice]:
        """The columns of each feature."""
        widths = [field.width for field in self._by_name.values()]
        ends = accumulate(widths)
        return {name: slice(end - width, end) for name, width, end in zip(self._by_name, widths, ends, strict=True)}

    @cached_property
    def _codes(self) -> dict[str, dict[str, int]]:
        """The column of each known text in its feature."""
        return {
            field.name: {canonical(value): at for at, value in enumerate(field.values)}
            for field in self._by_name.values()
            if field.values is not None
        }

    @cached_property
    def _class_numbers(self) -> dict[str, int] | None:
        return None if self.classes is None else {name: number for number, name in enumerate(self.classes)}

    def _plain_features(self, batch: QueryBatch, counted: Counter[str]) -> tuple[Floats, Marks | None]:
        """Returns the features float32 (n, width) of ``batch``, and its missing features bool (n, width) or None."""
        names, absent = names_of(batch), absent_in(batch)
        shape = len(batch), sum(field.width for field in self._by_name.values())
        features, missing = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        numbers = [
            at for at, name in enumerate(names[: batch.dimension]) if name in self._by_name and name not in self._codes
        ]
        target = [self._spans[names[at]].start for at in numbers]
        features[:, target] = np.where(absent[:, numbers], np.float32(0), batch.features[:, numbers])
        missing[:, target] = absent[:, numbers]
        for name, texts in self._texts(batch, names, absent):
            span = self._spans[name]
            self._place_texts(texts, name, features[:, span], missing[:, span], counted)
        left_out = self._by_name.keys() - set(names)
        for name in left_out:
            missing[:, self._spans[name]] = True
        _count(counted, "absent", len(batch) if left_out else 0)
        _count(counted, "unknown", len(batch) if set(names) - self._by_name.keys() else 0)
        return features, missing if missing.any() else None

    def _texts(
        self, batch: QueryBatch, names: Sequence[str], absent: Marks
    ) -> Iterator[tuple[str, Sequence[str | None]]]:
        """Yields the known features that are texts in the form or in ``batch``, with the text of each row."""
        for at, name in enumerate(names[: batch.dimension]):
            if name in self._codes:
                values = zip(batch.features[:, at].tolist(), absent[:, at].tolist(), strict=True)
                yield name, [None if left_out else number_text(value) for value, left_out in values]
        for at, name in enumerate(names[batch.dimension :]):
            if name in self._by_name:
                assert batch.texts is not None
                yield name, batch.texts[:, at].tolist()

    def _place_texts(
        self, texts: Sequence[str | None], name: str, features: Floats, missing: Marks, counted: Counter[str]
    ) -> None:
        """Fills the columns ``features`` and ``missing`` (n, width) of one feature from its ``texts``."""
        absent = np.array([text is None for text in texts], np.bool_)
        codes = self._codes.get(name)
        if codes is None:
            numbers = np.array([nan if text is None else number_of(text) for text in texts], np.float32)
            odd = np.isnan(numbers)
            _count(counted, "unreadable", int((odd & ~absent).sum()))
            features[:, 0], missing[:, 0] = np.where(odd, np.float32(0), numbers), odd
            return
        missing[absent] = True
        if codes:
            code = np.array([-1 if text is None else _code(codes, text) for text in texts], np.int64)
            known, unseen = np.flatnonzero(code >= 0), (code < 0) & ~absent
            features[known, code[known]] = 1
            features[unseen, 0] = _UNSEEN
            _count(counted, "category", int(unseen.sum()))


def _fields_in_order(batch: QueryBatch) -> tuple[Field, ...]:
    """Returns the features of ``batch`` in the order of names: by position for lists that hold texts, else by name, as
    older loggers sent them."""
    names = batch.feature_names or ()
    positions = tuple(map(str, range(1, len(names) + 1)))
    return tuple(Field(name) for name in (positions if set(positions) == set(names) else sorted(names)))


def absent_in(batch: QueryBatch) -> Marks:
    """Returns bool (n, d): the numbers of ``batch`` that are missing or NaN."""
    absent: Marks = np.isnan(batch.features)
    return absent if batch.missing is None else batch.missing | absent


def names_of(batch: QueryBatch) -> tuple[str, ...]:
    """Returns the names of the features of ``batch``, or their positions from 1 if they are unnamed."""
    return tuple(map(str, range(1, batch.dimension + 1))) if batch.feature_names is None else batch.feature_names


def listed(names: Sequence[str], most: int) -> str:
    """Returns the first ``most`` of ``names``, and how many there are more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
        return _outputs_of_names(wanted, classes, batch, counted)
    if outputs.shape[1] == 1:
        return _outputs_of_number(wanted, batch, classes, counted)
    if wanted == "label" and kind == "probabilities":
        return "label", outputs.argmax(axis=1).astype(np.float32)[:, None]
    return kind, outputs


def _outputs_of_number(
    wanted: str, batch: QueryBatch, classes: Mapping[str, int] | None, counted: Counter[str]
) -> Plain:
    """Converts one number per row to the kind ``wanted``, unless the batch states another kind."""
    values, kind = batch.outputs, batch.output_kind
    if kind == "label" or (wanted == "label" and kind != "score"):
        rounded = np.floor(values)
        odd = rounded != values
        _count(counted, "output", int(odd.any(axis=1).sum()))
        if classes is not None:
            return "label", _numbered(classes, rounded)
        return "label", rounded if odd.any() else values
    if wanted == "probability":
        likely = np.clip(values, 0, 1)
        _count(counted, "output", int((likely != values).any(axis=1).sum()))
        return "probabilities", np.concatenate((1 - likely, likely), axis=1)
    return "score", values


def _numbered(classes: Mapping[str, int], labels: Floats) -> Floats:
    """Returns the class numbers of ``labels``, for classes whose names are numbers."""
    found, at = np.unique(labels, return_inverse=True)
    numbers = [classes.get(str(int(label)), len(classes)) for label in found.tolist()]
    return np.array(numbers, np.float32)[at].reshape(-1, 1)


def _outputs_of_names(
    wanted: str, classes: Mapping[str, int] | None, batch: QueryBatch, counted: Counter[str]
) -> Plain:
    names = batch.output_names
    assert names is not None
    if classes is None:
        return _outputs_by_name(wanted, batch)
    if batch.output_kind == "label" or wanted == "label":
        best = names[np.arange(len(batch)), batch.outputs.argmax(axis=1)]
        number = np.array([classes.get(name, len(classes)) for name in best.tolist()], np.float32)
        _count(counted, "output", int((number[:, None] == len(classes)).any(axis=1).sum()))
        return "label", number[:, None]
    codes = np.array([classes.get(name, -1) for name in names.ravel().tolist()], np.int64).reshape(names.shape)
    row, at = np.nonzero(codes >= 0)
    outputs, given = np.zeros((len(batch), len(classes)), np.float32), np.zeros((len(batch), len(classes)), np.bool_)
    outputs[row, codes[row, at]], given[row, codes[row, at]] = batch.outputs[row, at], True
    if batch.output_kind == "score":
        return "score", outputs
    _count(counted, "output", int((codes < 0).any(axis=1).sum()))
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


_LABELS = 65_536
"""Class names are hashed to labels below this."""


def plain_without_profile(batch: QueryBatch, outputs: Outputs | None = None) -> QueryBatch:
    """Returns ``batch`` as plain numbers. Features are ordered by name. A text becomes its number, or else a hash from
    0 to 1; the best of named classes becomes a hashed label. ``outputs``: their kind. By default, a number from 0 to 1
    is the probability of the second of two classes, and any other whole number is a label."""
    kind, converted = _outputs(batch, outputs)
    plain = replace(batch, output_kind=kind, outputs=converted, output_names=None)
    return plain if batch.feature_names is None else _features_by_name(plain)


def _features_by_name(batch: QueryBatch) -> QueryBatch:
    names = names_of(batch)
    order = sorted(range(len(names)), key=names.__getitem__)
    absent = absent_in(batch)
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
    is_whole = np.floor(values) == values
    return "label", np.where(likely, values > 0.5, np.where(is_whole, values, 0)).astype(np.float32)


def _label(name: str) -> float:
    number = number_of(name)
    return float(_hash(name) % _LABELS) if isnan(number) or number != int(number) else number
