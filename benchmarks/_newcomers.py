"""Newcomers judged as one principal: what statistics of the pooled first queries of the last hundred newcomers find,
beside the groups as they are.

Of a hundred newcomers with one or three queries each, some are a thief's and the others honest. Three pooled statistics
are compared with the groups: a z-sum of each measure (*z*), the distance of the mean embedding from that of honest
first queries, in random Fourier features (*mean*; Rahimi and Recht 2007, the maximum mean discrepancy of Gretton et al.
2012), and Berk and Jones over the accounts' rarities whatever makes them rare (*rare*). Each alarms above the most that
it shows in thirty honest hundreds, which no profile would know: so they are better here than they could be in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.core.calibration.crossfit import COLUMNS
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.core.reference.standards import Crowd, Floats, unexplained
from detector.groups.links import LINKS, Linker, deviations, sampled_cells
from detector.groups.queries import JudgedQueries, selected_queries
from detector.groups.rarities import chance_of
from detector.replay.groups import GroupReplay

NEWCOMERS = 100
SHARES = (3, 5, 10, 20, 50, 100)
DRAWS = 3
_FREQUENCIES, _CLIP, _LEAST = 64, 5.0, 0.1


@dataclass(frozen=True, slots=True)
class Pooled:
    """The statistics of newcomers who have sent ``queries`` queries each, one to four."""

    profile: Profile
    crowd: Crowd
    honest: Floats
    queries: int

    @classmethod
    def of(cls, profile: Profile, calibration: Sequence[QueryBatch], queries: int) -> Pooled:
        """``calibration``: the honest accounts whose first queries are what the mean is compared with."""
        assert profile.crowd is not None
        crowd = profile.crowd.aligned(profile.standards.measures, COLUMNS, LINKS)
        own = cls(profile, crowd, np.zeros((0, 0)), queries)
        return replace(own, honest=own._embedded(own._judged(calibration)))

    def values(self, accounts: Sequence[QueryBatch]) -> tuple[float, float, float]:
        """Returns z, mean and rare of ``accounts``, each with its first queries."""
        judged, count = self._judged(accounts), len(accounts)
        last = np.arange(count) * self.queries + self.queries - 1
        linked = Linker(self.profile.reference).link(
            judged.features, judged.points, judged.cells, judged.principal, judged.label
        )
        sums = linked.values.reshape(count, self.queries, -1).sum(axis=1)
        links = deviations(sums, np.full(count, self.queries), self.crowd.links)
        every = np.clip(np.concatenate((judged.deviations[last], links), axis=1), 0.0, None)
        known = np.clip(np.nan_to_num(self.crowd.early[self.queries - 1], posinf=_CLIP), 0.0, _CLIP)
        spread = np.maximum(known.std(axis=0), _LEAST) * np.sqrt(1 / count + 1 / len(known))
        z = ((np.minimum(every, _CLIP).mean(axis=0) - known.mean(axis=0)) / spread).max()
        left = unexplained(every, self.crowd.early[self.queries - 1])[0]
        rare = self.crowd.early_rarity(np.full(count, self.queries), left)
        chance = max(chance_of(np.sort(rare), count), 1e-300)
        return float(z), self._apart(self._embedded(judged)), float(-np.log(chance))

    def _judged(self, accounts: Sequence[QueryBatch]) -> JudgedQueries:
        """Returns the queries of ``accounts``, one account after another."""
        engine = Engine(EngineConfig(profiles=(self.profile,)))
        log = together(accounts)
        observation = engine.observe([log])
        return selected_queries(observation.profiled, observation, sampled_cells(self.profile.reference))

    def _embedded(self, judged: JudgedQueries) -> Floats:
        """Returns float64 (a, 128): the mean of each account's queries in random Fourier features."""
        points = judged.points / np.float32(np.median(np.linalg.norm(self.profile.reference.points, axis=1)))
        rng = np.random.default_rng(0)
        angles = points @ rng.normal(size=(points.shape[1], _FREQUENCIES))
        features = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)
        return np.asarray(features.reshape(-1, self.queries, 2 * _FREQUENCIES).mean(axis=1))

    def _apart(self, embedded: Floats) -> float:
        """Returns how far the mean of ``embedded`` is from honest first queries, over its own spread."""
        apart = embedded.mean(axis=0) - self.honest.mean(axis=0)
        variance = self.honest.var(axis=0).sum() * (1 / len(embedded) + 1 / len(self.honest))
        return float(apart @ apart / variance)


