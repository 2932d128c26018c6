"""Path finding recovers every leaf of a tree; with gaps in its inputs it needs fewer queries (Tramèr et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.attackers import NewAttacker
from detector.lab.attackers.attacker import Attacker, Knowledge, run_offline
from detector.lab.attackers.input_space import InputSpace
from detector.lab.attackers.path_finding import EPSILON, BottomUp, TopDown
from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS
from detector.lab.fidelity import agreement
from detector.lab.victims.tabular import TreeVictim

PLENTY = 100_000
WAYS = pytest.mark.parametrize("new", [BottomUp, TopDown], ids=["up", "down"])
TABLES = pytest.mark.parametrize("table", ["breast cancer", "categorical", "digits", "iris"])


@dataclass(frozen=True)
class Silent:
    """A tree that does not number its leaves, nor say what it misses."""

    tree: TreeVictim
    output_kind: OutputKind = "probabilities"

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        return self.tree.probabilities(features)

    def answer(self, features: np.ndarray) -> Answers:
        return Answers(self.probabilities(features))


def regions_found(attacker: Attacker) -> int:
    return len(attacker.clone()._regions)  # type: ignore[attr-defined]


def uniform(dataset: Dataset) -> np.ndarray:
    return InputSpace.of(Knowledge.of(dataset)).uniform(4_000, np.random.default_rng(5))


def clear_of_thresholds(tree: TreeVictim, dataset: Dataset, features: np.ndarray) -> np.ndarray:
    """Rows none of whose features is within the search's precision of one of the tree's thresholds."""
    inner = tree._feature >= 0
    asked, threshold = tree._feature[inner], tree._threshold[inner]
    distance = np.abs(features[:, asked] - threshold)
    near = distance <= EPSILON * (dataset.high - dataset.low)[asked]
    return np.asarray(features[~(near & (dataset.categories[asked] == 0)).any(axis=1)])


def asked_of(attacker: Attacker, victim: TreeVictim) -> np.ndarray:
    batches = []
    while len(batch := attacker.next_batch()):
        batches.append(batch)
        attacker.observe(batch, victim.answer(batch))
    return np.concatenate(batches)


@TABLES
@WAYS
def test_every_leaf_is_recovered_and_the_clone_agrees_everywhere_up_to_epsilon(new: NewAttacker, table: str) -> None:
    dataset = DATASETS[table]()
    tree = TreeVictim(dataset)
    attacker = new(Knowledge.of(dataset), PLENTY, 0)
    run_offline(attacker, tree)
    assert regions_found(attacker) == tree.leaves
    drawn = uniform(dataset)
    clear = clear_of_thresholds(tree, dataset, drawn)
    assert len(clear) > 0.8 * len(drawn)
    clone = attacker.clone()
    assert agreement(tree, clone, clear) == 1.0
    assert agreement(tree, clone, drawn) > 0.995
    assert agreement(tree, clone, dataset.test.features) == 1.0
    np.testing.assert_allclose(clone.probabilities(clear), tree.probabilities(clear))


@pytest.mark.parametrize(("table", "share"), [("digits", 0.25), ("breast cancer", 0.4), ("categorical", 0.95)])
def test_top_down_needs_fewer_queries(table: str, share: float) -> None:
    dataset = DATASETS[table]()
    tree, knowledge = TreeVictim(dataset), Knowledge.of(dataset)
    bottom_up = run_offline(BottomUp(knowledge, PLENTY, 0), tree)
    top_down = run_offline(TopDown(knowledge, PLENTY, 0), tree)
    assert top_down < share * bottom_up


def test_an_api_that_does_not_number_leaves_still_gives_them_away_by_label_and_confidence(split: Dataset) -> None:
    tree = TreeVictim(split)
    told = len({(row.argmax(), row.max()) for row in tree._shares[tree._feature < 0]})
    attacker = BottomUp(Knowledge.of(split), PLENTY, 0)
    run_offline(attacker, Silent(tree))
    assert told < tree.leaves
    assert regions_found(attacker) <= told
    assert agreement(tree, attacker.clone(), split.test.features) > 0.7


@WAYS
def test_no_query_is_asked_twice_and_the_budget_is_kept(new: NewAttacker, split: Dataset) -> None:
    asked = asked_of(new(Knowledge.of(split), 300, 0), TreeVictim(split))
    assert len(asked) == 300
    assert len(np.unique(asked, axis=0)) == 300


def test_successive_queries_bottom_up_differ_in_a_feature_or_two(split: Dataset) -> None:
    asked = asked_of(BottomUp(Knowledge.of(split), PLENTY, 0), TreeVictim(split))
    changed = (asked[1:] != asked[:-1]).sum(axis=1)
    assert (changed == 1).mean() > 0.3
    assert (changed <= 2).mean() > 0.98


@WAYS
def test_a_round_answered_in_parts_changes_nothing(new: NewAttacker, split: Dataset) -> None:
    tree, knowledge = TreeVictim(split, leaves=6), Knowledge.of(split)
    whole, parts = new(knowledge, PLENTY, 0), new(knowledge, PLENTY, 0)
    run_offline(whole, tree)
    while len(batch := parts.next_batch()):
        some = batch[: 1 + len(batch) // 2]
        parts.observe(some, tree.answer(some))
        parts.clone()
    features = uniform(split)
    np.testing.assert_array_equal(parts.clone().probabilities(features), whole.clone().probabilities(features))


@WAYS
def test_more_queries_give_a_better_clone(new: NewAttacker, split: Dataset) -> None:
    tree = TreeVictim(split)
    few, many = new(Knowledge.of(split), 60, 0), new(Knowledge.of(split), PLENTY, 0)
    run_offline(few, tree)
    run_offline(many, tree)
    agreements = [agreement(tree, attacker.clone(), split.test.features) for attacker in (few, many)]
    assert agreements[0] < 0.8 < agreements[1]


def test_another_seed_starts_elsewhere_and_finds_the_same_leaves(split: Dataset) -> None:
    tree, knowledge = TreeVictim(split), Knowledge.of(split)
    one, same, other = (BottomUp(knowledge, PLENTY, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.next_batch(), same.next_batch())
    assert not np.array_equal(one.next_batch(), other.next_batch())
    run_offline(other, tree)
    assert regions_found(other) == tree.leaves


def test_top_down_refuses_an_api_that_does_not_say_what_it_misses(split: Dataset) -> None:
    attacker: TopDown = TopDown(Knowledge.of(split), PLENTY, 0)
    with pytest.raises(LabError, match="bottom-up"):
        run_offline(attacker, Silent(TreeVictim(split)))
