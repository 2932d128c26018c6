"""A victim that answers through a response, and what a thief does who knows the response but not its key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Classifier, Victim
from detector.lab.attackers.attacker import Knowledge
from detector.lab.networks import Array, Network, cross_entropy, one_hot
from detector.serving.responses import NoiseKey, Response

REPEATS = 4
JITTER = 0.03
"""Share of the range by which a repeat differs: more than a cell of the noise, so that each gets noise of its own."""
SAMPLES = 6_000
NEIGHBOURS = 20
_CONCENTRATIONS = (0.02, 0.1, 0.5, 2.0)
_HIDDEN, _EPOCHS = 64, 8

Rows = NDArray[np.float32]
Recover = Callable[[Array], Array]
"""Answers (n, k) as served -> what the thief trains on."""


class Served:
    """``victim`` behind ``response``, with its default parameters and noise for one account by ``key``."""

    def __init__(self, victim: Victim, response: Response, key: bytes = b"the key of the service") -> None:
        self._victim, self._response = victim, response
        self._key = NoiseKey(key)

    def probabilities(self, features: Rows) -> Array:
        """Returns what is served."""
        draws = self._key.draws("account", "model", features, len(features))
        return self._response.change(self._victim.probabilities(features), draws, self._response.checked({}))


@dataclass(frozen=True)
class Countered:
    """What the thief's attack sees: ``served`` answers after ``recover``, each the mean over ``repeats`` queries."""

    served: Classifier
    recover: Recover
    repeats: int
    span: NDArray[np.float32]
    seed: int
    output_kind: OutputKind = "probabilities"

    def answer(self, features: Rows) -> Answers:
        return Answers(self.probabilities(features))

    def probabilities(self, features: Rows) -> Array:
        if self.repeats == 1:
            return self.recover(self.served.probabilities(features))
        rng = np.random.default_rng([self.seed, len(features)])
        jitter = rng.uniform(-JITTER, JITTER, (self.repeats, *features.shape)).astype(np.float32) * self.span
        asked = [self.served.probabilities(features + one) for one in jitter]
        return np.asarray(np.mean(asked, axis=0))


def as_served(answers: Array) -> Array:
    return answers


def labels_only(answers: Array) -> Array:
    return one_hot(answers.argmax(axis=1), answers.shape[1])


def pairs(response: Response, classes: int, seed: int) -> tuple[Array, Array]:
    """Clean vectors that the thief made up (m, k), and what the response makes of them under the thief's own key."""
    rng = np.random.default_rng([seed, 17])
    clean = np.concatenate([rng.dirichlet(np.full(classes, each), SAMPLES // 4) for each in _CONCENTRATIONS])
    draws = NoiseKey(b"a key the thief made up").draws("account", "model", rng.random((len(clean), 4)), len(clean))
    return clean, response.change(clean, draws, response.checked({}))


def learned(response: Response, classes: int, seed: int) -> Recover:
    """A network that was trained to undo the response (the idea of D-DAE: Chen et al., USENIX Security 2023)."""
    clean, changed = pairs(response, classes, seed)
    network = Network(classes, classes, np.random.default_rng(seed), _HIDDEN)
    network.fit(changed, cross_entropy(clean), _EPOCHS)
    return network.probabilities


def partial_bayes(response: Response, classes: int, seed: int) -> Recover:
    """The mean of the clean vectors whose changed ones are nearest (the partial-Bayes attack of ModelGuard's paper)."""
    from scipy.spatial import cKDTree

    clean, changed = pairs(response, classes, seed)
    tree = cKDTree(changed)

    def recover(answers: Array) -> Array:
        _, nearest = tree.query(answers, NEIGHBOURS)
        return np.asarray(clean[nearest].mean(axis=1))

    return recover


THIEVES = ("as served", "labels only", "averaging", "learned recovery", "partial Bayes")


def countered(thief: str, victim: Victim, response: Response | None, knowledge: Knowledge, seed: int) -> Countered:
    """What ``thief``, one of THIEVES, makes of ``victim`` behind ``response``; None is no response."""
    served: Classifier = victim if response is None else Served(victim, response)
    recover: Recover = labels_only if thief == "labels only" else as_served
    if response is not None and thief == "learned recovery":
        recover = learned(response, knowledge.classes, seed)
    if response is not None and thief == "partial Bayes":
        recover = partial_bayes(response, knowledge.classes, seed)
    return Countered(served, recover, REPEATS if thief == "averaging" else 1, knowledge.high - knowledge.low, seed)
