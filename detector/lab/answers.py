"""What a prediction API says, and who says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind


@dataclass(frozen=True, slots=True)
class Answers:
    """To ``n`` inputs. ``probabilities`` float64 (n, k); of a label-only API each row is 1 at the label.

    ``leaf`` int64 (n,) or None: the tree node at which the input ended, where the API tells (with the confidence, or
    outright). ``asked`` int64 (n,) or None: the feature whose absence ended it there, -1 at a leaf.
    """

    probabilities: NDArray[np.float64]
    leaf: NDArray[np.int64] | None = None
    asked: NDArray[np.int64] | None = None

    @property
    def labels(self) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return labels

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """All of ``parts`` in order; what one of them does not tell, the whole does not."""
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            _joined([part.leaf for part in parts]),
            _joined([part.asked for part in parts]),
        )

    def first(self, count: int) -> Answers:
        """Those to the first ``count`` inputs."""
        leaf = None if self.leaf is None else self.leaf[:count]
        asked = None if self.asked is None else self.asked[:count]
        return Answers(self.probabilities[:count], leaf, asked)

    def take(self, rows: NDArray[np.int64]) -> Answers:
        """Those to the inputs ``rows``, int64 (m,)."""
        leaf = None if self.leaf is None else self.leaf[rows]
        asked = None if self.asked is None else self.asked[rows]
        return Answers(self.probabilities[rows], leaf, asked)


def _joined(columns: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    told = [column for column in columns if column is not None]
    return np.concatenate(told) if len(told) == len(columns) else None


class Classifier(Protocol):
    """A victim or a clone: features float32 (n, d) in, class probabilities float64 (n, k) out."""

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]: ...


class Victim(Classifier, Protocol):
    """A model behind an API. NaN in ``features`` is a feature left out; only trees take that, others raise LabError.

    ``output_kind``: what it logs.
    """

    @property
    def output_kind(self) -> OutputKind: ...

    def answer(self, features: NDArray[np.float32]) -> Answers: ...
