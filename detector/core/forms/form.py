"""The form of a model version's queries: its features by name, with their vocabularies, and what its outputs are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detector.contracts.queries import QueryBatch

Outputs = Literal["probability", "score", "label", "probabilities", "none"]
"""``probability``: one number, that of the second of two classes; it becomes two probabilities."""


@dataclass(frozen=True, slots=True)
class Field:
    """A feature by ``name``; ``values``: the texts it may be, each a column of 0 and 1, or None for a number."""

    name: str
    values: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """``fields``: None where features are unnamed numbers. ``outputs``: what they are; ``classes``: the names of their
    classes, None where they have none."""

    fields: tuple[Field, ...] | None
    outputs: Outputs
    classes: tuple[str, ...] | None = None

    @classmethod
    def learn(cls, batches: Sequence[QueryBatch], outputs: Outputs | None = None) -> Form:
        """The form of honest ``batches`` of one model version. ``outputs`` wins over what they look like."""
        raise NotImplementedError

    @classmethod
    def default(cls, batch: QueryBatch) -> Form:
        """That of a model without a profile, from ``batch`` alone."""
        raise NotImplementedError

    def plain(self, batch: QueryBatch, repaired: Counter[str] | None = None) -> QueryBatch:
        """``batch`` as plain numbers, its rows and their order unchanged; what was odd is counted in ``repaired``."""
        raise NotImplementedError
