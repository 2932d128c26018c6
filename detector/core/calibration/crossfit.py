"""Who is judged beside whose queries: each account beside those of others, without any row that it asked itself,
whoever else asked it too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.arrays import Array
from detector.core.reference import NEAREST, Honest, Reference, shares

FEWEST_QUERIES = 10
"""An account of fewer distinct queries says nothing of how accounts vary."""

_FOLDS = 24
_SHARED_BY_SEVERAL = 0.25
"""No more of the others' rows than this are kept from several accounts that are judged together."""
_SHARED_BY_ONE = 0.5
"""An account that asked more of the others' rows than this is judged in two parts, each beside half of them."""
_CONTENT = ("features", "outputs", "missing", "hardness", "leaf", "specification")


@dataclass(frozen=True, slots=True)
class Fold:
    """Accounts ``inside``, by number, that are judged beside the queries of all others. In ``parts``: the rows that
    fall into a part, by ``CrossFit.parts``, are judged beside those that do not."""

    inside: tuple[int, ...]
    parts: int = 1


class CrossFit:
    """Honest ``accounts``, the queries of one principal each, in an order that their content decides: ``order`` int64
    (n,) says which of those given comes where."""

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
        """bool (n,): accounts that say how accounts vary: those of ten distinct queries or more; all, where there are
        fewer than three of those."""
        long = np.array([len(own) >= FEWEST_QUERIES for own in self._ids])
        return long if long.sum() > 2 else np.ones_like(long)

    @cached_property
    def folds(self) -> list[Fold]:
        """Each account is in one, with so few others that most rows are left to compare with."""
        order = np.concatenate((np.flatnonzero(self.long), np.flatnonzero(~self.long)))
        count = min(int(self.long.sum()), _FOLDS)
        return [part for fold in range(count) for part in self._parted(tuple(order[fold::count].tolist()))]

    def parts(self, at: int, fold: Fold) -> Array:
        """int64 (n,): into which part of ``fold`` each row of account ``at`` falls."""
        return np.asarray(self.honest[at].keys % np.uint64(fold.parts), np.int64)

    def reference(self, fold: Fold | None = None, part: int = 0) -> Reference:
        """Of all accounts outside ``fold``, without the rows that those inside asked in that part."""
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
        """The accounts outside, and which of their rows, by position, may be compared with."""
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
        """Which share of the others' distinct rows those inside asked too."""
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
