"""Groups of accounts to one model version that together go farther than honest accounts do.

Each account is compared, within each 256 of its queries, with honest accounts of as many queries: its rarity is the
share of them that would reach its D. Rare accounts whose D has like causes form a cluster. A cluster is a group, with a
verdict, once it has more rare accounts than chance allows among all accounts: the smallest binomial tail over its
members' rarities (the one-sided statistic of Berk and Jones 1979) is below ``CHANCE``. So ten accounts of three queries
each are seen, where none of them alone shows anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence
from detector.core.profile.crowd import VOLUMES, Crowd, Floats
from detector.core.profile.profile import Profile
from detector.core.profile.reference import ReferenceIndex
from detector.core.profile.standards import MAX_CONTRIBUTION, Standards
from detector.core.state.arrays import Array
from detector.groups.links import LINKS, RecentQueries
from detector.groups.standardised import deviations

CHANCE = 1e-6
"""A verdict when chance would give as rare a cluster with less than this probability."""
JOINING = 0.02
"""An account of a group's cluster joins the group when it is rarer than this."""
FEWEST = 3
_NOTABLE = 0.2
_ALIKE = 0.6
"""The least cosine of an account's contributions with those of its cluster."""
_WINDOW = int(VOLUMES[-1])
_SHOWN = 4
ACCOUNTS = 50_000
"""The most accounts that are remembered for one model version; the longest silent are forgotten first, members last."""


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries of one model version that the engine has judged, n in stream order. ``features`` float32 (n, d), plain.
    ``label`` int64 (n,): the predicted class. ``principal`` int64 (n,): positions in ``principals``. ``number`` int64
    (n,): the query's number within its account, from 0. ``distance`` float64 (n,): D. ``deviations`` float64 (n, j):
    the deviations of the profile's measures. ``row`` int64 (n,): where they stand in the caller's batch."""

    features: NDArray[np.float32]
    label: Array
    principals: Sequence[str]
    principal: Array
    number: Array
    distance: Floats
    deviations: Floats
    row: Array


@dataclass(frozen=True, slots=True)
class GroupRevision:
    """The ``members`` of a group after ``joined`` joined it at ``row``. ``chance``: the probability of as rare a
    cluster among honest accounts. ``evidence``: what the members show most, by mean contribution to D."""

    id: str
    revision: int
    row: int
    members: tuple[str, ...]
    joined: tuple[str, ...]
    chance: float
    evidence: tuple[Evidence, ...]


@dataclass(slots=True, eq=False)
class _Account:
    """``epoch``: which 256 queries ``most``, the largest D in them, is of, with the ``contributions`` float64 (j,) to
    it. ``link_sums`` float64 (4,): of the link measures in this epoch, ``linked`` queries."""

    name: str
    link_sums: Floats
    linked: int = 0
    epoch: int = -1
    most: float = 0.0
    contributions: Floats | None = None
    rarity: float = 1.0
    cluster: _Cluster | None = None


@dataclass(slots=True, eq=False)
class _Cluster:
    """Accounts whose contributions, float64 (j,), of length 1 each, add up to ``direction``. ``members``: by name,
    those under the group's verdict, in the order in which they joined; none before a verdict."""

    id: str
    direction: Floats
    accounts: dict[str, _Account] = field(default_factory=dict)
    members: dict[str, _Account] = field(default_factory=dict)
    revision: int = 0


