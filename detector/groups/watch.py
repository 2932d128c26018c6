"""Groups of accounts to one model version that together go farther than honest accounts do.

Each account is compared, within each 256 of its queries, with honest accounts of as many queries: its rarity is the
share of them that would reach its D. Rare accounts whose D has like causes form a cluster. A cluster is a group, with a
verdict, once it has more rare accounts than chance allows among all accounts: the smallest binomial tail over its
members' rarities (the one-sided statistic of Berk and Jones 1979) is below ``CHANCE``. So ten accounts of three queries
each are found, although no single one shows anything.

Newcomers are also judged as one: the first queries of a cluster's accounts, in content and answers alone, by how far
each goes in the direction that the cluster has, compared with the first queries of honest accounts. What one honest
account among fifty shows in another mixture then no longer excuses thirty who all show the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Evidence, Family, GroupMember
from detector.core.calibration.crossfit import COLUMNS
from detector.core.exposure import visit
from detector.core.loops.compiled import plain
from detector.core.profile import Profile
from detector.core.reference.standards import EARLY, MAX_CONTRIBUTION, Crowd, Floats, unexplained
from detector.core.signals.suspicion import FAMILIES, NOTABLE, family_of
from detector.core.state.arrays import Array
from detector.groups.accounts import Accounts
from detector.groups.clusters import Cluster, Clusters
from detector.groups.joint import JointExposure, JointLimit
from detector.groups.links import LINKS, WINDOW, Linker, deviations, sampled_cells
from detector.groups.queries import JudgedQueries
from detector.groups.rarities import Rarities, chance_of
from detector.groups.recent import BYTES

CHANCE = 1e-6
"""A verdict when chance would give as rare a cluster with less than this probability."""
STRANGERS = 0.02
"""The share of a group's members that may be honest: as many of its cluster join as keep the expected share below
(Benjamini and Hochberg 1995)."""
_NOTABLE = 0.2
_SHOWN = 4
_SHARE = 5 * NOTABLE
"""A family counts from a fifth of what the members show on."""
_LEAST = 1e-9
_DIRECTIONS = 100
"""What the chance of first queries counts, as a cluster might have had about as many other directions."""
_EXPECTED = 0.3
"""The expected share of honest accounts as a part of its 90 percent bound: where none of n showed as much, ln 2 / n of
ln 10 / n."""
_RARE = 0.05
_WAITING_SHARE = 64
"""A cluster is judged again when it has grown by a share, as that takes time in proportion to its size."""
_FORGOTTEN_SHARE = 16
ACCOUNTS = 50_000
"""The most accounts that are remembered for one model version; the longest silent are forgotten first, members last."""


@dataclass(frozen=True, slots=True)
class GroupRevision:
    """A group after ``joined`` joined it at ``row``. ``chance``: the probability of as rare a cluster among honest
    accounts. ``evidence``: what the members show most, by mean contribution to D, and the ``family`` of all that they
    show."""

    id: str
    revision: int
    row: int
    joined: tuple[str, ...]
    chance: float
    evidence: tuple[Evidence, ...]
    family: Family


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group as it is now: ``chance``, ``evidence`` and ``family`` as in a revision, and its ``members``, the rarest
    first."""

    chance: float
    members: tuple[GroupMember, ...]
    evidence: tuple[Evidence, ...]
    family: Family


@dataclass(frozen=True, slots=True)
class _Due:
    """Queries at which accounts are compared, q in stream order. ``slot``, ``number``, ``row`` int64 (q,); ``present``
    int64 (q,): how many accounts there are as of each; ``distance`` float64 (q,): D with links; ``every`` float64 (q,
    j + m): the deviations of measures and links."""

    slot: Array
    number: Array
    row: Array
    present: Array
    distance: Floats
    every: Floats


