"""CloudLeak: adversarial examples of natural inputs, where the substitute is least sure."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.lab.attackers import ATTACKS, cloudleak
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.augmentation import ITERATIONS, SIGNED_STEP, signed_steps
from detector.lab.attackers.cloudleak import ROUND
from detector.lab.attackers.substitute import SEEDS
from detector.lab.data import Dataset
from detector.lab.networks import Array, Network, cross_entropy, one_hot
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import asked, progress

NAMES = (
    "cloudleak pgd",
    "cloudleak cw",
    "cloudleak feature adversary",
    "cloudleak featurefool",
    "cloudleak featurefool 0.1",
    "cloudleak featurefool 0.8",
)


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split)


@pytest.mark.parametrize("name", NAMES)
def test_clones_improve_with_queries(name: str, knowledge: Knowledge, split: Dataset, victim: DigitsVictim) -> None:
    early, late = progress(name, knowledge, victim, split, 600)
    assert early < late
    assert late > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_a_round_lies_nearer_to_the_substitute_s_boundary_than_natural_inputs(
    name: str, knowledge: Knowledge, split: Dataset, victim: DigitsVictim
) -> None:
    thief = ATTACKS[name](knowledge, 1_000, 0)
    seeds = thief.next_batch()
    assert len(seeds) == SEEDS
    assert set(map(bytes, seeds)) <= set(map(bytes, knowledge.natural))
    thief.observe(seeds, victim.answer(seeds))
    clone, examples = thief.clone(), thief.next_batch()
    assert len(examples) == ROUND

    def margin(features: np.ndarray) -> float:
        ordered = np.sort(clone.probabilities(features), axis=1)
        return float(np.median(ordered[:, -1] - ordered[:, -2]))

    assert margin(examples) < 0.75 * margin(split.honest.features)


def test_feature_fool_gets_further_from_nature_with_a_greater_margin(
    knowledge: Knowledge, victim: DigitsVictim
) -> None:
    def distance(name: str) -> float:
        examples = asked(name, knowledge, victim, SEEDS + 2 * ROUND)[SEEDS:]
        apart = np.linalg.norm(examples[:, None] - knowledge.natural[None], axis=2)
        return float(apart.min(axis=1).mean())

    near, middle, far = (distance(f"cloudleak featurefool{margin}") for margin in (" 0.1", "", " 0.8"))
    assert near < middle < far


RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def network(split: Dataset) -> Network:
    network = Network(64, 10, np.random.default_rng(0))
    network.fit(split.thief.features.astype(np.float64), cross_entropy(one_hot(split.thief.labels, 10)), epochs=30)
    return network


@pytest.fixture(scope="module")
def start(split: Dataset) -> Array:
    return split.honest.features[:60].astype(np.float64)


@pytest.fixture(scope="module")
def guides(split: Dataset) -> Array:
    return split.honest.features[100:160].astype(np.float64)


def labels(network: Network, features: Array) -> NDArray[np.int64]:
    return np.asarray(network.probabilities(features).argmax(axis=1))


def in_box(moved: Array, start: Array, reach: float) -> bool:
    return bool(moved.min() >= 0 and moved.max() <= 1 and np.abs(moved - start).max() <= reach + 1e-9)


@pytest.mark.parametrize("iterations", [1, ITERATIONS])
def test_fgsm_leads_away_from_a_class_and_towards_one(network: Network, start: Array, iterations: int) -> None:
    own = labels(network, start)
    away = signed_steps(network, start, one_hot(own, 10), iterations)
    targets = one_hot((own + 1) % 10, 10)
    towards = signed_steps(network, start, targets, iterations, uphill=False)
    assert in_box(away, start, SIGNED_STEP)
    assert in_box(towards, start, SIGNED_STEP)
    assert (labels(network, away) != own).mean() > 0.9
    gained = network.probabilities(towards) - network.probabilities(start)
    assert gained[np.arange(len(start)), (own + 1) % 10].mean() > 0.3


def test_pgd_changes_the_class_within_the_step(network: Network, start: Array) -> None:
    own = labels(network, start)
    moved = cloudleak.projected_gradient(network, start, start, RNG)
    assert in_box(moved, start, SIGNED_STEP)
    assert (labels(network, moved) != own).mean() > 0.95


def test_carlini_and_wagner_reach_the_boundary_with_far_less_change_than_fgsm(network: Network, start: Array) -> None:
    own = labels(network, start)
    moved = cloudleak.carlini_wagner(network, start, start, RNG)
    assert in_box(moved, start, 1)
    ordered = np.sort(network.probabilities(moved), axis=1)
    assert np.median(ordered[:, -1] - ordered[:, -2]) < 0.1
    loud = signed_steps(network, start, one_hot(own, 10), 1)
    assert np.linalg.norm(moved - start, axis=1).mean() < 0.5 * np.linalg.norm(loud - start, axis=1).mean()


def latent_distance(network: Network, one: Array, other: Array) -> Array:
    return np.asarray(np.linalg.norm(network.latent(one) - network.latent(other), axis=1))


def test_a_feature_adversary_looks_like_its_guide_inside_the_network(
    network: Network, start: Array, guides: Array
) -> None:
    moved = cloudleak.feature_adversary(network, start, guides, RNG)
    assert in_box(moved, start, SIGNED_STEP)
    assert latent_distance(network, moved, guides).mean() < 0.5 * latent_distance(network, start, guides).mean()


def test_feature_fool_goes_the_further_to_its_guide_the_greater_m_is(
    network: Network, start: Array, guides: Array
) -> None:
    gaps = {}
    for margin in (0.1, 0.5, 0.8):
        moved = cloudleak.feature_fool(network, start, guides, RNG, margin)
        assert in_box(moved, start, 1)
        gap = latent_distance(network, moved, start) - latent_distance(network, moved, guides)
        gaps[margin] = np.median(gap / latent_distance(network, start, guides))
    assert gaps[0.1] < gaps[0.5] < gaps[0.8]
    assert list(gaps.values()) == pytest.approx(list(gaps), abs=0.15)
