"""A linear classifier, and the distances of queries to its decision boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from detector.core.owner_model.features import Features, Floats, require, require_all
from detector.core.owner_model.links import Link, linked, require_link


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """``weights`` float64 (k, d) and ``intercepts`` (k,) give a score for each of k classes, of which the highest wins;
    (1, d) and (1,) give one for class 1 of two, which wins above 0."""

    features: Features
    weights: Floats
    intercepts: Floats
    link: Link

    def __post_init__(self) -> None:
        require(self.weights.ndim == 2 and len(self.weights) >= 1, "weights", "is not a list of lists of numbers")
        wide = self.weights.shape[1] == len(self.features)
        require(
            wide,
            "weights",
            f"have {self.weights.shape[1]} numbers a class, and there are {len(self.features)} features",
        )
        require_all(
            np.asarray(np.isfinite(self.weights).all(axis=1)), "weights[{}]", "holds something else than finite numbers"
        )
        require(self.intercepts.shape == self.weights.shape[:1], "intercepts", "must be as many as the rows of weights")
        require_all(np.isfinite(self.intercepts), "intercepts[{}]", "is not a finite number")
        require_link(self.link, len(self.weights))

    @property
    def sides(self) -> int:
        """The number of classes."""
        return max(len(self.weights), 2)

    def scores(self, features: NDArray[np.float32]) -> Floats:
        """Returns float64 (n, k), or (n, 1) for a single row of weights; the same bits however many rows are passed at
        once."""
        rows = features.astype(np.float64, order="C")
        return np.asarray(np.vecdot(rows[:, None], self.weights) + self.intercepts)

    def outputs(self, features: NDArray[np.float32]) -> Floats:
        """Returns float64 (n, classes): probabilities, or with the link ``identity`` the scores."""
        return linked(self.scores(features), self.link)

    def distances(self, features: NDArray[np.float32]) -> tuple[NDArray[np.int64], Floats]:
        """Returns int64 (n,): the class of each row; float64 (n,): its distance, in feature units, to the nearest point
        that scores another class as high."""
        scores = self.scores(features)
        if len(self.weights) == 1:
            return (scores[:, 0] > 0).astype(np.int64), np.abs(scores[:, 0]) / np.linalg.norm(self.weights)
        top = scores.argmax(axis=1)
        lead = scores.max(axis=1, keepdims=True) - scores
        apart = np.linalg.norm(self.weights[:, None] - self.weights, axis=2)[top]
        apart[np.arange(len(top)), top] = 0.0
        far = np.divide(lead, apart, out=np.full_like(lead, np.inf), where=apart > 0)
        return top, far.min(axis=1)

    def to_record(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("weights", "intercepts", "link")}
        return {"kind": "linear", "features": self.features.to_record(), **named}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Linear:
        features = Features.from_record(record["features"])
        return cls(features, record["weights"], record["intercepts"], cast("Link", record["link"]))