class GroupWatch:
    """Watches the accounts of the model version of ``profile``, which has a crowd, and remembers recent queries in
    ``nbytes`` bytes at most."""

    MEASURES = len(COLUMNS)

    def __init__(self, profile: Profile, nbytes: int = BYTES) -> None:
        assert profile.crowd is not None
        self._crowd: Crowd = profile.crowd.aligned(profile.standards.measures, COLUMNS, LINKS)
        self._standards = profile.standards.aligned(COLUMNS)
        self._names = (*COLUMNS, *LINKS)
        self._linker = Linker(profile.reference, nbytes)
        sampled = sampled_cells(profile.reference)
        self._region = np.where(sampled, np.cumsum(sampled) - 1, -1)
        families = [FAMILIES[name] for name in COLUMNS]
        self._first = np.flatnonzero([family in ("content", "outputs") for family in families])
        self._accounts = Accounts(len(self._names), len(self._first), int(sampled.sum()))
        self._clusters = Clusters(len(self._names), (profile.model, profile.model_version))
        self._rarities = Rarities()
        self._seen = 0
        self._present = 0

    @property
    def nbytes(self) -> int:
        """The bytes of recent queries and of the columns of accounts."""
        return self._linker.nbytes + self._accounts.nbytes

    def observe(self, queries: JudgedQueries) -> list[GroupRevision]:
        """Learns from ``queries`` and returns what is new of groups, in stream order. The cut of the stream into calls
        changes nothing."""
        revisions, start = list[GroupRevision](), 0
        while start < len(queries):
            end = self._fitting(queries, start)
            if end == start:
                self._make_room()
            else:
                revisions += self._observe(queries.between(start, end))
                start = end
        return revisions

    def group_of(self, principal: str) -> str | None:
        """Returns the id of the group under a verdict that ``principal`` belongs to."""
        slot = self._accounts.slot_of.get(principal, -1)
        cluster = self._clusters.of.get(slot)
        return cluster.id if cluster is not None and self._accounts.member[slot] else None

    def state_of(self, group: str) -> GroupState:
        """Returns what is known of ``group``; one that has ended has no members."""
        cluster = self._clusters.named.get(group)
        if cluster is None:
            return GroupState(1.0, (), (), "content")
        accounts = self._accounts
        slots = [slot for slot in cluster.accounts if accounts.member[slot]]
        slots.sort(key=lambda slot: (accounts.rarity[slot], accounts.names[slot]))
        members = (
            GroupMember(accounts.names[slot], float(accounts.rarity[slot]), int(accounts.last[slot]) + 1)
            for slot in slots
        )
        chance = self._chance(cluster, self._first_rarity(cluster), self._present)
        contributions = self._mean(self._contributions(accounts.every[slots]))
        return GroupState(chance, tuple(members), self._evidence(contributions), self._family(contributions))

    def knows(self, group: str) -> bool:
        """Returns whether ``group`` has not ended."""
        return group in self._clusters.named

    def members_of(self, group: str) -> list[str]:
        """Returns the members of ``group``, in no order."""
        slots = self._clusters.named[group].accounts if group in self._clusters.named else ()
        return [self._accounts.names[slot] for slot in slots if self._accounts.member[slot]]

    def size_of(self, group: str) -> int:
        """Returns how many members ``group`` has."""
        return self._clusters.named[group].size if group in self._clusters.named else 0

    def measure(self, joint: JointExposure, limit: JointLimit, now: float) -> list[str]:
        """Measures ``joint`` again; returns the accounts above ``limit``, in the order of what each added."""
        return joint.measure(self._accounts, len(self._region), limit, now)

    def dump(self) -> dict[str, Any]:
        """Returns the whole state, as ``state.arrays.pack`` takes it."""
        clusters = self._clusters.dump()
        return {
            "accounts": self._accounts.dump(),
            "recent": self._linker.recent.dump(),
            "clusters": clusters["clusters"],
            "directions": clusters["directions"],
            "counters": [clusters["founded"], self._seen, self._present],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Replaces all state with what ``dump`` returned."""
        self._accounts.load(state["accounts"])
        self._linker.recent.load(state["recent"])
        founded, self._seen, self._present = state["counters"]
        self._clusters.load({**state, "founded": founded})
        self._rarities = Rarities(self._accounts.rarity[list(self._clusters.of)])

    def _observe(self, queries: JudgedQueries) -> list[GroupRevision]:
        accounts, due = self._accounts, queries.due
        used, first, principal = np.unique(queries.principal, return_index=True, return_inverse=True)
        slots, new = accounts.slots([queries.principals[at] for at in used.tolist()])
        slot, begins = slots[principal], np.sort(first[new])
        links = self._linker.link(
            queries.features, queries.points, queries.cells, slot[queries.linked], queries.label
        ).values
        region, of = self._region[queries.cells[:, 0]], slot[queries.linked]
        visit(accounts.reached, of[region >= 0], region[region >= 0])
        sums, counts = accounts.count(slot, plain(queries.number), due, queries.linked, links, self._seen)
        present = self._present + np.searchsorted(begins, due, "right")
        self._seen, self._present = self._seen + len(slot), self._present + len(begins)
        linked = deviations(sums, counts, self._crowd.links)
        every = np.concatenate((queries.deviations, linked), axis=1)
        distance = queries.distance + unexplained(linked, self._crowd.link_exemplars)[0]
        return self._compared(_Due(slot[due], queries.number[due], queries.row[due], present, distance, every))

    def _compared(self, due: _Due) -> list[GroupRevision]:
        """Compares accounts again, each as of its row."""
        accounts, begins = self._accounts, np.flatnonzero(due.number == 0)
        accounts.begin(due.slot[begins], np.maximum(due.every[np.ix_(begins, self._first)], 0.0))
        most, origin = accounts.reach(due.slot, due.number, due.distance)
        rarity = self._crowd.rarity(np.minimum(due.number + 1, WINDOW), most)
        excused = self._compared_early(due, rarity)
        revisions = []
        needs_update = np.isin(due.slot, due.slot[rarity <= _NOTABLE]) | self._clustered(due.slot)
        rows = np.flatnonzero(needs_update)
        added = self._added(due, rows, origin[rows], excused)
        for at, contributions in zip(rows.tolist(), added, strict=True):
            risen = bool(origin[at] == at) or at in excused
            changed = self._update(int(due.slot[at]), float(rarity[at]), contributions, risen, int(due.present[at]))
            if changed is not None:
                revisions.append(self._revision(*changed, int(due.present[at]), int(due.row[at])))
        highest = np.flatnonzero(origin == np.arange(len(origin)))
        accounts.every[due.slot[highest]] = due.every[highest]
        return revisions

    def _compared_early(self, due: _Due, rarity: Floats) -> dict[int, Floats]:
        """Lowers the ``rarity`` float64 (q,) of rows among their account's first to that compared with honest first
        queries. Returns, of rows where it is lower, the deviations float64 (j + m,) of the honest account that
        explains most."""
        excused = {}
        for volume in range(1, EARLY + 1):
            rows = np.flatnonzero(due.number == volume - 1)
            if len(rows):
                left, best = unexplained(due.every[rows], self._crowd.early[volume - 1])
                early = self._crowd.early_rarity(np.full(len(rows), volume), left)
                for at in np.flatnonzero(early < rarity[rows]).tolist():
                    excused[int(rows[at])] = self._crowd.early[volume - 1, best[at]]
                rarity[rows] = np.minimum(rarity[rows], early)
        return excused

    def _clustered(self, slots: Array) -> NDArray[np.bool_]:
        return np.array([slot in self._clusters.of for slot in slots.tolist()], np.bool_)

    def _added(self, due: _Due, rows: Array, origin: Array, excused: Mapping[int, Floats]) -> Floats:
        """Returns float64 (r, j + m): what each measure adds to the D of the accounts of ``rows``, which is that of the
        row ``origin``, or is compared with what is ``excused`` at the row itself."""
        added = self._contributions(
            np.where((origin >= 0)[:, None], due.every[origin], self._accounts.every[due.slot[rows]])
        )
        for at, row in enumerate(rows.tolist()):
            if row in excused:
                added[at] = np.clip(due.every[row] - excused[row], 0.0, MAX_CONTRIBUTION)
        return added

    def _contributions(self, every: Floats) -> Floats:
        """Returns float64 (r, j + m): what each measure adds to the D of which ``every`` (r, j + m) are deviations."""
        count, exemplars = len(COLUMNS), self._crowd.link_exemplars
        linked = every[:, count:]
        explained = exemplars[unexplained(linked, exemplars)[1]]
        by_measures = self._standards.contributions(every[:, :count])[0]
        return np.concatenate((by_measures, np.clip(linked - explained, 0.0, MAX_CONTRIBUTION)), axis=1)

    def _fitting(self, queries: JudgedQueries, start: int) -> int:
        """Returns the first row from ``start`` on that begins an account for which there is no room, or the end."""
        known, room = self._accounts.slot_of, ACCOUNTS - len(self._accounts)
        if room >= len(queries.principals):
            return len(queries)
        used, first = np.unique(queries.principal[start:], return_index=True)
        begins = [row for at, row in zip(used, first, strict=True) if queries.principals[at] not in known]
        return start + int(np.sort(begins)[room]) if len(begins) > room else len(queries)

    def _make_room(self) -> None:
        """Forgets the accounts that were silent longest, those of clusters last."""
        accounts = self._accounts
        slots = np.array(list(accounts.slot_of.values()), np.int64)
        order = np.lexsort((accounts.active[slots], self._clustered(slots)))
        for slot in slots[order[: max(ACCOUNTS // _FORGOTTEN_SHARE, 1)]].tolist():
            self._leave(slot)
            accounts.drop(slot)
            self._present -= 1

    def _update(
        self, slot: int, rarity: float, added: Floats, risen: bool, present: int
    ) -> tuple[Cluster, list[int]] | None:
        """Moves one of ``present`` accounts of this ``rarity``, and with the contributions ``added`` (j + m,), to the
        cluster where it belongs now; it stays if its D has not ``risen``. Returns its group and who joined that, if
        anybody did."""
        accounts = self._accounts
        if slot in self._clusters.of and (accounts.member[slot] or (rarity <= _NOTABLE and not risen)):
            self._rarities.remove(float(accounts.rarity[slot]))
            self._rarities.add(rarity)
            accounts.rarity[slot] = rarity
            return None
        self._leave(slot)
        accounts.rarity[slot] = rarity
        if rarity > _NOTABLE:
            return None
        self._rarities.add(rarity)
        cluster = self._clusters.join(slot, accounts.names[slot], added)
        if cluster.waiting <= len(cluster.accounts) // _WAITING_SHARE:
            return None
        cluster = self._clusters.united(cluster)
        cluster.waiting = 0
        joined = self._judged(cluster, present)
        return (cluster, joined) if joined else None

    def _leave(self, slot: int) -> None:
        cluster = self._clusters.leave(slot)
        if cluster is not None:
            self._rarities.remove(float(self._accounts.rarity[slot]))
            cluster.size -= bool(self._accounts.member[slot])

    def _judged(self, cluster: Cluster, present: int) -> list[int]:
        """Adds to the members of ``cluster`` those of ``present`` accounts that belong to them now; returns these."""
        accounts, slots = self._accounts, cluster.slots
        first = self._first_rarity(cluster)
        if not cluster.size and self._chance(cluster, first, present) > CHANCE:
            return []
        rarity = np.minimum(accounts.rarity[slots], _EXPECTED * first)
        honest = min(self._rarities.honest(present), present - int((first <= _RARE).sum()) + 1)
        strangers = honest * self._rarities.among_all(rarity, present) / np.arange(1, len(slots) + 1)
        below = np.flatnonzero(strangers <= STRANGERS)
        if not len(below):
            return []
        joined = slots[(rarity <= np.sort(rarity)[below[-1]]) & ~accounts.member[slots]]
        accounts.member[joined] = True
        cluster.size += len(joined)
        cluster.revision += len(joined) > 0
        return [int(slot) for slot in joined]

    def _chance(self, cluster: Cluster, first: Floats, present: int) -> float:
        """Returns the probability of as rare a cluster of ``present`` accounts, by their D or by their ``first``
        queries, float64 (n,)."""
        both = self._accounts.rarity[cluster.slots], first
        by_all, by_first = (chance_of(self._rarities.among_all(rarity, present), present) for rarity in both)
        return min(by_all, _DIRECTIONS * by_first)

    def _first_rarity(self, cluster: Cluster) -> Floats:
        """Returns float64 (n,): how rare it is that an honest first query goes as far in the direction of ``cluster``
        as that of each of its accounts; 1 where that was not seen."""
        shown, direction = self._accounts.first[cluster.slots], self._clusters.direction_of(cluster)[self._first]
        length = np.sqrt(direction @ direction)
        if length < _LEAST:
            return np.ones(len(shown))
        found = self._crowd.first_rarity(np.nan_to_num(shown), direction / length, self._first)
        return np.where(np.isnan(shown).any(axis=1), 1.0, found)

    def _revision(self, cluster: Cluster, joined: Sequence[int], present: int, row: int) -> GroupRevision:
        accounts, contributions = self._accounts, self._mean_contributions(cluster)
        return GroupRevision(
            cluster.id,
            cluster.revision,
            row,
            tuple(accounts.names[slot] for slot in joined),
            self._chance(cluster, self._first_rarity(cluster), present),
            self._evidence(contributions),
            self._family(contributions),
        )

    def _mean_contributions(self, cluster: Cluster) -> Floats:
        """Returns float64 (j + m,): what each measure added to the members' D on average when they joined."""
        return self._mean([added for slot, added in cluster.accounts.items() if self._accounts.member[slot]])

    def _mean(self, added: Sequence[Floats] | Floats) -> Floats:
        return np.asarray(np.mean(added, axis=0)) if len(added) else np.zeros(len(self._names))

    def _evidence(self, contributions: Floats) -> tuple[Evidence, ...]:
        most = [at for at in np.argsort(-contributions, kind="stable")[:_SHOWN].tolist() if contributions[at] > 0]
        return tuple(Evidence(self._names[at], float(contributions[at]), "standard deviations") for at in most)

    def _family(self, contributions: Floats) -> Family:
        """Returns the family of what the members show, scaled so that one counts from a share of it on."""
        share = _SHARE / max(float(contributions.sum()), _LEAST)
        return family_of(dict(zip(self._names, (contributions * share).tolist(), strict=True)))
