"""The form of a model version's queries: its features by name, with their vocabularies, and what its outputs are."""

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
"""``probability``: one number, that of the second of two classes; it becomes two probabilities."""


@dataclass(frozen=True)
class Form:
    """``fields``: the features in order, None where they are unnamed numbers. ``outputs``: what they are; ``classes``:
    the names of their classes, None where they have none."""

    fields: tuple[Field, ...] | None
    outputs: Outputs
    classes: tuple[str, ...] | None = None

    def takes(self, batch: QueryBatch) -> bool:
        """Whether ``batch`` has any feature of the form; where these have no names, as many as may be."""
        return self.fields is None or self._layout.knows(batch)

    def plain(self, batch: QueryBatch, repaired: Counter[str] | None = None) -> QueryBatch:
        """``batch``, which the form ``takes``, as plain numbers: its rows in their order, what is missing 0 and marked.
        Rows with something odd are counted in ``repaired`` by a word of ``limits.REPAIRS``."""
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
        """The name of each plain feature, as ``Field.columns`` has them; None: unnamed."""
        return None if self.fields is None else self._layout.columns

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self.fields or ())

    @cached_property
    def _numbers(self) -> dict[str, int] | None:
        return None if self.classes is None else {name: number for number, name in enumerate(self.classes)}

    @property
    def names(self) -> tuple[str, ...] | None:
        """The name of the feature that each plain column belongs to; None: unnamed."""
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
    """Numbers in the order of their names: positions, where a list has a text in it, else by name as loggers of old
    sent them."""
    names = batch.feature_names or ()
    positions = tuple(map(str, range(1, len(names) + 1)))
    return Layout([Field(name) for name in (positions if set(positions) == set(names) else sorted(names))])
