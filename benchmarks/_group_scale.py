"""What groups cost with many accounts and many recent queries; for ``benchmarks.groups --scale``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibrated import SEED, honest
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.core.reference.reference import Reference, ReferenceIndex
from detector.groups.links import linkable, sampled_cells
from detector.groups.queries import selected_queries
from detector.groups.recent import RecentQueries
from detector.groups.watch import GroupWatch
from detector.lab.experiment import victim_of

ACCOUNTS = {1_000: 200, 10_000: 20, 100_000: 3}
"""The queries of each account, by the number of accounts."""
VECTORS = {32_768: 32 << 20, 200_000: 128 << 20}
"""The bytes of recent queries, by their number."""
_HONEST = 1_500
_ROWS = 1_024
_TIMED = 16_384
_PLANTED, _STEP = 0.2, 0.01

Rows = NDArray[np.float32]


class Traffic:
    """The queries of 1,500 honest accounts of a victim in random order, with their accounts and answers, none twice."""

    def __init__(self, target: str) -> None:
        dataset, victim = victim_of(*target.split(":"))
        every = [own.queries for own in honest(dataset, victim, 1, _HONEST, SEED + 1)]
        features = np.concatenate([own.features for own in every])
        once = np.unique(features, axis=0, return_index=True)[1]
        rows = np.random.default_rng(SEED).permutation(once)
        self.features, self.spread = features[rows], np.ptp(features, axis=0)
        self.account = np.repeat(np.arange(_HONEST), [len(own) for own in every])[rows]
        self._outputs, self._first = np.concatenate([own.outputs for own in every])[rows], every[0]

    def batch(self, rows: NDArray[np.int64], account: NDArray[np.int64], names: Sequence[str]) -> QueryBatch:
        return replace(
            self._first,
            event_ids=[""] * len(rows),
            occurred_at=np.arange(len(rows), dtype=np.float64),
            principals=list(names),
            principal_index=account.astype(np.int32),
            features=self.features[rows],
            outputs=self._outputs[rows],
            missing=None,
        )


def by_accounts(profile: Profile, traffic: Traffic, accounts: int) -> str:
    """A row of the table: what engine and groups cost when the traffic is dealt to ``accounts`` accounts, and what
    groups hold."""
    rng, count = np.random.default_rng(SEED), accounts * ACCOUNTS[accounts]
    whose = rng.permutation(np.repeat(np.arange(accounts), ACCOUNTS[accounts]))
    engine, watch = Engine(EngineConfig(profiles=(profile,))), GroupWatch(profile)
    sampled, seconds, linked, due, members = sampled_cells(profile.reference), np.zeros(2), 0, 0, 0
    for start in range(0, count, _ROWS):
        used, account = np.unique(whose[start : start + _ROWS], return_inverse=True)
        rows = np.arange(start, start + len(account)) % len(traffic.features)
        piece = traffic.batch(rows, account, [str(at) for at in used.tolist()])
        began = time.process_time()
        observation = engine.observe([piece])
        between = time.process_time()
        for profiled in observation.profiled:
            queries = selected_queries([profiled], observation, sampled)
            members += sum(len(own.joined) for own in watch.observe(queries))
            linked, due = linked + len(queries.linked), due + len(queries.due)
        seconds += between - began, time.process_time() - between
    each = 1e6 * seconds / count
    cells = (f"{accounts:,}", f"{count:,}", f"{linked / count:.0%}", f"{due / count:.0%}")
    costs = (f"{each[0]:.1f}", f"{each[1]:.1f}", f"{watch.nbytes / 2**20:.0f}", members)
    return f"| {' | '.join(str(cell) for cell in (*cells, *costs))} |"


def by_vectors(reference: Reference, traffic: Traffic, vectors: int) -> str:
    """A row of the table: what a link costs among ``vectors`` recent queries, and how many parents are found. One query
    in five is a step from an earlier one of another account, any of the ``vectors`` latest, by a hundredth of the range
    in every feature."""
    rng, index, count = np.random.default_rng(SEED), ReferenceIndex(reference), vectors + _TIMED
    features, account = np.resize(traffic.features, (count, len(traffic.spread))), np.resize(traffic.account, count)
    parent = np.full(count, -1)
    for row in (1 + np.flatnonzero(rng.random(count - 1) < _PLANTED)).tolist():
        parent[row] = rng.integers(max(row - vectors, 0), row)
        step = _STEP * traffic.spread * rng.choice((-1.0, 1.0), features.shape[1])
        features[row] = features[parent[row]] + step.astype(np.float32)
        account[row] = (account[parent[row]] + rng.integers(1, _HONEST)) % _HONEST
    recent = RecentQueries(reference, VECTORS[vectors])
    seconds, found, planted, timed = 0.0, 0, 0, 0
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        scaled, points, cells = linkable(index, features[rows])
        began = time.process_time()
        nearest = recent.nearest(scaled, points, cells, account[rows], np.zeros(len(scaled), np.int64))
        if start < vectors:
            continue
        seconds, timed = seconds + time.process_time() - began, timed + len(scaled)
        at = np.flatnonzero(parent[rows] >= 0)
        apart = np.linalg.norm(scaled[at] - index.scaled(features[parent[rows][at]]), axis=1)
        found += int((nearest.distance[at] <= apart * (1 + 1e-6)).sum())
        planted += len(at)
    own = (f"{count:,}", f"{len(recent):,}", f"{recent.nbytes / 2**20:.0f}", f"{1e6 * seconds / timed:.1f}")
    return f"| {' | '.join((*own, f'{found / planted:.3f}'))} |"


def scale(target: str, profile: Profile) -> None:
    """Prints both tables."""
    traffic = Traffic(target)
    print("| queries | held | MiB | us a linked query | planted parents found |")
    print("|---|---|---|---|---|")
    for vectors in VECTORS:
        print(by_vectors(profile.reference, traffic, vectors), flush=True)
    print("| accounts | queries | linked | due | engine us a query | groups us a query | MiB of groups | members |")
    print("|---|---|---|---|---|---|---|---|")
    for accounts in ACCOUNTS:
        print(by_accounts(profile, traffic, accounts), flush=True)
