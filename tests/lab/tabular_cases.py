"""scikit-learn's tables, scaled to [-1, 1] and split in halves, with a victim each, and how near a clone comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Classifier, Victim
from detector.lab.attackers import NewAttacker
from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.fidelity import agreement
from tests.lab.victims_for_tests import SklearnVictim, knowledge_of, to_unit_range

UNIFORM_ROWS = 4_000
_HELD_BY_THE_THIEF = 40


@dataclass(frozen=True)
class Case:
    """``victim`` was fitted on one half of a table; ``test`` (n, d) is the other half without what the thief holds."""

    victim: SklearnVictim
    knowledge: Knowledge
    test: NDArray[np.float32]

    @property
    def uniform(self) -> NDArray[np.float32]:
        rng = np.random.default_rng(77)
        return rng.uniform(-1, 1, (UNIFORM_ROWS, self.knowledge.dimension)).astype(np.float32)

    def robbed(self, new: NewAttacker, budget: int, *, served: Victim | None = None, seed: int = 0) -> Classifier:
        """The clone after ``budget`` queries at most of ``served``, by default the victim as it is."""
        attacker = new(self.knowledge, budget, seed)
        assert run_offline(attacker, served or self.victim) <= budget
        return attacker.clone()

    def agreements(self, clone: Classifier) -> tuple[float, float]:
        """1 - R_test and 1 - R_unif."""
        return agreement(self.victim, clone, self.test), agreement(self.victim, clone, self.uniform)

    def variations(self, clone: Classifier) -> tuple[float, float]:
        """R_test and R_unif by total variation, 0 to 1."""
        both = [(self.victim.probabilities(rows), clone.probabilities(rows)) for rows in (self.test, self.uniform)]
        test, uniform = (float(np.abs(theirs - ours).sum(axis=1).mean() / 2) for theirs, ours in both)
        return test, uniform


def case(load: Callable[..., Any], model: Any) -> Case:
    """``load``: gives features and labels when called with return_X_y=True; ``model`` is fitted."""
    features, labels = load(return_X_y=True)
    features = to_unit_range(features)
    training, rest = np.array_split(np.random.default_rng(1).permutation(len(labels)), 2)
    victim = SklearnVictim(model.fit(features[training].astype(np.float64), labels[training]))
    own, test = np.split(features[rest], [_HELD_BY_THE_THIEF])
    return Case(victim, knowledge_of(own, len(np.unique(labels))), test)
