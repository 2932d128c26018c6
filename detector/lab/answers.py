"""The answers of a prediction API, and the interfaces of models that give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to ``n`` inputs. ``probabilities`` float64 (n, k); each row of a label-only API is 1 at the label.

    ``leaf`` int64 (n,) or None: the tree node at which the input ended, if the API returns it (with the confidence, or
    directly). ``missing_feature`` int64 (n,) or None: the absent feature that stopped it there, -1 at a leaf.
    """

    probabilities: NDArray[np.float64]
    leaf: NDArray[np.int64] | None = None
    missing_feature: NDArray[np.int64] | None = None

    @property
    def labels(self) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return labels

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Returns all of ``parts`` in order, without the columns that one of them lacks."""
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            concatenated([part.leaf for part in parts]),
            concatenated([part.missing_feature for part in parts]),
        )

    def take(self, rows: NDArray[np.int64] | slice) -> Answers:
        """Returns the answers to the inputs ``rows``, int64 (m,) or a slice."""
        leaf, missing = (None if column is None else column[rows] for column in (self.leaf, self.missing_feature))
        return Answers(self.probabilities[rows], leaf, missing)


def concatenated(columns: Sequence[NDArray[Number] | None]) -> NDArray[Number] | None:
    """Returns all of ``columns`` as one, or None if one of them is None."""
    present = [column for column in columns if column is not None]
    return np.concatenate(present) if len(present) == len(columns) else None


class Classifier(Protocol):
    """A victim or a clone: features float32 (n, d) in, class probabilities float64 (n, k) out."""

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]: ...


class Victim(Classifier, Protocol):
    """A model behind an API. NaN in ``features`` is a feature left out; only trees accept that, others raise LabError.

    ``output_kind``: what it logs.
    """

    @property
    def output_kind(self) -> OutputKind: ...

    def answer(self, features: NDArray[np.float32]) -> Answers: ...
