"""Entropy of labels, and what a partition of labelled rows tells of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.state.arrays import Array

Floats = NDArray[np.float64]


def entropy(counts: Array) -> Floats:
    """float64 (n,), in bits: the entropy of labels that occur ``counts`` (n, k) times; 0 where there are none."""
    total = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(total, 1)
    logarithm = np.log2(share, out=np.zeros(share.shape), where=share > 0)
    return np.asarray(-(share * logarithm).sum(axis=1))


def information_gain(parts: Array, labels: Array) -> float:
    """IG(S, T) = Entropy(S) - sum over parts of |S_l| / |S| * Entropy(S_l), in bits, where ``parts`` int64 (n,)
    says which leaf of T each row of S is in, and ``labels`` int64 (n,), from 0, what it is."""
    part = np.unique(parts, return_inverse=True)[1]
    classes = int(labels.max()) + 1
    counts = np.bincount(part * classes + labels, minlength=(int(part.max()) + 1) * classes).reshape(-1, classes)
    within = float(counts.sum(axis=1) @ entropy(counts)) / len(labels)
    return float(entropy(counts.sum(axis=0)[None])[0]) - within
