"""How much of the owner's model a principal has learned from the answers (Kesarwani, Mukhoty, Arya, Mehta, ACSAC 2018).

An exposure is a meter and raises no alarm: honest principals learn a model too, and faster per query than most thieves.
Both meters see a query as sixteen small numbers: its levels among the validation rows in the most informative features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.core.loops.compiled import compiled, plain
from detector.core.state.arrays import Array, pack

EXPOSURES = ("information_gain", "coverage")
"""The signals whose statistic is an exposure in percent."""
EFFECTIVE_QUERIES, PRICE = "effective_queries", "price"
"""The meter of queries that taught something, and its figure that says what each added."""


FEATURES = 16
"""The most features used."""
THRESHOLDS = 31
"""The most thresholds per feature."""

Sketches = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class QuantileLevels:
    """``columns`` int64 (m,): the features used, m at most 16. ``thresholds`` float32 (m, 31), ascending, infinite
    where a feature has fewer."""

    columns: Array
    thresholds: NDArray[np.float32]

    @classmethod
    def of(cls, features: NDArray[np.float32], labels: Array) -> QuantileLevels:
        """Returns the levels of the validation ``features`` (v, d) with ``labels`` int64 (v,)."""
        columns = _most_informative(features, labels)
        thresholds = np.full((len(columns), THRESHOLDS), np.inf, np.float32)
        for row, column in zip(thresholds, columns.tolist(), strict=True):
            between = _thresholds(features[:, column])
            row[: len(between)] = between
        return cls(columns, thresholds)

    def sketch(self, values: NDArray[np.float32]) -> Sketches:
        """Returns uint8 (n, 16): the level of ``values`` (n, m) of the features ``columns``: the number of thresholds
        below, scaled so that the highest level of each feature is about 31. 0 for NaN, and for absent features."""
        levels = np.zeros((len(values), FEATURES), np.uint8)
        _sketch(plain(values), plain(self.thresholds), self._widths, levels)
        return levels

    @cached_property
    def _widths(self) -> NDArray[np.int64]:
        """int64 (m,): what one threshold of each feature counts."""
        widths: NDArray[np.int64] = THRESHOLDS // np.isfinite(self.thresholds).sum(axis=1)
        return widths


def _most_informative(features: NDArray[np.float32], labels: Array) -> Array:
    """Returns the features that matter most to an entropy tree of labels, then those with most values, ascending."""
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(criterion="entropy", random_state=0).fit(features, labels)
    ordered = np.sort(features, axis=0)
    changes = (ordered[1:] > ordered[:-1]).sum(axis=0)
    best = np.lexsort((-changes, -tree.feature_importances_))
    return np.sort(best[changes[best] > 0][:FEATURES]).astype(np.int64)


def _thresholds(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns thresholds halfway between neighbouring values, at least the lower and below the higher: all, or those
    nearest to the 31 quantiles."""
    distinct, counts = np.unique(values, return_counts=True)
    low, high = distinct[:-1], distinct[1:]
    between = low + (high - low) / np.float32(2)
    between = np.where(between < high, between, low)
    if len(between) <= THRESHOLDS:
        return between
    wanted = np.arange(1, THRESHOLDS + 1) * len(values) / (THRESHOLDS + 1)
    nearest = np.searchsorted(np.cumsum(counts)[:-1], wanted)
    return np.asarray(between[np.unique(np.minimum(nearest, len(between) - 1))])


@compiled
def _sketch(
    values: NDArray[np.float32], thresholds: NDArray[np.float32], widths: NDArray[np.int64], levels: Sketches
) -> None:
    for row in range(len(values)):
        for column in range(len(thresholds)):
            below = 0
            for at in range(THRESHOLDS):
                below += values[row, column] > thresholds[column, at]
            levels[row, column] = below * widths[column]


