"""Each defence does to the network what it is published to do."""

from __future__ import annotations

import numpy as np
import pytest

from detector.lab.answers import Victim
from detector.lab.data import Dataset
from detector.lab.fidelity import agreement
from detector.lab.networks import Network, cross_entropy
from detector.lab.victims import neural
from tests.lab.coarser import LabelOnly, Rounded

REACH = 0.1
PLAIN = "multilayer perceptron"


@pytest.fixture(scope="module")
def ensemble(split: Dataset) -> neural.DiverseEnsemble:
    return neural.train_diverse(split, 0)


def confidence(victim: Victim, dataset: Dataset) -> float:
    """Mean probability of the likeliest class on unseen rows."""
    return float(victim.probabilities(dataset.test.features).max(axis=1).mean())


def white_box(victim: Victim, dataset: Dataset) -> float:
    """Accuracy on unseen rows after one step of 0.1 up the model's own loss, by finite differences."""
    rows, labels = dataset.test.features[:100].astype(np.float64), dataset.test.labels[:100]
    gradient = np.empty_like(rows)
    for pixel in range(dataset.dimension):
        step = np.zeros(dataset.dimension)
        step[pixel] = 1e-3
        up, down = (_loss(victim, (rows + sign * step).astype(np.float32), labels) for sign in (1, -1))
        gradient[:, pixel] = up - down
    moved = np.clip(rows + REACH * np.sign(gradient), 0, 1).astype(np.float32)
    return float((victim.probabilities(moved).argmax(axis=1) == labels).mean())


def _loss(victim: Victim, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    right = victim.probabilities(rows)[np.arange(len(rows)), labels]
    return np.asarray(-np.log(right + 1e-300))


def test_adversarial_training_withstands_a_step_that_misleads_the_plain_network(
    trained: dict[str, Victim], split: Dataset
) -> None:
    plain, hardened = (white_box(trained[name], split) for name in (PLAIN, "adversarial training"))
    assert hardened > plain + 0.15


def test_a_distilled_network_is_all_but_certain(trained: dict[str, Victim], split: Dataset) -> None:
    assert confidence(trained["defensive distillation"], split) > 0.99 > confidence(trained[PLAIN], split)


def test_a_smoothed_network_is_never_certain(trained: dict[str, Victim], split: Dataset) -> None:
    assert confidence(trained["label smoothing"], split) < 0.9
    correct = trained["label smoothing"].probabilities(split.training.features).max(axis=1)
    assert correct.mean() == pytest.approx(0.91, abs=0.05)


def test_squeezed_logits_are_short(trained: dict[str, Victim], split: Dataset) -> None:
    plain, squeezed = (_length_of_logits(trained[name], split) for name in (PLAIN, "logit squeezing"))
    assert squeezed < plain / 3


def _length_of_logits(victim: Victim, dataset: Dataset) -> float:
    logits = np.log(victim.probabilities(dataset.test.features))
    return float(np.linalg.norm(logits - logits.mean(axis=1, keepdims=True), axis=1).mean())


def test_members_of_the_ensemble_differ_on_unnatural_inputs_and_agree_on_natural_ones(
    ensemble: neural.DiverseEnsemble, split: Dataset
) -> None:
    strange, natural = np.random.default_rng(5).random((500, 64)), split.test.features.astype(np.float64)
    indifferent = neural.train_diverse(split, 0, diversity=0.0)
    assert _coherence(ensemble, strange) < 0.5 * _coherence(indifferent, strange)
    assert _coherence(ensemble, natural) > 0.95


def _coherence(ensemble: neural.DiverseEnsemble, rows: np.ndarray) -> float:
    """The greatest cosine between what two members say, in the median over the inputs."""
    cosines = neural.cosine_similarities(np.stack([member.probabilities(rows) for member in ensemble.members]))
    return float(np.median(cosines[np.triu_indices(len(ensemble.members), 1)].max(axis=0)))


def test_the_diversity_gradient_is_that_of_the_loss() -> None:
    said = np.random.default_rng(0).dirichlet(np.ones(3), size=(4, 2))

    def loss(said: np.ndarray) -> float:
        cosines = neural.cosine_similarities(said)[np.triu_indices(4, 1)]
        return float(np.log(np.exp(cosines).sum(axis=0)).sum())

    gradient = neural.diversity_gradient(said)
    for place in np.ndindex(said.shape):
        step = np.zeros_like(said)
        step[place] = 1e-6
        assert gradient[place] == pytest.approx((loss(said + step) - loss(said - step)) / 2e-6, abs=1e-7)


def test_each_member_of_the_ensemble_answers_for_a_part_of_the_inputs(
    ensemble: neural.DiverseEnsemble, split: Dataset
) -> None:
    rows = split.test.features.astype(np.float64)
    said = ensemble.probabilities(rows)
    own = np.stack([(member.probabilities(rows) == said).all(axis=1) for member in ensemble.members])
    assert own.any(axis=0).all()
    assert (own.mean(axis=1) > 0.05).all()


def stolen(victim: Victim, split: Dataset) -> float:
    """Agreement on natural inputs of a clone made of 4,000 uniform ones."""
    asked = np.random.default_rng(6).random((4_000, 64), dtype=np.float32)
    clone = Network(64, 10, np.random.default_rng(0))
    clone.fit(asked.astype(np.float64), cross_entropy(victim.answer(asked).probabilities), epochs=20)
    return agreement(victim, clone, split.test.features)


def test_unnatural_queries_steal_next_to_nothing_from_the_diverse_ensemble(
    trained: dict[str, Victim], split: Dataset
) -> None:
    assert stolen(trained["diverse ensemble"], split) < 0.2


def test_the_less_an_api_says_the_less_is_stolen(trained: dict[str, Victim], split: Dataset) -> None:
    plain = trained[PLAIN]
    everything, rounded, label = (stolen(victim, split) for victim in (plain, Rounded(plain, 1), LabelOnly(plain)))
    assert everything > 0.5
    assert everything > max(rounded, label)
