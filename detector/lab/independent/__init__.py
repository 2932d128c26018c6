"""Attacks of adversarial-robustness-toolbox, run as attackers of the lab: an independent check.

The toolbox is imported when one of them is made, and needs no deep-learning framework for these. It writes a folder
``.art`` into the home directory of the user who imports it.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from detector.contracts.errors import LabError

if TYPE_CHECKING:
    from detector.lab.attackers import NewAttacker
    from detector.lab.attackers.attacker import Attacker, Knowledge

_PLACES = {
    "art-boundary": ("evasion", "boundary"),
    "art-copycat": ("extraction", "copycat"),
    "art-hop-skip-jump": ("evasion", "hop_skip_jump"),
    "art-knockoff-adaptive": ("extraction", "knockoff_adaptive"),
    "art-knockoff-random": ("extraction", "knockoff_random"),
    "art-zoo": ("evasion", "zoo"),
}
"""Module of this package, and who makes the attacker there."""


def check_installed(attack: str) -> None:
    """Raises LabError if ``attack`` is one of the toolbox's and that is not installed."""
    if attack in _PLACES:
        _imported(_PLACES[attack][0])


def _new(module: str, maker: str) -> NewAttacker:
    def new(knowledge: Knowledge, budget: int, seed: int) -> Attacker:
        attacker: Attacker = getattr(_imported(module), maker)(knowledge, budget, seed)
        return attacker

    new.__module__ = f"{__name__}.{module}"  # whose source its logs depend on
    return new


def _imported(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says which frameworks it does not find
            return import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "art":
            raise
        raise LabError(
            "attacks called art-... are those of adversarial-robustness-toolbox, which is not installed: "
            "pip install 'weirguard[independent]'"
        ) from error


INDEPENDENT: dict[str, NewAttacker] = {name: _new(*place) for name, place in _PLACES.items()}
"""Each raises LabError where the toolbox is not installed."""

EVASIONS = frozenset(name for name, (module, _) in _PLACES.items() if module == "evasion")