_MOST_CELLS = 256
"""There are also few enough that each has about eight validation rows."""
_ROWS_A_CELL = 8


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of the feature space for models that have no leaves: k-means (Lloyd 1982) of the validation rows' levels.

    ``centres`` float32 (c, 16), whole numbers, so that no cell depends on how a product of matrices rounds. ``rows``
    int64 (c,): the validation rows in each, at least 1, which give its weight.
    """

    centres: NDArray[np.float32]
    rows: Array

    @classmethod
    def of(cls, sketches: Sketches) -> Cells:
        """Returns the cells of the levels of the validation rows, uint8 (v, 16)."""
        import faiss

        faiss.omp_set_num_threads(1)
        points = sketches.astype(np.float32)
        count = min(_MOST_CELLS, max(len(points) // _ROWS_A_CELL, 1), len(np.unique(points, axis=0)))
        kmeans = faiss.Kmeans(points.shape[1], count, niter=20, seed=1, min_points_per_centroid=1)
        kmeans.train(points)
        found: NDArray[np.float32] = np.asarray(kmeans.centroids, np.float32)
        centres = np.unique(found.round(), axis=0)
        every = cls(centres, np.ones(len(centres), np.int64))
        rows = np.bincount(every.cell(sketches), minlength=len(centres))
        return cls(centres[rows > 0], rows[rows > 0])

    def cell(self, sketches: Sketches) -> Array:
        """Returns int64 (n,): the nearest centre to each row of levels uint8 (n, 16), the first of equally near
        ones."""
        nearness = sketches.astype(np.float32) @ self.centres.T - self._half_squares
        return np.asarray(nearness.argmax(axis=1))

    @cached_property
    def _half_squares(self) -> NDArray[np.float32]:
        return np.asarray((self.centres**2).sum(axis=1) / np.float32(2))


_SPACED_ROWS = 256
"""Validation rows, at most, whose nearest ones are looked for: sums of differences in one order, and quick enough."""
_LEAST_SPACING = 1e-9

VALIDATION_ROWS = 2_000
VALIDATION_BYTES = 2_000_000
"""The most validation rows of a model version, and the most bytes of them."""


@dataclass(frozen=True, eq=False)
class Validation:
    """``features`` float32 (v, d), distributed like the training data of the model, and ``labels`` int64 (v,), its
    predictions for them. ``levels`` and ``cells`` are made from these once, so that later versions do not change
    them."""

    features: NDArray[np.float32]
    labels: Array
    levels: QuantileLevels
    cells: Cells

    @classmethod
    def of(cls, features: NDArray[np.float32], labels: Array) -> Validation:
        """Returns at most 2,000 rows and 2 MB; evenly chosen from more. Raises ConfigurationError for invalid rows."""
        _check_validation(features, labels)
        room = min(VALIDATION_ROWS, VALIDATION_BYTES // max(4 * features.shape[1], 1))
        kept = np.linspace(0, len(features) - 1, min(len(features), room)).astype(np.int64)
        rows, predicted = np.ascontiguousarray(features[kept]), labels[kept].astype(np.int64)
        levels = QuantileLevels.of(rows, predicted)
        return cls(rows, predicted, levels, Cells.of(levels.sketch(rows[:, levels.columns])))

    @cached_property
    def tag(self) -> np.uint64:
        """Differs from that of any other validation set: exposures under different sets are not comparable."""
        digest = hashlib.blake2b(pack(self), digest_size=8).digest()
        return np.uint64(int.from_bytes(digest, "little"))

    def spacing(self, scale: NDArray[np.float32]) -> float:
        """Returns the median distance of validation rows, over ``scale`` (d,), to the nearest other row; above 0."""
        from scipy.spatial.distance import cdist

        rows = np.unique(self.features / scale, axis=0)
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), _SPACED_ROWS)).astype(np.int64)
        distance = cdist(rows[chosen], rows)
        distance[np.arange(len(chosen)), chosen] = np.inf
        return max(float(np.median(distance.min(axis=1))), _LEAST_SPACING) if len(rows) > 1 else _LEAST_SPACING

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Validation:
        """Returns the set that was packed. Raises ConfigurationError if its rows are invalid."""
        _check_validation(record["features"], record["labels"])
        levels, cells = QuantileLevels(**record["levels"]), Cells(**record["cells"])
        return cls(record["features"], record["labels"], levels, cells)


def _check_validation(features: Array, labels: Array) -> None:
    matrix = features.ndim == 2 and features.dtype == np.float32
    if not matrix or not len(features) or 4 * features.shape[1] > VALIDATION_BYTES:
        raise ConfigurationError(
            f"the validation set has features of shape {features.shape} and dtype {features.dtype}; "
            f"give float32 (rows, features), at least one row, none of more than {VALIDATION_BYTES} bytes"
        )
    if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
        raise ConfigurationError(
            f"the validation set has labels of shape {labels.shape} and dtype {labels.dtype} for {len(features)} rows; "
            "give the whole number that the model predicts for each"
        )
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ConfigurationError(f"row {row + 1} of the validation set holds NaN or infinity; leave such rows out")


def entropy(counts: Array) -> NDArray[np.float64]:
    """Returns float64 (n,), in bits: the entropy of labels that occur ``counts`` (n, k) times; 0 for none."""
    total = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(total, 1)
    logarithm = np.log2(share, out=np.zeros(share.shape), where=share > 0)
    return np.asarray(-(share * logarithm).sum(axis=1))


def information_gain(parts: Array, labels: Array) -> float:
    """Returns IG(S, T) = Entropy(S) - sum over parts of |S_l| / |S| * Entropy(S_l), in bits, where ``parts`` int64 (n,)
    has the leaf of T of each row of S, and ``labels`` int64 (n,), from 0, its class."""
    part = np.unique(parts, return_inverse=True)[1]
    classes = int(labels.max()) + 1
    counts = np.bincount(part * classes + labels, minlength=(int(part.max()) + 1) * classes).reshape(-1, classes)
    within = float(counts.sum(axis=1) @ entropy(counts)) / len(labels)
    return float(entropy(counts.sum(axis=0)[None])[0]) - within


_FIT_SCHEDULE = 20 * 8 ** np.arange(19, dtype=np.int64)
"""The numbers of queries after which a tree is fitted. A fit costs about as much as PRADA on a hundred queries."""


def is_due(queries: Array) -> NDArray[np.bool_]:
    """Returns bool (n,): whether a tree is fitted after this number of ``queries`` int64 (n,)."""
    following = np.searchsorted(_FIT_SCHEDULE, queries)
    return np.asarray(_FIT_SCHEDULE[np.minimum(following, len(_FIT_SCHEDULE) - 1)] == queries)


class TreeProbe:
    """Measures how well a tree trained on a principal's answers predicts the labels of validation rows (strategy 1).

    status = 100 * IG(S, T_user) / IG(S, T_owner) with S the validation rows, levels uint8 (v, 16) and ``labels`` int64
    (v,). The labels are the predictions of the owner's model, so IG(S, T_owner) is Entropy(S) for any model, and the
    exposure measures agreement with the model, not accuracy.
    """

    def __init__(self, sketches: Sketches, labels: Array) -> None:
        self._rows = np.ascontiguousarray(sketches, np.float32)
        self._labels = np.unique(labels, return_inverse=True)[1]
        self._all = float(entropy(np.bincount(self._labels)[None])[0])

    @property
    def is_informative(self) -> bool:
        """Whether the labels are of more than one class, so that there is something to learn."""
        return self._all > 0.0

    def exposure(self, sketches: Sketches, labels: Array) -> float:
        """Returns in percent the exposure of an entropy tree learned from pairs of levels (n, 16) and ``labels`` int64
        (n,)."""
        if len(np.unique(labels)) < 2:
            return 0.0
        from sklearn import config_context
        from sklearn.tree import DecisionTreeClassifier

        with config_context(assume_finite=True, skip_parameter_validation=True):
            tree = DecisionTreeClassifier(criterion="entropy", random_state=0)
            tree.fit(np.ascontiguousarray(sketches, np.float32), labels, check_input=False)
        gain = information_gain(tree.tree_.apply(self._rows), self._labels)
        return 100.0 * min(max(gain / self._all, 0.0), 1.0)


BUCKETS = 512
"""A principal's tree is learned from at most this number of pairs of query and label, chosen by a keyed hash.

