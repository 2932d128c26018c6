"""Clusters of accounts whose D has like causes.

An account joins the cluster whose direction, the sum of what its accounts show, is most like what it shows itself.
A cluster that has become like a group is united with it: which of them an account joined was chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from detector.core.reference.standards import Floats
from detector.core.state.arrays import Array

_MIN_COSINE = 0.6
"""The least cosine of an account's contributions with those of its cluster, and of two clusters that are united."""
_EPSILON = 1e-9


@dataclass(slots=True, eq=False)
class Cluster:
    """Accounts, by slot, with what each measure adds to their D, float64 (j + m,). ``size``: how many are members,
    under the group's verdict; 0 before a verdict. ``waiting``: how many joined since it was judged."""

    id: str
    accounts: dict[int, Floats] = field(default_factory=dict)
    size: int = 0
    revision: int = 0
    waiting: int = 0

    @property
    def slots(self) -> Array:
        """The slots of its accounts, int64 (n,)."""
        return np.fromiter(self.accounts, np.int64, len(self.accounts))


class Clusters:
    """The clusters ``named`` by their ids, and those ``of`` slots. ``width``: how many measures there are. ``owner``:
    the model and its version, which make ids unique."""

    def __init__(self, width: int, owner: tuple[str, str]) -> None:
        self.named: dict[str, Cluster] = {}
        self.of: dict[int, Cluster] = {}
        self._owner = owner
        self._every: list[Cluster] = []
        self._directions = np.zeros((0, width))
        self._founded = 0

    def join(self, slot: int, name: str, added: Floats) -> Cluster:
        """Adds the account ``name`` to the cluster that is most like what it has ``added`` (j + m,), or to a new
        one."""
        direction = _direction(added)
        cosines = self._cosines(direction)
        at = int(np.argmax(cosines)) if len(cosines) else -1
        if at < 0 or cosines[at] <= _MIN_COSINE:
            at = self._found(name)
        cluster = self._every[at]
        self._directions[at] += direction
        cluster.accounts[slot] = added
        cluster.waiting += 1
        self.of[slot] = cluster
        return cluster

    def leave(self, slot: int) -> Cluster | None:
        """Takes an account out of its cluster; returns that, None if it has none."""
        cluster = self.of.pop(slot, None)
        if cluster is not None:
            at = self._every.index(cluster)
            self._directions[at] -= _direction(cluster.accounts.pop(slot))
            if not cluster.accounts:
                self._drop(at)
        return cluster

    def direction_of(self, cluster: Cluster) -> Floats:
        """Returns float64 (j + m,): the sum of what the accounts of ``cluster`` show, each of length 1."""
        return np.asarray(self._directions[self._every.index(cluster)])

    def united(self, cluster: Cluster) -> Cluster:
        """Unites ``cluster`` with the one most like it, if that is as like as an account must be and one of them is a
        group, which stays; returns what they are now."""
        position = self._every.index(cluster)
        cosines = self._cosines(self._directions[position])
        cosines[position] = -1.0
        other = int(np.argmax(cosines))
        pair = [cluster, self._every[other]]
        if cosines[other] <= _MIN_COSINE or sum(each.size > 0 for each in pair) != 1:
            return cluster
        absorbed, kept = sorted(pair, key=lambda each: each.size)
        at = self._every.index(absorbed)
        self._directions[self._every.index(kept)] += self._directions[at]
        kept.accounts.update(absorbed.accounts)
        self.of.update(dict.fromkeys(absorbed.accounts, kept))
        self._drop(at)
        return kept

    def dump(self) -> dict[str, Any]:
        """Returns all clusters, their directions, and how many were ``founded``."""
        clusters = [
            {
                "head": [cluster.id, cluster.size, cluster.revision, cluster.waiting],
                "slots": cluster.slots,
                "added": np.array(list(cluster.accounts.values())),
            }
            for cluster in self._every
        ]
        return {"clusters": clusters, "directions": self._directions, "founded": self._founded}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replaces everything with what ``dump`` returned."""
        self._every = []
        for saved in state["clusters"]:
            (name, *counts), slots = saved["head"], saved["slots"].tolist()
            self._every.append(Cluster(name, dict(zip(slots, saved["added"], strict=True)), *counts))
        self.named = {cluster.id: cluster for cluster in self._every}
        self.of = {slot: cluster for cluster in self._every for slot in cluster.accounts}
        self._directions, self._founded = np.array(state["directions"]), state["founded"]

    def _cosines(self, direction: Floats) -> Floats:
        """Returns float64 (c,): the cosine of each cluster's direction with ``direction`` (j + m,)."""
        lengths = np.sqrt(np.einsum("ij,ij->i", self._directions, self._directions)) * np.sqrt(direction @ direction)
        return np.asarray(self._directions @ direction / np.maximum(lengths, _EPSILON))

    def _found(self, founder: str) -> int:
        """Adds an empty cluster; returns its position."""
        self._founded += 1
        parts = (*self._owner, founder, str(self._founded))
        cluster = Cluster(blake2b("\0".join(parts).encode(), digest_size=6).hexdigest())
        self._every.append(cluster)
        self.named[cluster.id] = cluster
        self._directions = np.concatenate((self._directions, np.zeros((1, self._directions.shape[1]))))
        return len(self._every) - 1

    def _drop(self, at: int) -> None:
        del self.named[self._every[at].id], self._every[at]
        self._directions = np.delete(self._directions, at, axis=0)


def _direction(added: Floats) -> Floats:
    """Returns ``added`` (j + m,) with length 1."""
    return np.asarray(added / np.sqrt(added @ added))
