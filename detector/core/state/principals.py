"""Slots of principals, and the pools of their predicted classes. A slot is a dense integer per (model, model version,
principal), a pool one per (slot, predicted class)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import allocating
from detector.core.state.arrays import Array
from detector.core.state.columns import ColumnTable
from detector.core.state.rows import grouped


class PrincipalKey(NamedTuple):
    """The key of all detection state."""

    model: str
    model_version: str
    principal: str


Key = tuple[str, str, str]
"""(model, model version, principal)."""

ANY = ""
"""The judging version of a model without profiles: all its versions share one state per principal."""

EVIDENCE = 0.5
"""A principal whose score is at least this is evicted after others: newcomers must not drive it out."""
MOST_VOTES = 64
"""The cap of the votes for the dimension of a slot, see ``core.voting``."""


@dataclass(slots=True)
class Shard:
    """The slots and accounts of one engine. ``home_of``, by (model, ``ANY``, principal): the slot that judges where
    versions have no profiles, which is that of the first version by name. ``queries``: how many it took, which numbers
    its stream."""

    slot_of: dict[Key, int] = field(default_factory=dict)
    home_of: dict[Key, int] = field(default_factory=dict)
    account_of: dict[tuple[str, str], int] = field(default_factory=dict)
    queries: int = 0

    def __len__(self) -> int:
        return len(self.slot_of)

    def find(self, keys: Iterable[Key]) -> list[int]:
        """Returns the slot of each key, -1 where there is none."""
        return list(map(self.slot_of.get, keys, repeat(-1)))


class Principals:
    """Slots with their counters, and accounts, which hold what a principal's model versions have in common; of all
    shards.

    ``slots`` columns: ``queries`` seen and ``repeats`` among them, ``active`` (number in the engine's stream of the
    last one), ``score`` (last one, NaN before any), ``account``, ``dimension`` with its ``votes`` and how often it
    changed (``flips``), ``block`` of the history and how many rows of it are ``filled``, its first ``pool`` and how
    many ``pools``. ``accounts`` columns: ``latch`` (bit set of the signals that made it a suspect) and ``versions``
    (how many slots).
    """

    def __init__(self) -> None:
        self.key_of: dict[int, PrincipalKey] = {}
        self.slots = ColumnTable(
            {
                "queries": (np.int64, 0),
                "repeats": (np.int64, 0),
                "active": (np.int64, -1),
                "score": (np.float64, np.nan),
                "account": (np.int32, -1),
                "dimension": (np.int32, 0),
                "votes": (np.uint8, 0),
                "flips": (np.uint8, 0),
                "block": (np.int64, 0),
                "filled": (np.int64, 0),
                "pool": (np.int32, -1),
                "pools": (np.int32, 0),
            }
        )
        self.slots.reserve(1)
        self.accounts = ColumnTable({"latch": (np.int64, 0), "versions": (np.int32, 0)})
        self._text_bytes = 0

    def add(self, shard: Shard, key: Key, dimension: int) -> int:
        """Returns a new slot for ``key``, which has none."""
        slot = self.slots.add()
        shard.slot_of[key] = slot
        self.key_of[slot] = PrincipalKey(*key)
        self._text_bytes += len(key[2])
        account = self._account(shard, key)
        self.accounts["versions"][account] += 1
        home = shard.home_of.setdefault((key[0], ANY, key[2]), slot)
        if key[1] < self.key_of[home][1]:
            shard.home_of[key[0], ANY, key[2]] = slot
        self.slots["account"][slot] = account
        self.slots["dimension"][slot] = dimension
        return slot

    def remove(self, shard: Shard, slots: Sequence[int]) -> None:
        """Drops ``slots``; an account is dropped with the last of its versions, and its latch with it."""
        for slot in slots:
            key = self.key_of.pop(slot)
            del shard.slot_of[key]
            self._text_bytes -= len(key[2])
            self._leave_account(shard, slot, key)
        self.slots.drop(np.asarray(slots, dtype=np.int64))

    def find(self, shard: Shard, keys: Sequence[Key]) -> list[int]:
        """Returns the slot that judges each key of a stream, -1 where there is none: for ``ANY`` version the home of
        its account."""
        slot_of, home_of, versions = shard.slot_of, shard.home_of, set(map(itemgetter(1), keys))
        if len(versions) == 1:  # the usual case, without a loop in Python
            return list(map((home_of if ANY in versions else slot_of).get, keys, repeat(-1)))
        return [(home_of if key[1] == ANY else slot_of).get(key, -1) for key in keys]

    def versions_of(self, shard: Shard, model: str, principal: str) -> list[int]:
        """Returns the slots of all model versions of one principal."""
        account = shard.account_of.get((model, principal))
        if account is None:
            return []
        if self.accounts["versions"][account] == 1:
            return [shard.home_of[model, ANY, principal]]
        return self._slots_of(account)

    def to_forget(self, shard: Shard, count: int) -> list[int]:
        """Returns the ``count`` slots of ``shard`` to evict first: those without a score, then those without evidence,
        then those that are no suspects yet, then the others, each in the order of their last query."""
        known = np.fromiter(shard.slot_of.values(), dtype=np.int64, count=len(shard))
        suspect = self.accounts["latch"][self.slots["account"][known]] != 0
        score = self.slots["score"][known]
        kept = (~np.isnan(score)).astype(np.int64) + (score >= EVIDENCE)
        order = np.lexsort((self.slots["active"][known], np.where(suspect, 3, kept)))
        return [int(slot) for slot in known[order[:count]]]

    def latch_of(self, slots: Array) -> Array:
        return self.accounts["latch"][self.slots["account"][slots]]

    def keys_of(self, slots: Iterable[int]) -> list[PrincipalKey]:
        return list(map(self.key_of.__getitem__, slots))

    @property
    def nbytes(self) -> int:
        return self.slots.nbytes + self.accounts.nbytes + 400 * len(self.key_of) + self._text_bytes

    def _account(self, shard: Shard, key: Key) -> int:
        name = (key[0], key[2])
        account = shard.account_of.get(name)
        if account is None:
            account = shard.account_of[name] = self.accounts.add()
        return account

    def _leave_account(self, shard: Shard, slot: int, key: Key) -> None:
        account, accounts = int(self.slots["account"][slot]), self.accounts
        self.slots["account"][slot] = -1
        accounts["versions"][account] -= 1
        if accounts["versions"][account] == 0:
            del shard.account_of[key[0], key[2]], shard.home_of[key[0], ANY, key[2]]
            accounts.drop(np.array([account]))
        elif shard.home_of[key[0], ANY, key[2]] == slot:
            home = min(self._slots_of(account), key=lambda other: self.key_of[other][1])
            shard.home_of[key[0], ANY, key[2]] = home

    def _slots_of(self, account: int) -> list[int]:
        slots: list[int] = np.flatnonzero(self.slots["account"][: self.slots.count] == account).tolist()
        return slots


LABEL_LIMIT = (1 << 31) - 1
"""Labels are clipped to within this."""
MOST_POOLS = 1_024
"""The most labels of a slot that have their own pool; later ones share the pool of ``OVERFLOW``."""
OVERFLOW = LABEL_LIMIT

_NONE = -1


class Pools:
    """Pool numbers, their ``slot`` and ``label``, and each slot's pools as a chain (``next``, -1 ends it)."""

    def __init__(self, slots: ColumnTable) -> None:
        self.columns = ColumnTable({"slot": (np.int32, _NONE), "label": (np.int64, 0), "next": (np.int32, _NONE)})
        self._place = ColumnTable({"place": (np.int64, _NONE)})
        self._slots = slots

    @property
    def nbytes(self) -> int:
        return self.columns.nbytes + self._place.nbytes

    def find_or_add(self, slots: Array, labels: Array) -> Array:
        """Returns int64 (n,): the pool of each (slot, label); missing ones are made, in that order."""
        slots, labels = slots.astype(np.int64), labels.astype(np.int64)
        pools = self._find(slots, labels)
        for at in np.flatnonzero(pools == _NONE).tolist():
            pools[at] = self._add(slots[at : at + 1], labels[at : at + 1])
        return pools

    def grouped(self, pools: Array, slot: Array, slots: int) -> tuple[Array, Array, Array]:
        """Returns the pools that occur among rows of ``pools`` and ``slot``, one of ``slots``; see ``grouped``."""
        self._place.reserve(self.columns.count)
        return grouped(pools, slot, slots, self._place["place"])

    def of_slots(self, slots: Array) -> Array:
        """Returns int64: all pools of ``slots``, in no particular order."""
        found = []
        frontier = self._slots["pool"][slots].astype(np.int64)
        frontier = frontier[frontier >= 0]
        while len(frontier):
            found.append(frontier)
            frontier = self.columns["next"][frontier].astype(np.int64)
            frontier = frontier[frontier >= 0]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def remove(self, pools: Array) -> None:
        """Drops ``pools``: all those of the slots they belong to."""
        slots = self.columns["slot"][pools].astype(np.int64)
        self._slots["pool"][slots] = _NONE
        self._slots["pools"][slots] = 0
        self.columns.drop(pools)

    def _find(self, slots: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return _find_pools(slots, labels, self._slots["pool"], self.columns["label"], self.columns["next"])

    def _add(self, slot: NDArray[np.int64], label: NDArray[np.int64]) -> int:
        """Returns a new pool; that of ``OVERFLOW`` if the slot has as many as it may, or the one that was just made."""
        found, overflow = (int(self._find(slot, wanted)[0]) for wanted in (label, np.array([OVERFLOW])))
        if found != _NONE:
            return found
        if self._slots["pools"][slot[0]] - (overflow != _NONE) < MOST_POOLS:
            return self._make(int(slot[0]), int(label[0]))
        return self._make(int(slot[0]), OVERFLOW) if overflow == _NONE else overflow

    def _make(self, slot: int, label: int) -> int:
        pool, first = self.columns.add(), self._slots["pool"]
        columns = self.columns
        columns["slot"][pool], columns["label"][pool], columns["next"][pool] = slot, label, first[slot]
        first[slot] = pool
        self._slots["pools"][slot] += 1
        return pool


@allocating
def _find_pools(
    slots: NDArray[np.int64],
    labels: NDArray[np.int64],
    first: NDArray[np.int32],
    label: NDArray[np.int64],
    following: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Returns the pool of each slot and label, -1 where there is none."""
    found = np.empty(len(slots), np.int64)
    for row in range(len(slots)):
        pool = first[slots[row]]
        while pool != _NONE and label[pool] != labels[row]:
            pool = following[pool]
        found[row] = pool
    return found