class GroupWatch:
    """Watches the accounts of the model version of ``profile``, which has a crowd."""

    def __init__(self, profile: Profile, measures: Sequence[str]) -> None:
        assert profile.crowd is not None
        self._crowd: Crowd = profile.crowd
        self._standards: Standards = profile.standards.aligned(measures)
        self._names = (*measures, *LINKS)
        self._profile = profile
        self._recent = RecentQueries(ReferenceIndex(profile.reference))
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._clusters: list[_Cluster] = []
        self._founded = 0

    def observe(self, queries: JudgedQueries) -> list[GroupRevision]:
        """Learns from ``queries`` and returns what is new of groups, in stream order."""
        named = [self._numbers.setdefault(name, len(self._numbers)) for name in queries.principals]
        account = np.array(named, np.int64)[queries.principal]
        links = self._recent.link(queries.features, account, queries.label)
        revisions = []
        volume = queries.number % _WINDOW + 1
        due = np.isin(volume, VOLUMES)
        added, _ = self._standards.contributions(queries.deviations[due])
        at_due = np.cumsum(due) - 1
        for row in range(len(account)):
            own = self._account(queries.principals[queries.principal[row]])
            epoch = int(queries.number[row]) // _WINDOW
            if epoch != own.epoch:
                own.epoch, own.most, own.linked = epoch, 0.0, 0
                own.link_sums[:] = 0.0
            own.link_sums += links.values[row]
            own.linked += 1
            if due[row]:
                revision = self._update(own, int(volume[row]), float(queries.distance[row]), added[at_due[row]])
                if revision is not None:
                    revisions.append(self._revision(revision, int(queries.row[row])))
        return revisions

    def group_of(self, principal: str) -> str | None:
        """Returns the id of the group under a verdict that ``principal`` belongs to."""
        own = self._accounts.get(principal)
        cluster = None if own is None else own.cluster
        return cluster.id if cluster is not None and principal in cluster.members else None

    def _account(self, name: str) -> _Account:
        own = self._accounts.get(name)
        if own is None:
            if len(self._accounts) >= ACCOUNTS:
                self._forget()
            own = self._accounts[name] = _Account(name, np.zeros(len(LINKS)))
        else:
            self._accounts.move_to_end(name)
        return own

    def _forget(self) -> None:
        for name, own in self._accounts.items():
            if own.cluster is None:
                del self._accounts[name], self._numbers[name]
                return
        name, own = self._accounts.popitem(last=False)
        self._leave(own)
        del self._numbers[name]

    def _update(self, own: _Account, volume: int, distance: float, added: Floats) -> _Cluster | None:
        """Compares one account again; returns its group if that has changed."""
        linked = deviations(own.link_sums[None], np.array([own.linked]), self._crowd.links)[0]
        parts = np.clip(linked - self._crowd.link_exemplars, 0.0, MAX_CONTRIBUTION)
        by_links = parts[parts.sum(axis=1).argmin()] if len(parts) else np.zeros(len(linked))
        total = distance + float(by_links.sum())
        if total > own.most or own.contributions is None:
            own.most, own.contributions = total, np.concatenate((added, by_links))
        own.rarity = self._crowd.rarity(volume, own.most)
        if own.cluster is not None and own.name in own.cluster.members:
            return None
        if own.rarity > _NOTABLE or own.most <= 0:
            self._leave(own)
            return None
        self._assign(own)
        return self._judged(own.cluster) if own.cluster is not None else None

    def _leave(self, own: _Account) -> None:
        cluster, own.cluster = own.cluster, None
        if cluster is not None:
            del cluster.accounts[own.name]
            cluster.members.pop(own.name, None)
            if not cluster.accounts:
                self._clusters.remove(cluster)

    def _assign(self, own: _Account) -> None:
        assert own.contributions is not None
        self._leave(own)
        direction = own.contributions / max(float(np.linalg.norm(own.contributions)), 1e-12)
        best, most = None, _ALIKE
        for cluster in self._clusters:
            cosine = float(direction @ cluster.direction) / max(float(np.linalg.norm(cluster.direction)), 1e-12)
            if cosine > most:
                best, most = cluster, cosine
        if best is None:
            self._founded += 1
            best = _Cluster(self._named(own.name), np.zeros_like(direction))
            self._clusters.append(best)
        best.direction = best.direction + direction
        best.accounts[own.name] = own
        own.cluster = best

    def _named(self, founder: str) -> str:
        text = "\0".join((self._profile.model, self._profile.model_version, founder, str(self._founded)))
        return blake2b(text.encode(), digest_size=6).hexdigest()

    def _judged(self, cluster: _Cluster) -> _Cluster | None:
        """Adds to the members of ``cluster`` whoever belongs to them now; returns it if anybody was added."""
        accounts = list(cluster.accounts.values())
        limit = JOINING
        if not cluster.members:
            chance, limit = self._chance(accounts)
            if chance > CHANCE:
                return None
            limit = max(limit, JOINING)
        joining = [own for own in accounts if own.rarity <= limit and own.name not in cluster.members]
        cluster.members |= {own.name: own for own in joining}
        cluster.revision += bool(joining)
        return cluster if joining else None

    def _chance(self, accounts: Sequence[_Account]) -> tuple[float, float]:
        """Returns the smallest probability of as many of all accounts as rare as these, and the rarity it is at."""
        from scipy.special import bdtrc

        if len(accounts) < FEWEST:
            return 1.0, 0.0
        rarity = np.sort([own.rarity for own in accounts])
        tails = bdtrc(np.arange(len(rarity)), len(self._accounts), rarity)[FEWEST - 1 :]
        at = int(tails.argmin())
        return float(tails[at]), float(rarity[at + FEWEST - 1])

    def _revision(self, cluster: _Cluster, row: int) -> GroupRevision:
        members = list(cluster.members.values())
        mean = np.mean([own.contributions for own in members if own.contributions is not None], axis=0)
        first = np.argsort(-mean, kind="stable")[:_SHOWN]
        return GroupRevision(
            cluster.id,
            cluster.revision,
            row,
            tuple(cluster.members),
            (members[-1].name,),
            self._chance(list(cluster.accounts.values()))[0],
            tuple(Evidence(self._names[at], float(mean[at]), "mean contribution") for at in first if mean[at] > 0),
        )
