"""Query batches for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from detector.contracts.queries import QueryBatch


def make_batch(rows: int = 5, dimension: int = 4, classes: int = 3, seed: int = 0, **changes: Any) -> QueryBatch:
    """``rows`` good queries of three principals."""
    rng = np.random.default_rng(seed)
    outputs = rng.random((rows, classes)) + 0.01
    columns: dict[str, Any] = {
        "model": "digits",
        "model_version": "3",
        "output_kind": "probabilities",
        "event_ids": [f"e-{seed}-{row}" for row in range(rows)],
        "occurred_at": 1_700_000_000 + np.arange(rows, dtype=np.float64),
        "principals": ["ana", "bo", "çelik"],
        "principal_index": rng.integers(0, 3, rows).astype(np.int32),
        "features": rng.standard_normal((rows, dimension)).astype(np.float32),
        "outputs": (outputs / outputs.sum(axis=1, keepdims=True)).astype(np.float32),
    }
    return QueryBatch(**columns | changes)


def optional_columns(rows: int, dimension: int) -> dict[str, Any]:
    """All columns that a log may leave out."""
    return {
        "missing": np.arange(rows * dimension).reshape(rows, dimension) % 3 == 0,
        "hardness": np.linspace(0, 1, rows, dtype=np.float32),
        "leaf": np.arange(rows, dtype=np.int64) - 1,
        "specification": np.ones((rows, 2), dtype=np.float32),
        "served_mode": ["none"] * rows,
        "network_prefix": ["192.0.2.0/24"] * rows,
        "organisation": [""] * rows,
        "user_agent_hash": [f"{row:x}" for row in range(rows)],
    }


def loose_columns(rows: int, dimension: int, classes: int) -> dict[str, Any]:
    """Named features, two of them texts, and a class for each output."""
    names = [f"feature {number}" for number in range(dimension)]
    texts = [["red" if row % 2 else None, f"shop {row}"] for row in range(rows)]
    return {
        "feature_names": (*names, "colour", "shop"),
        "texts": np.array(texts, dtype=object).reshape(rows, 2),
        "output_names": np.array([[f"class {(row + at) % 9}" for at in range(classes)] for row in range(rows)], object),
    }


def principals_of(batch: QueryBatch) -> list[str]:
    """The principal of each row."""
    return [batch.principals[index] for index in batch.principal_index]


def assert_same_rows(found: QueryBatch, expected: QueryBatch) -> None:
    """Equal rows; the dictionaries of principals may be numbered differently."""
    from detector.contracts.batches import COLUMNS

    for name in ("model", "model_version", "output_kind", "feature_names"):
        assert getattr(found, name) == getattr(expected, name), name
    assert principals_of(found) == principals_of(expected)
    for name in set(COLUMNS) - {"principal_index"}:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, name
