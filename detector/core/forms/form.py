"""The form of a model version's queries: named features, their vocabularies, and the kind of outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.forms.features import Field, Layout
from detector.core.forms.outputs import plain_outputs

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
