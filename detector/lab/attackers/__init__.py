"""Thieves, one file each, and their registry. A thief is asked for inputs, told the answers, and gives his clone."""

from __future__ import annotations

from collections.abc import Callable

from detector.lab.attackers import (
    active_learning,
    cloudleak,
    color,
    copycat,
    data_free,
    jacobian_variants,
    jbda,
    knockoff,
    specification_sweep,
)
from detector.lab.attackers.attacker import Attacker, Knowledge

NewAttacker = Callable[[Knowledge, int, int], Attacker]
"""(what he knows, how many queries he may make, seed) -> a thief, who sets his other parameters as published."""

ATTACKS: dict[str, NewAttacker] = {
    "cloudleak cw": cloudleak.carlini_wagner,
    "cloudleak feature adversary": cloudleak.feature_adversary,
    "cloudleak featurefool": cloudleak.feature_fool,
    "cloudleak featurefool 0.1": cloudleak.feature_fool_near,
    "cloudleak featurefool 0.8": cloudleak.feature_fool_far,
    "cloudleak pgd": cloudleak.pgd,
    "color": color.new,
    "copycat": copycat.new,
    "data-free": data_free.new,
    "jbda": jbda.new,
    "k-center": active_learning.k_center,
    "knockoff adaptive": knockoff.adaptive,
    "knockoff random": knockoff.random,
    "n-fgsm": jacobian_variants.n_fgsm,
    "n-i-fgsm": jacobian_variants.n_i_fgsm,
    "psml sweep": specification_sweep.new,
    "t-rnd-fgsm": jacobian_variants.t_rnd_fgsm,
    "t-rnd-i-fgsm": jacobian_variants.t_rnd_i_fgsm,
    "uncertainty": active_learning.uncertainty,
}
