"""Thieves, a file per family, and their registry. A thief chooses inputs, learns from the answers, and returns a
clone."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from functools import partial
from typing import Any

from detector.lab import independent
from detector.lab.attackers import (
    assembled,
    augmentation,
    cloudleak,
    data_free,
    equation_solving,
    evasion,
    lowd_meek,
    model_inversion,
    path_finding,
    public_pool,
    retraining,
    specification_sweep,
)
from detector.lab.attackers.assembled import Assembled
from detector.lab.attackers.attacker import Attacker, Knowledge
from detector.lab.attackers.augmentation import SignedStep
from detector.lab.attackers.cloudleak import CloudLeak
from detector.lab.attackers.public_pool import ActiveLearning

NewAttacker = Callable[[Knowledge, int, int], Attacker]
"""(the thief's knowledge, the number of queries, seed) -> a thief with its other parameters as published."""


def _with(attacker: Callable[..., Attacker], **parameters: Any) -> NewAttacker:
    new = partial(attacker, **parameters)
    new.__module__ = attacker.__module__  # whose source its logs depend on
    return new


ATTACKS: dict[str, NewAttacker] = {
    "adaptive retraining": retraining.AdaptiveRetraining,
    "boundary walk": evasion.BoundaryWalk,
    "cloudleak cw": _with(CloudLeak, perturb=cloudleak.carlini_wagner),
    "cloudleak feature adversary": _with(CloudLeak, perturb=cloudleak.feature_adversary),
    "cloudleak featurefool": _with(CloudLeak, perturb=cloudleak.feature_fool),
    "cloudleak featurefool 0.1": _with(CloudLeak, perturb=partial(cloudleak.feature_fool, margin=0.1)),
    "cloudleak featurefool 0.8": _with(CloudLeak, perturb=partial(cloudleak.feature_fool, margin=0.8)),
    "cloudleak pgd": _with(CloudLeak, perturb=cloudleak.projected_gradient),
    "color": augmentation.Color,
    "copycat": public_pool.Copycat,
    "crossover": _with(Assembled, recipe=assembled.crossover),
    "crossover of eight": _with(Assembled, recipe=partial(assembled.crossover, parents=8)),
    "crossover of unsent rows": _with(Assembled, recipe=assembled.crossover, unsent=True),
    "data-free": data_free.DataFree,
    "equation solving": equation_solving.EquationSolving,
    "equation solving mlp": equation_solving.PerceptronSolving,
    "finite differences": evasion.FiniteDifferences,
    "jbda": augmentation.JacobianAugmentation,
    "k-center": _with(ActiveLearning, prefer=public_pool.k_center),
    "kernel density": _with(Assembled, recipe=assembled.kernel_density),
    "knockoff adaptive": public_pool.AdaptiveKnockoff,
    "knockoff random": public_pool.PoolThief,
    "line-search retraining": retraining.LineSearchRetraining,
    "lowd-meek": lowd_meek.LowdMeek,
    "mixture": _with(Assembled, recipe=assembled.mixture),
    "mixup": _with(Assembled, recipe=assembled.mixup),
    "model inversion": model_inversion.ModelInversion,
    "n-fgsm": _with(SignedStep, targeted=False, iterated=False),
    "n-i-fgsm": _with(SignedStep, targeted=False, iterated=True),
    "own rows": assembled.OwnRows,
    "path finding bottom-up": path_finding.BottomUp,
    "path finding top-down": path_finding.TopDown,
    "psml sweep": specification_sweep.SpecificationSweep,
    "rbf-svm retraining": retraining.RbfSvmRetraining,
    "t-rnd-fgsm": _with(SignedStep, targeted=True, iterated=False),
    "t-rnd-i-fgsm": _with(SignedStep, targeted=True, iterated=True),
    "uncertainty": _with(ActiveLearning, prefer=public_pool.uncertainty),
    "uniform after rows": assembled.UniformAfterRows,
    "uniform retraining": retraining.UniformRetraining,
}

EVERY_ATTACK = ChainMap(ATTACKS, independent.INDEPENDENT)
"""With the attacks of adversarial-robustness-toolbox, which raise LabError where it is not installed; in no suite."""

EVASIONS = frozenset({"boundary walk", "finite differences"}) | independent.EVASIONS
"""Attacks that look for another class of an input and steal nothing: their ``clone`` raises LabError."""
