"""Newcomers as one: first queries that no honest account's mixture explains, although each alone is like some honest
one's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.core.calibration.crossfit import COLUMNS
from detector.core.profile import Profile
from detector.core.reference.standards import Floats, unexplained
from detector.groups import watch
from detector.groups.accounts import Accounts
from detector.groups.links import LINKS
from detector.groups.queries import JudgedQueries
from detector.groups.watch import GroupWatch
from tests.groups.rings import calibrated

HONEST, THIEVES = 120, 30
SHOWN = {"novelty": 1.8, "outlyingness": 1.8, "unseen_values": 2.7}
"""What a thief's only query shows."""
ODD = {"novelty": 0.9, "outlyingness": 0.9, "unseen_values": 2.7, "high_margin": 2.7}
"""What one honest account in fifty showed first: more in all, but in another mixture."""


def _shown(rng: np.random.Generator, count: int, of: dict[str, float] | None = None) -> Floats:
    """Returns float64 (count, j): what first queries show, those of honest accounts if ``of`` nothing."""
    shown = np.zeros((count, len(COLUMNS)))
    for name in SHOWN:
        shown[:, COLUMNS.index(name)] = rng.exponential(0.3, count)
    for name, value in (of or {}).items():
        shown[:, COLUMNS.index(name)] = value + 0.1 * rng.standard_normal(count)
    return shown


def _profile() -> Profile:
    """The profile of fifty honest accounts, one of them odd."""
    profile, rng = calibrated(), np.random.default_rng(1)
    assert profile.crowd is not None
    shown = np.concatenate((_shown(rng, 49), _shown(rng, 1, ODD)))
    early = np.repeat(np.concatenate((shown, np.zeros((50, len(LINKS)))), axis=1)[None], 4, axis=0)
    left = [unexplained(early[0, at : at + 1], np.delete(early[0], at, axis=0))[0][0] for at in range(50)]
    crowd = replace(
        profile.crowd.aligned(profile.standards.measures, COLUMNS, LINKS),
        early=early,
        early_reached=np.repeat(-np.sort(-np.array(left))[None], 4, axis=0),
    )
    standards = replace(profile.standards.aligned(COLUMNS), measures=COLUMNS)
    return replace(profile, crowd=crowd, standards=standards)


def _first_queries(thieves: int, seed: int = 2) -> JudgedQueries:
    """One query of each of 120 honest accounts and some thieves, in any order; none is linked."""
    rng, count = np.random.default_rng(seed), HONEST + thieves
    order = rng.permutation(count)
    shown = np.concatenate((_shown(rng, HONEST), _shown(rng, thieves, SHOWN)))[order]
    names = [f"honest-{at}" if at < HONEST else f"thief-{at}" for at in order.tolist()]
    profile, nothing = calibrated(), np.zeros(0, np.int64)
    features, points = (np.zeros((0, width), np.float32) for width in (6, profile.reference.points.shape[1] + 1))
    return JudgedQueries(
        *(names, np.arange(count), np.zeros(count, np.int64), np.arange(count)),
        *(np.arange(count), np.zeros(count), shown),
        nothing,
        *(features, points),
        *(np.zeros((0, 4), np.int64), nothing),
    )


def _named(watched: GroupWatch, queries: JudgedQueries) -> set[str]:
    return {name for revision in watched.observe(queries) for name in revision.joined}


def test_thieves_of_one_query_are_named_and_no_honest_newcomer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = _first_queries(THIEVES)
    named = _named(GroupWatch(_profile()), queries)
    assert sum(name.startswith("thief") for name in named) >= 24
    assert sum(name.startswith("honest") for name in named) <= 1
    monkeypatch.setattr(GroupWatch, "_first_rarity", lambda _, cluster: np.ones(len(cluster.accounts)))
    assert not _named(GroupWatch(_profile()), queries)


@pytest.mark.parametrize("seed", range(3))
def test_honest_newcomers_and_a_few_odd_ones_are_no_group(seed: int) -> None:
    assert not _named(GroupWatch(_profile()), _first_queries(0, seed))
    assert not _named(GroupWatch(_profile()), _first_queries(2, seed))


def test_neither_the_cut_nor_recovery_changes_who_is_named() -> None:
    queries, whole = _first_queries(THIEVES), GroupWatch(_profile())
    named = _named(whole, queries)
    parts, again = GroupWatch(_profile()), set[str]()
    for start in range(0, len(queries), 7):
        if start == 84:
            state, parts = parts.dump(), GroupWatch(_profile())
            parts.load(state)
        again |= _named(parts, queries.between(start, min(start + 7, len(queries))))
    assert again == named
    assert {name: parts.group_of(name) for name in named} == {name: whole.group_of(name) for name in named}


def test_of_two_first_queries_of_an_account_the_first_counts() -> None:
    accounts = Accounts(3, 2, 8)
    slots, _ = accounts.slots(["a", "b"])
    accounts.begin(slots[[0, 1, 0]], np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    accounts.begin(slots[:1], np.array([[7.0, 8.0]]))
    assert accounts.first[slots].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    accounts.drop(int(slots[0]))
    assert np.isnan(accounts.first[accounts.slots(["c"])[0]]).all()


def test_a_state_without_first_queries_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    before = GroupWatch(_profile())
    before.observe(_first_queries(THIEVES))
    state = before.dump()
    del state["accounts"]["first"]
    after = GroupWatch(_profile())
    after.load(state)
    assert np.isnan(after._accounts.first).all()
    monkeypatch.setattr(watch, "_DIRECTIONS", 1.0)
    (cluster, *_) = after._clusters.named.values()
    assert (after._first_rarity(cluster) == 1.0).all()
