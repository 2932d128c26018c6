"""Thieves, one file each, and their registry. A thief is asked for inputs, told the answers, and gives his clone."""

from __future__ import annotations

from collections.abc import Callable

from detector.lab.attackers import jbda
from detector.lab.attackers.attacker import Attacker, Knowledge

NewAttacker = Callable[[Knowledge, int, int], Attacker]
"""(what he knows, how many queries he may make, seed) -> a thief, who sets his other parameters as published."""

ATTACKS: dict[str, NewAttacker] = {
    "jbda": jbda.new,
}
