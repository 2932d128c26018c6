"""Which attacks, on what, in which disguise: the suites, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

from detector.lab.attackers import ATTACKS
from detector.lab.experiment import Plan
from detector.lab.victims import HARDENED
from detector.lab.wrappers import PLAIN, WRAPPERS

_PERCEPTRON = "multilayer perceptron"
_LOGISTIC = "logistic regression"
_MACHINE = "support vector machine"
_TREE = "decision tree"


def _alone(attack: str, victim: str, dataset: str, wrapper: str = PLAIN, budget: int = 1_000) -> Plan:
    """Without honest accounts: those of a data set are the same in every log, and one log with them is enough."""
    return Plan(attack, victim, dataset, wrapper, budget, accounts=0)


QUICK: tuple[Plan, ...] = (
    # honest users, one log a data set
    Plan("jbda", _PERCEPTRON, "digits", accounts=112),
    Plan("uniform retraining", _LOGISTIC, "breast cancer", budget=1_200, accounts=72),
    # equations and boundaries
    _alone("equation solving", _LOGISTIC, "breast cancer", budget=31),
    _alone("equation solving", _LOGISTIC, "digits", budget=650),
    _alone("equation solving mlp", _PERCEPTRON, "iris", budget=300),
    _alone("lowd-meek", _LOGISTIC, "breast cancer", budget=2_000),
    _alone("line-search retraining", _LOGISTIC, "breast cancer"),
    _alone("adaptive retraining", _LOGISTIC, "breast cancer", budget=500),
    _alone("rbf-svm retraining", _MACHINE, "linear", budget=500),
    # trees
    _alone("path finding bottom-up", _TREE, "iris", budget=2_000),
    _alone("path finding top-down", _TREE, "iris", budget=2_000),
    # substitutes by augmentation
    _alone("n-fgsm", _PERCEPTRON, "digits"),
    _alone("n-i-fgsm", _PERCEPTRON, "digits"),
    _alone("t-rnd-fgsm", _PERCEPTRON, "digits"),
    _alone("t-rnd-i-fgsm", _PERCEPTRON, "digits"),
    _alone("color", _PERCEPTRON, "digits"),
    # substitutes from a pool
    _alone("knockoff random", _PERCEPTRON, "digits"),
    _alone("knockoff adaptive", _PERCEPTRON, "digits"),
    _alone("copycat", _PERCEPTRON, "digits"),
    _alone("uncertainty", _PERCEPTRON, "digits"),
    _alone("k-center", _PERCEPTRON, "digits"),
    # substitutes from adversarial examples, and without data
    _alone("cloudleak pgd", _PERCEPTRON, "digits"),
    _alone("cloudleak cw", _PERCEPTRON, "digits", budget=500),
    _alone("cloudleak feature adversary", _PERCEPTRON, "digits", budget=500),
    _alone("cloudleak featurefool", _PERCEPTRON, "digits", budget=500),
    _alone("cloudleak featurefool 0.1", _PERCEPTRON, "digits", budget=500),
    _alone("cloudleak featurefool 0.8", _PERCEPTRON, "digits", budget=500),
    _alone("data-free", _PERCEPTRON, "digits", budget=4_000),
    # inversion, fingerprints, evasion
    _alone("model inversion", _PERCEPTRON, "digits"),
    _alone("psml sweep", _PERCEPTRON, "digits"),
    _alone("finite differences", _PERCEPTRON, "digits"),
    _alone("boundary walk", _PERCEPTRON, "digits"),
    # disguises of what prada catches
    _alone("jbda", _PERCEPTRON, "digits", "blocks", 1_600),
    _alone("jbda", _PERCEPTRON, "digits", "dummies"),
    _alone("jbda", _PERCEPTRON, "digits", "dummies-3-to-1"),
    _alone("jbda", _PERCEPTRON, "digits", "lineage", 1_600),
    _alone("jbda", _PERCEPTRON, "digits", "mixed"),
    _alone("jbda", _PERCEPTRON, "digits", "random", 1_600),
    _alone("jbda", _PERCEPTRON, "digits", "round-robin", 1_600),
    _alone("jbda", _PERCEPTRON, "digits", "slow"),
)

_TARGETS = (
    (_LOGISTIC, "linear"),
    (_LOGISTIC, "breast cancer"),
    (_LOGISTIC, "digits"),
    (_TREE, "iris"),
    (_TREE, "categorical"),
    ("random forest", "wine"),
    (_MACHINE, "linear"),
    (_PERCEPTRON, "breast cancer"),
    (_PERCEPTRON, "digits"),
    (_PERCEPTRON, "mnist"),
    ("convolutional network", "digits"),
)
_FULL_BUDGET = 2_000
_FULL_ACCOUNTS = 112
_CARRIER = "knockoff random"
"""In whose plain logs the honest users are: it handles every data set."""


def full() -> tuple[Plan, ...]:
    """Every attack on every target in every disguise, and undisguised on victims with a defence in their training.

    Undisguised ones stand first, so that a part of the suite says something of every attack.
    """
    hardened = [(attack, victim, "digits", PLAIN) for attack, victim in product(sorted(ATTACKS), HARDENED)]
    disguised = [(attack, *target, wrapper) for wrapper, target, attack in product(WRAPPERS, _TARGETS, sorted(ATTACKS))]
    populated = {(_CARRIER, victim, dataset, PLAIN) for dataset, victim in _first_victims().items()}
    plans = (_alone(*names, budget=_FULL_BUDGET) for names in (*hardened, *disguised))
    return tuple(replace(plan, accounts=_FULL_ACCOUNTS if _names(plan) in populated else 0) for plan in plans)


def _first_victims() -> dict[str, str]:
    """Of each data set the victim that stands first."""
    return {dataset: victim for victim, dataset in reversed(_TARGETS)}


def _names(plan: Plan) -> tuple[str, str, str, str]:
    return plan.attack, plan.victim, plan.dataset, plan.wrapper


SUITES: dict[str, Callable[[], tuple[Plan, ...]]] = {"quick": lambda: QUICK, "full": full}
