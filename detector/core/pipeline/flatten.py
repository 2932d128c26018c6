"""Micro-batches as flat columns over all rows, of all shards, models, versions and dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.batch import MicroBatch
from detector.core.profile.profile import ProfileMatcher
from detector.core.state.arrays import Array
from detector.core.state.pools import LABEL_LIMIT
from detector.core.state.principals import Key


class Stream:
    """One micro-batch of each shard, in order of shards: ``pieces`` of plain queries, and their repairs by shard
    (``repaired``).

    ``keys``: those that occur, with the judging version (``ProfileMatcher.judged_as``, or the query's own without one).
    Shard i has the keys ``key_edges[i]`` to ``key_edges[i + 1]`` and the rows ``edges[i]`` to ``edges[i + 1]``.
    ``first_piece`` int64: the first piece of each key. Per row: ``shard``, ``key`` (position in ``keys``), ``piece``
    and ``piece_row`` (its source), ``fits`` (whether a profile matches or the model has none), ``dimension`` and
    ``space`` (position in ``spaces``, each a (model, judging version, dimension)).
    """

    def __init__(self, batches: Sequence[MicroBatch], fitting: ProfileMatcher) -> None:
        owned = [(at, piece) for at, batch in enumerate(batches) for piece in batch.pieces if len(piece)]
        self.repaired = [Counter[str]() for _ in batches]
        self.pieces = tuple(fitting.plain(piece, self.repaired[at]) for at, piece in owned)
        self._judged_as = [fitting.judged_as(piece) for _, piece in owned]
        self._spaces: dict[tuple[str, str, int], int] = {}
        self._numbers: list[dict[Key, int]] = [{} for _ in batches]
        self._new_keys: list[int] = []
        self._matrices: dict[int, tuple[NDArray[np.float32], Array]] = {}
        lengths = [len(piece) for piece in self.pieces]
        self.key = _joined([self._key_index(at, number) for number, (at, _) in enumerate(owned)], np.int32)
        self.piece = np.repeat(np.arange(len(self.pieces)), lengths)
        self.piece_row = _joined([np.arange(length) for length in lengths], np.int64)
        self.space_of_piece = np.array([self._space(number) for number in range(len(self.pieces))], dtype=np.int64)
        self.spaces = list(self._spaces)
        self.space = self.space_of_piece[self.piece]
        self.fits = np.array([version is not None for version in self._judged_as], dtype=np.bool_)[self.piece]
        self.dimension = np.array([piece.dimension for piece in self.pieces], dtype=np.int32)[self.piece]
        self.shard = np.array([at for at, _ in owned], dtype=np.int64)[self.piece]
        self.first_piece = np.repeat(np.arange(len(self.pieces)), self._new_keys)
        self.keys: list[Key] = list(chain.from_iterable(self._numbers))
        keys_of = list(map(len, self._numbers))
        self.shard_of_key = np.repeat(np.arange(len(batches)), keys_of)
        self.edges: list[int] = np.searchsorted(self.shard, np.arange(len(batches) + 1)).tolist()
        self.key_edges: list[int] = [0, *accumulate(keys_of)]

    def __len__(self) -> int:
        return len(self.key)

    @cached_property
    def label(self) -> Array:
        """int64 (n,): the predicted classes, see ``labels_of``."""
        return _joined([labels_of(piece) for piece in self.pieces], np.int64)

    def features(self, space: int, rows: Array) -> NDArray[np.float32]:
        """Returns float32 (m, d): the features of ``rows``, all of one space."""
        pieces = np.flatnonzero(self.space_of_piece == space)
        if len(pieces) == 1:
            matrix, at = self.pieces[int(pieces[0])].features, self.piece_row[rows]
        else:
            matrix, start = self._matrix(space)
            at = start[self.piece[rows]] + self.piece_row[rows]
        chosen: NDArray[np.float32] = matrix if len(at) == len(matrix) else matrix[at]
        return chosen

    def _matrix(self, space: int) -> tuple[NDArray[np.float32], Array]:
        if space not in self._matrices:
            pieces = np.flatnonzero(self.space_of_piece == space).tolist()
            start = np.zeros(len(self.pieces), np.int64)
            start[pieces] = np.cumsum([0] + [len(self.pieces[at]) for at in pieces[:-1]])
            self._matrices[space] = np.concatenate([self.pieces[at].features for at in pieces]), start
        return self._matrices[space]

    def version(self, row: int) -> str:
        """Returns the model version of the query in ``row``."""
        return self.pieces[int(self.piece[row])].model_version

    def _key_index(self, shard: int, number: int) -> Array:
        piece = self.pieces[number]
        used = np.flatnonzero(np.bincount(piece.principal_index, minlength=len(piece.principals)))
        numbers = np.full(len(piece.principals), -1, np.int32)
        model, version, _ = self._space_key(number)
        known, principals = self._numbers[shard], piece.principals
        before = len(known)
        found = [known.setdefault((model, version, principals[at]), len(known)) for at in used.tolist()]
        self._new_keys.append(len(known) - before)
        numbers[used] = np.array(found) + sum(map(len, self._numbers[:shard]))
        return numbers[piece.principal_index]

    def _space(self, number: int) -> int:
        return self._spaces.setdefault(self._space_key(number), len(self._spaces))

    def _space_key(self, number: int) -> tuple[str, str, int]:
        piece, judged_as = self.pieces[number], self._judged_as[number]
        return piece.model, piece.model_version if judged_as is None else judged_as, piece.dimension


def labels_of(piece: QueryBatch) -> Array:
    """Returns the predicted classes, int64 (n,): argmax of probabilities, the label itself, 0 for a score."""
    labels: Array = np.zeros(len(piece), np.int64)
    if piece.output_kind == "probabilities":
        labels = piece.outputs.argmax(1)
    elif piece.output_kind == "label":
        labels = np.clip(piece.outputs[:, 0].astype(np.float64), -LABEL_LIMIT, LABEL_LIMIT).astype(np.int64)
    return labels


def _joined(parts: list[Array], dtype: type) -> Array:
    return np.concatenate([*parts, np.empty(0, dtype)]) if len(parts) != 1 else parts[0]
