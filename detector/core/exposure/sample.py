"""Which (query, label) pairs of a principal are kept to learn his tree from: at most 512, chosen by a keyed hash.

The hash names a place, and of all pairs ever sent to a place the one with the least hash stays (one-permutation
hashing, Li, Owen and Zhang, NeurIPS 2012). So neither order nor repeats change what is kept, the kept pairs of two
principals give those of both together, and whoever does not know the validation rows, which are the key, cannot
choose what is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.exposure.levels import FEATURES, Sketches

PLACES = 512

Hashes = NDArray[np.uint64]

PAIR = np.dtype([("hash", np.uint64), ("label", np.int64), ("sketch", np.uint8, (FEATURES,))])
"""One kept pair."""
EMPTY = np.uint64(2**64 - 1)
"""The hash of a place that holds none."""
NOTHING = np.array((EMPTY, 0, 0), PAIR)


def hashed(sketches: Sketches, labels: Array, key: np.uint64) -> Hashes:
    """uint64 (n,): of pairs of levels (n, 16) and ``labels`` int64 (n,)."""
    words = sketches.view(np.uint64)
    mixed = _mixed(words[:, 0] ^ key)
    mixed = _mixed(mixed ^ words[:, 1])
    return np.minimum(_mixed(mixed ^ labels.astype(np.int64).view(np.uint64)), EMPTY - np.uint64(1))


def place(hashes: Hashes) -> Array:
    """int64 (n,): where pairs with ``hashes`` belong."""
    return (hashes % np.uint64(PLACES)).astype(np.int64)


def least(hashes: Hashes, group: Array) -> Array:
    """int64: the row with the least hash of each (group, place), ascending by group and place."""
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