The hash selects a bucket, and of all pairs sent to a bucket the one with the smallest hash stays (one-permutation
hashing, Li, Owen and Zhang, NeurIPS 2012). So neither order nor repeats change the sample, the samples of two
principals merge to the sample of both, and only someone who knows the validation rows, which are the key, can choose
what is kept.
"""

Hashes = NDArray[np.uint64]

PAIR = np.dtype([("hash", np.uint64), ("label", np.int64), ("sketch", np.uint8, (FEATURES,))])
"""One kept pair."""
EMPTY = np.uint64(2**64 - 1)
"""The hash of an empty bucket."""
NOTHING = np.array((EMPTY, 0, 0), PAIR)


def hash_pairs(sketches: Sketches, labels: Array, key: np.uint64) -> Hashes:
    """Returns uint64 (n,): hashes of pairs of levels (n, 16) and ``labels`` int64 (n,)."""
    words = sketches.view(np.uint64)
    mixed = _mixed(words[:, 0] ^ key)
    mixed = _mixed(mixed ^ words[:, 1])
    return np.minimum(_mixed(mixed ^ labels.astype(np.int64).view(np.uint64)), EMPTY - np.uint64(1))


def bucket_of(hashes: Hashes) -> Array:
    """Returns int64 (n,): the buckets of pairs with ``hashes``."""
    return (hashes % np.uint64(BUCKETS)).astype(np.int64)


def smallest_of(hashes: Hashes, group: Array) -> Array:
    """Returns int64: the row with the smallest hash of each (group, bucket), ascending by group and bucket."""
    where = group * BUCKETS + bucket_of(hashes)
    order = np.lexsort((hashes, where))
    first = np.diff(where[order], prepend=-1) != 0
    return np.asarray(order[first])


def _mixed(words: Hashes) -> Hashes:
    """Returns ``words``, each mapped to another that looks random (the finaliser of SplitMix64, Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = words ^ (words >> np.uint64(31))
    return mixed


BITMAP_CELLS = 2_048
"""The bits of a bitmap of visited cells. Only cells with validation rows count, and there are at most 2,000 of those.

Strategy 2 without bounding boxes: status = 100 * sum over visited cells of w_l, w_l = |S_l| / |S|. The visits of
several principals are the OR of their bits.
"""
BITMAP_BYTES = BITMAP_CELLS // 8

Bitmaps = NDArray[np.uint8]


@compiled
def first_visits(bitmaps: Bitmaps, row: Array, cell: Array, first: NDArray[np.bool_]) -> None:
    """Sets bit ``cell[i]`` of ``bitmaps[row[i]]`` uint8 (m, 256), one after another, and ``first`` bool (n,) where it
    was not set before; both int64 (n,). A cell below 0 is none."""
    for at in range(len(row)):
        first[at] = False
        if cell[at] >= 0:
            byte, bit = cell[at] >> 3, 1 << (cell[at] & 7)
            first[at] = bitmaps[row[at], byte] & bit == 0
            bitmaps[row[at], byte] |= bit


def visit(bitmaps: Bitmaps, row: Array, cell: Array) -> None:
    """Sets bit ``cell[i]`` of ``bitmaps[row[i]]``, in place."""
    np.bitwise_or.at(bitmaps, (row, cell >> 3), (1 << (cell & 7)).astype(np.uint8))


def visited(bitmaps: Bitmaps) -> tuple[Array, Array]:
    """Returns int64 each: row and cell of every visit, ascending."""
    row, cell = np.nonzero(np.unpackbits(bitmaps, axis=1, bitorder="little"))
    return row, cell
