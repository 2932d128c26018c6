"""The sample of (query, label) pairs that a principal's tree is learned from: at most 512, chosen by a keyed hash.

The hash selects a place, and of all pairs sent to a place the one with the smallest hash stays (one-permutation
hashing, Li, Owen and Zhang, NeurIPS 2012). So neither order nor repeats change the sample, the samples of two
principals merge to the sample of both, and nobody who does not know the validation rows, which are the key, can choose
what is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.exposure.levels import FEATURES, Sketches
from detector.core.state.arrays import Array

PLACES = 512

Hashes = NDArray[np.uint64]

PAIR = np.dtype([("hash", np.uint64), ("label", np.int64), ("sketch", np.uint8, (FEATURES,))])
"""One kept pair."""
EMPTY = np.uint64(2**64 - 1)
"""The hash of an empty place."""
NOTHING = np.array((EMPTY, 0, 0), PAIR)


def hashed(sketches: Sketches, labels: Array, key: np.uint64) -> Hashes:
    """Returns uint64 (n,): hashes of pairs of levels (n, 16) and ``labels`` int64 (n,)."""
    words = sketches.view(np.uint64)
    mixed = _mixed(words[:, 0] ^ key)
    mixed = _mixed(mixed ^ words[:, 1])
    return np.minimum(_mixed(mixed ^ labels.astype(np.int64).view(np.uint64)), EMPTY - np.uint64(1))


def place(hashes: Hashes) -> Array:
    """Returns int64 (n,): the places of pairs with ``hashes``."""
    return (hashes % np.uint64(PLACES)).astype(np.int64)


def least(hashes: Hashes, group: Array) -> Array:
    """Returns int64: the row with the smallest hash of each (group, place), ascending by group and place."""
    where = group * PLACES + place(hashes)
    order = np.lexsort((hashes, where))
    first = np.diff(where[order], prepend=-1) != 0
    return np.asarray(order[first])


def _mixed(words: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = words ^ (words >> np.uint64(31))
    return mixed
