"""Honest accounts of a small model, and a thief of it, for tests of calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from tests.core.streams import linear_outputs

DIMENSION, CLASSES = 6, 3
_CENTRES = np.random.default_rng(9).random((5, DIMENSION))


def honest(name: str, seed: int, rows: int = 50) -> QueryBatch:
    """New inputs near five centres, each account with a liking for some of them."""
    rng = np.random.default_rng(seed)
    liking = rng.dirichlet(np.full(len(_CENTRES), 2.0))
    near = _CENTRES[rng.choice(len(_CENTRES), rows, p=liking)]
    return account(name, near + 0.08 * rng.standard_normal(near.shape), seed)


def thief(name: str = "mallory", seed: int = 5, rows: int = 120) -> QueryBatch:
    """Ten natural inputs, then steps of one size along random signs from earlier ones, farther and farther out."""
    rng = np.random.default_rng(seed)
    features = _CENTRES[rng.integers(0, len(_CENTRES), rows)] + 0.08 * rng.standard_normal((rows, DIMENSION))
    for row in range(10, rows):
        features[row] = features[rng.integers(0, row)] + 0.3 * rng.choice([-1.0, 1.0], DIMENSION)
    return account(name, features, seed)


def account(name: str, features: NDArray[np.float64], seed: int) -> QueryBatch:
    """The queries ``features`` of ``name``, one per second."""
    rows = features.astype(np.float32)
    return QueryBatch(
        model="credit",
        model_version="1",
        output_kind="probabilities",
        event_ids=[f"{name}-{seed}-{row}" for row in range(len(rows))],
        occurred_at=1_700_000_000 + np.arange(len(rows), dtype=np.float64),
        principals=[name],
        principal_index=np.zeros(len(rows), np.int32),
        features=rows,
        outputs=linear_outputs(rows, CLASSES),
    )


def crowd(count: int = 12, seed: int = 100, rows: int = 50) -> list[QueryBatch]:
    """``count`` honest accounts by name: user-00, user-01..."""
    return [honest(f"user-{number:02}", seed + number, rows) for number in range(count)]


def of_version(queries: QueryBatch, version: str) -> QueryBatch:
    return replace(queries, model_version=version)
