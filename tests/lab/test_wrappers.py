"""Each disguise sends all of the thief's queries, in order, among the queries or by the accounts that it names."""

from __future__ import annotations

import numpy as np
import pytest

from detector.lab.data import Dataset
from detector.lab.wrappers import WRAPPERS
from detector.lab.wrappers.disguises import Dummies, Lineage, Mixed, RandomAccounts, RoundRobin, SentQueries

PAUSE = 0.1


def rounds(split: Dataset, *sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.random((size, split.dimension), dtype=np.float32) for size in sizes]


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_query_is_sent_once_in_order_and_time_goes_on(name: str, split: Dataset) -> None:
    disguise = WRAPPERS[name](split, PAUSE, 1)
    before = -1.0
    for batch in rounds(split, 7, 1, 40):
        stream = disguise.wrap(batch)
        np.testing.assert_array_equal(stream.source[~stream.cover], np.arange(len(batch)))
        np.testing.assert_array_equal(stream.features[~stream.cover], batch)
        assert (np.diff(stream.at, prepend=before) >= 0).all()
        assert stream.at[0] > before
        assert stream.account.min() >= 0
        assert stream.account.max() < disguise.accounts
        before = stream.at[-1]


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_same_seed_gives_the_same_stream(name: str, split: Dataset) -> None:
    def streams() -> list[SentQueries]:
        disguise = WRAPPERS[name](split, PAUSE, 1)
        return [disguise.wrap(batch) for batch in rounds(split, 20, 30)]

    for one, two in zip(streams(), streams(), strict=True):
        for field in ("features", "source", "account", "at"):
            np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


@pytest.mark.parametrize("ratio", [0.5, 1, 3])
def test_dummies_are_natural_inputs_at_their_ratio_whatever_the_rounds(split: Dataset, ratio: float) -> None:
    disguise = Dummies(split.thief.features, ratio, PAUSE, seed=2)
    streams = [disguise.wrap(batch) for batch in rounds(split, *[1] * 20, 30, 50)]
    cover = np.concatenate([stream.features[stream.cover] for stream in streams])
    assert len(cover) == 100 * ratio
    natural = {row.tobytes() for row in split.thief.features}
    drawn = [row.tobytes() for row in cover]
    assert set(drawn) <= natural
    assert len(set(drawn)) == min(len(drawn), len(natural))
    longest = np.diff(np.flatnonzero(~np.concatenate([stream.cover for stream in streams]))).max()
    assert longest == int(np.ceil(ratio)) + 1


def test_the_honest_user_goes_on_at_their_own_pace_under_the_same_account(split: Dataset) -> None:
    disguise = Mixed(split.honest, PAUSE, seed=3)
    streams = [disguise.wrap(batch) for batch in rounds(split, 500, 500)]
    cover = sum(int(stream.cover.sum()) for stream in streams)
    assert cover == pytest.approx(1_000 * PAUSE / 0.22, rel=0.2)
    assert disguise.cover.label == "honest"
    assert {tuple(stream.account.tolist()) for stream in streams} == {(0,) * len(stream) for stream in streams}


def test_accounts_take_turns_blocks_or_chances(split: Dataset) -> None:
    (batch,) = rounds(split, 12)
    assert RoundRobin(3, PAUSE).wrap(batch).account.tolist() == [0, 1, 2] * 4
    assert RoundRobin(2, PAUSE, 3).wrap(batch).account.tolist() == [0, 0, 0, 1, 1, 1] * 2
    (many,) = rounds(split, 3_000)
    shares = np.bincount(RandomAccounts(3, PAUSE, seed=0).wrap(many).account) / 3_000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)


def test_children_are_asked_by_the_account_of_their_parent(split: Dataset) -> None:
    disguise = Lineage(4, PAUSE)
    (seeds,) = rounds(split, 10)
    parents = disguise.wrap(seeds).account
    assert parents.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    order = np.random.default_rng(0).permutation(10)
    children = seeds[order] + np.float32(0.05)
    np.testing.assert_array_equal(disguise.wrap(children).account, parents[order])
    grandchildren = children + np.float32(0.05)
    np.testing.assert_array_equal(disguise.wrap(grandchildren).account, parents[order])


def test_a_feature_left_out_does_not_hide_the_parent(split: Dataset) -> None:
    disguise = Lineage(2, PAUSE)
    (seeds,) = rounds(split, 2)
    disguise.wrap(seeds)
    child = seeds[1:].copy()
    child[0, 3] = np.nan
    assert disguise.wrap(child).account.tolist() == [1]


WOVEN = ("diluted", "slow drift", "washed")


@pytest.mark.parametrize("name", WOVEN)
def test_natural_rows_of_the_thief_need_no_cover(name: str, split: Dataset) -> None:
    stream = WRAPPERS[name](split, PAUSE, 1).wrap(split.thief.features[:50])
    np.testing.assert_array_equal(stream.features, split.thief.features[:50])
    assert not stream.cover.any()


def test_one_query_in_eight_is_the_attack_and_the_rest_are_crossovers(split: Dataset) -> None:
    stream = WRAPPERS["diluted"](split, PAUSE, 1).wrap(rounds(split, 30)[0])
    assert np.flatnonzero(~stream.cover).tolist() == list(range(7, 240, 8))
    own = split.thief.features
    assert all((row == own).any(axis=0).all() for row in stream.features[stream.cover])
    assert not any((row == own).all(axis=1).any() for row in stream.features[stream.cover][:20])


def test_washing_sends_the_same_rows_in_turn_after_each_block(split: Dataset) -> None:
    stream = WRAPPERS["washed"](split, PAUSE, 1).wrap(rounds(split, 10)[0])
    assert np.flatnonzero(~stream.cover).tolist() == [0, 1, 2, 3, *range(124, 128), 248, 249]
    wash = stream.features[4:124]
    assert len(np.unique(wash, axis=0)) == 40
    np.testing.assert_array_equal(wash[:40], wash[40:80])


def test_slow_drift_goes_from_cover_to_nothing_but_the_attack(split: Dataset) -> None:
    stream = WRAPPERS["slow drift"](split, PAUSE, 1).wrap(rounds(split, 1_500)[0])
    attack = ~stream.cover
    shares = [attack[start : start + 250].mean() for start in range(0, 2_000, 250)]
    np.testing.assert_allclose(shares, (np.arange(8) + 0.5) / 8, atol=0.02)
    assert attack[2_000:].all()
    own = {row.tobytes() for row in split.thief.features}
    natural = [row.tobytes() for row in stream.features[:150][stream.cover[:150]]]
    assert set(natural) <= own
    assert len(set(natural)) == len(natural)


def test_fresh_accounts_send_three_queries_each(split: Dataset) -> None:
    stream = WRAPPERS["fresh accounts"](split, PAUSE, 1).wrap(rounds(split, 9)[0])
    assert stream.account.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
