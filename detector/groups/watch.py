"""Groups of accounts to one model version that together go farther than honest accounts do.

Each account is compared, within each 256 of its queries, with honest accounts of as many queries: its rarity is the
share of them that would reach its D. Rare accounts whose D has like causes form a cluster. A cluster is a group, with a
verdict, once it has more rare accounts than chance allows among all accounts: the smallest binomial tail over its
members' rarities (the one-sided statistic of Berk and Jones 1979) is below ``CHANCE``. So ten accounts of three queries
each are found, although no single one shows anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.profile import Profile
from detector.core.reference.reference import ReferenceIndex
from detector.core.reference.standards import EARLY, MAX_CONTRIBUTION, VOLUMES, Crowd, Floats, unexplained
from detector.core.state.arrays import Array
from detector.groups.links import LINKS, RecentQueries, deviations

CHANCE = 1e-6
"""A verdict when chance would give as rare a cluster with less than this probability."""
STRANGERS = 0.02
"""The share of a group's members that may be honest: as many of its cluster join as keep the expected share below
(Benjamini and Hochberg 1995)."""
FEWEST = 3
_NOTABLE = 0.2
_ALIKE = 0.6
"""The least cosine of an account's contributions with those of its cluster."""
_WINDOW = int(VOLUMES[-1])
_SHOWN = 4
_FORGOTTEN_SHARE = 16
ACCOUNTS = 50_000
"""The most accounts that are remembered for one model version; the longest silent are forgotten first, members last."""


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries of one model version, judged by the engine and not repeats in their account, n in stream order.
    ``features`` float32 (n, d), plain. ``label`` int64 (n,): the predicted class. ``principal`` int64 (n,): positions
    in ``principals``. ``distance`` float64 (n,): D. ``deviations`` float64 (n, j): those of the profile's measures.
    ``row`` int64 (n,): the positions of the queries in the caller's batch."""

    features: NDArray[np.float32]
    label: Array
    principals: Sequence[str]
    principal: Array
    distance: Floats
    deviations: Floats
    row: Array

    def between(self, start: int, end: int) -> JudgedQueries:
        """Returns the queries from ``start`` to ``end``."""
        rows = slice(start, end)
        columns = (self.principal, self.distance, self.deviations, self.row)
        return JudgedQueries(
            self.features[rows], self.label[rows], self.principals, *(column[rows] for column in columns)
        )


@dataclass(frozen=True, slots=True)
class GroupRevision:
    """A group after ``joined`` joined it at ``row``. ``chance``: the probability of as rare a cluster among honest
    accounts. ``evidence``: what the members show most, by mean contribution to D."""

    id: str
    revision: int
    row: int
    joined: tuple[str, ...]
    chance: float
    evidence: tuple[Evidence, ...]


@dataclass(slots=True, eq=False)
class _Cluster:
    """Accounts, by slot, whose contributions, float64 (j,), of length 1 each, add up to ``direction``. ``size``: how
    many are members, under the group's verdict; 0 before a verdict."""

    id: str
    direction: Floats
    slots: dict[int, None] = field(default_factory=dict)
    size: int = 0
    revision: int = 0


class _Accounts:
    """Columns by slot. ``queries`` and ``active`` int64: queries so far, and the number of the last one of all.
    ``links`` float64 (c, 3): sums of the link measures since the last multiple of 256 queries. ``most`` float64: the
    largest D since then, with its ``contributions`` float64 (c, j); ``rarity`` float64: its rarity, 1 without any.
    ``member`` bool: whether it is a member of its cluster's group."""

    def __init__(self, width: int) -> None:
        self.slot_of: dict[str, int] = {}
        self.names: list[str] = []
        self._free: list[int] = []
        self.queries, self.active = np.zeros(64, np.int64), np.zeros(64, np.int64)
        self.links, self.contributions = np.zeros((64, len(LINKS))), np.zeros((64, width))
        self.most, self.rarity, self.member = np.zeros(64), np.ones(64), np.zeros(64, np.bool_)

    def __len__(self) -> int:
        return len(self.slot_of)

    def slots(self, names: Sequence[str]) -> Array:
        """Returns the slots of ``names``, int64 (n,); new ones for those that have none."""
        return np.array([self.slot_of[name] if name in self.slot_of else self._add(name) for name in names], np.int64)

    def _add(self, name: str) -> int:
        if self._free:
            slot = self._free.pop()
            self.names[slot] = name
        else:
            slot = len(self.names)
            self.names.append(name)
            if slot == len(self.most):
                for column in ("queries", "active", "links", "contributions", "most", "rarity", "member"):
                    own = getattr(self, column)
                    setattr(self, column, np.concatenate((own, np.zeros_like(own))))
        self.slot_of[name] = slot
        self.queries[slot], self.links[slot], self.most[slot], self.rarity[slot] = 0, 0.0, 0.0, 1.0
        self.member[slot] = False
        return slot

    def drop(self, slot: int) -> None:
        del self.slot_of[self.names[slot]]
        self._free.append(slot)


