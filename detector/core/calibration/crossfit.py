"""Cross-fitting: each account is compared with the queries of the others, without any row that it sent itself, even if
others sent that row too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.profile.reference import NEAREST, Honest, Reference, shares
from detector.core.state.arrays import Array

FEWEST_QUERIES = 10
"""An account with fewer distinct queries does not count for the spread of accounts."""

_FOLDS = 24
_SHARED_BY_SEVERAL = 0.25
"""Maximum share of the others' rows to exclude for several accounts judged together."""
_SHARED_BY_ONE = 0.5
"""An account that sent a larger share of the others' rows is judged in two parts, each with half of these rows."""
_CONTENT = ("features", "outputs", "missing", "hardness", "leaf", "specification")


@dataclass(frozen=True, slots=True)
class Fold:
    """Accounts ``inside``, by number, that are compared with the queries of all others. With several ``parts``, the
    rows of one part (``CrossFit.parts``) are compared with those of the other parts."""

    inside: tuple[int, ...]
    parts: int = 1


class CrossFit:
    """Honest ``accounts``, the queries of one principal each, ordered by content. ``order`` int64 (n,): their positions
    in the given sequence."""

    def __init__(self, given: Sequence[QueryBatch]) -> None:
        digests = [_digest(own) for own in given]
        self.order = np.array(sorted(range(len(given)), key=digests.__getitem__), np.int64)
        self.accounts = [given[at] for at in self.order.tolist()]
        self.digests = [digests[at] for at in self.order.tolist()]
        self.honest = [Honest(own.features, own.outputs, own.hardness) for own in self.accounts]
        keys = [own.keys[own.ranked] for own in self.honest]
        self._once, ids = np.unique(np.concatenate(keys), return_inverse=True)
        self._ids = np.split(ids, np.cumsum([len(own) for own in keys])[:-1])
        self._owners = np.bincount(ids)

    @cached_property
    def long(self) -> NDArray[np.bool_]:
        """bool (n,): accounts that count for the spread: those with ten distinct queries or more, or all accounts if
        fewer than three have that many."""
        long = np.array([len(own) >= FEWEST_QUERIES for own in self._ids])
        return long if long.sum() > 2 else np.ones_like(long)

    @cached_property
    def folds(self) -> list[Fold]:
        """The folds. Each account is in one, with few enough others that most rows stay in the reference."""
        order = np.concatenate((np.flatnonzero(self.long), np.flatnonzero(~self.long)))
        count = min(int(self.long.sum()), _FOLDS)
        return [part for fold in range(count) for part in self._parted(tuple(order[fold::count].tolist()))]

    def parts(self, at: int, fold: Fold) -> Array:
        """Returns int64 (n,): the part of ``fold`` of each row of account ``at``."""
        return np.asarray(self.honest[at].keys % np.uint64(fold.parts), np.int64)

    def reference(self, fold: Fold | None = None, part: int = 0) -> Reference:
        """Returns the reference of all accounts outside ``fold``, without rows that accounts inside sent in that
        part."""
        others, offered = self._offered(fold, part)
        return Reference.of([self.honest[at] for at in others], self.accounts[0].output_kind, offered)

    def sample(self, room: int, fold: Fold | None = None, part: int = 0) -> Honest:
        """``room`` queries at most of all long accounts outside ``fold``, in equal shares; of many, others than are
        their reference."""
        others, offered = self._offered(fold, part)
        taken = shares([own[::-1] if self.long[at] else own[:0] for at, own in zip(others, offered, strict=True)], room)
        features = [self.honest[other].features[at] for other, at in zip(others, taken, strict=True)]
        outputs = [self.honest[other].outputs[at] for other, at in zip(others, taken, strict=True)]
        return Honest(np.concatenate(features), np.concatenate(outputs))

    def _offered(self, fold: Fold | None, part: int) -> tuple[list[int], list[Array]]:
        """Returns the accounts outside, and the positions of their rows that may be in the reference."""
        inside = fold.inside if fold else ()
        others = [at for at in range(len(self.honest)) if at not in inside]
        offered = [self.honest[at].ranked for at in others]
        if fold is None:
            return others, offered
        free = np.ones(len(self._once), np.bool_)
        for at in inside:
            free[self._ids[at]] = False
        free |= self._once % np.uint64(fold.parts) != part
        left = [own[free[self._ids[at]]] for at, own in zip(others, offered, strict=True)]
        return others, left if sum(map(len, left)) > NEAREST else offered

    def _parted(self, inside: tuple[int, ...]) -> Iterator[Fold]:
        shared = self._shared(inside)
        if len(inside) == 1:
            yield Fold(inside, 2 if shared > _SHARED_BY_ONE else 1)
        elif shared <= _SHARED_BY_SEVERAL:
            yield Fold(inside)
        else:
            yield from self._parted(inside[::2])
            yield from self._parted(inside[1::2])

    def _shared(self, inside: Sequence[int]) -> float:
        """Returns the share of the others' distinct rows that accounts inside sent too."""
        own, times = np.unique(np.concatenate([self._ids[at] for at in inside]), return_counts=True)
        theirs = int((self._owners[own] == times).sum())
        return (len(own) - theirs) / max(len(self._once) - theirs, 1)


def _digest(account: QueryBatch) -> bytes:
    """16 bytes of all that was asked and said, and of no name or time."""
    digest = blake2b(digest_size=16)
    for name in _CONTENT:
        column = getattr(account, name)
        digest.update(b"" if column is None else np.ascontiguousarray(column).data)
    return digest.digest()
