"""Rings in an unlabelled log: accounts of one model version that share one theft.

Accounts of a ring excuse one another, and their queries are among those that all are compared with. So accounts with
similar behaviour are left out of a calibration together, and all accounts are watched against the rest, as a replay
does (``groups.watch``). An honest habit that several accounts share would be a group as well: the queries of a group,
taken as those of one account, must stand out as a thief's do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from detector.contracts.batches import concatenate, cut, take
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import Calibration
from detector.core.calibration.scan import ENOUGH, ScannedAccount, Stage, calibrate_screened, judge_as_one
from detector.core.engine import Engine, EngineConfig
from detector.core.reference.standards import MAX_CONTRIBUTION, Floats, unexplained
from detector.core.state.arrays import Array
from detector.groups.calibration import crowd_of
from detector.groups.rarities import FEWEST
from detector.replay.groups import GroupReplay

_FIRST, _LEAST_FIRST, _SEARCHED = 512, 128, 131_072
"""Queries of each account that are searched, fewer but never below the second in logs with many accounts, so that they
are about ``_SEARCHED`` in all: a ring deals its queries to many accounts."""
_ALIKE = (0.45, 0.6, 0.75, 0.9)
"""The least cosines of the deviations of accounts that are left out together; no single one suits all thefts."""
_SEEDS, _TRIED = 256, 4
"""The most accounts that candidates are built around, and the most candidates that are tried."""
_OVERLAP = 0.5
_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class FoundRing:
    """Accounts that look like one thief: ``members``, by name, and ``merged``, the result of all their queries as those
    of one account."""

    members: tuple[str, ...]
    merged: ScannedAccount


def find_rings(
    accounts: Sequence[QueryBatch], budget: float, stage: Stage = lambda _: nullcontext(lambda _: None)
) -> list[FoundRing]:
    """Returns the rings among ``accounts``, each the queries of one principal to one model version. ``stage`` is as in
    ``scan``."""
    found: list[FoundRing] = []
    if len(accounts) < ENOUGH + FEWEST:
        return found
    first = min(max(_SEARCHED // len(accounts), _LEAST_FIRST), _FIRST)
    accounts = [cut(account, 0, first) for account in accounts]
    with stage(len(accounts)) as progress:
        calibration = calibrate_screened(accounts, budget, (), progress).calibration
    taken: set[str] = set()
    for candidate in _candidates(calibration, accounts):
        if taken.isdisjoint(candidate):
            for ring in _groups_without(accounts, {*candidate, *taken}, budget, stage):
                if taken.isdisjoint(ring.members):
                    found.append(ring)
                    taken.update(ring.members)
    return found


def _candidates(calibration: Calibration, accounts: Sequence[QueryBatch]) -> list[set[str]]:
    """Returns sets of names of accounts that may be a ring, the likeliest first: their behaviour is similar, and far
    from that of all others."""
    links = crowd_of(calibration, accounts).link_exemplars
    reached = np.maximum(np.concatenate((calibration.comparison.reached, links), axis=1), 0.0)
    shown = np.clip(reached - np.median(reached, axis=0), 0.0, MAX_CONTRIBUTION)
    length = np.linalg.norm(shown, axis=1)
    alike = shown / np.maximum(length, 1e-9)[:, None]
    ranked: dict[frozenset[int], float] = {}
    for seed in np.argsort(-length, kind="stable")[: min(_SEEDS, np.count_nonzero(length))].tolist():
        cosines = alike @ alike[seed]
        for least in _ALIKE:
            middle = alike[cosines >= least].mean(axis=0)
            close = np.flatnonzero(alike @ middle >= least * np.linalg.norm(middle))
            if FEWEST <= len(close) <= len(accounts) // 2 and frozenset(close.tolist()) not in ranked:
                ranked[frozenset(close.tolist())] = _far(reached, close)
    chosen: list[frozenset[int]] = []
    for ring in sorted(ranked, key=lambda candidate: (-ranked[candidate], sorted(candidate))):
        if all(len(ring & other) < _OVERLAP * len(ring | other) for other in chosen):
            chosen.append(ring)
    return [{calibration.accounts[at] for at in ring} for ring in chosen[:_TRIED]]


def _far(reached: Floats, members: Array) -> float:
    """Returns how far the accounts ``members`` int64 (n,) are from all others, times the root of their number."""
    others = np.concatenate((np.delete(reached, members, axis=0), np.zeros((1, reached.shape[1]))))
    return float(np.median(unexplained(reached[members], others)[0]) * np.sqrt(len(members)))


def _groups_without(
    accounts: Sequence[QueryBatch], left_out: set[str], budget: float, stage: Stage
) -> Iterator[FoundRing]:
    """Yields the groups among ``accounts`` against all but those ``left_out`` that stand out as one account."""
    rest = [account for account in accounts if account.principals[0] not in left_out]
    if len(rest) < ENOUGH:
        return
    with stage(len(rest)) as progress:
        calibration = calibrate_screened(rest, budget, (), progress).calibration
    if calibration.long.sum() < ENOUGH:
        return
    profile = replace(calibration.profile, crowd=crowd_of(calibration, rest), validation=None)
    log = _by_time(accounts)
    engine, groups = Engine(EngineConfig(profiles=(profile,))), GroupReplay((profile,))
    members: dict[str, dict[str, None]] = {}
    for start in range(0, len(log), _AT_ONCE):
        observation = engine.observe([cut(log, start, min(start + _AT_ONCE, len(log)))])
        for _, _, revision in groups.observe(observation).revisions:
            members.setdefault(revision.id, {}).update(dict.fromkeys(revision.joined))
    for names in members.values():
        merged = judge_as_one(
            _by_time([account for account in accounts if account.principals[0] in names]), calibration
        )
        if merged.score > 1:
            yield FoundRing(tuple(sorted(names)), merged)


def _by_time(accounts: Sequence[QueryBatch]) -> QueryBatch:
    """Returns the queries of ``accounts`` as one log, in order of time."""
    [log] = concatenate(accounts)
    return take(log, np.argsort(log.occurred_at, kind="stable"))
