"""The toolbox's evasions that need queries alone: boundary attack, HopSkipJump and ZOO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from art.attacks.evasion import BoundaryAttack, HopSkipJump, ZooAttack
from art.estimators.classification import BlackBoxClassifier

from detector.lab.attackers.attacker import Inputs, Knowledge, Questions
from detector.lab.attackers.evasion import Evasion
from detector.lab.attackers.input_space import InputSpace
from detector.lab.independent.calling import QueryVictim, logits, questions_of
from detector.lab.networks import Array

_STARTS = 100

Generate = Callable[[Any, Inputs, np.random.Generator], None]
"""(victim as the toolbox sees it, original (1, d) in shares of the ranges, draws): runs the toolbox's attack."""


class ToolboxEvasion(Evasion):
    """Lets ``generate`` change one of the thief's inputs after another, each until the toolbox ends or the budget is
    spent."""

    def __init__(self, knowledge: Knowledge, budget: int, seed: int, generate: Generate) -> None:
        self._generate = generate
        self._classes = knowledge.classes
        self._seed = seed
        super().__init__(knowledge, budget, seed)

    def next_batch(self) -> Inputs:
        batch = super().next_batch()
        if not len(batch):
            self._asking.close()  # else it would wait for answers until it is freed
        return batch

    def _turn(self, row: int) -> Questions:
        search = _Search(self._generate, self._space, self._classes, self.originals[row], row, self.found)
        rng = np.random.default_rng([self._seed, 5, row])
        self._asking = questions_of(partial(search.run, rng), [self._seed, 4, row])
        yield from self._asking


@dataclass(frozen=True, slots=True)
class _Search:
    """The search around the input ``original`` (d,), whose nearest result is in ``found`` under ``row``.

    No method of ``ToolboxEvasion``, to which the thread must hold no reference.
    """

    generate: Generate
    space: InputSpace
    classes: int
    original: Array
    row: int
    found: dict[int, Array]

    def run(self, rng: np.random.Generator, query: QueryVictim) -> None:
        label = int(query(self.space.features(self.original[None])).labels[0])

        def outputs(shares: Inputs) -> Array:
            features = self.space.features(shares.astype(np.float64))
            answers = query(features)
            self._keep_nearest(self.space.shares(features[answers.labels != label]))
            return logits(answers)

        victim = BlackBoxClassifier(outputs, self.original.shape, self.classes, clip_values=(0.0, 1.0))
        self.generate(victim, self.original[None].astype(np.float32), rng)

    def _keep_nearest(self, turned: Array) -> None:
        """Keeps the nearest of ``turned`` (m, d), all of another class, and of the earlier result; m may be 0."""
        known = [self.found[self.row][None]] if self.row in self.found else []
        candidates = np.concatenate([*known, turned])
        if len(candidates):
            distances = np.linalg.norm(candidates - self.original, axis=1)
            self.found[self.row] = candidates[distances.argmin()]


def _by_labels(attack: Callable[[Any], Any], victim: Any, original: Inputs, rng: np.random.Generator) -> None:
    start = _start(victim, original, rng)
    if start is not None:
        attack(victim).generate(original, x_adv_init=start)


def _by_logits(victim: Any, original: Inputs, _: np.random.Generator) -> None:
    """Runs ZOO with one constant, as there are no queries to search for one, and all coordinates in each iteration.

    Without bounds: the toolbox would clip each step to them, as if it were an input, so no step could go down.
    """
    victim.set_params(clip_values=None)
    attack = ZooAttack(victim, initial_const=10.0, max_iter=60, nb_parallel=original.shape[1], verbose=False)
    attack.generate(original)


def _start(victim: Any, original: Inputs, rng: np.random.Generator) -> Inputs | None:
    """Returns a random input (1, d) of another class than ``original``, or None; the toolbox's own has no seed."""
    label = victim.predict(original).argmax()
    for _ in range(_STARTS):
        drawn = rng.random(original.shape, dtype=np.float32)
        if victim.predict(drawn).argmax() != label:
            return drawn
    return None


def boundary(knowledge: Knowledge, budget: int, seed: int) -> ToolboxEvasion:
    attack = partial(BoundaryAttack, targeted=False, verbose=False)
    return ToolboxEvasion(knowledge, budget, seed, partial(_by_labels, attack))


def hop_skip_jump(knowledge: Knowledge, budget: int, seed: int) -> ToolboxEvasion:
    attack = partial(HopSkipJump, verbose=False)
    return ToolboxEvasion(knowledge, budget, seed, partial(_by_labels, attack))


def zoo(knowledge: Knowledge, budget: int, seed: int) -> ToolboxEvasion:
    return ToolboxEvasion(knowledge, budget, seed, _by_logits)
