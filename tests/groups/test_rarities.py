"""What other rare accounts say about those of a cluster."""

from __future__ import annotations

import numpy as np
import pytest

from detector.core.engine import Engine, EngineConfig
from detector.groups.links import sampled_cells
from detector.groups.queries import selected_queries
from detector.groups.rarities import Rarities, chance_of, honest_of
from detector.groups.watch import CHANCE, GroupWatch
from tests.groups.rings import calibrated, others, ring, stream

PRESENT = 50_000


def _shifted(seed: int, count: int) -> list[float]:
    """Rarities of accounts of a population that is rarer than the profile says: ten times as many as are due."""
    return [float(own) for own in np.random.default_rng(seed).random(count) * count / PRESENT / 10]


def test_where_accounts_of_all_clusters_are_too_rare_none_is_a_group() -> None:
    clusters = [_shifted(seed, 500) for seed in range(5)]
    own, every = np.array(clusters[0]), Rarities(rarity for cluster in clusters for rarity in cluster)
    assert chance_of(np.sort(own), PRESENT) < CHANCE
    assert chance_of(every.among_all(own, PRESENT), PRESENT) > 0.1


def test_accounts_rarer_than_all_others_are_a_group_among_however_many() -> None:
    honest = [_shifted(seed, 500) for seed in range(5)]
    found = np.full(20, 1e-8)
    every = Rarities([*found.tolist(), *(rarity for cluster in honest for rarity in cluster)])
    assert chance_of(every.among_all(found, PRESENT), PRESENT) < CHANCE


@pytest.mark.parametrize("parts", [2, 4])
def test_a_ring_in_several_clusters_is_most_of_a_small_population(parts: int) -> None:
    rarity = np.random.default_rng(1).random(400) * 1e-3
    part = rarity[: 400 // parts]
    every = Rarities(rarity.tolist())
    assert chance_of(every.among_all(part, 520), 520) < CHANCE


def test_the_rest_of_the_population_says_how_many_accounts_are_honest() -> None:
    assert honest_of(500, 400, 0.2) == pytest.approx(126.25)
    assert honest_of(500, 90, 0.2) == 500


def test_the_counts_follow_accounts_from_cluster_to_cluster() -> None:
    watch, sampled = GroupWatch(calibrated()), sampled_cells(calibrated().reference)
    observation = Engine(EngineConfig(profiles=(calibrated(),))).observe([stream([*others(30), *ring(12, 240)])])
    for profiled in observation.profiled:
        watch.observe(selected_queries([profiled], observation, sampled))
    live = watch._rarities.counts
    assert live.sum() == len(watch._cluster_of) > 10
    restored = GroupWatch(calibrated())
    restored.load(watch.dump())
    assert restored._rarities.counts.tolist() == live.tolist()
