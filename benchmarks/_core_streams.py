"""Synthetic query streams for the core benchmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch

CLASSES = 10


def uniform(generator: np.random.Generator, count: int, dimension: int) -> NDArray[np.float32]:
    """The worst case: nearly every query joins the growing set."""
    return generator.random((count, dimension), dtype=np.float32)


def outputs(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    return generator.random((count, CLASSES), dtype=np.float32)


def batches(features: NDArray[np.float32], who: NDArray[np.int64], size: int) -> list[list[QueryBatch]]:
    """``features`` of the principals ``who`` in micro-batches of ``size`` rows."""
    generator = np.random.default_rng(len(features))
    answers = outputs(generator, len(features))
    cuts = range(0, len(features), size)
    return [_batch(features[at : at + size], answers[at : at + size], who[at : at + size]) for at in cuts]


def _batch(features: NDArray[np.float32], answers: NDArray[np.float32], who: NDArray[np.int64]) -> list[QueryBatch]:
    present, index = np.unique(who, return_inverse=True)
    count = len(features)
    batch = QueryBatch(
        model="model",
        model_version="1",
        output_kind="probabilities",
        event_ids=[""] * count,
        occurred_at=np.zeros(count),
        principals=[f"principal-{number}" for number in present],
        principal_index=index.astype(np.int32),
        features=features,
        outputs=answers,
    )
    return [batch]