class GroupWatch:
    """Watches the accounts of the model version of ``profile``, which has a crowd. ``measures``: the columns of
    deviations."""

    def __init__(self, profile: Profile, measures: Sequence[str]) -> None:
        assert profile.crowd is not None
        self._crowd: Crowd = profile.crowd
        self._standards = profile.standards.aligned(measures)
        self._names = (*measures, *LINKS)
        self._early = _aligned(profile, self._names)
        self._profile = profile
        self._recent = RecentQueries(ReferenceIndex(profile.reference))
        self._accounts = _Accounts(len(self._names))
        self._clusters: list[_Cluster] = []
        self._cluster_of: dict[int, _Cluster] = {}
        self._founded = 0
        self._seen = 0
        self._present = 0

    def observe(self, queries: JudgedQueries) -> list[GroupRevision]:
        """Learns from ``queries`` and returns what is new of groups, in stream order. The cut of the stream into calls
        changes nothing."""
        revisions, start = list[GroupRevision](), 0
        while start < len(queries.row):
            end = self._fitting(queries, start)
            if end == start:
                self._make_room()
            else:
                revisions += self._observe(queries.between(start, end))
                start = end
        return revisions

    def _observe(self, queries: JudgedQueries) -> list[GroupRevision]:
        accounts = self._accounts
        used, principal = np.unique(queries.principal, return_inverse=True)
        slot = accounts.slots([queries.principals[at] for at in used.tolist()])[principal]
        links = self._recent.link(queries.features, slot, queries.label)
        number, sums = self._counted(slot, links.values)
        volume = number % _WINDOW + 1
        due = np.flatnonzero(np.isin(volume, VOLUMES))
        linked = deviations(sums[due], volume[due], self._crowd.links)
        by_links, explained = unexplained(linked, self._crowd.link_exemplars)
        added = np.concatenate(
            (
                self._standards.contributions(queries.deviations[due])[0],
                np.clip(linked - self._crowd.link_exemplars[explained], 0.0, MAX_CONTRIBUTION),
            ),
            axis=1,
        )
        total = queries.distance[due] + by_links
        every = np.concatenate((queries.deviations[due], linked), axis=1)
        revisions = []
        for at, row in enumerate(due.tolist()):
            changed = self._update(int(slot[row]), int(number[row]), float(total[at]), added[at], every[at])
            if changed is not None:
                revisions.append(self._revision(*changed, int(queries.row[row])))
        return revisions

    def group_of(self, principal: str) -> str | None:
        """Returns the id of the group under a verdict that ``principal`` belongs to."""
        slot = self._accounts.slot_of.get(principal, -1)
        cluster = self._cluster_of.get(slot)
        return cluster.id if cluster is not None and self._accounts.member[slot] else None

    def _counted(self, slot: Array, values: Floats) -> tuple[Array, Floats]:
        """Counts rows of the accounts ``slot`` (n,). Returns int64 (n,), the number of each within its account, from 0,
        and float64 (n, 3), the sums of ``values`` since the last multiple of 256."""
        accounts = self._accounts
        order = np.argsort(slot, kind="stable")
        own = slot[order]
        first = np.flatnonzero(np.diff(own, prepend=-1))
        count = np.diff(first, append=len(own))
        number = accounts.queries[own] + np.arange(len(own)) - np.repeat(first, count)
        begins = np.flatnonzero(np.diff(own, prepend=-1) | (number % _WINDOW == 0))
        sums = np.cumsum(values[order], axis=0)
        before = sums[begins] - values[order][begins]
        carried = np.where((number[begins] % _WINDOW == 0)[:, None], 0.0, accounts.links[own[begins]])
        sums += np.repeat(carried - before, np.diff(begins, append=len(own)), axis=0)
        last = np.append(first[1:], len(own)) - 1
        accounts.links[own[last]] = sums[last]
        accounts.queries[own[last]] = number[last] + 1
        accounts.active[own[last]] = self._seen + order[last]
        self._seen += len(own)
        numbers, totals = np.empty_like(number), np.empty_like(sums)
        numbers[order], totals[order] = number, sums
        return numbers, totals

    def _fitting(self, queries: JudgedQueries, start: int) -> int:
        """Returns the first row from ``start`` on that begins an account for which there is no room, or the end."""
        known, room = self._accounts.slot_of, ACCOUNTS - len(self._accounts)
        used, first = np.unique(queries.principal[start:], return_index=True)
        begins = [row for at, row in zip(used, first, strict=True) if queries.principals[at] not in known]
        return start + int(np.sort(begins)[room]) if len(begins) > room else len(queries.row)

    def _make_room(self) -> None:
        """Forgets the accounts that were silent longest, those of clusters last."""
        accounts = self._accounts
        slots = np.array(list(accounts.slot_of.values()), np.int64)
        order = np.lexsort((accounts.active[slots], np.array([slot in self._cluster_of for slot in slots.tolist()])))
        for slot in slots[order[: max(ACCOUNTS // _FORGOTTEN_SHARE, 1)]].tolist():
            self._leave(slot)
            accounts.drop(slot)
            self._present -= 1

    def _update(
        self, slot: int, number: int, distance: float, added: Floats, every: Floats
    ) -> tuple[_Cluster, list[int]] | None:
        """Compares one account again, at its query ``number``: at D ``distance`` with the contributions ``added``
        (j + m,), and the deviations ``every`` (j + m,). Returns its group and who joined that, if anybody did."""
        accounts, crowd, volume = self._accounts, self._crowd, number % _WINDOW + 1
        self._present += number == 0
        if volume == 1 or distance > accounts.most[slot]:
            accounts.most[slot], accounts.contributions[slot] = distance, added
        accounts.rarity[slot] = crowd.rarity(volume, float(accounts.most[slot]))
        if number < EARLY:
            left, best = unexplained(every[None], self._early[volume - 1])
            rarity = crowd.early_rarity(volume, float(left[0]))
            if rarity < accounts.rarity[slot]:
                accounts.rarity[slot] = rarity
                reached = self._early[volume - 1, best[0]]
                accounts.contributions[slot] = np.clip(every - reached, 0.0, MAX_CONTRIBUTION)
        cluster = self._cluster_of.get(slot)
        if cluster is not None and accounts.member[slot]:
            return None
        self._leave(slot)
        if accounts.rarity[slot] > _NOTABLE:
            return None
        cluster = self._join(slot)
        joined = self._judged(cluster)
        return (cluster, joined) if joined else None

    def _leave(self, slot: int) -> None:
        cluster = self._cluster_of.pop(slot, None)
        if cluster is not None:
            del cluster.slots[slot]
            cluster.size -= bool(self._accounts.member[slot])
            if not cluster.slots:
                self._clusters.remove(cluster)

    def _join(self, slot: int) -> _Cluster:
        """Adds an account to the cluster that is most like it, or to a new one."""
        added = self._accounts.contributions[slot]
        direction = added / np.linalg.norm(added)
        best, most = None, _ALIKE
        for cluster in self._clusters:
            cosine = float(direction @ cluster.direction) / float(np.linalg.norm(cluster.direction))
            if cosine > most:
                best, most = cluster, cosine
        if best is None:
            self._founded += 1
            best = _Cluster(self._identifier(slot), np.zeros_like(direction))
            self._clusters.append(best)
        best.direction = best.direction + direction
        best.slots[slot] = None
        self._cluster_of[slot] = best
        return best

    def _identifier(self, founder: int) -> str:
        parts = (self._profile.model, self._profile.model_version, self._accounts.names[founder], str(self._founded))
        return blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()

    def _judged(self, cluster: _Cluster) -> list[int]:
        """Adds to the members of ``cluster`` the accounts that belong to them now; returns these."""
        accounts, slots = self._accounts, _slots(cluster)
        rarity = accounts.rarity[slots]
        if not cluster.size and self._chance(rarity) > CHANCE:
            return []
        ordered = np.sort(rarity)
        strangers = self._present * ordered / np.arange(1, len(ordered) + 1)
        below = np.flatnonzero(strangers <= STRANGERS)
        if not len(below):
            return []
        joined = slots[(rarity <= ordered[below[-1]]) & ~accounts.member[slots]]
        accounts.member[joined] = True
        cluster.size += len(joined)
        cluster.revision += len(joined) > 0
        return [int(slot) for slot in joined]

    def _chance(self, rarity: Floats) -> float:
        """Returns the smallest probability that as many of all accounts are as rare as those of a cluster, whose
        ``rarity`` is float64 (n,)."""
        from scipy.special import bdtrc

        if len(rarity) < FEWEST:
            return 1.0
        tails = bdtrc(np.arange(FEWEST - 1, len(rarity)), self._present, np.sort(rarity)[FEWEST - 1 :])
        return float(tails.min())

    def _revision(self, cluster: _Cluster, joined: Sequence[int], row: int) -> GroupRevision:
        accounts, slots = self._accounts, _slots(cluster)
        mean = accounts.contributions[slots[accounts.member[slots]]].mean(axis=0)
        most = [at for at in np.argsort(-mean, kind="stable")[:_SHOWN].tolist() if mean[at] > 0]
        return GroupRevision(
            cluster.id,
            cluster.revision,
            row,
            tuple(accounts.names[slot] for slot in joined),
            self._chance(accounts.rarity[slots]),
            tuple(Evidence(self._names[at], float(mean[at]), "standard deviations") for at in most),
        )


def _slots(cluster: _Cluster) -> Array:
    """Returns the slots of ``cluster``, int64 (n,)."""
    return np.fromiter(cluster.slots, np.int64, len(cluster.slots))


def _aligned(profile: Profile, names: Sequence[str]) -> Floats:
    """Returns float64 (4, a, n): the crowd's early deviations in the order of ``names``, inf for unknown ones."""
    assert profile.crowd is not None
    known = (*profile.standards.measures, *LINKS)
    aligned = np.full((*profile.crowd.early.shape[:2], len(names)), np.inf)
    for at, name in enumerate(names):
        if name in known:
            aligned[:, :, at] = profile.crowd.early[:, :, known.index(name)]
    return aligned