def asked(account: QueryBatch, queries: int) -> QueryBatch:
    """Returns the first ``queries`` queries of ``account`` that repeat no earlier one, fewer if it has fewer."""
    rows = np.unique(account.features[: 16 * queries], axis=0, return_index=True)[1]
    return take(account, np.sort(rows)[:queries])


def together(accounts: Sequence[QueryBatch]) -> QueryBatch:
    """Returns the queries of ``accounts``, one account after another, under names of their own."""
    whose = np.repeat(np.arange(len(accounts)), [len(own) for own in accounts])
    return replace(
        accounts[0],
        event_ids=[""] * len(whose),
        occurred_at=np.arange(len(whose), dtype=np.float64),
        principals=[str(at) for at in range(len(accounts))],
        principal_index=whose.astype(np.int32),
        features=np.concatenate([own.features for own in accounts]),
        outputs=np.concatenate([own.outputs for own in accounts]),
        missing=None,
    )


def in_groups(profile: Profile, accounts: Sequence[QueryBatch]) -> set[int]:
    """Returns which of ``accounts``, who come one after another, the groups as they are name."""
    engine, groups = Engine(EngineConfig(profiles=(profile,))), GroupReplay((profile,))
    seen = groups.observe(engine.observe([together(accounts)]))
    return {int(name) for _, _, revision in seen.revisions for name in revision.joined}


WAYS = ("z", "mean", "rare", "groups")


def newcomers(
    target: str,
    profile: Profile,
    calibration: Sequence[QueryBatch],
    populations: Sequence[Sequence[QueryBatch]],
    attacks: dict[str, QueryBatch],
) -> None:
    """Prints, for each of ``attacks``, the fewest thieves among a hundred newcomers at which each way finds them, in at
    least two of three draws. ``populations``: other honest accounts."""
    for queries in (1, 3):
        full = [_shuffled([asked(own, queries) for own in population], queries) for population in populations]
        known = [own for own in (asked(own, queries) for own in calibration) if len(own) == queries]
        statistics = Pooled.of(profile, known, queries)
        hundreds = [own[at : at + NEWCOMERS] for own in full for at in range(0, len(own) - NEWCOMERS + 1, NEWCOMERS)]
        most = np.array([statistics.values(part) for part in hundreds]).max(axis=0)
        launched = [own[:500] for own in np.array_split(np.arange(sum(map(len, full))), 4)]
        every = [own for population in full for own in population]
        named = sum(len(in_groups(profile, [every[at] for at in own.tolist()])) for own in launched)
        print(f"{target}, {queries} queries: in four launches of 500 honest newcomers {named} in a group", flush=True)
        print(f"most in honest hundreds: {dict(zip(WAYS, most.round(1).tolist(), strict=False))}", flush=True)
        for attack, rows in attacks.items():
            least = dict.fromkeys(WAYS, "never")
            for thieves in [own for own in reversed(SHARES) if own * queries <= len(rows)]:
                ring = [take(rows, np.arange(thieves * queries)[at::thieves]) for at in range(thieves)]
                draws = [_found(statistics, most, full[draw], ring, draw) for draw in range(DRAWS)]
                found = np.array(draws).sum(axis=0)
                least |= {way: str(thieves) for at, way in enumerate(WAYS) if found[at] >= DRAWS - 1}
            print(f"| {attack} | {queries} | {' | '.join(least.values())} |", flush=True)


def _shuffled(accounts: Sequence[QueryBatch], queries: int) -> list[QueryBatch]:
    full = [own for own in accounts if len(own) == queries]
    return [full[at] for at in np.random.default_rng(0).permutation(len(full)).tolist()]


def _found(
    statistics: Pooled, most: Floats, honest: Sequence[QueryBatch], ring: Sequence[QueryBatch], seed: int
) -> NDArray[np.int64]:
    """Returns int64 (4,): whether each of ``WAYS`` finds ``ring`` among honest newcomers, a hundred in all."""
    others = honest[: NEWCOMERS - len(ring)]
    order = np.random.default_rng(seed).permutation(NEWCOMERS)
    accounts = [[*others, *ring][at] for at in order.tolist()]
    own = set(np.flatnonzero(order >= len(others)).tolist())
    grouped = len(own & in_groups(statistics.profile, accounts)) >= 0.8 * len(ring)
    return np.array([*(np.array(statistics.values(accounts)) > most), grouped], np.int64)
