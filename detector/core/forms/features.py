"""Named features, numbers and texts, as columns of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch

Floats = NDArray[np.float32]
Marks = NDArray[np.bool_]

_UNSEEN = -1.0
"""In the first column of a feature that is a text none of its values: beyond all that honest queries have there, and as
far from each value as they are from each other."""


@dataclass(frozen=True, slots=True)
class Field:
    """A feature by ``name``; ``values``: the texts it may be, a column of 0 and 1 for each, or None for a number."""

    name: str
    values: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        return 1 if self.values is None else len(self.values)

    @property
    def columns(self) -> tuple[str, ...]:
        """The name of each column: ``name=value`` for those that say which text it is."""
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
        """Whether any feature of ``batch`` is one of the fields."""
        return not self._fields.keys().isdisjoint(names_of(batch))

    def plain(self, batch: QueryBatch, counted: Counter[str]) -> tuple[Floats, Marks | None]:
        """The features float32 (n, width) of ``batch``, and which are missing bool (n, width), None if none are."""
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
            _note(counted, "unreadable", int((odd & ~gone).sum()))
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
            _note(counted, "category", int(unseen.sum()))


def names_of(batch: QueryBatch) -> tuple[str, ...]:
    """The names of the features of ``batch``: their positions from 1 where they have none."""
    return tuple(map(str, range(1, batch.dimension + 1))) if batch.feature_names is None else batch.feature_names


def number_of(text: str) -> float:
    """The number that ``text`` writes, NaN where that is none or not finite as a float32."""
    try:
        number = float(text)
    except ValueError:
        return nan
    return number if abs(number) < _BEYOND else nan


def number_text(number: float) -> str:
    """How a number within float32 is written as a text: the same for a number that was one before."""
    if number == int(number):
        return str(int(number))
    return str(np.float32(number))


def canonical(text: str) -> str:
    """``text``, or if it writes a number the one way of writing that."""
    number = number_of(text)
    return number_text(float(np.float32(number))) if isfinite(number) else text


_BEYOND = 3.4028235677973366e38
"""Rounds to no float32."""


def _code(codes: dict[str, int], text: str) -> int:
    at = codes.get(text)
    return codes.get(canonical(text), -1) if at is None else at


def _note(counted: Counter[str], word: str, rows: int) -> None:
    if rows:
        counted[word] += rows
