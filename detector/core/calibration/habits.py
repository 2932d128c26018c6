"""Honest habits that an owner's few reference accounts may not show, made from their own queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.core.state.arrays import Array

WHAT_IFS = ((30, 7), (6, 40))
"""Invented users of what-if tools: rows, and how often each is asked again with one field changed."""

Rows = NDArray[np.float32]


def what_if(account: QueryBatch, bases: Array, donors: Rows, changes: int, rng: np.random.Generator) -> QueryBatch:
    """Somebody who asks the queries ``bases`` int64 (b,) of ``account`` and each of them ``changes`` times more, every
    time with another field as some row of ``donors`` (n, d) has it. What the model would say is not known here; it is
    taken to say the same.
    """
    asked = take(account, np.repeat(bases, changes + 1))
    features = asked.features.copy()
    varied = [own for own in fields(donors) if (donors[:, own] != donors[0, own]).any()]
    changed = np.flatnonzero(np.arange(len(features)) % (changes + 1)) if varied else np.empty(0, np.int64)
    for row, field in zip(changed.tolist(), rng.integers(0, len(varied) or 1, len(changed)).tolist(), strict=True):
        own = varied[field]
        other = np.flatnonzero((donors[:, own] != features[row, own]).any(axis=1))
        features[row, own] = donors[rng.choice(other), own] if len(other) else features[row, own]
    return replace(asked, features=features)


def fields(rows: Rows) -> list[slice]:
    """The columns of ``rows`` (n, d) as what a person would fill in: one-hot encoded categories are neighbouring
    columns of 0 and 1 of which in every row exactly one is 1; any other column is a field of its own."""
    binary = ((rows == 0) | (rows == 1)).all(axis=0)
    found, start = [], 0
    while start < rows.shape[1]:
        end = _category(rows, binary, start) or start + 1
        found.append(slice(start, end))
        start = end
    return found


def _category(rows: Rows, binary: NDArray[np.bool_], start: int) -> int | None:
    """Where the one-hot encoded category that begins at ``start`` ends; None if there is none."""
    stop = start + int(np.argmin(np.append(binary[start:], False)))
    total = np.cumsum(rows[:, start:stop], axis=1)
    whole = np.flatnonzero((total == 1).all(axis=0))
    return start + int(whole[0]) + 1 if len(whole) and whole[0] else None
