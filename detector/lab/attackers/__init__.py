"""Thieves, one file each, and their registry. A thief chooses inputs, learns the answers, and returns a clone."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable

from detector.lab import independent
from detector.lab.attackers import (
    active_learning,
    boundary_walk,
    cloudleak,
    color,
    copycat,
    data_free,
    equation_solving,
    finite_differences,
    jacobian_variants,
    jbda,
    knockoff,
    line_search,
    lowd_meek,
    model_inversion,
    path_finding_bottom_up,
    path_finding_top_down,
    retraining,
    specification_sweep,
)
from detector.lab.attackers.attacker import Attacker, Knowledge

NewAttacker = Callable[[Knowledge, int, int], Attacker]
"""(the thief's knowledge, the number of queries, seed) -> a thief with its other parameters as published."""

ATTACKS: dict[str, NewAttacker] = {
    "adaptive retraining": retraining.new_adaptive,
    "boundary walk": boundary_walk.new,
    "cloudleak cw": cloudleak.carlini_wagner,
    "cloudleak feature adversary": cloudleak.feature_adversary,
    "cloudleak featurefool": cloudleak.feature_fool,
    "cloudleak featurefool 0.1": cloudleak.feature_fool_near,
    "cloudleak featurefool 0.8": cloudleak.feature_fool_far,
    "cloudleak pgd": cloudleak.pgd,
    "color": color.new,
    "copycat": copycat.new,
    "data-free": data_free.new,
    "equation solving": equation_solving.new,
    "equation solving mlp": equation_solving.new_mlp,
    "finite differences": finite_differences.new,
    "jbda": jbda.new,
    "k-center": active_learning.k_center,
    "knockoff adaptive": knockoff.adaptive,
    "knockoff random": knockoff.random,
    "line-search retraining": line_search.new,
    "lowd-meek": lowd_meek.new,
    "model inversion": model_inversion.new,
    "n-fgsm": jacobian_variants.n_fgsm,
    "n-i-fgsm": jacobian_variants.n_i_fgsm,
    "path finding bottom-up": path_finding_bottom_up.new,
    "path finding top-down": path_finding_top_down.new,
    "psml sweep": specification_sweep.new,
    "rbf-svm retraining": retraining.new_rbf_svm,
    "t-rnd-fgsm": jacobian_variants.t_rnd_fgsm,
    "t-rnd-i-fgsm": jacobian_variants.t_rnd_i_fgsm,
    "uncertainty": active_learning.uncertainty,
    "uniform retraining": retraining.new_uniform,
}

EVERY_ATTACK = ChainMap(ATTACKS, independent.INDEPENDENT)
"""With the attacks of adversarial-robustness-toolbox, which raise LabError where it is not installed; in no suite."""

EVASIONS = frozenset({"boundary walk", "finite differences"}) | independent.EVASIONS
"""Attacks that look for another label of an input and steal nothing: their ``clone`` raises LabError."""
