"""Generated query streams, and how to feed them to an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import cut
from detector.contracts.findings import Finding
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, Observation, Sections

Features = NDArray[np.float32]


def batch(
    features: Any,
    who: Sequence[str],
    *,
    outputs: Any = None,
    kind: Any = "label",
    model: str = "credit",
    version: str = "1",
    **optional: Any,
) -> QueryBatch:
    """Queries of one model; without ``outputs`` all are of class 0."""
    names = list(dict.fromkeys(who))
    count = len(who)
    return QueryBatch(
        model=model,
        model_version=version,
        output_kind=kind,
        event_ids=[str(number) for number in range(count)],
        occurred_at=np.arange(count, dtype=np.float64),
        principals=names,
        principal_index=np.array([names.index(name) for name in who], dtype=np.int32),
        features=np.ascontiguousarray(features, dtype=np.float32).reshape(count, -1),
        outputs=np.zeros((count, 1), np.float32) if outputs is None else np.asarray(outputs, np.float32),
        **optional,
    )


def of_one(features: Any, labels: Any = None, who: str = "ann") -> list[QueryBatch]:
    """A micro-batch of one principal with label outputs."""
    outputs = None if labels is None else np.asarray(labels, np.float32)[:, None]
    return [batch(features, [who] * len(features), outputs=outputs)]


def random(generator: np.random.Generator, count: int, dimension: int) -> Features:
    return generator.random((count, dimension), dtype=np.float32)


def clustered(generator: np.random.Generator, count: int, dimension: int) -> Features:
    """Clusters with some exact and some near duplicates."""
    centres = generator.random((8, dimension))
    rows = centres[generator.integers(0, 8, count)] + 0.05 * generator.standard_normal((count, dimension))
    features = rows.astype(np.float32)
    for at in np.flatnonzero(generator.random(count) < 0.1).tolist():
        features[at] = features[max(at - 7, 0)] + np.float32(generator.choice([0.0, 1e-6, 1e-3]))
    return features


def jacobian(generator: np.random.Generator, count: int, dimension: int) -> Features:
    """Seeds, then earlier queries moved by a fixed step along random signs, clipped as images are."""
    features = generator.random((count, dimension), dtype=np.float32)
    for at in range(min(60, count // 2), count):
        sign = generator.choice([-1.0, 1.0], dimension)
        features[at] = np.clip(features[generator.integers(0, at)] + 0.25 * sign, 0.0, 1.0)
    return features


def unclipped(generator: np.random.Generator, count: int, dimension: int) -> Features:
    """The same without clipping: steps of nearly one length."""
    features = generator.random((count, dimension), dtype=np.float32)
    for at in range(min(60, count // 2), count):
        features[at] = features[generator.integers(0, at)] + 0.25 * generator.choice([-1.0, 1.0], dimension)
    return features


def duplicates(generator: np.random.Generator, count: int, dimension: int) -> Features:
    """Half of the queries repeat one of the last twenty."""
    features = generator.random((count, dimension), dtype=np.float32)
    for at in np.flatnonzero(generator.random(count) < 0.5).tolist():
        features[at] = features[max(at - int(generator.integers(1, 20)), 0)]
    return features


def bisection(generator: np.random.Generator, count: int, dimension: int) -> Features:
    """Line searches: pairs halved until they nearly coincide."""
    features = np.empty((count, dimension), np.float32)
    for at in range(count):
        if at % 25 < 2:
            features[at] = generator.random(dimension)
        else:
            features[at] = (features[at - 1] + features[at - 2]) / 2
    return features


KINDS: dict[str, Callable[[np.random.Generator, int, int], Features]] = {
    "random": random,
    "clustered": clustered,
    "jacobian": jacobian,
    "unclipped": unclipped,
    "duplicates": duplicates,
    "bisection": bisection,
}


def linear_outputs(features: Features, classes: int, seed: int = 0) -> NDArray[np.float32]:
    """Probabilities of a fixed linear model."""
    weights = np.random.default_rng(seed).standard_normal((features.shape[1], classes))
    exponent = np.exp((features.astype(np.float64) - 0.5) @ weights)
    probabilities: NDArray[np.float32] = (exponent / exponent.sum(1, keepdims=True)).astype(np.float32)
    return probabilities


@dataclass(frozen=True)
class Seen:
    """An engine's results for a stream, whatever its cuts; rows of ``findings`` count from the stream's start."""

    flagged: NDArray[np.bool_]
    score: NDArray[np.float64]
    index: NDArray[np.int64]
    signals: dict[str, NDArray[np.float64]]
    findings: list[tuple[Any, ...]]
    refused: list[tuple[int, str]]
    evicted: int
    sections: list[Sections]

    def assert_equals(self, other: Seen) -> None:
        """To the bit."""
        for name in ("flagged", "index", "score"):
            np.testing.assert_array_equal(getattr(self, name), getattr(other, name), err_msg=name)
        assert self.signals.keys() == other.signals.keys()
        for name, values in self.signals.items():
            np.testing.assert_array_equal(values, other.signals[name], err_msg=name)
        assert self.findings == other.findings
        assert self.refused == other.refused
        assert self.evicted == other.evicted


def observe(engine: Engine, pieces: Sequence[QueryBatch], cuts: Sequence[int] = ()) -> Seen:
    """Feed ``pieces`` in micro-batches that end at the rows ``cuts`` of their concatenation and at its end."""
    count = sum(len(piece) for piece in pieces)
    borders = [0, *cuts, count]
    seen = [
        (start, engine.observe(rows_between(pieces, start, end))) for start, end in pairwise(borders) if end > start
    ]
    return joined(seen)


def joined(seen: Sequence[tuple[int, Observation]]) -> Seen:
    """Observations with the row at which each begins, as one."""
    observations = [observation for _, observation in seen]
    return Seen(
        np.concatenate([observation.flagged for observation in observations]),
        np.concatenate([observation.score for observation in observations]),
        np.concatenate([observation.index for observation in observations]),
        {
            name: np.concatenate([observation.signals[name] for observation in observations])
            for name in observations[0].signals
        },
        [_plain(start, finding) for start, observation in seen for finding in observation.findings],
        [(start + row.row, row.reason) for start, observation in seen for row in observation.refused],
        sum(observation.evicted for observation in observations),
        [observation.sections for observation in observations],
    )


def _plain(start: int, finding: Finding) -> tuple[Any, ...]:
    return (start + finding.row, *(getattr(finding, name) for name in finding.__slots__ if name != "row"))


def rows_between(pieces: Sequence[QueryBatch], start: int, end: int) -> list[QueryBatch]:
    """Rows ``start`` to ``end`` of the concatenation of ``pieces``."""
    parts = []
    for piece in pieces:
        low, high = max(start, 0), min(end, len(piece))
        if low < high:
            parts.append(cut(piece, low, high))
        start, end = start - len(piece), end - len(piece)
    return list(parts)
